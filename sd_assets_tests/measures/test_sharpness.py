"""Sharpness of photographs: as published, the same at any size, and not fooled by noise, contrast or compression."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from skimage.measure import blur_effect

from sd_assets.measures.sharpness import SIDE, sharpness
from sd_assets_tests.measures.photographs import NAMES, compressed, luma, noisy, photograph

BETWEEN = 0.5  # sharp above, blurred below


def blurred(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def of(image: Image.Image) -> float:
    return sharpness(luma(image))


def test_without_noise_it_is_what_was_published() -> None:
    # Drawn, so that there is no noise to leave out.
    drawn = np.zeros((200, 240), np.uint8)
    cv2.circle(drawn, (90, 100), 60, 200, -1)
    cv2.rectangle(drawn, (130, 20), (220, 150), 90, -1)
    for deviation in (0.0, 1.0, 3.0):
        grey = cv2.GaussianBlur(drawn, (0, 0), deviation) if deviation else drawn
        assert sharpness(np.asarray(grey)) == pytest.approx(1 - blur_effect(grey), abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_sharp_and_blurred_photographs_are_apart(name: str) -> None:
    image = photograph(name)
    assert of(image) > BETWEEN
    assert of(image) > of(blurred(image, 1)) > of(blurred(image, 2)) > of(blurred(image, 4))
    assert of(blurred(image, 2)) < BETWEEN


@pytest.mark.parametrize("name", NAMES)
def test_noise_makes_nothing_sharp(name: str) -> None:
    image = photograph(name)
    assert of(noisy(image)) > BETWEEN
    assert of(noisy(blurred(image, 2))) < BETWEEN
    # Without the estimate of the noise it would pass.
    assert 1 - blur_effect(luma(noisy(blurred(photograph("rocket.jpg"), 3)))) > BETWEEN


@pytest.mark.parametrize("name", NAMES)
def test_size_contrast_and_compression_change_little(name: str) -> None:
    image = photograph(name)
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    for same in (half, ImageEnhance.Contrast(image).enhance(0.4), compressed(image, 50)):
        assert of(same) == pytest.approx(of(image), abs=0.08)


def test_what_was_enlarged_is_not_sharp() -> None:
    image = photograph("astronaut.png").resize((128, 128), Image.Resampling.BICUBIC)
    assert of(image) > BETWEEN > of(image.resize((512, 512), Image.Resampling.BICUBIC))


def test_large_pictures_are_compared_at_one_size() -> None:
    image = photograph("astronaut.png")
    assert min(image.size) == SIDE
    large = image.resize((3 * image.width, 3 * image.height), Image.Resampling.BICUBIC)
    assert of(large) == pytest.approx(of(image), abs=0.08)


@pytest.mark.parametrize("shape", [(1, 1), (4, 300), (5, 5), (300, 300)])
def test_where_there_is_nothing_to_see(shape: tuple[int, int]) -> None:
    assert sharpness(np.full(shape, 128, np.uint8)) == 0
