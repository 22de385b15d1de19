"""`python -m benchmarks.download`: how fast images are downloaded, against img2dataset and against what the codec allows.

2,000 images as the web has them (`benchmarks.web_images`; or one's own, `--photos FOLDER`) are served by nginx on loopback,
from 16 addresses as if by 16 hosts, so that our default settings apply, by which few are fetched from one host at a time.
The runs take turns, five of each (`--runs`), so that a machine that is busy for a while slows down all; each is a process of
its own:

    ours            the stage of downloaded_images, to a committed version of the table (`benchmarks.one_download`), for
                    `256 border` and `512 center_crop`, JPEG of quality 95
    img2dataset     1.47, the same sizes and quality, to Parquet, in two processes of so many threads each as were the best
                    in trials before (of `--threads`)
    codec           decoding, resizing and encoding of images in memory, on all cores (`benchmarks.codecs`): by what was the
                    fastest in trials before, codec and pool (threads or processes), of the codecs with 35 dB or more
    fetch           our downloader, which drops what came

A run in which an image is missing or failed ends the benchmark. Not counted are, of ours, the start of the process, imports
and the writing of the table of URLs; of img2dataset the same, and the cutting of its list into shards.

Prints a line a run, a line `detail` with all that was measured, and one JSON line last; images a second are medians:

    ratio_256_border, ratio_512_center_crop     ours over img2dataset
    ours_256, ours_512, img2dataset_256, img2dataset_512, fetch, codec_256, codec_512    images a second
    bound_share_256, bound_share_512    ours over 1 / (1 / fetch + 1 / codec): fetching and codec share the cores
    peak_rss_ratio      ours over img2dataset: medians of the most memory that the process and all that it starts had
                        (`benchmarks.tree_memory`), imports included; of the two sizes the larger ratio
    psnr_db_p1          of our resized pixels against exact ones: 1st percentile of the images, of the two sizes the lower

Goals: ratios of at least 2 and 1.1, bound shares 0.9, a peak ratio of at most 0.5, 35 dB. It needs Linux, nginx, and `make
setup-clip-retrieval`, which brings img2dataset. The default run takes some 20 minutes on two cores, of which three make the
images; they are kept in `--folder`, where a later run finds them. This process itself loads the standard library only:
memory of libraries that it shared with a measured process would be counted by halves.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks import img2dataset
from benchmarks.nginx import ADDRESSES, nginx_version, serving
from benchmarks.tree_memory import Done, run_watched

PROJECT = Path(__file__).parents[1]
SIZES = {"256 border": ("border", "256"), "512 center_crop": ("center_crop", "512")}
POOLS = ("threads", "processes")
MIN_DB = 35.0
TRIALS, TRIAL_IMAGES = 2, 400

Measured = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.download", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--runs", type=int, default=5, help="of each")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=(8, 16, 32, 64), help="of img2dataset, to try"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "sd_assets-benchmark-download",
        help="where the images are kept, and where there is room for tables",
    )
    parser.add_argument("--photos", type=Path, help="a folder of images to use instead of made ones")
    parser.add_argument("--img2dataset", type=Path, default=img2dataset.PROGRAM, help="the program")
    parser.add_argument("--quick", action="store_true", help="one run, no trials: for tests")
    options = parser.parse_args(arguments)
    if options.quick:
        options.runs, options.threads = 1, options.threads[:1]
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.photos:
        photos, images = options.photos, python("benchmarks.web_images", options.photos)
    else:
        photos = options.folder / f"images-{options.images}"
        images = python("benchmarks.web_images", photos, options.images)
    print("images", json.dumps(images), flush=True)
    with tempfile.TemporaryDirectory(prefix="runs-", dir=options.folder) as room:
        measured = Benchmark(options, photos, Path(room)).measure()
    about = {"machine": machine(options.img2dataset), "images": images, "hosts": len(ADDRESSES)}
    print("detail", json.dumps({**about, **measured}))
    print(json.dumps(summary(measured["runs"], measured["psnr"])), flush=True)


def summary(runs: Mapping[str, Sequence[Measured]], distances: Mapping[str, Measured]) -> Measured:
    """The figures: see the module.

    Args:
        runs: by what was run, with its mode and size.
        distances: by mode and size, what `benchmarks.codecs` says.
    """

    def medians(what: str, who: str) -> dict[str, float]:
        return {name: statistics.median(run[what] for run in runs[f"{who} {name}"]) for name in SIZES}

    def figures(what: str, values: Mapping[str, float], digits: int) -> dict[str, float]:
        return {f"{what}_{size}": round(values[name], digits) for name, (_, size) in SIZES.items()}

    ours, theirs, codec = (medians("rate", who) for who in ("ours", "img2dataset", "codec"))
    fetch = statistics.median(run["rate"] for run in runs["fetch"])
    peaks = zip(medians("peak_mb", "ours").values(), medians("peak_mb", "img2dataset").values(), strict=True)
    return {
        "ratio_256_border": round(ours["256 border"] / theirs["256 border"], 3),
        "ratio_512_center_crop": round(ours["512 center_crop"] / theirs["512 center_crop"], 3),
        **figures("ours", ours, 1),
        **figures("img2dataset", theirs, 1),
        "fetch": round(fetch, 1),
        **figures("codec", codec, 1),
        **figures("bound_share", {name: ours[name] * (1 / fetch + 1 / codec[name]) for name in SIZES}, 3),
        "peak_rss_ratio": round(max(our_peak / their_peak for our_peak, their_peak in peaks), 3),
        "psnr_db_p1": min(distances[name]["codecs"]["ours"]["p1"] for name in SIZES),
    }


def machine(program: Path) -> Measured:
    """What the figures depend on besides the code."""
    versions = {}
    for name in ("aiohttp", "numpy", "opencv-python-headless", "pillow", "pyarrow", "simplejpeg"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "nginx": nginx_version(),
        "img2dataset": img2dataset.version(program),
        **versions,
    }


class Benchmark:
    """The runs, one after the other, over one set of images.

    Args:
        options: of the command line.
        photos: the folder of the images.
        room: a folder for what runs write.
    """

    def __init__(self, options: argparse.Namespace, photos: Path, room: Path) -> None:
        self._options = options
        self._photos = photos
        self._room = room
        self._urls = room / "urls.txt"
        self._count = 0
        self._runs: dict[str, list[Measured]] = {}
        self._trials: dict[str, list[float]] = {}

    def measure(self) -> Measured:
        """All runs, the trials before, and the distances: see the module."""
        distances = python("benchmarks.codecs", "psnr", self._photos)
        with serving(self._photos) as servers:
            names = sorted(path.name for path in self._photos.iterdir())
            urls = [f"{servers[number % len(servers)]}/{quote(name)}" for number, name in enumerate(names)]
            self._list(urls[: 2 * TRIAL_IMAGES])
            threads = {name: self._best_threads(name) for name in SIZES}
            self._list(urls[:TRIAL_IMAGES])
            codecs = {name: self._best_codec(name, distances[name]) for name in SIZES}
            self._list(urls)
            for _ in range(self._options.runs):
                for name in SIZES:
                    self._add(f"ours {name}", self._ours(name))
                    self._add(f"img2dataset {name}", self._theirs(name, threads[name]))
                    self._add(f"codec {name}", self._codec(name, *codecs[name]))
                self._add("fetch", self._fetch())
        return {
            "spread": {
                name: [pick(run["rate"] for run in runs) for pick in (min, max)]
                for name, runs in self._runs.items()
            },
            "threads": threads,
            "codecs": {name: " in ".join(chosen) for name, chosen in codecs.items()},
            "psnr": distances,
            "trials": self._trials,
            "runs": self._runs,
        }

    def _list(self, urls: Sequence[str]) -> None:
        """What the next runs download."""
        self._urls.write_text("\n".join(urls))
        self._count = len(urls)

    def _ours(self, name: str) -> Measured:
        with self._folder() as folder:
            module = [sys.executable, "-m", "benchmarks.one_download"]
            done = run_watched([*module, str(folder), str(self._urls), *SIZES[name]], PROJECT, os.environ)
        return self._checked(json.loads(done.output.splitlines()[-1]), done)

    def _theirs(self, name: str, threads: int) -> Measured:
        with self._folder() as folder:
            program = self._options.img2dataset
            measured, done = img2dataset.run(program, folder / "out", self._urls, *SIZES[name], threads)
        return self._checked(measured, done)

    def _fetch(self) -> Measured:
        return self._checked(python("benchmarks.one_download", "fetch", self._urls))

    def _codec(self, name: str, codec: str, pool: str) -> Measured:
        arguments = (codec, pool, *SIZES[name], self._photos, self._count)
        return self._checked(python("benchmarks.codecs", "speed", *arguments))

    def _checked(self, measured: Measured, done: Done | None = None) -> Measured:
        """With images a second, `rate`, and what the whole process took. Raises RuntimeError if an image is missing."""
        if measured["rows"] != self._count or measured["failed"]:
            raise RuntimeError(f"of {self._count} images not all came out well: {measured}")
        whole = {"peak_mb": done.peak_mb, "whole_s": round(done.seconds, 2)} if done else {}
        return {**measured, **whole, "rate": round(self._count / measured["seconds"], 2)}

    def _best_threads(self, name: str) -> int:
        """Of img2dataset: those with which it was the fastest."""
        if len(self._options.threads) == 1:
            only: int = self._options.threads[0]
            return only
        rates: dict[int, float] = {}
        for _ in range(TRIALS):
            for threads in self._options.threads:
                rate = self._theirs(name, threads)["rate"]
                self._tried(f"img2dataset {name}, {threads} threads", rate)
                rates[threads] = max(rate, rates.get(threads, 0))
        return max(rates, key=rates.__getitem__)

    def _best_codec(self, name: str, distances: Measured) -> tuple[str, str]:
        """The fastest codec and pool, of those that are near enough to exact."""
        near = [codec for codec, figures in distances["codecs"].items() if figures["p1"] >= MIN_DB]
        if not near:
            raise RuntimeError(f"no codec has a PSNR of {MIN_DB} dB for {name}: {distances}")
        if self._options.quick:
            return near[0], POOLS[0]
        rates = {}
        for codec, pool in product(near, POOLS):
            rates[codec, pool] = self._codec(name, codec, pool)["rate"]
            self._tried(f"{codec} in {pool}, {name}", rates[codec, pool])
        return max(rates, key=rates.__getitem__)

    def _tried(self, what: str, rate: float) -> None:
        self._trials.setdefault(what, []).append(rate)
        print(f"tried  {what:<45} {rate:8.1f} images/s", flush=True)

    def _add(self, name: str, run: Measured) -> None:
        self._runs.setdefault(name, []).append(run)
        print(f"{name:<30} {json.dumps(run)}", flush=True)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """An empty folder for a run. What was written before is not to be written back meanwhile."""
        with tempfile.TemporaryDirectory(dir=self._room) as folder:
            os.sync()
            yield Path(folder)


def python(module: str, *arguments: object) -> Measured:
    """What the last line of a module says, as JSON. Raises RuntimeError if it failed, with all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=PROJECT, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stdout}{done.stderr}")
    said: Measured = json.loads(done.stdout.splitlines()[-1])
    return said


if __name__ == "__main__":
    main()
