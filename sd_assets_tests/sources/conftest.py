"""Photographs and what else lies in a user's folder."""

import io

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from PIL import Image


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(number: int, format: str = "JPEG") -> bytes:
    """A small picture, another one for each number."""
    return encoded(Image.new("RGB", (16, 12), (number * 37 % 256, number * 91 % 256, number % 256)), format)


@pytest.fixture(scope="session")
def photographs() -> dict[str, bytes]:
    """Photographs of scikit-image and scikit-learn, and forms of them that are harder to read."""
    astronaut = Image.fromarray(skimage.data.astronaut()).resize((256, 256))
    china, flower = (Image.fromarray(image) for image in sklearn.datasets.load_sample_images().images)
    frames = [astronaut.rotate(angle) for angle in (90, 180)]
    deep = Image.fromarray((np.asarray(skimage.data.camera(), np.uint16) << 8)[::2, ::2])
    return {
        "astronaut.png": encoded(astronaut, "PNG"),
        "china.jpg": encoded(china, "JPEG"),
        "flower.webp": encoded(flower, "WEBP"),
        "camera.JPEG": encoded(Image.fromarray(skimage.data.camera()), "JPEG"),
        "animated.gif": encoded(astronaut, "GIF", save_all=True, append_images=frames),
        "cmyk.jpg": encoded(china.convert("CMYK"), "JPEG"),
        "sixteen_bit.png": encoded(deep, "PNG"),
        "chelsea.avif": encoded(Image.fromarray(skimage.data.chelsea()), "AVIF"),
    }
