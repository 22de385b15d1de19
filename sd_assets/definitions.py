"""Where everything meets: assets, checks, resources, jobs, schedules.

`defs` is what Dagster loads. `build_definitions` is the seam for tests and for deployments that put a resource of
their own in place of ours.
"""

import multiprocessing
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from sd_assets.assets.alignment_scores import alignment_scores
from sd_assets.assets.catalog_entry import catalog_entry
from sd_assets.assets.common import CATALOG, INDICES, SEEDS
from sd_assets.assets.curated_pairs import curated_pairs, curated_pairs_of
from sd_assets.assets.dataset_report import dataset_report
from sd_assets.assets.downloaded_images import downloaded_images
from sd_assets.assets.exports import exports
from sd_assets.assets.held_out_images import held_out_images
from sd_assets.assets.hub_dataset import hub_dataset
from sd_assets.assets.hub_revision import hub_revision
from sd_assets.assets.image_captions import image_captions
from sd_assets.assets.image_embeddings import image_embeddings
from sd_assets.assets.image_quality import image_quality
from sd_assets.assets.knn_index import knn_index
from sd_assets.assets.model_scores import aesthetic_scores, nsfw_scores
from sd_assets.assets.near_duplicates import near_duplicates
from sd_assets.assets.retrieval_hits import retrieval_hits
from sd_assets.assets.retrieved_image_urls import retrieved_image_urls
from sd_assets.assets.seed_embeddings import seed_embeddings
from sd_assets.assets.seed_images import seed_images
from sd_assets.assets.seed_prompts import seed_prompts
from sd_assets.assets.text_image_pairs import text_image_pairs
from sd_assets.automation.alerts import run_failure_alert
from sd_assets.automation.jobs import build_dataset, build_index
from sd_assets.automation.schedules import weekly_refresh
from sd_assets.automation.sensors import catalog_edits, hub_revisions
from sd_assets.checks.tables import CHECKS
from sd_assets.curation.names import require_known
from sd_assets.errors import CatalogError
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.resources.models import CaptionerResource, ClipResource, ScoreModelResource
from sd_assets.resources.storage import ParquetIOManager, StorageResource

ASSETS = [
    seed_images,
    seed_prompts,
    seed_embeddings,
    retrieval_hits,
    retrieved_image_urls,
    downloaded_images,
    image_captions,
    text_image_pairs,
    image_embeddings,
    image_quality,
    alignment_scores,
    aesthetic_scores,
    nsfw_scores,
    held_out_images,
    near_duplicates,
    curated_pairs,
]

# What others open: folders made of the tables, and no tables themselves.
OUTPUTS: Sequence[dg.AssetsDefinition] = [exports, dataset_report, hub_dataset]

# A process a step, as Dagster does it; but forked, where the system can, from one that has imported this module, instead of
# importing it anew: seconds a step. Models are loaded by the steps, so that no device is shared; the one thread there, that
# of Arrow's allocator, is not there in a step, and frees memory a little earlier, no more.
EXECUTOR = (
    dg.multiprocess_executor.configured({"start_method": {"forkserver": {"preload_modules": [__name__]}}})
    if "forkserver" in multiprocessing.get_all_start_methods()
    else dg.multiprocess_executor
)


def build_definitions(
    resource_overrides: Mapping[str, Any] | None = None,
    *,
    assets: Sequence[dg.AssetsDefinition] = (),
    asset_checks: Sequence[dg.AssetChecksDefinition] = (),
    scorers: Sequence[dg.AssetsDefinition] = (),
    executor: dg.ExecutorDefinition = EXECUTOR,
) -> dg.Definitions:
    """All definitions.

    Args:
        resource_overrides: by resource key (`catalog`, `storage`, `clip`, `captioner`, `score_models`, `compute`, `parquet`), what
            is to be used instead of ours. `compute` and `parquet` take the `storage` given here, if one is, and `parquet`
            the `catalog`.
        assets: further assets; one with the key of one of ours takes its place. Those with `SEEDS` as their partitions
            belong to the job `build_dataset`.
        asset_checks: further checks.
        scorers: further assets whose tables have a row for each pair, by `image_id`, with a score in the column that is called as
            the asset is: `curation:` of the catalogue may ask for it as for ours.
        executor: runs the steps; deploy/kubernetes/definitions.py gives each a pod.

    Raises:
        ValueError: an asset that takes the place of ours has other partitions; a scorer has, too, or a name that is taken.
        CatalogError: an entry asks for a score that there is none of.
    """
    own_scores = [scorer.key.path[-1] for scorer in scorers]
    for name, entry in CATALOG.seed_datasets.items():
        require_known(entry.curation, own_scores, f"seed_datasets.{name}.curation")
    assets = [*scorers, *assets]
    with_scorers = curated_pairs_of(scorers) if scorers else curated_pairs
    replaced = {key for asset in assets for key in asset.keys}
    for asset in assets:
        if asset.keys & {ours.key for ours in ASSETS} and asset.partitions_def != SEEDS:
            raise ValueError(
                f"{asset.key.to_user_string()} takes the place of ours and must have its partitions: decorate it with "
                "`seed_asset`, or give it `partitions_def=SEEDS`"
            )
        if knn_index.key in asset.keys and asset.partitions_def != INDICES:
            raise ValueError(
                "knn_index takes the place of ours and must have its partitions: `partitions_def=INDICES`"
            )
    of_datasets = [
        catalog_entry,
        hub_revision,
        *(with_scorers if ours is curated_pairs else ours for ours in ASSETS if ours.key not in replaced),
        *(ours for ours in OUTPUTS if not ours.keys & replaced),
        *(asset for asset in assets if knn_index.key not in asset.keys),
    ]
    of_indices = next((asset for asset in assets if knn_index.key in asset.keys), knn_index)
    overrides = dict(resource_overrides or {})
    catalog = overrides.get("catalog", CatalogResource())
    storage = overrides.get("storage", StorageResource())
    resources = {
        "catalog": catalog,
        "storage": storage,
        "clip": ClipResource(),
        "captioner": CaptionerResource(),
        "score_models": ScoreModelResource(),
        "compute": ComputeResource(storage=storage),
        "parquet": ParquetIOManager(storage=storage, catalog=catalog),
        **overrides,
    }
    return dg.Definitions(
        assets=[*of_datasets, of_indices],
        asset_checks=[*CHECKS, *asset_checks],
        jobs=[build_dataset(of_datasets), build_index],
        schedules=[weekly_refresh],
        sensors=[catalog_edits, hub_revisions, run_failure_alert],
        resources=resources,
        executor=executor,
    )


try:
    defs = build_definitions()
except CatalogError as error:
    # Whoever has scorers imports this module, too, and needs no `defs` of it; whoever loads it is told.
    _mistake = error

    def __getattr__(name: str) -> Any:
        if name == "defs":
            raise _mistake
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return [*globals(), "defs"]
