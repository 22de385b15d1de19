"""The asset image_quality."""

import dagster as dg

from sd_assets.assets.common import seed_asset
from sd_assets.resources.compute import ComputeResource
from sd_assets.stages.image_quality import ImageQualityStage
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset("scores", ImageQualityStage.version)
def image_quality(
    context: dg.AssetExecutionContext, text_image_pairs: Table, compute: ComputeResource
) -> dg.MaterializeResult[Staged]:
    """Resolution, sharpness, JPEG blocks, flat borders and a perceptual hash of every image of the dataset."""
    rows = text_image_pairs.rows(["image_id", "image", "original_width", "original_height", "error"])
    return compute.run(context, ImageQualityStage(), rows, made_from=[text_image_pairs])
