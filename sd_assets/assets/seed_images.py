"""The asset seed_images."""

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
    source = catalog.entry(context.partition_key).source
    rows = read_images(source) if source else iter(())
    return compute.run(context, SeedImagesStage(), source_batches(rows))
