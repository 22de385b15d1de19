"""The asset held_out_images."""

from contextlib import closing

import dagster as dg

from sd_assets.assets.common import GPU_POOL, seed_asset
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.resources.models import ClipResource
from sd_assets.sources.images import pinned, read_images
from sd_assets.stages.held_out import HeldOutStage
from sd_assets.stages.seeds import source_batches
from sd_assets.storage.staging import Staged


@seed_asset(
    "curation",
    HeldOutStage.version,
    sections=["clip", "keep_out", "blocked"],
    kinds=frozenset({"pytorch"}),
    pool=GPU_POOL,
)
def held_out_images(
    context: dg.AssetExecutionContext, catalog: CatalogResource, clip: ClipResource, compute: ComputeResource
) -> dg.MaterializeResult[Staged]:
    """Embeddings and hashes of the images that must not be trained on: `keep_out` of the catalogue."""
    current = catalog.read()
    entry, blocked = current.entry(context.partition_key), current.blocked.list
    stage = HeldOutStage(clip.encoder(entry.clip), blocked)
    if entry.near_duplicates.keep_out is None:
        return compute.run(context, stage, ())
    source, identity = pinned(entry.near_duplicates.keep_out)
    with closing(read_images(source)) as rows:
        made_from = [] if identity is None else [identity, blocked.digest]
        return compute.run(context, stage, stage.without_blocked(source_batches(rows)), made_from=made_from)
