"""The asset near_duplicates."""

import json
from typing import Any

import dagster as dg

from sd_assets.assets.common import seed_asset
from sd_assets.errors import TableError
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.schemas import NEAR_DUPLICATES
from sd_assets.stages.near_duplicates import VERSION, Images, near_duplicate_rows, not_in_both
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset("curation", VERSION, sections=["near_duplicates", "blocked"])
def near_duplicates(
    context: dg.AssetExecutionContext,
    image_embeddings: Table,
    image_quality: Table,
    held_out_images: Table,
    catalog: CatalogResource,
    compute: ComputeResource,
) -> dg.MaterializeResult[Staged]:
    """Clusters of images that are the same picture; and which are, nearly, in other partitions or among those to keep out."""
    current = catalog.read()
    settings, blocked = current.entry(context.partition_key).near_duplicates, current.blocked.list
    store = compute.storage.store()
    elsewhere: dict[str, Images] = {}
    not_compared: dict[str, Any] = {}
    for partition in settings.against:
        if partition == context.partition_key:
            continue
        try:
            theirs = Images(store.open("image_embeddings", partition), store.open("image_quality", partition))
        except TableError as error:
            context.log.warning(f"not compared with {partition}, which `against` names: {error}")
            not_compared[partition] = "never built"
            continue
        theirs = theirs._replace(curated=store.find("curated_pairs", partition))
        elsewhere[partition] = theirs
        if unsettled := not_in_both(theirs):
            context.log.warning(
                f"{partition}, which `against` names, is being refreshed, or its refresh failed: {unsettled} images are in only one "
                "of its image_embeddings and image_quality; materialize near_duplicates again after it"
            )
            not_compared[partition] = unsettled
    ours = Images(image_embeddings, image_quality)
    rows = near_duplicate_rows(ours, settings, elsewhere, held_out_images, blocked)
    asked = json.dumps(settings.effects(), sort_keys=True)
    made_from: list[Table | str] = [VERSION, asked, image_embeddings, image_quality, held_out_images]
    for partition, images in elsewhere.items():
        made_from += [partition, *(table for table in images if table is not None)]
    if elsewhere:
        made_from.append(blocked.digest)
    result = compute.write(context, NEAR_DUPLICATES, rows, made_from=made_from)
    if not not_compared:
        return result
    return result._replace(metadata={**(result.metadata or {}), "not_compared": not_compared})
