"""The asset near_duplicates."""

import json

import dagster as dg

from sd_assets.assets.common import seed_asset
from sd_assets.errors import TableError
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.schemas import NEAR_DUPLICATES
from sd_assets.stages.near_duplicates import VERSION, Images, near_duplicate_rows
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset("curation", VERSION, sections=["near_duplicates"])
def near_duplicates(
    context: dg.AssetExecutionContext,
    image_embeddings: Table,
    image_quality: Table,
    held_out_images: Table,
    catalog: CatalogResource,
    compute: ComputeResource,
) -> dg.MaterializeResult[Staged]:
    """Clusters of images that are the same picture; and which are, nearly, in other partitions or among those to keep out."""
    settings = catalog.entry(context.partition_key).near_duplicates
    store = compute.storage.store()
    elsewhere: dict[str, Images] = {}
    for partition in settings.against:
        if partition == context.partition_key:
            continue
        try:
            elsewhere[partition] = Images(
                store.open("image_embeddings", partition), store.open("image_quality", partition)
            )
        except TableError as error:
            context.log.warning(f"not compared with {partition}, which `against` names: {error}")
    rows = near_duplicate_rows(Images(image_embeddings, image_quality), settings, elsewhere, held_out_images)
    tables = [image_embeddings, image_quality, held_out_images]
    compared = [it for partition, images in elsewhere.items() for it in (partition, *images)]
    asked = json.dumps(settings.effects(), sort_keys=True)
    return compute.write(context, NEAR_DUPLICATES, rows, made_from=[VERSION, asked, *tables, *compared])
