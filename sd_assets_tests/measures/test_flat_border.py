"""Bars of one colour: letterboxes, pillarboxes and frames are found to the pixel; walls and skies are none."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from sd_assets.measures.flat_border import Box, content
from sd_assets.measures.pictures import Luma
from sd_assets_tests.measures.photographs import NAMES, compressed, luma, photograph


def bars_of(pixels: Luma) -> float:
    """Their share of the area."""
    within = content(pixels)
    return 1 - (within.right - within.left) * (within.bottom - within.top) / pixels.size


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bars", [(0, 60), (80, 0), (40, 40)], ids=["letterbox", "pillarbox", "frame"])
@pytest.mark.parametrize("colour", ["black", "white", (40, 90, 160)])
def test_bars_are_found(name: str, bars: tuple[int, int], colour: str) -> None:
    image = photograph(name)
    assert bars_of(luma(image)) == 0
    framed = ImageOps.expand(image, bars, fill=colour)
    share = 1 - image.width * image.height / (framed.width * framed.height)
    # What compression rings beyond the edge of a bar is at most the block that the edge lies in.
    assert bars_of(luma(compressed(framed, 85))) == pytest.approx(share, abs=0.05)


def test_to_the_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60)).astype(np.uint8)
    framed = np.pad(pixels, ((3, 5), (7, 2)), constant_values=200)
    assert content(framed) == Box(7, 3, 67, 43)
    assert bars_of(framed) == pytest.approx(1 - 40 * 60 / framed.size)


def test_one_bar_alone_is_a_wall_or_a_sky() -> None:
    image = np.asarray(photograph("coffee.png").convert("L")).copy()
    image[:100] = 240
    assert bars_of(image) == 0
    image[-100:] = 100  # of another colour: a floor
    assert bars_of(image) == 0
    image[-100:] = 240
    assert bars_of(image) == pytest.approx(0.5)


def test_a_picture_of_one_colour_is_all_border() -> None:
    assert bars_of(np.full((50, 40), 7, np.uint8)) == 1
    assert bars_of(np.zeros((1, 1), np.uint8)) == 1


def test_a_thing_before_one_colour_has_a_border() -> None:
    product = Image.new("RGB", (200, 200), "white")
    product.paste(photograph("chelsea.png").resize((100, 100)), (50, 50))
    assert bars_of(luma(product)) == pytest.approx(0.75, abs=0.02)
