"""Ways from the bytes of an image to those of the resized one, without a network, and how far each is from exact.

    python -m benchmarks.codecs psnr FOLDER                       of all codecs, on all cores
    python -m benchmarks.codecs speed CODEC POOL MODE SIZE FOLDER COUNT   of one, in `threads` or `processes`, one a core

Each prints one JSON line last. `psnr`: by mode and size and codec the `p1` and the `median` over the images of the folder, in
dB, and their number, `images`; those that are enlarged have none. It compares the resized pixels, before they are encoded
and without a border, with those of a full decode averaged over the exact area of each new pixel. `speed`: the `seconds` for all images,
which are in memory before, and their `rows`; `failed` is 0, as one that fails ends it.

`CODECS` has our own, and what else could be done; one that needs a package that is not installed is left out. The
number in a name is how many times as many pixels a side as it keeps it has a JPEG's decoder make, at least, where that can shrink.
"""

import importlib.util
import io
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.one_download import settings
from sd_assets import images
from sd_assets.download import codec as ours
from sd_assets.download.resize import scaled_size
from sd_assets.settings import DownloadSettings

MODES: tuple[tuple[Any, int], ...] = (("border", 256), ("center_crop", 512))
_JPEG = b"\xff\xd8\xff"

Pixels = npt.NDArray[np.uint8]  # RGB, [height, width, 3]


@dataclass(frozen=True)
class Codec:
    """One way.

    Attributes:
        pixels: of an image, resized and cropped or bordered as the settings say.
        encode: JPEG of such pixels.
        packages: that have to be installed.
        whole: both in one, where that is not `encode` after `pixels`.
    """

    pixels: Callable[[bytes, DownloadSettings], Pixels]
    encode: Callable[[Pixels, int], bytes]
    packages: tuple[str, ...] = ()
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
    """Decoded whole, or with a gap. Of Pillow's filters HAMMING is the nearest to exact: its BOX counts whole pixels only."""
    with Image.open(io.BytesIO(data)) as image:
        target = _scaled(*image.size, chosen)
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
    import cv2

    reduced = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    cv2.setNumThreads(1)
    info = images.inspect(data)
    target = _scaled(info.width, info.height, chosen)
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
    import cv2

    encoded: bytes = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return encoded


# --- simplejpeg --------------------------------------------------------------------------------------------------


def _simplejpeg_pixels(data: bytes, chosen: DownloadSettings, gap: int) -> Pixels:
    """What is no JPEG is Pillow's to decode. The resizing is OpenCV's."""
    import cv2
    import simplejpeg

    if not data.startswith(_JPEG):
        return _pillow_pixels(data, chosen)
    cv2.setNumThreads(1)
    info = images.inspect(data)
    target = _scaled(info.width, info.height, chosen)
    shrinks = target[0] < info.width
    least = {"min_width": gap * target[0], "min_height": gap * target[1]} if shrinks else {}
    image = simplejpeg.decode_jpeg(data, "RGB", **least)
    filtered = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return _framed(cv2.resize(image, target, interpolation=filtered), chosen)


def _simplejpeg_encode(pixels: Pixels, quality: int) -> bytes:
    import simplejpeg

    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420")
    return encoded


# --- exact -------------------------------------------------------------------------------------------------------


def _exact_pixels(data: bytes, chosen: DownloadSettings) -> Pixels:
    whole = np.asarray(images.decode_rgb(data))
    target = _scaled(whole.shape[1], whole.shape[0], chosen)
    if target[0] >= whole.shape[1]:
        return _pillow_pixels(data, chosen)
    return _framed(np.rint(area_average(whole, target)).astype(np.uint8), chosen)


EXACT = "exact"
CODECS: dict[str, Codec] = {
    EXACT: Codec(_exact_pixels, _pillow_encode),
    "ours": Codec(_our_pixels, _pillow_encode, whole=_our_bytes),
    "pillow": Codec(_pillow_pixels, _pillow_encode),
    "pillow draft 2": Codec(partial(_pillow_pixels, gap=2), _pillow_encode),
    "opencv": Codec(_opencv_pixels, _opencv_encode, ("cv2",)),
    "opencv reduced 2": Codec(partial(_opencv_pixels, gap=2), _opencv_encode, ("cv2",)),
    "simplejpeg 2": Codec(partial(_simplejpeg_pixels, gap=2), _simplejpeg_encode, ("simplejpeg", "cv2")),
    "simplejpeg 3": Codec(partial(_simplejpeg_pixels, gap=3), _simplejpeg_encode, ("simplejpeg", "cv2")),
}


def available() -> dict[str, Codec]:
    """The codecs whose packages are installed."""
    return {name: way for name, way in CODECS.items() if all(map(importlib.util.find_spec, way.packages))}


def _scaled(width: int, height: int, chosen: DownloadSettings) -> tuple[int, int]:
    scaled = scaled_size(width, height, chosen.image_size, chosen.resize_mode, chosen.resize_only_if_bigger)
    return scaled or (width, height)


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


# --- how far from exact ------------------------------------------------------------------------------------------


def psnr(folder: Path) -> dict[str, Any]:
    """See the module."""
    files = _files(folder)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        by_file = list(pool.map(_psnr_of_file, files, chunksize=8))
    figures: dict[str, Any] = {}
    for mode, size in MODES:
        found = [of_file[f"{size} {mode}"] for of_file in by_file if f"{size} {mode}" in of_file]
        by_codec = {name: [of_file[name] for of_file in found] for name in available()}
        figures[f"{size} {mode}"] = {
            "images": len(found),
            "codecs": {
                name: {
                    "p1": round(float(np.percentile(values, 1)), 2),
                    "median": round(float(np.median(values)), 2),
                }
                for name, values in by_codec.items()
                if values
            },
        }
    return figures


def _psnr_of_file(path: Path) -> dict[str, dict[str, float]]:
    """By mode and size, then by codec; without those by which the image is enlarged."""
    data = path.read_bytes()
    whole = np.asarray(images.decode_rgb(data))
    found = {}
    for mode, size in MODES:
        chosen = settings(mode, size)
        target = _scaled(whole.shape[1], whole.shape[0], chosen)
        if target[0] < whole.shape[1]:
            exact = _inner(area_average(whole, target), size)
            found[f"{size} {mode}"] = {
                name: _decibels(_inner_of(way.pixels(data, chosen), target), exact)
                for name, way in available().items()
            }
    return found


def area_average(pixels: Pixels, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Each new pixel the mean of the area that it covers, parts of pixels counted as parts.

    Args:
        pixels: [height, width, 3].
        size: new width and height, at most the old ones.
    """
    result = pixels.astype(np.float64)
    for axis, new in enumerate(reversed(size)):
        old = result.shape[axis]
        # The sum up to each old border between pixels, and from it, linearly between, up to each new one.
        sums = np.concatenate([np.zeros_like(result.take([0], axis)), result.cumsum(axis)], axis)
        borders = np.linspace(0, old, new + 1)
        whole = np.minimum(borders.astype(int), old - 1)
        part = (borders - whole).reshape([-1 if each == axis else 1 for each in range(3)])
        up_to = sums.take(whole, axis) + part * result.take(whole, axis)
        result = np.diff(up_to, axis=axis) * (new / old)
    return result


def _inner(pixels: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """The middle of what is larger than a square of `size`, in either direction."""
    top, left = (max(0, side - size) // 2 for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


def _inner_of(square: Pixels, target: tuple[int, int]) -> Pixels:
    """The square without its border, if the picture that was put into it was smaller."""
    width, height = (min(side, len(square)) for side in target)
    top, left = (len(square) - height) // 2, (len(square) - width) // 2
    return square[top : top + height, left : left + width]


def _decibels(pixels: npt.NDArray[Any], exact: npt.NDArray[np.float64]) -> float:
    error = float(np.mean((pixels - exact) ** 2))
    return 10 * float(np.log10(255**2 / max(error, 1e-10)))


# --- speed -------------------------------------------------------------------------------------------------------


def speed(name: str, pool: str, mode: Any, size: int, folder: Path, count: int) -> dict[str, Any]:
    """See the module."""
    files, chosen = _files(folder)[:count], settings(mode, size)
    cores = os.cpu_count() or 1
    measure = _in_threads if pool == "threads" else _in_processes
    return {"seconds": measure(name, chosen, files, cores), "rows": len(files), "failed": 0}


def _in_threads(name: str, chosen: DownloadSettings, files: Sequence[Path], cores: int) -> float:
    way, data = CODECS[name], [path.read_bytes() for path in files]
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda each: way(each, chosen), data[:cores]))  # imports
        started = time.monotonic()
        for _ in pool.map(lambda each: way(each, chosen), data):
            pass
        return time.monotonic() - started


def _in_processes(name: str, chosen: DownloadSettings, files: Sequence[Path], cores: int) -> float:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(cores + 1)
    workers = [
        context.Process(target=_work, args=(name, chosen, files[start::cores], barrier))
        for start in range(cores)
    ]
    for worker in workers:
        worker.start()
    barrier.wait(60)
    started = time.monotonic()
    barrier.wait(600)
    seconds = time.monotonic() - started
    for worker in workers:
        worker.join()
    return seconds


def _work(name: str, chosen: DownloadSettings, files: Sequence[Path], barrier: threading.Barrier) -> None:
    way, data = CODECS[name], [path.read_bytes() for path in files]
    try:
        way(data[0], chosen)
        barrier.wait()
        for each in data:
            way(each, chosen)
        barrier.wait()
    except BaseException:
        barrier.abort()  # or the others would wait for this one
        raise


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def main() -> None:
    """See the module."""
    what, *others = sys.argv[1:]
    if what == "psnr":
        figures = psnr(Path(others[0]))
    else:
        name, pool, mode, size, folder, count = others
        figures = speed(name, pool, mode, int(size), Path(folder), int(count))
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
