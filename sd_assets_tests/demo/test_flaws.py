"""What the planted flaws do to a picture, and that each is what it is called."""

import random

import numpy as np
import pytest
from PIL import Image, ImageOps

from sd_assets.demo import content, scenes
from sd_assets.demo.flaws import FLAWS, REASONS, false_text


@pytest.fixture(params=range(6))
def rng(request: pytest.FixtureRequest) -> random.Random:
    return scenes.world_rng(1, f"flaw:{request.param}")


@pytest.fixture
def picture(rng: random.Random) -> Image.Image:
    return content.picture(scenes.sample_scene(rng, held_out=True), rng)


def edges(image: Image.Image) -> float:
    """The strongest step between neighbours, in levels: the 99.9th percentile."""
    grey = np.asarray(image.convert("L"), np.float32)
    return float(np.percentile(np.abs(np.diff(grey, axis=1)), 99.9))


def test_a_blurred_picture_has_no_sharp_edge(picture: Image.Image, rng: random.Random) -> None:
    blurred = FLAWS["blurred"].spoil(picture, rng)
    assert blurred.size == picture.size
    assert edges(blurred) < edges(picture) / 2


def test_a_tiny_picture_keeps_its_shape(picture: Image.Image, rng: random.Random) -> None:
    tiny = FLAWS["tiny"].spoil(picture, rng)
    assert min(tiny.size) <= 100
    assert tiny.width / tiny.height == pytest.approx(picture.width / picture.height, rel=0.05)


def test_a_square_crop_keeps_the_border(picture: Image.Image, rng: random.Random) -> None:
    def flat(image: Image.Image) -> int:
        """Rows and columns of one colour at the edges of the middle square."""
        pixels = np.asarray(ImageOps.fit(image, (256, 256)), np.int16)
        rows = np.ptp(pixels, axis=1).max(1) <= 2
        columns = np.ptp(pixels, axis=0).max(1) <= 2
        return int(rows.sum() + columns.sum())

    assert flat(picture) == 0
    assert flat(FLAWS["bordered"].spoil(picture, rng)) >= 0.12 * 256


def test_a_false_text_names_nothing_in_view(rng: random.Random) -> None:
    scene = scenes.sample_scene(rng, held_out=True)
    text = false_text(scene, rng)
    assert scenes.pairs_in(text)
    assert not scenes.pairs_in(text) & scene.pairs


def test_each_flaw_has_a_reason_of_its_own() -> None:
    assert len(set(REASONS.values())) == len(REASONS) == len(FLAWS) + 1
