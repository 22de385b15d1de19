"""How near codecs are to exact, and how fast, without a network: those of `benchmarks.codec_table` that are installed.

    python -m benchmarks.codecs psnr FOLDER
    python -m benchmarks.codecs speed CODEC POOL MODE SIZE FOLDER COUNT

`psnr` compares, of all images of a folder, the pixels that a codec encodes, without a border, with those of a full decode
averaged over the exact area of each new pixel. It scales first and crops then, as img2dataset does: a square that was cut
out before is another by a part of a pixel. `speed` decodes, resizes and encodes the first COUNT images, which are in memory
before, in POOL, `threads` or `processes`, one a core. Each prints one JSON line last:

    psnr     by mode and size: `images`, those that become smaller; and of these by codec the `p1` and the `median`, dB
    speed    `seconds`, of all images; `rows`, their number; `failed`, 0, as one that fails ends it
"""

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.codec_table import CODECS, Pixels, available, scaled
from benchmarks.one_download import settings
from sd_assets import images
from sd_assets.settings import DownloadSettings

MODES: tuple[tuple[Any, int], ...] = (("border", 256), ("center_crop", 512))

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
        target = scaled(whole.shape[1], whole.shape[0], chosen)
        if target[0] < whole.shape[1]:
            exact = _inner(area_average(whole, target), size)
            found[f"{size} {mode}"] = {
                name: _decibels(_inner_of(way.pixels(data, chosen), target), exact)
                for name, way in available().items()
            }
    return found


def area_average(pixels: Pixels, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Each new pixel the mean of the area that it covers, parts of pixels counted as parts, not rounded.

    Args:
        pixels: [height, width, 3].
        size: new width and height, at most the old ones.
    """
    return np.asarray(cv2.resize(pixels.astype(np.float64), size, interpolation=cv2.INTER_AREA))


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
