"""The asset alignment_scores."""

import dagster as dg

from sd_assets.assets.common import GPU_POOL, seed_asset
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.resources.models import ClipResource
from sd_assets.stages.alignment import AlignmentStage, captioned_rows
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset("scores", AlignmentStage.version, sections=["clip"], kinds=frozenset({"pytorch"}), pool=GPU_POOL)
def alignment_scores(
    context: dg.AssetExecutionContext,
    text_image_pairs: Table,
    image_embeddings: Table,
    catalog: CatalogResource,
    clip: ClipResource,
    compute: ComputeResource,
) -> dg.MaterializeResult[Staged]:
    """How well the captions of every image say what it shows: CLIP's cosine of the two."""
    encoder = clip.encoder(catalog.entry(context.partition_key).clip)
    rows = captioned_rows(text_image_pairs, image_embeddings, encoder.identity)
    tables = [text_image_pairs, image_embeddings]
    return compute.run(context, AlignmentStage(encoder), rows, made_from=tables)
