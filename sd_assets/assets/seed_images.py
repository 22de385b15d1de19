"""The asset seed_images."""

from contextlib import closing

import dagster as dg

from sd_assets.assets.common import seed_asset
from sd_assets.assets.hub_revision import hub_revision
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.sources.images import pinned, read_images
from sd_assets.stages.seeds import SeedImagesStage, source_batches
from sd_assets.storage.staging import Staged


@seed_asset(
    "seeds",
    SeedImagesStage.version,
    sections=["source", "blocked"],
    deps=[hub_revision.key],
    kinds=frozenset({"huggingface"}),
)
def seed_images(
    context: dg.AssetExecutionContext, catalog: CatalogResource, compute: ComputeResource
) -> dg.MaterializeResult[Staged]:
    """The images that a seed dataset starts from, with the text they came with, if any."""
    current = catalog.read()
    entry, blocked = current.entry(context.partition_key), current.blocked.list
    if entry.source is None:
        return compute.run(context, SeedImagesStage(), ())
    # Where this asset's rows are: a list of URLs takes from there what came in an earlier run.
    area = compute.storage.store().area("/".join(context.asset_key.path), context.partition_key)
    source, identity = pinned(entry.source)
    with closing(read_images(source, entry.download, area, blocked)) as rows:
        stage = SeedImagesStage(blocked)
        # Of a commit of the Hub that was read before nothing is read again.
        made_from = [] if identity is None else [identity, blocked.digest]
        return compute.run(context, stage, stage.without_blocked(source_batches(rows)), made_from=made_from)
