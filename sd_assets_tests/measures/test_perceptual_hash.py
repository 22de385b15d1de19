"""The hash of the same photograph, resized, compressed, cropped a little; and of others."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from sd_assets.measures.perceptual_hash import HASH_BITS, perceptual_hash
from sd_assets_tests.measures.photographs import NAMES, compressed, luma, noisy, photograph


def of(image: Image.Image) -> str:
    found = perceptual_hash(luma(image))
    assert found is not None
    return found


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_picture_again(name: str) -> None:
    image = photograph(name)
    width, height = image.size
    half = image.resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    brighter = ImageEnhance.Brightness(image).enhance(1.15)
    for again in (half, compressed(image, 30), compressed(half, 75), brighter, noisy(image)):
        assert distance(of(image), of(again)) <= 4
    cropped = image.crop((width // 50, height // 50, width - width // 50, height - height // 50))
    assert distance(of(image), of(cropped)) <= 16
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert distance(of(image), of(mirrored)) > 16


def test_other_pictures_differ_by_half_of_the_bits() -> None:
    hashes = [of(photograph(name)) for name in NAMES]
    distances = [distance(*pair) for pair in itertools.combinations(hashes, 2)]
    assert min(distances) > 16 and abs(np.mean(distances) - HASH_BITS / 2) < 6


def test_its_form() -> None:
    found = of(photograph("camera.png"))
    assert len(found) == HASH_BITS // 4 and found == found.lower()
    assert int(found, 16).bit_count() == HASH_BITS // 2


def test_pictures_in_which_there_is_nothing_have_none() -> None:
    assert perceptual_hash(np.full((9, 30), 77, np.uint8)) is None
    assert perceptual_hash(np.zeros((1, 1), np.uint8)) is None
    across, down = np.meshgrid(np.linspace(0, 1, 300), np.linspace(0, 1, 200))
    for light in (across, down, (across + down) / 2, (across**2 + down**2) / 2, across * down):
        gradient = Image.fromarray((255 * light).astype(np.uint8)).convert("RGB")
        assert perceptual_hash(luma(gradient)) is None
        assert perceptual_hash(luma(compressed(gradient, 85))) is None
    # What is mirrored in itself has half of the frequencies, which is enough.
    half = luma(photograph("coffee.png"))
    mirrored = np.concatenate([half, half[:, ::-1]], axis=1)
    assert perceptual_hash(mirrored) is not None
