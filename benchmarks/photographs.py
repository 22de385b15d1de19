"""Photographs made of noise, for benchmarks that need many, large and different images, and no network.

A photograph is a cut-out of a plane of noise at several scales, with tones of its own: it looks like nothing, but
compresses about as badly as a photograph does.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 448
MIN_BYTES = 100 * 1024
_PLANE_SIDE = 2_048
# Cells a side of each layer of noise, and how strong it is.
_LAYERS = ((8, 1.0), (32, 1.0), (128, 1.0), (512, 0.5), (_PLANE_SIDE, 0.5))
_PER_PLANE = 1_000


def make_photographs(folder: Path, count: int) -> list[Path]:
    """Write `count` JPEGs of SIDE x SIDE pixels and at least MIN_BYTES, no two alike, on all cores.

    Returns:
        the files, by number. The same count gives the same files.
    """
    folder.mkdir(parents=True)
    files = [folder / f"{number:06d}.jpg" for number in range(count)]
    parts = [files[start : start + _PER_PLANE] for start in range(0, count, _PER_PLANE)]
    # Not forked: a fork of a process with threads may hang.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(_write, range(len(parts)), parts))
    return files


def _write(seed: int, files: Sequence[Path]) -> None:
    rng = np.random.default_rng(seed)
    plane = _plane(rng)
    for file in files:
        top, left = rng.integers(0, _PLANE_SIDE - SIDE, 2)
        contrast, brightness = rng.uniform(30, 60, 3), rng.uniform(80, 170, 3)
        pixels = plane[top : top + SIDE, left : left + SIDE] * contrast + brightness
        file.write_bytes(_encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8))))


def _plane(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Noise of mean 0, float32, [_PLANE_SIDE, _PLANE_SIDE, 3]."""
    size = (_PLANE_SIDE, _PLANE_SIDE)
    plane = np.zeros((*size, 3), np.float32)
    for cells, strength in _LAYERS:
        for channel in range(3):
            noise = Image.fromarray(rng.normal(scale=strength, size=(cells, cells)).astype(np.float32))
            plane[..., channel] += np.asarray(noise.resize(size, Image.Resampling.BICUBIC))
    return plane


def _encoded(image: Image.Image) -> bytes:
    for quality in range(90, 101):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        if out.tell() >= MIN_BYTES:
            break
    return out.getvalue()
