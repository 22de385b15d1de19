"""A refresh costs what changed: the models, the index and the web see exactly what is new."""

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.one_refresh import Seen
from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.definitions import ASSETS, build_definitions
from sd_assets.demo.world import World
from sd_assets.download.downloader import Downloader
from sd_assets.models.captioner import Captioner
from sd_assets.models.clip import ClipEncoder
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource
from sd_assets.retrieval.faiss_index import FaissIndex
from sd_assets_tests.pipeline.conftest import CLIP, PROJECT

NAMES = [asset.key.path[0] for asset in ASSETS]
# A partition that the definitions know; what it is, a catalogue of ours says.
PARTITION = "demo_rooms"
SEEDS = 24
PROMPTS = ["a red sofa", "a blue lamp"]
# Tables that are empty, as the entry asks for nothing of theirs.
NOT_ASKED_FOR = {"aesthetic_scores", "nsfw_scores", "held_out_images"}


def noise(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((96, 96)).save(out, "PNG")
    return out.getvalue()


class Work:
    """What was asked of models, index and web since `forget`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        for kind in (ClipEncoder, Captioner):
            patch.setattr(kind, "_load", kind._load)  # put back in the end what `Seen` puts its hooks in
        self._clip = Seen(ClipEncoder, lambda parts: parts.clip._model.visual)
        self._captioner = Seen(Captioner, lambda parts: parts.family.model.vision_model)
        self._asked: Counter[str] = Counter()
        self._count(patch, ClipEncoder, "encode_texts", "texts")
        self._count(patch, FaissIndex, "search", "queries")
        self._count_requests(patch)

    def _count(self, patch: pytest.MonkeyPatch, kind: type, method: str, name: str) -> None:
        original = getattr(kind, method)

        def counted(this: Any, items: Sequence[Any], *others: Any) -> Any:
            self._asked[name] += len(items)
            return original(this, items, *others)

        patch.setattr(kind, method, counted)

    def _count_requests(self, patch: pytest.MonkeyPatch) -> None:
        original = Downloader.bunches

        def counted(this: Downloader, requests: Iterable[Any], idle_s: float | None) -> Iterator[Any]:
            def each() -> Iterator[Any]:
                for request in requests:
                    self._asked["downloads"] += 1
                    yield request

            return original(this, each(), idle_s)

        patch.setattr(Downloader, "bunches", counted)

    def forget(self) -> None:
        self._clip.forget()
        self._captioner.forget()
        self._asked.clear()

    @property
    def done(self) -> dict[str, int]:
        seen = {"embedded": self._clip.counts["rows"], "captioned": self._captioner.counts["rows"]}
        return {name: count for name, count in {**seen, **self._asked}.items() if count}


class Dataset:
    """A seed dataset of noise with its tables, in one folder."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, work: Work) -> None:
        self.folder = folder
        self._instance = instance
        self._work = work
        self.entry: dict[str, Any] = {
            "source": {"kind": "parquet", "path": str(folder / "seeds.parquet")},
            "prompts": {"texts": PROMPTS},
            "clip": {"model": f"local-dir:{CLIP}"},
            "captioner": {"model": f"{PROJECT}/sd_assets/demo/models/blip", "max_new_tokens": 8},
            "retrieval": {"index": "demo", "images_per_query": 2},
            "download": {"image_size": 64, "allow_addresses": ["127.0.0.1"], "retries": 0},
            "checks": {"max_same_caption": 1},
        }
        self.write(range(SEEDS))

    def write(self, seeds: Sequence[int]) -> None:
        rows = {"image": [noise(seed) for seed in seeds]}
        pq.write_table(pa.table(rows), self.folder / "seeds.parquet", row_group_size=5)

    def copy(self, folder: Path) -> "Dataset":
        shutil.copytree(self.folder, folder)
        return Dataset(folder, self._instance, self._work)

    def build(self) -> dict[str, int]:
        """Build everything; what it asked for."""
        path = self.folder / "catalogue.json"
        indices = {"demo": {"kind": "faiss", "path": "${SD_ASSETS_DEMO}/index"}}
        path.write_text(json.dumps({"indices": indices, "seed_datasets": {PARTITION: self.entry}}))
        definitions = build_definitions(
            {
                "storage": StorageResource(base=str(self.folder / "data")),
                "catalog": CatalogResource(path=str(path)),
            }
        )
        self._work.forget()
        job = definitions.resolve_job_def(BUILD_DATASET)
        assert job.execute_in_process(instance=self._instance, partition_key=PARTITION).success
        return self._work.done

    def versions(self) -> dict[str, tuple[int, str]]:
        manifests = {name: self.table(name).manifest for name in NAMES}
        return {name: (manifest.version, manifest.data_version) for name, manifest in manifests.items()}

    def data_versions(self) -> dict[str, str]:
        return {name: version for name, (_, version) in self.versions().items()}

    def report(self, name: str) -> dict[str, Any]:
        report: dict[str, Any] = self._store.area(name, PARTITION).last_run()
        return report

    def table(self, name: str) -> Any:
        return self._store.open(name, PARTITION)

    def files(self) -> set[Path]:
        return {path for path in (self.folder / "data").rglob("*.parquet") if "shards" in path.parts}

    @property
    def _store(self) -> Any:
        return StorageResource(base=str(self.folder / "data")).store()


@pytest.fixture(scope="module")
def built(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test() as instance:
        patch.setenv("SD_ASSETS_DEMO", str(world.folder))
        dataset = Dataset(tmp_path_factory.mktemp("built"), instance, Work(patch))
        dataset.build()
        yield dataset


@pytest.fixture
def dataset(built: Dataset, tmp_path: Path) -> Dataset:
    """A copy of one that is built."""
    return built.copy(tmp_path / "dataset")


def identities(dataset: Dataset, name: str, column: str) -> set[str]:
    values = dataset.table(name).read([column])[column].to_pylist()
    return {value for value in values if value is not None}


def unread(table: Any, columns: Sequence[str]) -> Iterator[Any]:
    """In place of `Table.rows`."""
    raise AssertionError(f"{table} is read")
    yield


def test_what_has_not_changed_costs_nothing(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    before, files = dataset.versions(), dataset.files()
    # What is made from tables that have not changed does not look at their rows.
    monkeypatch.setattr("sd_assets.storage.table.Table.rows", unread)
    assert dataset.build() == {}
    assert (dataset.versions(), dataset.files()) == (before, files)
    for name in NAMES:
        report = dataset.report(name)
        assert report["rows_reused"] == report["rows_ok"] + report["rows_failed"]
        assert (report["rows_reused"] > 0) == (name not in NOT_ASKED_FOR)
        assert report["rows_computed"] == 0


OLD = range(SEEDS)
CHANGES: dict[str, Sequence[int]] = {
    "at the front": [100, 101, *OLD],
    "in the middle": [*OLD[:11], 102, *OLD[11:]],
    "at the end": [*OLD, 103, 104, 105],
    "removed": OLD[3:20],
    "in another order": OLD[::-1],
    "one for another": [*OLD[:7], 106, *OLD[8:]],
    "twice": [*OLD, *OLD[:4]],
    "all at once": [107, *OLD[:1:-2], 108, *OLD[::6], 109],
}


@pytest.mark.parametrize("change", CHANGES)
def test_models_index_and_web_see_exactly_the_new_rows(dataset: Dataset, change: str) -> None:
    seeds = CHANGES[change]
    new = len(set(seeds) - set(OLD))
    urls = identities(dataset, "retrieved_image_urls", "url_id")
    captions = identities(dataset, "image_captions", "image_id")
    pairs = identities(dataset, "text_image_pairs", "image_id")
    dataset.write(seeds)
    done = dataset.build()
    new_pairs = len(identities(dataset, "text_image_pairs", "image_id") - pairs)
    asked = {
        "embedded": new + new_pairs,  # as seeds, and as images of the dataset
        "texts": new_pairs,  # their captions
        "queries": new,
        "downloads": len(identities(dataset, "retrieved_image_urls", "url_id") - urls),
        "captioned": len(identities(dataset, "image_captions", "image_id") - captions),
    }
    assert done == {name: count for name, count in asked.items() if count}
    assert dataset.report("seed_embeddings")["rows_computed"] == new
    assert dataset.report("seed_embeddings")["rows_reused"] == len(set(seeds) & set(OLD)) + len(PROMPTS)


def test_a_refresh_ends_as_a_first_run_would_have(dataset: Dataset, tmp_path: Path) -> None:
    for change in ("at the front", "all at once"):
        dataset.write(CHANGES[change])
        dataset.build()
    shutil.rmtree(tmp_path / "clean", ignore_errors=True)
    clean = dataset.copy(tmp_path / "clean")
    shutil.rmtree(clean.folder / "data")
    clean.write(CHANGES["all at once"])
    clean.build()
    assert dataset.data_versions() == clean.data_versions()


def test_removed_rows_are_gone_downstream(dataset: Dataset) -> None:
    seeds = identities(dataset, "seed_images", "image_id")
    dataset.write(OLD[3:])
    dataset.build()
    removed = seeds - identities(dataset, "seed_images", "image_id")
    assert len(removed) == 3
    for name, column in (
        ("seed_embeddings", "query_id"),
        ("retrieval_hits", "query_id"),
        ("image_captions", "image_id"),
        ("text_image_pairs", "image_id"),
    ):
        assert not identities(dataset, name, column) & removed
    for hits in dataset.table("retrieved_image_urls").read(["hits"])["hits"].to_pylist():
        assert hits and not {hit["query_id"] for hit in hits} & removed


def changed(dataset: Dataset, before: dict[str, tuple[int, str]]) -> set[str]:
    return {name for name, version in dataset.versions().items() if version != before[name]}


def test_a_new_captioner_captions_anew_and_nothing_else(dataset: Dataset) -> None:
    before = dataset.versions()
    dataset.entry["captioner"]["max_new_tokens"] = 4
    captions = dataset.table("image_captions").num_rows
    assert dataset.build() == {"captioned": captions, "texts": captions}
    assert changed(dataset, before) == {
        "image_captions",
        "text_image_pairs",
        "alignment_scores",
        "curated_pairs",
    }


def test_a_new_size_downloads_anew_and_what_follows_and_the_old_one_is_still_there(dataset: Dataset) -> None:
    before = dataset.versions()
    downloads = dataset.report("downloaded_images")
    dataset.entry["download"]["image_size"] = 48
    assert dataset.build() == {
        "downloads": downloads["rows_in"],
        **dict.fromkeys(("captioned", "embedded", "texts"), downloads["rows_ok"]),
    }
    assert changed(dataset, before) == {
        "downloaded_images",
        "image_captions",
        "text_image_pairs",
        "image_embeddings",
        "image_quality",
        "alignment_scores",
        "near_duplicates",
        "curated_pairs",
    }
    # Going back takes over what the version before has.
    dataset.entry["download"]["image_size"] = 64
    assert dataset.build() == {}
    assert dataset.data_versions() == {name: version for name, (_, version) in before.items()}


def test_a_longer_list_of_prompts_asks_for_the_new_ones(dataset: Dataset) -> None:
    urls = identities(dataset, "retrieved_image_urls", "url_id")
    captions = identities(dataset, "image_captions", "image_id")
    dataset.entry["prompts"]["texts"] = ["a green bed", *PROMPTS]
    done = dataset.build()
    assert done.pop("queries") == 1
    new_urls = len(identities(dataset, "retrieved_image_urls", "url_id") - urls)
    new_captions = len(identities(dataset, "image_captions", "image_id") - captions)
    asked = {
        "downloads": new_urls,
        "captioned": new_captions,
        "embedded": new_captions,
        "texts": 1 + new_captions,  # the prompt, and captions
    }
    assert done == {name: count for name, count in asked.items() if count}
