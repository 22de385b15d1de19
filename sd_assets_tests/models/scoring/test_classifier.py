"""An image classifier of transformers, and the label that is asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from sd_assets.errors import ModelError, RowError
from sd_assets.models.scoring.classifier import ImageClassifier
from sd_assets.settings import ScoreModelSettings
from sd_assets_tests.hub.repos import files_of
from sd_assets_tests.hub.server import Hub
from sd_assets_tests.measures.photographs import encoded

LABELS = ["normal", "NSFW"]
_SIDE = 32


def write(folder: Path, labels: list[str], **config: Any) -> Path:
    """A tiny ViT that tells these labels apart, somehow."""
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=_SIDE,
            patch_size=8,
            id2label=dict(enumerate(labels)),
            label2id={label: place for place, label in enumerate(labels)},
            **config,
        )
    )
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": _SIDE, "width": _SIDE}).save_pretrained(folder)
    return folder


def classifier(model: Path | str, **settings: Any) -> ImageClassifier:
    return ImageClassifier(
        ScoreModelSettings(model=str(model), **settings), "nsfw", device="cpu", precision="float32"
    )


def scores(of: ImageClassifier, images: list[Image.Image]) -> list[Any]:
    of.load()
    return of.score([of.pixels(encoded(image, "png")) for image in images])


def logits(folder: Path, images: list[Image.Image]) -> torch.Tensor:
    """What the library's own pipeline answers."""
    model = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        found: torch.Tensor = model(**processor(images=images, return_tensors="pt")).logits
    return found


@pytest.fixture(scope="module")
def two_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("classifiers") / "two", LABELS)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(3)]


def test_the_probability_of_a_label(two_labels: Path, images: list[Image.Image]) -> None:
    expected = logits(two_labels, images).softmax(dim=1)[:, 1].tolist()
    assert scores(classifier(two_labels, label="nsfw"), images) == pytest.approx(expected, abs=0.01)
    both = zip(*(scores(classifier(two_labels, label=label), images) for label in LABELS), strict=True)
    assert [sum(pair) for pair in both] == pytest.approx([1, 1, 1])


def test_labels_that_do_not_exclude_each_other(tmp_path: Path, images: list[Image.Image]) -> None:
    folder = write(tmp_path / "several", LABELS, problem_type="multi_label_classification")
    expected = logits(folder, images).sigmoid()[:, 0].tolist()
    assert scores(classifier(folder, label="normal"), images) == pytest.approx(expected, abs=0.01)


def test_a_model_of_one_number(tmp_path: Path, images: list[Image.Image]) -> None:
    folder = write(tmp_path / "one", ["score"])
    expected = logits(folder, images)[:, 0].tolist()
    assert scores(classifier(folder), images) == pytest.approx(expected, abs=0.01)
    # Asked for by name it is a label like others: a probability, and not 1 for all.
    probabilities = logits(folder, images).sigmoid()[:, 0].tolist()
    assert scores(classifier(folder, label="score"), images) == pytest.approx(probabilities, abs=0.01)
    assert max(probabilities) < 0.9


@pytest.mark.parametrize("label", [None, "porn"])
def test_a_label_that_it_has_not(two_labels: Path, label: str | None) -> None:
    with pytest.raises(ModelError, match="set `label:` to one of normal, NSFW"):
        classifier(two_labels, label=label).load()


def test_of_the_hub(hub: Hub, two_labels: Path, images: list[Image.Image]) -> None:
    repo = hub.model("org/nsfw", files_of(two_labels))
    found = classifier("org/nsfw", label="nsfw")
    assert found.identity == f"org/nsfw@{repo.refs['main']}"
    assert scores(found, images) == scores(classifier(two_labels, label="nsfw"), images)
    with pytest.raises(ModelError, match=r"'org/other' \(scores.nsfw\) does not exist on the Hub"):
        _ = classifier("org/other", label="nsfw").identity


def test_a_model_of_another_kind(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        _ = classifier(tmp_path / "none", label="nsfw").identity
    with pytest.raises(ModelError, match="cannot be loaded by transformers"):
        classifier(clip_folder, label="nsfw").load()


def test_an_image_that_is_none(two_labels: Path) -> None:
    found = classifier(two_labels, label="nsfw")
    with pytest.raises(RowError, match="not_an_image"):
        found.pixels(b"text")
