"""The assets of the scores in real runs: a real CLIP, a head, a classifier; what is not asked for, and what cannot be had."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.compute.run import write_rows
from sd_assets.definitions import build_definitions
from sd_assets.errors import ModelError
from sd_assets.models.clip import ClipEncoder
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.models import ClipResource, ScoreModelResource
from sd_assets.resources.storage import StorageResource
from sd_assets.schemas import TEXT_IMAGE_PAIRS
from sd_assets.settings import ClipSettings
from sd_assets.stages.stage import rows_of
from sd_assets_tests.measures.photographs import encoded
from sd_assets_tests.models import tiny
from sd_assets_tests.models.scoring.test_classifier import LABELS, write

PARTITION = "demo_prompts"  # one of the catalogue that ships: partitions are read from there
ASSETS = ("image_embeddings", "image_quality", "alignment_scores", "aesthetic_scores", "nsfw_scores")
DIM = 24  # of the tiny CLIP
CAPTIONS = ["a red sofa", "a blue chair"]


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC)


PAIRS: list[dict[str, Any]] = [
    {
        "image_id": f"i{number}",
        "image": encoded(picture(number), "png"),
        "captions": CAPTIONS[: number % 2 + 1],
    }
    for number in range(5)
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CLIP, a head on it, and a classifier."""
    folder = tmp_path_factory.mktemp("models")
    tiny.clip(folder / "clip")
    save_file({"weight": torch.ones(1, DIM)}, folder / "head.safetensors")
    write(folder / "classifier", LABELS)
    return folder


class Partition:
    """Pairs, a catalogue, and runs of what scores them."""

    def __init__(self, folder: Path, models: Path, instance: dg.DagsterInstance) -> None:
        self._folder = folder
        self._models = models
        self._instance = instance
        self._storage = StorageResource(base=str(folder / "data"))
        self.given(PAIRS)

    def given(self, pairs: list[dict[str, Any]]) -> None:
        """The dataset."""
        area = self._storage.store().area("text_image_pairs", PARTITION)
        write_rows(TEXT_IMAGE_PAIRS, [rows_of(TEXT_IMAGE_PAIRS, pairs)], area, f"given-{id(pairs)}").commit()

    def run(self, **scores: Any) -> dg.ExecuteInProcessResult:
        """Materializes the assets, with `scores:` of the entry."""
        path = self._folder / "catalog.yaml"
        entry = {
            "prompts": {"texts": ["a"]},
            "clip": {"model": str(self._models / "clip")},
            "retrieval": {"index": "it"},
            "scores": scores,
        }
        said = {
            "indices": {"it": {"kind": "faiss", "path": "index"}},
            "seed_datasets": {PARTITION: entry},
        }
        path.write_text(yaml.safe_dump(said))
        on_cpu = {"device": "cpu", "precision": "float32"}
        defs = build_definitions(
            {
                "catalog": CatalogResource(path=str(path)),
                "storage": self._storage,
                "clip": ClipResource(**on_cpu),
                "score_models": ScoreModelResource(**on_cpu),
            }
        )
        return defs.resolve_job_def(BUILD_DATASET).execute_in_process(
            instance=self._instance,
            partition_key=PARTITION,
            asset_selection=[dg.AssetKey(name) for name in ASSETS],
        )

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Of a table."""
        rows: list[dict[str, Any]] = self._storage.table(name, PARTITION).read().to_pylist()
        return rows


@pytest.fixture
def partition(tmp_path: Path, models: Path) -> Iterator[Partition]:
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        yield Partition(tmp_path, models, instance)


def reports(result: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
    """What each asset says of a number of its report."""
    events = {asset: result.asset_materializations_for_node(asset)[0].metadata for asset in ASSETS}
    return {asset: metadata[name].value for asset, metadata in events.items() if name in metadata}


def test_all_scores_of_a_dataset(partition: Partition, models: Path) -> None:
    head, classifier = models / "head.safetensors", models / "classifier"
    asked = {"aesthetic": {"head": str(head)}, "nsfw": {"model": str(classifier), "label": "nsfw"}}
    result = partition.run(**asked)
    assert result.success
    assert len(result.get_asset_check_evaluations()) >= 2 * len(ASSETS)
    assert all(it.passed for it in result.get_asset_check_evaluations())
    for name in ASSETS:
        rows = partition.rows(name)
        assert [row["image_id"] for row in rows] == [pair["image_id"] for pair in PAIRS]
        assert [row["error"] for row in rows] == [None] * 5
    # As the model itself sees them.
    clip = ClipEncoder(ClipSettings(model=str(models / "clip")), device="cpu", precision="float32")
    images = clip.encode_images([clip.pixels(pair["image"]) for pair in PAIRS])
    texts = clip.encode_texts(CAPTIONS)
    found = np.array([row["embedding"] for row in partition.rows("image_embeddings")])
    assert np.abs(found - images).max() < 1e-5
    for row, image, pair in zip(partition.rows("alignment_scores"), images, PAIRS, strict=True):
        expected = [float(image @ texts[CAPTIONS.index(text)]) for text in pair["captions"]]
        assert row["alignments"] == pytest.approx(expected, abs=1e-5)
        assert row["alignment"] == pytest.approx(min(expected), abs=1e-5)
    sums = [row["aesthetic"] for row in partition.rows("aesthetic_scores")]
    assert sums == pytest.approx(images.sum(axis=1), abs=1e-4)
    probabilities = [row["nsfw"] for row in partition.rows("nsfw_scores")]
    assert all(0 < value < 1 for value in probabilities) and len(set(probabilities)) == 5

    # Nothing has changed, nothing is computed; of an image that is new, its rows alone.
    assert set(reports(partition.run(**asked), "rows_computed").values()) == {0}
    partition.given([*PAIRS, {**PAIRS[0], "image_id": "new"}])
    assert set(reports(partition.run(**asked), "rows_computed").values()) == {1}


def test_what_is_not_asked_for_is_empty(partition: Partition, models: Path) -> None:
    result = partition.run()
    assert result.success and all(it.passed for it in result.get_asset_check_evaluations())
    assert partition.rows("aesthetic_scores") == partition.rows("nsfw_scores") == []
    partition.run(aesthetic={"head": str(models / "head.safetensors")})
    assert len(partition.rows("aesthetic_scores")) == 5
    partition.run()
    assert partition.rows("aesthetic_scores") == []


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"aesthetic": {"head": "none.safetensors"}}, "none.safetensors cannot be read"),
        ({"nsfw": {"model": "./none", "label": "nsfw"}}, r"the model folder .*/none does not exist"),
    ],
)
def test_what_is_asked_for_and_cannot_be_had_fails(
    partition: Partition, scores: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        partition.run(**scores)


def test_a_broken_image_fails_its_own_rows(partition: Partition, models: Path) -> None:
    partition.given([*PAIRS, {"image_id": "broken", "image": b"text", "captions": ["a"]}])
    classifier = {"model": str(models / "classifier"), "label": "normal"}
    result = partition.run(aesthetic={"head": str(models / "head.safetensors")}, nsfw=classifier)
    assert result.success
    for name in ASSETS:
        rows = partition.rows(name)
        assert [row["error"] for row in rows] == [None] * 5 + ["not_an_image"]
