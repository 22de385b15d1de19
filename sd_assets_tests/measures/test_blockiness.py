"""Blockiness of photographs: it grows as JPEG's quality falls, wherever the grid lies, and is near 0 without one."""

import numpy as np
import pytest

from sd_assets.measures.blockiness import blockiness
from sd_assets_tests.measures.photographs import NAMES, compressed, luma, photograph


@pytest.mark.parametrize("name", NAMES)
def test_it_grows_as_the_quality_falls(name: str) -> None:
    found = [blockiness(luma(compressed(photograph(name), quality))) for quality in (95, 75, 50, 30, 10)]
    assert found == sorted(found)
    assert found[0] < 0.5 < found[1] and found[3] > 1.5


@pytest.mark.parametrize("name", NAMES)
def test_a_grid_that_was_cropped_is_found(name: str) -> None:
    pixels = luma(compressed(photograph(name), 30))
    assert blockiness(pixels[5:, 3:]) == pytest.approx(blockiness(pixels), rel=0.05)


def test_edges_of_things_are_no_blocks() -> None:
    # The worst there is: from black to white where a block would end.
    edge = np.zeros((128, 128), np.uint8)
    edge[:, 64:] = 255
    assert blockiness(edge) < 1
    noise = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    assert blockiness(noise) < 1.5


def test_too_small_to_tell() -> None:
    assert blockiness(np.zeros((31, 300), np.uint8)) == 0
    assert blockiness(np.zeros((300, 300), np.uint8)) == 0
