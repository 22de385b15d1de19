"""Both demo partitions through Dagster: every row accounted for, the world's truth found, nothing done twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sd_assets import catalog
from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.definitions import ASSETS, build_definitions
from sd_assets.demo.evaluate import evaluate
from sd_assets.demo.world import World
from sd_assets.models.loading import LazyModel
from sd_assets.resources.storage import StorageResource
from sd_assets.stages.stage import Stage
from sd_assets.storage.table import Table

NAMES = [asset.key.path[0] for asset in ASSETS]


class Pipeline:
    """One data folder and one instance, for several runs."""

    def __init__(self, data: Path, instance: dg.DagsterInstance) -> None:
        self.data = data
        self._instance = instance
        self._storage = StorageResource(base=str(data))

    def run(self, partition: str) -> dg.ExecuteInProcessResult:
        definitions = build_definitions({"storage": self._storage})
        job = definitions.resolve_job_def(BUILD_DATASET)
        return job.execute_in_process(instance=self._instance, partition_key=partition)

    def report(self, asset: str, partition: str) -> dict[str, Any]:
        return self._storage.store().area(asset, partition).last_run()

    def table(self, asset: str, partition: str) -> Table:
        return self._storage.store().open(asset, partition)

    def versions(self, partition: str) -> dict[str, tuple[int, str]]:
        manifests = {name: self.table(name, partition).manifest for name in NAMES}
        return {name: (manifest.version, manifest.data_version) for name, manifest in manifests.items()}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, world: World) -> Iterator[Pipeline]:
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test() as instance:
        patch.setenv("SD_ASSETS_DEMO", str(world.folder))
        yield Pipeline(tmp_path_factory.mktemp("data"), instance)


@pytest.fixture(scope="module")
def rooms(pipeline: Pipeline) -> dg.ExecuteInProcessResult:
    return pipeline.run("demo_rooms")


@pytest.fixture(scope="module", params=["demo_rooms", "demo_prompts"])
def built(
    request: pytest.FixtureRequest, pipeline: Pipeline, rooms: dg.ExecuteInProcessResult
) -> tuple[str, dg.ExecuteInProcessResult]:
    return request.param, rooms if request.param == "demo_rooms" else pipeline.run(request.param)


def test_every_row_is_accounted_for(pipeline: Pipeline, built: tuple[str, dg.ExecuteInProcessResult]) -> None:
    partition, _ = built
    for name in NAMES:
        report = pipeline.report(name, partition)
        counted = sum(report[f"rows_{what}"] for what in ("ok", "failed", "duplicate", "skipped"))
        assert report["rows_in"] == counted, name
        table = pipeline.table(name, partition)
        errors = table.read(["error"]).column("error")
        assert (table.num_rows, errors.length() - errors.null_count) == (
            report["rows_ok"] + report["rows_failed"],
            report["rows_failed"],
        ), name
    # What one stage makes is what the next is to work on.
    reports = {name: pipeline.report(name, partition) for name in NAMES}

    def rows(name: str) -> int:
        return pipeline.table(name, partition).num_rows

    assert reports["seed_embeddings"]["rows_in"] == rows("seed_images") + rows("seed_prompts")
    assert reports["retrieval_hits"]["rows_in"] == rows("seed_embeddings")
    hits = pipeline.table("retrieval_hits", partition).read(["hits"]).column("hits").to_pylist()
    assert reports["retrieved_image_urls"]["rows_in"] == sum(len(found or ()) for found in hits)
    assert reports["downloaded_images"]["rows_in"] == rows("retrieved_image_urls")
    assert reports["image_captions"]["rows_in"] == rows("seed_images") + rows("downloaded_images")
    assert reports["text_image_pairs"]["rows_in"] == rows("seed_images") + rows("downloaded_images")


@pytest.mark.usefixtures("rooms")
def test_the_world_s_truth_is_found(pipeline: Pipeline, world: World) -> None:
    found = evaluate(world.folder, {name: pipeline.data / name / "demo_rooms" for name in NAMES})
    assert found.faults_planted == found.faults_classified_right == found.fault_kinds >= 12
    assert found.false_faults == 0
    # A small world shows fewer than ten of some pairs, so precision at ten is measured on the large one.
    assert found.caption_pair_accuracy is not None and found.caption_pair_accuracy >= 0.9
    assert found.caption_object_recall is not None and found.caption_object_recall >= 0.8
    for figures in (*found.curation.filters.values(), found.curation.duplicates):
        assert figures.planted >= 2
        assert figures.precision is not None and figures.precision >= 0.95
        assert figures.recall is not None and figures.recall >= 0.95
    assert found.curation.alignment_auc is not None and found.curation.alignment_auc >= 0.95


@pytest.mark.usefixtures("rooms")
def test_the_training_loop_of_diffusers_runs_on_what_is_exported(pipeline: Pipeline, tmp_path: Path) -> None:
    """That its loop reads the folder, and learns something of it. So few steps learn how noise looks: not what captions mean."""
    # diffusers takes seconds to import, which other tests need not wait for.
    from sd_assets_tests.tiny_diffusion import TinyDiffusion

    folder = pipeline.data / "exports" / "imagefolder" / "demo_rooms" / "train"
    diffusion = TinyDiffusion(folder, tmp_path)
    pairs = pipeline.table("curated_pairs", "demo_rooms").read(["split"]).column("split").to_pylist()
    assert len(diffusion.dataset) == pairs.count("train") > 100
    before, after = diffusion.train(steps=10)
    assert after < 0.8 * before
    # Where there is nothing to learn it does not fall as far.
    before, after = TinyDiffusion(folder, tmp_path, mismatched=True).train(steps=10)
    assert after > 0.8 * before


def test_a_pair_is_an_image_with_its_captions(
    pipeline: Pipeline, built: tuple[str, dg.ExecuteInProcessResult]
) -> None:
    rows = pipeline.table("text_image_pairs", built[0]).read().to_pylist()
    assert rows
    for row in rows:
        assert row["image"] and row["captions"] and all(row["captions"])
        assert row["origin"] == "seed" or row["url"]
    assert {row["origin"] for row in rows} == (
        {"seed", "retrieved"} if built[0] == "demo_rooms" else {"retrieved"}
    )


def test_materializations_say_what_happened(built: tuple[str, dg.ExecuteInProcessResult]) -> None:
    events = {
        event.asset_key.path[0]: event
        for event in built[1].get_asset_materialization_events()
        if event.asset_key and event.asset_key.path[0] in NAMES
    }
    assert set(events) == set(NAMES)
    for name, event in events.items():
        metadata = event.materialization.metadata
        assert {
            "rows_in",
            "rows_reused",
            "failures",
            "bytes",
            "seconds",
            "dagster/column_schema",
            "dagster/uri",
        } <= set(metadata)
        assert event.materialization.tags and event.materialization.tags["dagster/data_version"], name
    assert {"model", "device", "precision"} <= set(events["seed_embeddings"].materialization.metadata)
    assert {"model", "device", "precision"} <= set(events["image_captions"].materialization.metadata)


def test_a_second_run_does_nothing_again(
    pipeline: Pipeline, built: tuple[str, dg.ExecuteInProcessResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pipeline.versions(built[0])

    def forbidden(*_: Any) -> None:
        raise AssertionError("a stage was opened")

    for stage in Stage.__subclasses__():
        monkeypatch.setattr(stage, "open", forbidden)
    for model in LazyModel.__subclasses__():
        monkeypatch.setattr(model, "_load", forbidden)
    pipeline.run(built[0])
    assert pipeline.versions(built[0]) == before
    for name in NAMES:
        report = pipeline.report(name, built[0])
        assert report["rows_reused"] == report["rows_ok"] + report["rows_failed"], name
        assert "rows_per_s" not in report, name
        # What made the rows is still said where no model ran.
        if name in ("seed_embeddings", "image_captions"):
            assert {"model", "device", "precision"} <= set(report), name


def test_the_shipped_entries_are_the_partitions() -> None:
    keys = {str(asset.partitions_def.get_partition_keys()) for asset in ASSETS if asset.partitions_def}
    assert keys == {str(list(catalog.load().seed_datasets))}
    dg.Definitions.validate_loadable(build_definitions())
