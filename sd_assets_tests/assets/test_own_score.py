"""The scorer of `docs/own_stage.md`, as it stands there: its table, and what curation makes of it."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
import yaml
from PIL import Image

from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.compute.run import write_rows
from sd_assets.resources.storage import StorageResource
from sd_assets.schemas import (
    AESTHETIC_SCORES,
    ALIGNMENT_SCORES,
    IMAGE_QUALITY,
    NEAR_DUPLICATES,
    NSFW_SCORES,
    TEXT_IMAGE_PAIRS,
    TableSchema,
)
from sd_assets.stages.stage import rows_of
from sd_assets_tests.measures.photographs import encoded, photograph
from sd_assets_tests.readme import blocks, section

PARTITION = "demo_prompts"  # one of the catalogue that ships: partitions are read from there
IMAGES = {
    "vivid": encoded(photograph("astronaut.png").resize((64, 64)), "png"),
    "grey": encoded(Image.new("RGB", (64, 64), "grey"), "png"),
    "broken": b"text",
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setenv("SD_ASSETS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SD_ASSETS_CATALOG", str(tmp_path / "catalog.yaml"))
    (code,) = blocks(section("Your own score"), "python")
    path = tmp_path / "my_scores.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("my_scores", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "my_scores", module)
    spec.loader.exec_module(module)
    yield module


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        yield instance


def write_tables() -> None:
    """Pairs, and what ours say of them: nothing that speaks against one."""
    pairs = [
        {"image_id": name, "image": image, "captions": ["a"], "origin": "seed"}
        for name, image in IMAGES.items()
    ]
    alone = [
        {"image_id": name, "cluster": name, "cluster_size": 1, "held_out": [], "elsewhere": []}
        for name in IMAGES
    ]
    errors = {"broken": "not_an_image"}
    scored = [{"image_id": name, "error": errors.get(name)} for name in IMAGES]
    tables: dict[TableSchema, list[dict[str, Any]]] = {
        TEXT_IMAGE_PAIRS: pairs,
        IMAGE_QUALITY: scored,
        ALIGNMENT_SCORES: scored,
        AESTHETIC_SCORES: [],
        NSFW_SCORES: [],
        NEAR_DUPLICATES: alone,
    }
    for schema, rows in tables.items():
        area = StorageResource().store().area(schema.name, PARTITION)
        write_rows(schema, [rows_of(schema, rows)], area, "given").commit()


def curated(
    module: ModuleType, folder: Path, instance: dg.DagsterInstance, curation: dict[str, Any]
) -> tuple[dict[str, list[str]], int]:
    """The reasons against each image, and how many of them were scored anew."""
    entry = {
        "prompts": {"texts": ["a"]},
        "clip": {"model": "ViT-B-32", "pretrained": "openai"},
        "retrieval": {"index": "it"},
        "curation": curation,
    }
    indices = {"it": {"kind": "faiss", "path": "index"}}
    said = {"indices": indices, "seed_datasets": {PARTITION: entry}}
    (folder / "catalog.yaml").write_text(yaml.safe_dump(said))
    result = module.defs.resolve_job_def(BUILD_DATASET).execute_in_process(
        instance=instance,
        partition_key=PARTITION,
        asset_selection=[dg.AssetKey("colourfulness"), dg.AssetKey("curated_pairs")],
    )
    assert result.success
    (report,) = result.asset_materializations_for_node("colourfulness")
    rows = StorageResource().store().open("curated_pairs", PARTITION).read().to_pylist()
    return {row["image_id"]: row["reasons"] for row in rows}, report.metadata["rows_computed"].value


def test_the_scorer_of_the_docs(module: ModuleType, tmp_path: Path, instance: dg.DagsterInstance) -> None:
    write_tables()
    least = {"min": {"colourfulness": 15}}
    low, unknown = "low_colourfulness", "unknown_colourfulness"
    assert curated(module, tmp_path, instance, least) == (
        {"vivid": [], "grey": [low], "broken": ["unreadable", unknown]},
        3,
    )
    scores = StorageResource().store().open("colourfulness", PARTITION).read().to_pylist()
    assert [row["error"] for row in scores] == [None, None, "not_an_image"]
    assert scores[0]["colourfulness"] > 15 > scores[1]["colourfulness"] == 0
    # Another threshold scores nothing anew.
    passes = {"min": {"colourfulness": 0}, "unknown_passes": ["colourfulness"]}
    assert curated(module, tmp_path, instance, passes) == (
        {"vivid": [], "grey": [], "broken": ["unreadable"]},
        0,
    )
