"""Photographs to measure: those that come with scikit-image."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from sd_assets.measures.pictures import Luma

_FOLDER = Path(skimage.__file__).parent / "data"
# None is a close-up of one texture.
NAMES = ("astronaut.png", "camera.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")


@cache
def photograph(name: str) -> Image.Image:
    """One of them, RGB."""
    with Image.open(_FOLDER / name) as image:
        return image.convert("RGB")


def noisy(image: Image.Image, deviation: float = 6) -> Image.Image:
    """With the noise of a camera, in levels; always the same."""
    levels = np.asarray(image, np.float64)
    noise = np.random.default_rng(0).normal(0, deviation, (*levels.shape[:2], 1))
    return Image.fromarray(np.clip(levels + noise, 0, 255).astype(np.uint8))


def luma(image: Image.Image) -> Luma:
    """What is measured of it."""
    return np.asarray(image.convert("L"))


def encoded(image: Image.Image, kind: str = "jpeg", **options: object) -> bytes:
    """As a file."""
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 95} | options if kind == "jpeg" else options))
    return out.getvalue()


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """As JPEG leaves it."""
    return Image.open(io.BytesIO(encoded(image, quality=quality))).convert("RGB")
