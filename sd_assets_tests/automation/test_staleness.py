"""An edit of one entry of the catalogue shows that partition's affected assets, and no other, as stale."""

from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

import sd_assets
from sd_assets.assets.catalog_entry import catalog_entry, section_metadata
from sd_assets.assets.common import SEEDS
from sd_assets.automation.sensors import catalog_edits
from sd_assets.definitions import ASSETS, build_definitions
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource
from sd_assets.retrieval.layout import write_index

BLIP = Path(sd_assets.__file__).parent / "demo" / "models" / "blip"
PARTITIONS = SEEDS.get_partition_keys()[:2]
CATALOG: dict[str, Any] = {
    "defaults": {
        "clip": {"model": "toy", "pretrained": "toy"},
        "captioner": {"model": str(BLIP)},
        "retrieval": {"index": "toy"},
        "download": {"timeout_s": 1, "retries": 0},
    },
    "indices": {"toy": {"kind": "faiss", "path": "index"}},
    "seed_datasets": {name: {"prompts": {"texts": [f"a {name}", "a lamp"]}} for name in PARTITIONS},
}


class ToyEncoder:
    """Texts as vectors, without a model."""

    identity = "toy"
    fingerprint_settings: dict[str, Any] = {"model": "toy"}  # noqa: RUF012

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def load(self) -> None: ...

    def facts(self) -> dict[str, Any]:
        return {"model": "toy"}

    def encode_images(self, images: list[Any]) -> Any:
        raise AssertionError("there are no images here")

    def encode_texts(self, texts: list[str]) -> Any:
        vectors = np.array([[len(text), 1.0] for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class ToyClip(dg.ConfigurableResource["ToyClip"]):
    def encoder(self, settings: Any) -> ToyEncoder:
        return ToyEncoder(settings)


class Project:
    """A catalogue, tables and an instance; its partitions are built at the start."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self._file = folder / "catalog.yaml"
        self.instance = instance
        self.catalog = deepcopy(CATALOG)
        self.write()
        urls = [f"http://127.0.0.1:9/{i}.jpg" for i in range(3)]  # forbidden: nothing is fetched
        write_index(folder / "index", np.eye(3, 2, dtype=np.float32), pa.table({"url": urls}))
        overrides = {
            "catalog": CatalogResource(path=str(self._file)),
            "storage": StorageResource(base=str(folder / "data")),
            "clip": ToyClip(),
        }
        self.definitions = build_definitions(overrides)
        self._cursor: str | None = None
        self.tick()
        for partition in PARTITIONS:
            self.build(partition)

    def write(self) -> None:
        self._file.write_text(yaml.safe_dump(self.catalog))

    def build(self, partition: str) -> None:
        assets = [catalog_entry, *ASSETS]
        resources = self.definitions.resources
        assert resources is not None
        assert dg.materialize(
            assets, instance=self.instance, partition_key=partition, resources=resources
        ).success

    def tick(self) -> int:
        """The sensor's tick, its events stored as the daemon stores them; how many there were."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self._cursor,
            definitions=self.definitions,
            resources={"catalog": CatalogResource(path=str(self._file))},
        )
        result = catalog_edits.evaluate_tick(context)
        self._cursor = result.cursor
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        return len(result.asset_events)

    def stale(self) -> set[tuple[str, str]]:
        resolver = CachingStaleStatusResolver(
            self.instance,
            self.definitions.get_repository_def().asset_graph,
            LoadingContextForTest(self.instance),
        )
        names = [asset.key for asset in ASSETS]
        return {
            (key.to_user_string(), partition)
            for key in names
            for partition in PARTITIONS
            if resolver.get_status(key, partition) != StaleStatus.FRESH
        }


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with ExitStack() as stack:
        yield Project(tmp_path, stack.enter_context(dg.instance_for_test()))


EDITS = [
    ({"captioner": {"max_new_tokens": 7}}, "image_captions"),
    ({"retrieval": {"images_per_query": 2}}, "retrieval_hits"),
    ({"download": {"image_size": 64}}, "downloaded_images"),
    ({"clip": {"model": "other", "pretrained": "toy"}}, "seed_embeddings"),
    ({"prompts": {"texts": ["a chair"]}}, "seed_prompts"),
]


def test_edits_show_as_stale_where_they_count(project: Project) -> None:
    assert project.stale() == set()
    assert project.tick() == 0
    edited = PARTITIONS[1]
    for edit, asset in EDITS:
        project.catalog["seed_datasets"][edited].update(edit)
        project.write()
        assert project.tick() == 1
        assert project.stale() == {(asset, edited)}
        project.build(edited)
        assert project.stale() == set(), asset


def test_settings_that_change_nothing_show_nothing(project: Project) -> None:
    project.catalog["defaults"]["download"]["timeout_s"] = 2
    project.catalog["defaults"]["clip"]["batch_size"] = 2
    project.write()
    assert project.tick() == 0
    assert project.stale() == set()


def test_an_edit_of_the_index_counts_for_who_asks_it(project: Project) -> None:
    project.catalog["indices"]["other"] = {"kind": "faiss", "path": "elsewhere"}
    project.write()
    assert project.tick() == 0
    project.catalog["seed_datasets"][PARTITIONS[0]]["retrieval"] = {"index": "other"}
    project.write()
    assert project.tick() == 1
    assert project.stale() == {("retrieval_hits", PARTITIONS[0])}


def test_an_entry_that_is_gone_stops_nobody(project: Project) -> None:
    del project.catalog["seed_datasets"][PARTITIONS[0]]
    project.write()
    assert project.tick() == 0


def test_what_is_shown_of_a_section_holds_no_secret() -> None:
    section = {"index_definition": {"url": "https://me:hunter2@knn.example/knn-service", "k": [1, "a"]}}
    shown = section_metadata(section)["settings"].data
    assert "hunter2" not in str(shown)
    assert "knn.example/knn-service" in shown["index_definition"]["url"]
    assert shown["index_definition"]["k"] == [1, "a"]
