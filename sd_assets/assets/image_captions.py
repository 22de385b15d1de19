"""The asset image_captions."""

import dagster as dg

from sd_assets.assets.common import GPU_POOL, seed_asset
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.resources.models import CaptionerResource
from sd_assets.stages.caption import CaptionStage, image_batches, variants_text
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset(
    "images", CaptionStage.version, sections=["captioner"], kinds=frozenset({"pytorch"}), pool=GPU_POOL
)
def image_captions(
    context: dg.AssetExecutionContext,
    seed_images: Table,
    downloaded_images: Table,
    catalog: CatalogResource,
    captioner: CaptionerResource,
    compute: ComputeResource,
) -> dg.MaterializeResult[Staged]:
    """Captions of every image: the text a seed came with, or what the captioner generates, one for each of its variants."""
    model = captioner.captioner(catalog.entry(context.partition_key).captioner)
    return compute.run(
        context,
        CaptionStage(model),
        image_batches(seed_images, downloaded_images, model.variants),
        made_from=[seed_images, downloaded_images, variants_text(model.variants)],
    )
