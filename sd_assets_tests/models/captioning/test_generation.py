"""Decoding: rows that leave, draws that do not depend on the batch, answers that are not numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sd_assets.errors import RowError
from sd_assets.models.captioner import Captioner
from sd_assets.models.captioning import generation
from sd_assets.models.captioning.generation import Gumbel, NotFinite, Rows, sample_key, sampling
from sd_assets.settings import CaptionerSettings, CaptionSettings

COMPACTING = ["blip", "blip-2", "instructblip", "git", "vit-gpt2", "florence-2"]
END = 3  # the id of [SEP] in tiny.tokenizer


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Captions of imposed lengths: picture k of a batch has k new tokens, its end included, and 1 at least.

    Returns:
        of the latest batch, how many rows the decoder had at each step.
    """
    found: list[int] = []

    def imposed(settings: CaptionSettings, rows: Rows, keys: Sequence[int]) -> list[Any]:
        found.clear()

        def impose(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            found.append(len(scores))
            scores[:, END] = torch.where(rows.places <= len(found), 1e9, -1e9)
            return scores

        return [impose, *sampling(settings, rows, keys)]

    monkeypatch.setattr(generation, "sampling", imposed)
    return found


def captioner(folder: Path, count: int, **settings: Any) -> Captioner:
    given = {"model": str(folder), "batch_size": count, "max_new_tokens": 40, "clean": False, **settings}
    return Captioner(CaptionerSettings(**given), precision="float32")


@pytest.mark.parametrize("family", COMPACTING)
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}])
def test_finished_captions_leave_the_batch(
    captioners: dict[str, Path],
    pictures: list[Image.Image],
    family: str,
    settings: dict[str, Any],
    steps: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = (pictures * 5)[:32]
    ours = captioner(captioners[family], len(many), **settings)
    inputs = [ours.preprocess(picture) for picture in many]
    captions = ours.caption(inputs, "default")
    # The last picture's caption ends at step 31; 16 of them are over after 16.
    assert steps == [32] * 15 + [16] * 16
    assert [len(str(caption).split()) for caption in captions][-1] > 10
    monkeypatch.setattr(generation, "CAN_COMPACT", False)
    assert ours.caption(inputs, "default") == captions
    assert steps == [32] * 31


def test_a_picture_that_is_not_finite_leaves_at_once(
    captioners: dict[str, Path], pictures: list[Image.Image], steps: list[int]
) -> None:
    ours = captioner(captioners["blip"], 32)
    inputs = [ours.preprocess(picture) for picture in (pictures * 5)[:32]]
    for picture in inputs[16:]:
        picture.inputs["pixel_values"][:] = float("nan")
    ours.caption(inputs, "default")
    assert steps == [32] + [16] * 14


def test_a_model_without_a_token_that_pads_or_ends(
    captioners: dict[str, Path], pictures: list[Image.Image]
) -> None:
    ours = captioner(captioners["git"], 4, max_new_tokens=5)
    told = ours._loaded().family.model.generation_config
    told.eos_token_id = told.pad_token_id = None
    inputs = [ours.preprocess(picture) for picture in pictures[:3]]
    captions = ours.caption(inputs, "default")
    assert all(isinstance(caption, str) for caption in captions)
    inputs[1].inputs["pixel_values"][:] = float("nan")  # its row is filled up
    again = ours.caption(inputs, "default")
    assert isinstance(again[1], RowError) and (again[0], again[2]) == (captions[0], captions[2])


def test_draws_follow_the_probabilities() -> None:
    """Of 20,000 pictures as many begin with each token as its probability says, to four standard deviations."""
    probabilities = torch.tensor([0.5, 0.25, 0.2, 0.04, 0.01])
    count = 20_000
    keys = [sample_key(7, b"%d" % number, 0) for number in range(count)]
    rows = Rows(count, "cpu")
    scores = probabilities.log().expand(count, -1)
    draw = Gumbel(rows, keys)
    for _ in range(2):  # at each step anew
        tokens = draw(torch.empty(count, 0), scores).argmax(dim=-1)
        found = torch.bincount(tokens, minlength=5) / count
        assert (
            (found - probabilities).abs() < 4 * (probabilities * (1 - probabilities) / count).sqrt()
        ).all()


def test_draws_depend_on_the_picture_and_not_on_its_row() -> None:
    keys = [sample_key(0, bytes([number]), 0) for number in range(8)]
    scores = torch.zeros(8, 100)
    together = Gumbel(Rows(8, "cpu"), keys)
    left = Rows(8, "cpu")
    some = Gumbel(left, keys)
    first = together(scores, scores)
    assert torch.equal(some(scores, scores), first)
    left.places = torch.tensor([6, 2])
    second = together(scores, scores)
    assert torch.equal(some(scores[:2], scores[:2]), second[[6, 2]])
    assert not torch.equal(first, second)
    assert torch.isfinite(first).all()


def test_keys() -> None:
    keys = {
        sample_key(seed, picture, sample) for seed in (0, 1) for picture in (b"a", b"b") for sample in (0, 1)
    }
    assert len(keys) == 8 and sample_key(0, b"a", 0) in keys


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, []),
        ({"temperature": 0.7}, ["TemperatureLogitsWarper", "Gumbel"]),
        ({"top_p": 0.9}, ["TopPLogitsWarper", "Gumbel"]),
        ({"top_p": 1.0, "temperature": 1.0}, ["Gumbel"]),
        ({"top_p": 0.9, "temperature": 2.0}, ["TemperatureLogitsWarper", "TopPLogitsWarper", "Gumbel"]),
    ],
)
def test_what_sampling_takes(settings: dict[str, Any], kinds: list[str]) -> None:
    processors = sampling(CaptionSettings(**settings), Rows(1, "cpu"), [1])
    assert [type(processor).__name__ for processor in processors] == kinds


def test_what_is_not_finite_is_noted_and_kept_away() -> None:
    rows = Rows(3, "cpu")
    watch = NotFinite(rows)
    scores = torch.tensor([[1.0, -torch.inf], [torch.nan, 1.0], [torch.inf, 1.0]])
    assert torch.equal(watch(scores, scores), torch.tensor([[1.0, -torch.inf], [0.0, 0.0], [0.0, 0.0]]))
    assert watch.found.tolist() == [False, True, True]
    rows.places = torch.tensor([0])
    watch(scores[1:2], scores[1:2])
    assert watch.found.all()
    # Two beams a picture.
    beams = NotFinite(Rows(2, "cpu"))
    beams(torch.zeros(4, 1), torch.tensor([[1.0], [1.0], [1.0], [torch.nan]]))
    assert beams.found.tolist() == [False, True]
