"""`python -m benchmarks.many_urls`: 100,000 URLs in one partition: is memory flat, throughput steady, and the end an end?

The stage of the asset downloaded_images runs in a process of its own, with default settings but for the size (256) and the
connections per host, into a fresh table. Its URLs (`--urls`) are distinct, of 3,000 small JPEGs that nginx serves at sixteen
addresses. Of 1,000 URLs 20 do not exist (404), 5 are at hosts that take a second for an answer, 5 at hosts that accept
connections and say nothing, 5 at hosts where nobody listens.

Prints one JSON line last:

    images_per_s            rows that came, by second, in the first tenth of the rows, the middle one and the last one
    peak_mb                 the most that was resident when a tenth of the rows had come, when all had, and at the end: `VmHWM`, MB
    seconds                 of the whole run, and of that from the last row to the end: the shards are put in order, and committed
    failed                  rows with an error, by code

Goals: the middle tenth as quick as the first (at the end the slow are waited for); peaks within 100 MB. It takes about five
minutes on two cores, and 10 GB of the folder `--folder`, which it gives back. Linux only, with nginx.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.nginx import NETWORK, serving
from benchmarks.one_asset import resident
from benchmarks.one_download import PARTITION, retrieved
from sd_assets.compute.run import run_stage
from sd_assets.schemas import DOWNLOADED_IMAGES
from sd_assets.settings import DownloadSettings
from sd_assets.stages.download import DownloadStage
from sd_assets.stages.stage import Refused, Work
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles

URLS = 100_000
_IMAGES = 3_000
_ADDRESSES = tuple(f"127.0.0.{number}" for number in range(1, 17))
_SLOW = tuple(f"127.0.1.{number}" for number in range(1, 6))
_SILENT = tuple(f"127.0.2.{number}" for number in range(1, 6))
_DEAD = tuple(f"127.0.3.{number}" for number in range(1, 6))
_SLOW_S = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many_urls", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--urls", type=int, default=URLS)
    parser.add_argument("--folder", type=Path, help="where there is room for the images and the table")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # the process of its own
    options = parser.parse_args(arguments)
    if options.run is not None:
        print(json.dumps(measured(options.run)), flush=True)
        return
    with (
        tempfile.TemporaryDirectory(prefix="sd_assets-many-", dir=options.folder) as name,
        ExitStack() as stack,
    ):
        folder = Path(name)
        write_images(folder / "images", min(_IMAGES, options.urls))
        servers = stack.enter_context(serving(folder / "images", _ADDRESSES))
        slow = [stack.enter_context(slow_host(address)) for address in _SLOW]
        silent = [stack.enter_context(silent_host(address)) for address in _SILENT]
        dead = [f"http://{address}:9" for address in _DEAD]  # the port is discard's
        (folder / "urls").write_text("\n".join(urls(options.urls, servers, slow, silent, dead)))
        subprocess.run([sys.executable, "-m", "benchmarks.many_urls", "--run", str(folder)], check=True)


def urls(
    count: int, servers: Sequence[str], slow: Sequence[str], silent: Sequence[str], dead: Sequence[str]
) -> Iterator[str]:
    """Distinct URLs; which are odd, and how, see the module."""
    for number in range(count):
        place = number % 1_000
        if place >= 985:
            kind = (slow, silent, dead)[(place - 985) // 5]
            yield f"{kind[number % len(kind)]}/{number}.jpg"
        else:
            file = "missing" if place >= 965 else number % min(_IMAGES, count)
            yield f"{servers[number % len(servers)]}/{file}.jpg?{number}"


def write_images(folder: Path, count: int) -> None:
    """Small JPEGs, each another one, of about 20 KB."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((400, 300), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.jpg", quality=85)


@contextmanager
def slow_host(address: str) -> Iterator[str]:
    """A server that answers after a while, always with the same image; yields its URL."""
    out = io.BytesIO()
    Image.new("RGB", (300, 200), "teal").save(out, "JPEG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(_SLOW_S)
            self.send_response(404 if self.path == "/robots.txt" else 200)
            self.send_header("Content-Length", str(len(out.getvalue())))
            self.end_headers()
            self.wfile.write(out.getvalue())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer((address, 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{address}:{server.server_port}"
        server.shutdown()


@contextmanager
def silent_host(address: str) -> Iterator[str]:
    """A socket that connects, as far as the system does that, and never answers; yields its URL."""
    with socket() as listening:
        listening.bind((address, 0))
        listening.listen(1_024)
        yield f"http://{address}:{listening.getsockname()[1]}"


class TimedStage(DownloadStage):
    """Notes when how many rows had come, and the peak of the memory then."""

    def __init__(self, settings: DownloadSettings) -> None:
        super().__init__(settings)
        self.came = [(time.monotonic(), 0, 0.0)]

    def run(self, missing: Iterator[Work], refused: Refused) -> Generator[Work, None, None]:
        self.came = [(time.monotonic(), 0, resident("VmHWM"))]
        for work in super().run(missing, refused):
            rows = self.came[-1][1] + len(work.keys)
            self.came.append((time.monotonic(), rows, resident("VmHWM")))
            yield work


def measured(folder: Path) -> dict[str, Any]:
    """The figures of the module; the process of its own."""
    table = retrieved(folder, (folder / "urls").read_text().split())
    settings = DownloadSettings(image_size=256, allow_addresses=(NETWORK,), connections_per_host=16)
    stage = TimedStage(settings)
    area = Area(LocalFiles(folder), DOWNLOADED_IMAGES.name, PARTITION)
    started = time.monotonic()
    run_stage(stage, stage.url_rows(table), area, "downloaded", _log, [table]).commit()
    ended = time.monotonic()
    report = area.last_run()
    rows: int = report["rows_in"]
    tenth = rows // 10
    parts = {"first": (0, tenth), "middle": (rows // 2 - tenth // 2, rows // 2 + tenth // 2)}
    speeds = {
        name: _speed(stage.came, *part) for name, part in {**parts, "last": (rows - tenth, rows)}.items()
    }
    peaks = {str(tenth): _when(stage.came, tenth)[2], str(rows): stage.came[-1][2], "end": resident("VmHWM")}
    last = _when(stage.came, rows)[0]
    return {
        "urls": rows,
        "images_per_s": speeds,
        "peak_mb": peaks,
        "seconds": {"all": round(ended - started, 3), "after_last_row": round(ended - last, 3)},
        "failed": report["failures"],
    }


def _speed(came: Sequence[tuple[float, int, float]], start: int, end: int) -> float:
    """Rows by second between two numbers of rows, about: they came in bunches."""
    first = next(note for note in reversed(came) if note[1] <= start)
    last = _when(came, end)
    return round((last[1] - first[1]) / (last[0] - first[0]), 1)


def _when(came: Sequence[tuple[float, int, float]], rows: int) -> tuple[float, int, float]:
    """The first note of at least so many rows."""
    return next(note for note in came if note[1] >= rows)


def _log(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
