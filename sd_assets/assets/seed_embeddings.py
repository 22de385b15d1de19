"""The asset seed_embeddings."""

import dagster as dg

from sd_assets.assets.common import GPU_POOL, seed_asset
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.resources.models import ClipResource
from sd_assets.retrieval.fit import check_fit
from sd_assets.retrieval.index import open_index
from sd_assets.stages.embed import EmbedStage, query_batches
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset("retrieval", EmbedStage.version, sections=["clip"], kinds=frozenset({"pytorch"}), pool=GPU_POOL)
def seed_embeddings(
    context: dg.AssetExecutionContext,
    seed_images: Table,
    seed_prompts: Table,
    catalog: CatalogResource,
    clip: ClipResource,
    compute: ComputeResource,
) -> dg.MaterializeResult[Staged]:
    """CLIP embedding of every seed image and prompt."""
    current = catalog.read()
    entry = current.entry(context.partition_key)
    name = entry.retrieval.index
    index = current.index(name)
    # Nothing is asked of the index yet; but that its URL or path cannot be is known here, before the embedding is paid.
    open_index(name, index, entry.retrieval)
    encoder = clip.encoder(entry.clip)
    check_fit(name, index, entry.clip, encoder, clip_of_corpus=current.clip_of_corpus(name))
    rows = query_batches(seed_images, seed_prompts)
    return compute.run(context, EmbedStage(encoder), rows, made_from=[seed_images, seed_prompts])
