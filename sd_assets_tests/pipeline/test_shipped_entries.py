"""The entries of the catalogue that ships which need the Hub and a kNN service: with one, and without."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest

from sd_assets import catalog
from sd_assets.definitions import build_definitions
from sd_assets.errors import ErrorCode
from sd_assets.resources.storage import StorageResource
from sd_assets.storage.table import TableStore
from sd_assets_tests.hub.server import Hub
from sd_assets_tests.sources.conftest import picture
from sd_assets_tests.sources.hub_data import SHARD, cells, parquet


class Project:
    """Our definitions over tables in a folder."""

    def __init__(self, base: Path) -> None:
        self._storage = StorageResource(base=str(base))
        self._job = build_definitions({"storage": self._storage}).resolve_job_def("build_dataset")

    @property
    def store(self) -> TableStore:
        return self._storage.store()

    def build(self, partition: str, assets: Sequence[str]) -> dict[str, str]:
        """Materializes assets of a partition. The asset that failed -> why, as the page of the run says it."""
        result = self._job.execute_in_process(
            partition_key=partition,
            asset_selection=[dg.AssetKey(name) for name in assets],
            raise_on_error=False,
        )
        errors = {
            event.step_key: event.step_failure_data.error
            for event in result.all_events
            if event.is_step_failure and event.step_key
        }
        return {name: str(error.cause or error) for name, error in errors.items() if error}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("LAION_KNN_URL", raising=False)
    return Project(tmp_path)


@pytest.mark.parametrize("name", ["modern_logos", "interior_design"])
def test_they_say_what_they_need(name: str) -> None:
    description = catalog.load().entry(name).description
    assert "Hugging Face Hub" in description and "LAION_KNN_URL" in description


def test_logos(hub: Hub, project: Project) -> None:
    images = cells(120)
    images[3], images[4]["bytes"] = None, b"no picture"  # type: ignore[call-overload]
    shard = parquet({"image": images, "text": [f"logo {number}" for number in range(120)]})
    commit = hub.dataset("logo-wizard/modern-logo-dataset", {SHARD: shard}).refs["main"]
    assert project.build("modern_logos", ["seed_images"]) == {}
    rows = project.store.open("seed_images", "modern_logos").read().to_pylist()
    assert len(rows) == 100
    assert [row["text"] for row in rows] == [f"logo {number}" for number in range(100)]
    assert {row["source_revision"] for row in rows} == {commit}
    assert {row["error"] for row in rows} == {None, ErrorCode.MISSING_IMAGE, ErrorCode.NOT_AN_IMAGE}
    assert [row["image"] for row in rows[:3]] == [picture(0), picture(1), picture(2)]
    assert [(row["error"], row["image"], row["source_row"]) for row in rows[3:5]] == [
        (ErrorCode.MISSING_IMAGE, None, 3),
        (ErrorCode.NOT_AN_IMAGE, None, 4),
    ]


def test_logos_without_the_hub(project: Project, no_hub: None) -> None:
    failures = project.build("modern_logos", ["seed_images"])
    assert list(failures) == ["seed_images"]
    assert (
        "SourceError: the Hub dataset 'logo-wizard/modern-logo-dataset' cannot be reached"
        in failures["seed_images"]
    )
    assert "Check the network and HF_ENDPOINT" in failures["seed_images"]


def test_without_a_knn_service_nothing_is_embedded(hub: Hub, project: Project) -> None:
    failures = project.build("interior_design", ["seed_images", "seed_prompts", "seed_embeddings"])
    assert list(failures) == ["seed_embeddings"]
    assert (
        "indices.laion.url is '${LAION_KNN_URL}', and the environment variable LAION_KNN_URL is not set: export "
        "LAION_KNN_URL=..."
    ) in failures["seed_embeddings"]
    assert project.store.open("seed_prompts", "interior_design").num_rows == 240
    assert not hub.requests  # not even for the weights of CLIP


def test_without_the_weights(project: Project, no_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_KNN_URL", "http://127.0.0.1:9")
    failures = project.build("interior_design", ["seed_images", "seed_prompts", "seed_embeddings"])
    assert list(failures) == ["seed_embeddings"]
    for part in (
        "the CLIP 'ViT-L-14' with weights 'openai'",
        "cannot be reached",
        "HF_ENDPOINT",
        "hf download",
    ):
        assert part in failures["seed_embeddings"]
