"""Jobs: what one launches, backfills and schedules as a whole."""

from collections.abc import Iterable
from typing import Final

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from sd_assets.assets.common import SEEDS

BUILD_DATASET: Final = "build_dataset"
BUILD_INDEX: Final = "build_index"

build_index: Final = dg.define_asset_job(
    BUILD_INDEX,
    selection=dg.AssetSelection.assets("knn_index"),
    description="One kNN index of the catalogue: built of its corpus, if that has changed; or checked, if somebody brought it.",
)


def build_dataset(assets: Iterable[dg.AssetsDefinition]) -> UnresolvedAssetJobDefinition:
    """The job that makes everything of one seed dataset: of the assets those with a partition for it, and their checks."""
    of_seeds = [key for asset in assets if asset.partitions_def == SEEDS for key in asset.keys]
    return dg.define_asset_job(
        BUILD_DATASET,
        selection=dg.AssetSelection.assets(*of_seeds),
        description="Everything for one seed dataset, from its entry of the catalogue to text_image_pairs; computes what is missing.",
    )
