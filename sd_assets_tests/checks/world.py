"""The tables of a partition as toy assets, through the real IO manager, checks and instance."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import yaml

from sd_assets.assets.common import SEEDS
from sd_assets.definitions import ASSETS, build_definitions
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import KEY_METADATA, StorageResource
from sd_assets.schemas import TABLES, TableSchema
from sd_assets.stages.stage import rows_of

PARTITION = "demo_prompts"  # one of the catalogue that ships: partitions are read from there
Rows = list[dict[str, Any]]


def all_kept(pairs: Rows) -> Rows:
    """Of each pair that it is kept."""
    return [{"image_id": pair["image_id"], "keep": True, "reasons": [], "split": "train"} for pair in pairs]


_URLS = [f"u{number}" for number in range(12)]
_CAPTIONS = {f"w{number}": f"a picture of thing {number}" for number in range(12)}
# A good partition: prompts only, twelve images found.
GOOD: Mapping[str, Rows] = {
    "seed_images": [],
    "seed_prompts": [{"prompt_id": "p1", "prompt": "a sofa"}, {"prompt_id": "p2", "prompt": "a lamp"}],
    "seed_embeddings": [
        {"query_id": "p1", "kind": "text", "embedding": [0.6, 0.8]},
        {"query_id": "p2", "kind": "text", "embedding": [1.0, 0.0]},
    ],
    "retrieval_hits": [
        {"query_id": query, "kind": "text", "hits": [{"url": url, "similarity": 0.3} for url in _URLS]}
        for query in ("p1", "p2")
    ],
    "retrieved_image_urls": [{"url_id": url, "url": url, "similarity": 0.3} for url in _URLS],
    "downloaded_images": [
        {"url_id": url, "image_id": image} for url, image in zip(_URLS, _CAPTIONS, strict=True)
    ],
    "image_captions": [
        {"image_id": image, "variant": "default", "caption": text, "model": "m"}
        for image, text in _CAPTIONS.items()
    ],
    "text_image_pairs": [{"image_id": image, "captions": [text]} for image, text in _CAPTIONS.items()],
    "image_embeddings": [{"image_id": image, "embedding": [0.6, 0.8]} for image in _CAPTIONS],
    "image_quality": [{"image_id": image, "resolution": 512, "sharpness": 0.7} for image in _CAPTIONS],
    "alignment_scores": [{"image_id": image, "alignments": [0.3], "alignment": 0.3} for image in _CAPTIONS],
    "aesthetic_scores": [],  # not asked for; the next likewise
    "nsfw_scores": [],
    "held_out_images": [],
    "near_duplicates": [{"image_id": image, "cluster": image, "cluster_size": 1} for image in _CAPTIONS],
    "curated_pairs": all_kept([{"image_id": image} for image in _CAPTIONS]),
}


def pairs_of(captions: Rows) -> Rows:
    """The pairs that go with captions."""
    texts: dict[str, list[str]] = {}
    for row in captions:
        if not row.get("error"):
            texts.setdefault(row["image_id"], []).append(row["caption"])
    return [{"image_id": image, "captions": found} for image, found in texts.items()]


def toy_asset(schema: TableSchema, rows: Rows, deps: Iterable[dg.AssetKey]) -> dg.AssetsDefinition:
    """An asset that returns these rows."""

    @dg.asset(
        name=schema.name,
        partitions_def=SEEDS,
        io_manager_key="parquet",
        deps=list(deps),
        metadata={KEY_METADATA: list(schema.key)},
    )
    def made() -> pa.Table:
        return pa.Table.from_batches([rows_of(schema, rows)])

    return made


def definitions(
    base: Path,
    changed: Mapping[str, Rows] | None = None,
    *,
    checks: Mapping[str, Any] | None = None,
    entry: Mapping[str, Any] | None = None,
    asset_checks: Iterable[dg.AssetChecksDefinition] = (),
) -> dg.Definitions:
    """Our definitions over toy assets that depend on each other as ours do.

    Args:
        base: where tables and the catalogue go.
        changed: tables with other rows than `GOOD`; the pairs go with the captions, and what is kept with the pairs, unless they
            are given.
        checks: the entry's `checks:`.
        entry: the entry, instead of one with prompts.
        asset_checks: further checks.
    """
    base.mkdir(parents=True, exist_ok=True)
    path = base / "catalogue.yaml"
    written = {
        "indices": {"none": {"kind": "faiss", "path": "none"}},
        "seed_datasets": {
            PARTITION: {
                "clip": {"model": "ViT-B-32", "pretrained": "openai"},
                "retrieval": {"index": "none"},
                "checks": dict(checks or {}),
                **(entry or {"prompts": {"texts": ["a sofa", "a lamp"]}}),
            }
        },
    }
    path.write_text(yaml.safe_dump(written))
    ours = {asset.key.path[0]: asset for asset in ASSETS}
    rows = {**GOOD, **(changed or {})}
    if "text_image_pairs" not in (changed or {}):
        rows["text_image_pairs"] = pairs_of(rows["image_captions"])
    if "curated_pairs" not in (changed or {}):
        rows["curated_pairs"] = all_kept(rows["text_image_pairs"])
    return build_definitions(
        {"storage": StorageResource(base=str(base / "data")), "catalog": CatalogResource(path=str(path))},
        assets=[toy_asset(schema, rows[schema.name], ours[schema.name].dependency_keys) for schema in TABLES],
        asset_checks=list(asset_checks),
    )


def run(found: dg.Definitions, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """The job for everything."""
    job = found.resolve_job_def("build_dataset")
    return job.execute_in_process(instance=instance, partition_key=PARTITION, raise_on_error=False)


def made(result: dg.ExecuteInProcessResult) -> set[str]:
    """The tables that were materialized."""
    names = {schema.name for schema in TABLES}
    events = result.get_asset_materialization_events()
    return {event.asset_key.to_user_string() for event in events if event.asset_key} & names


def failed(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The checks that failed: `asset.check` -> what was found."""
    return {
        f"{found.asset_key.to_user_string()}.{found.check_name}": found
        for found in result.get_asset_check_evaluations()
        if not found.passed
    }
