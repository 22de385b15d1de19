"""The asset seed_images."""

from contextlib import closing

import dagster as dg

from sd_assets.assets.common import seed_asset
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.sources.images import read_images
from sd_assets.stages.seeds import SeedImagesStage, source_batches
from sd_assets.storage.staging import Staged


@seed_asset("seeds", SeedImagesStage.version, sections=["source"], kinds=frozenset({"huggingface"}))
def seed_images(
    context: dg.AssetExecutionContext, catalog: CatalogResource, compute: ComputeResource
) -> dg.MaterializeResult[Staged]:
    """The images that a seed dataset starts from, with the text they came with, if any."""
    entry = catalog.entry(context.partition_key)
    if entry.source is None:
        return compute.run(context, SeedImagesStage(), ())
    # Where this asset's rows are: a list of URLs takes from there what came in an earlier run.
    area = compute.storage.store().area("/".join(context.asset_key.path), context.partition_key)
    with closing(read_images(entry.source, entry.download, area)) as rows:
        return compute.run(context, SeedImagesStage(), source_batches(rows))
