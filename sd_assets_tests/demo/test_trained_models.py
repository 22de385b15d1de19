"""The shipped models: they load offline by their own libraries, are small, and do on a fresh world what was promised."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import numpy as np
import pytest

from sd_assets.demo import scenes
from sd_assets.demo.train import MEASURED, MODELS
from sd_assets.demo.training import data, evaluate
from sd_assets.demo.training.tokenizer import VOCABULARY

CLIP, BLIP = MODELS / "clip", MODELS / "blip"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def seed() -> str:
    """A world that nobody has seen; named in the failure, so that it can be seen again."""
    return secrets.token_hex(4)


@pytest.mark.parametrize("folder", [CLIP, BLIP], ids=lambda folder: folder.name)
def test_models_are_small_and_come_with_what_was_measured(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 10_000_000
    report = json.loads((folder / MEASURED).read_text(encoding="utf-8"))
    assert report["training"]["steps"] > 0
    assert report["figures"]


def test_training_texts_are_true_name_no_held_out_pair_and_use_known_words_only() -> None:
    pool = data.render_pool(500, seed=1)
    rng = scenes.training_rng(1, "texts")
    for scene, known in zip(pool.scenes, pool.attributes, strict=True):
        texts = [make(scene, rng) for make in (data.full_text, data.partial_text) for _ in range(3)]
        assert data.truth_matrix(texts, known[None]).all()
        for text in texts:
            assert scenes.pairs_in(text.text) <= scene.pairs
            assert not scenes.pairs_in(text.text) & scenes.HELD_OUT_PAIRS
            words = text.text.replace(",", " ,").split()
            assert set(words) - {"stylish"} <= set(VOCABULARY)


def test_training_pictures_are_those_that_the_models_preprocessing_makes() -> None:
    import open_clip
    import torch
    from PIL import Image
    from transformers import AutoProcessor

    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{CLIP}")
    processor = AutoProcessor.from_pretrained(str(BLIP))
    for picture in evaluate.unseen(3, 0, size=128)[1]:
        small = np.array(picture.resize((data.SIDE, data.SIDE), Image.Resampling.BICUBIC))
        trained_on = data.to_tensor(small[None])[0]
        assert torch.equal(preprocess(picture), trained_on)
        # torchvision's own resize may round a level of 255 otherwise than PIL's.
        assert (
            processor(images=picture, return_tensors="pt").pixel_values[0] - trained_on
        ).abs().max() < 0.04


def test_clip_finds_what_texts_tell(seed: str) -> None:
    figures = evaluate.measure_clip(CLIP, seed=seed)
    assert figures["recall_at_1"] >= 0.6, (seed, figures)
    assert figures["precision_at_10"] >= 0.85, (seed, figures)


def test_blip_says_what_is_there(seed: str) -> None:
    figures = evaluate.measure_blip(BLIP, seed=seed, count=400)
    assert figures["pair_accuracy"] >= 0.9, (seed, figures)
    assert figures["object_recall"] >= 0.8, (seed, figures)


def test_blip_captions_end_by_themselves_and_do_not_depend_on_their_company() -> None:
    _, pictures = evaluate.unseen(24, 3)
    together = evaluate.generate_captions(BLIP, pictures)
    assert together == evaluate.generate_captions(BLIP, pictures, max_new_tokens=200)
    assert together[:3] == [evaluate.generate_captions(BLIP, [picture])[0] for picture in pictures[:3]]
