"""Ways from the bytes of an image to those of the resized one: ours, and what else could be done.

What measures them is `benchmarks.codecs`. Those with a number in their name let the decoder of a JPEG shrink, but leave at
least so many of its pixels a side for one of the result.
"""

import importlib
import importlib.util
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from sd_assets import images
from sd_assets.download import codec as ours
from sd_assets.download.resize import scaled_size
from sd_assets.settings import DownloadSettings

_JPEG = b"\xff\xd8\xff"

cv2.setNumThreads(1)
os.environ.setdefault("VIPS_CONCURRENCY", "1")

Pixels = npt.NDArray[np.uint8]  # RGB, [height, width, 3]


@dataclass(frozen=True)
class Codec:
    """One way.

    Attributes:
        pixels: of an image, resized and cropped or bordered as the settings say.
        encode: JPEG of such pixels.
        package: that has to be installed, and is not one of ours.
        whole: both in one, where that is not `encode` after `pixels`.
    """

    pixels: Callable[[bytes, DownloadSettings], Pixels]
    encode: Callable[[Pixels, int], bytes]
    package: str | None = None
    whole: Callable[[bytes, DownloadSettings], bytes] | None = None

    def __call__(self, data: bytes, chosen: DownloadSettings) -> bytes:
        if self.whole is not None:
            return self.whole(data, chosen)
        return self.encode(self.pixels(data, chosen), chosen.quality)


# --- ours --------------------------------------------------------------------------------------------------------


def _our_pixels(data: bytes, chosen: DownloadSettings) -> Pixels:
    return ours.resized_pixels(data, images.inspect(data), chosen)


def _our_bytes(data: bytes, chosen: DownloadSettings) -> bytes:
    return ours.resized(data, images.inspect(data), chosen)[0]


# --- Pillow ------------------------------------------------------------------------------------------------------


def _pillow_pixels(data: bytes, chosen: DownloadSettings, gap: int | None = None) -> Pixels:
    """Of Pillow's filters HAMMING is the nearest to an average by area: its BOX counts whole pixels only."""
    with Image.open(io.BytesIO(data)) as image:
        target = scaled(*image.size, chosen)
        shrinks = target[0] < image.width
        if gap is not None:
            image.draft("RGB", (gap * target[0], gap * target[1]))
        filtered = Image.Resampling.HAMMING if shrinks else Image.Resampling.LANCZOS
        return _framed(np.asarray(image.convert("RGB").resize(target, filtered)), chosen)


def _pillow_encode(pixels: Pixels, quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return out.getvalue()


# --- OpenCV ------------------------------------------------------------------------------------------------------


def _opencv_pixels(data: bytes, chosen: DownloadSettings, gap: int | None = None) -> Pixels:
    reduced = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    info = images.inspect(data)
    target = scaled(info.width, info.height, chosen)
    flags = cv2.IMREAD_COLOR
    if gap is not None and data.startswith(_JPEG):
        least = min(info.width / target[0], info.height / target[1]) / gap
        flags = next((reduced[by] for by in (8, 4, 2) if by <= least), flags)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    assert image is not None  # it was made as an image
    filtered = cv2.INTER_AREA if target[0] < info.width else cv2.INTER_LANCZOS4
    # OpenCV's own order of the channels, blue first, is turned round at the end: a small picture costs nothing.
    return _framed(cv2.resize(image, target, interpolation=filtered)[..., ::-1], chosen)


def _opencv_encode(pixels: Pixels, quality: int) -> bytes:
    encoded: bytes = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return encoded


# --- simplejpeg --------------------------------------------------------------------------------------------------


def _simplejpeg_pixels(data: bytes, chosen: DownloadSettings, gap: int) -> Pixels:
    """What is no JPEG is Pillow's to decode. The resizing is OpenCV's."""
    if not data.startswith(_JPEG):
        return _pillow_pixels(data, chosen)
    info = images.inspect(data)
    target = scaled(info.width, info.height, chosen)
    shrinks = target[0] < info.width
    least = {"min_width": gap * target[0], "min_height": gap * target[1]} if shrinks else {}
    image = simplejpeg.decode_jpeg(data, "RGB", **least)
    filtered = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return _framed(cv2.resize(image, target, interpolation=filtered), chosen)


def _simplejpeg_encode(pixels: Pixels, quality: int) -> bytes:
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420")
    return encoded


# --- libvips -----------------------------------------------------------------------------------------------------


def _vips_pixels(data: bytes, chosen: DownloadSettings) -> Pixels:
    """By its own thumbnails, which shrink on load."""
    pyvips = importlib.import_module("pyvips")
    info = images.inspect(data)
    width, height = scaled(info.width, info.height, chosen)
    small = pyvips.Image.thumbnail_buffer(data, width, height=height, size="force")
    return _framed(small.numpy()[..., :3], chosen)


def _vips_encode(pixels: Pixels, quality: int) -> bytes:
    pyvips = importlib.import_module("pyvips")
    encoded: bytes = pyvips.Image.new_from_array(pixels).jpegsave_buffer(Q=quality, subsample_mode="on")
    return encoded


CODECS: dict[str, Codec] = {
    "ours": Codec(_our_pixels, _pillow_encode, whole=_our_bytes),
    "pillow": Codec(_pillow_pixels, _pillow_encode),
    "pillow draft 2": Codec(partial(_pillow_pixels, gap=2), _pillow_encode),
    "opencv": Codec(_opencv_pixels, _opencv_encode),
    "opencv reduced 2": Codec(partial(_opencv_pixels, gap=2), _opencv_encode),
    "simplejpeg 2": Codec(partial(_simplejpeg_pixels, gap=2), _simplejpeg_encode),
    "simplejpeg 3": Codec(partial(_simplejpeg_pixels, gap=3), _simplejpeg_encode),
    "libvips": Codec(_vips_pixels, _vips_encode, "pyvips"),
}


def available() -> dict[str, Codec]:
    """The codecs of which nothing is missing."""
    found = importlib.util.find_spec
    return {name: way for name, way in CODECS.items() if way.package is None or found(way.package)}


def scaled(width: int, height: int, chosen: DownloadSettings) -> tuple[int, int]:
    """Width and height before cropping or bordering."""
    mode, only_if_bigger = chosen.resize_mode, chosen.resize_only_if_bigger
    return scaled_size(width, height, chosen.image_size, mode, only_if_bigger) or (width, height)


def _framed(pixels: npt.NDArray[Any], chosen: DownloadSettings) -> npt.NDArray[Any]:
    """Cropped to the middle square, or put in the middle of a white one."""
    size = chosen.image_size
    height, width = pixels.shape[:2]
    if chosen.resize_mode == "center_crop":
        top, left = (height - size) // 2, (width - size) // 2
        return pixels[top : top + size, left : left + size]
    square = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square
