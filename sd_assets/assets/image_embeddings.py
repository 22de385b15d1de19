"""The asset image_embeddings."""

import dagster as dg

from sd_assets.assets.common import GPU_POOL, seed_asset
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.resources.models import ClipResource
from sd_assets.stages.embed import ImageEmbedStage
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset("scores", ImageEmbedStage.version, sections=["clip"], kinds=frozenset({"pytorch"}), pool=GPU_POOL)
def image_embeddings(
    context: dg.AssetExecutionContext,
    text_image_pairs: Table,
    catalog: CatalogResource,
    clip: ClipResource,
    compute: ComputeResource,
) -> dg.MaterializeResult[Staged]:
    """CLIP embedding of every image of the dataset, as it is kept."""
    encoder = clip.encoder(catalog.entry(context.partition_key).clip)
    rows = text_image_pairs.rows(["image_id", "image", "error"])
    return compute.run(context, ImageEmbedStage(encoder), rows, made_from=[text_image_pairs])
