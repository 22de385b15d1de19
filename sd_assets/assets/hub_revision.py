"""The commit that a seed dataset of the Hub is at, as an asset: a push shows what it makes stale."""

from typing import Final

import dagster as dg

from sd_assets.assets.common import SEEDS
from sd_assets.resources.catalog import CatalogResource
from sd_assets.settings import HubSource
from sd_assets.sources.hub import hub_commit

# The data version of a partition whose images come from elsewhere.
NOT_OF_THE_HUB: Final = "not of the Hub"


@dg.asset(
    partitions_def=SEEDS,
    group_name="seeds",
    code_version="1",
    kinds={"huggingface"},
    owners=["team:sd_assets"],
)
def hub_revision(context: dg.AssetExecutionContext, catalog: CatalogResource) -> dg.MaterializeResult[None]:
    """The commit that the `revision` of a Hub dataset means; every run asks, and the sensor `hub_revisions`."""
    source = catalog.entry(context.partition_key).source
    commit = hub_commit(source) if isinstance(source, HubSource) else None
    return dg.MaterializeResult(
        data_version=dg.DataVersion(commit or NOT_OF_THE_HUB),
        metadata=revision_metadata(source, commit) if isinstance(source, HubSource) else {},
    )


def revision_metadata(source: HubSource, commit: str | None) -> dict[str, str | None]:
    """What the UI shows of a commit."""
    return {"dataset": source.id, "revision": source.revision or "the default branch", "commit": commit}
