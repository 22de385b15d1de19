"""The asset text_image_pairs."""

import dagster as dg

from sd_assets.assets.common import seed_asset
from sd_assets.resources.compute import ComputeResource
from sd_assets.stages.pairs import PairStage, pair_rows
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset("dataset", PairStage.version)
def text_image_pairs(
    context: dg.AssetExecutionContext,
    seed_images: Table,
    retrieved_image_urls: Table,
    downloaded_images: Table,
    image_captions: Table,
    compute: ComputeResource,
) -> dg.MaterializeResult[Staged]:
    """The dataset one trains on: every distinct image that has a caption."""
    tables = (seed_images, retrieved_image_urls, downloaded_images, image_captions)
    return compute.run(context, PairStage(), pair_rows(*tables), made_from=tables)
