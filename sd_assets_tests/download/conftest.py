"""A misbehaving server for each test, and a picture to serve."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from sd_assets_tests.download.misbehaving import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A noisy JPEG of 96 x 64."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()
