"""Downloads that are killed at random moments: the next run ends them, loses no URL, and asks again for a shard at most."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sd_assets.schemas import DOWNLOADED_IMAGES, RETRIEVED_IMAGE_URLS, text_id
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table
from sd_assets_tests.download.misbehaving import Behaviour, Server, answer
from sd_assets_tests.sources.conftest import picture
from sd_assets_tests.tables import table_of

URLS = 480
KILLS = 20
KILLS_IN_A_ROW = 2
CONNECTIONS = 16
SHARD_ROWS = 32
# What may be finished when a process dies, and not kept: a shard that is not full, and what is on its way to it.
MOST_LOST = 4 * SHARD_ROWS + 2 * 64 + CONNECTIONS

# Everything is imported once; each run is a process forked from this one. Shards are small, so that there are many.
NURSERY = f"""
import json, os, sys
from dataclasses import replace
from pathlib import Path
import sd_assets.download.downloader
from sd_assets.compute.run import run_stage
from sd_assets.settings import DownloadSettings
from sd_assets.stages import download
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore

download.DOWNLOADED_IMAGES = replace(download.DOWNLOADED_IMAGES, shard_rows={SHARD_ROWS})

def run(urls, data, run_id):
    settings = DownloadSettings(
        allow_addresses=("127.0.0.1",), connections={CONNECTIONS}, connections_per_host={CONNECTIONS}, retries=0,
        image_size=8, user_agent=run_id,
    )
    stage = download.DownloadStage(settings)
    retrieved = TableStore(LocalFiles(Path(urls))).open("retrieved_image_urls", "p")
    area = Area(LocalFiles(Path(data)), "downloaded_images", "p")
    run_stage(stage, stage.url_rows(retrieved), area, run_id, print, [retrieved]).commit()

print("ready", flush=True)
for line in sys.stdin:
    arguments, log = json.loads(line)
    process = os.fork()
    if process == 0:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        run(*arguments)
        os._exit(0)
    print(process, flush=True)
    sys.stdin.readline()  # until then its id is no other process's, even if it has ended
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


class Web:
    """Some hundred URLs that take their time; counts what each run asks for."""

    def __init__(self, server: Server) -> None:
        self.asked: dict[str, Counter[str]] = defaultdict(Counter)  # by run, by URL
        rng = random.Random(1)
        self.urls = []
        for number in range(URLS):
            path = f"/{number}"
            self.urls.append(server.url(path))
            kind = rng.choices(["image", "404 Not Found", "503 Service Unavailable"], [90, 7, 3])[0]
            content = answer(body=picture(number)) if kind == "image" else answer(kind)
            delay = 0.3 if rng.random() < 0.02 else rng.uniform(0, 0.03)
            server.paths[path] = self._counted(self.urls[-1], delay, content)

    def _counted(self, url: str, delay: float, content: Behaviour) -> Behaviour:
        async def behave(writer: asyncio.StreamWriter, headers: dict[str, str]) -> None:
            self.asked[headers["user-agent"].split()[0]][url] += 1
            await asyncio.sleep(delay)
            await content(writer, headers)

        return behave


class Runs:
    """Runs of the download, each a process that may be killed."""

    def __init__(self, folder: Path, urls: Path) -> None:
        self._urls = urls
        self._log = folder / "log"
        self._count = 0
        self._nursery = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"

    def killed(self, data: Path, seconds: float) -> str | None:
        """Start a run and kill it after so long; its name, or None if it had ended."""
        name, process = self._start(data)
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
        status = self._status()
        assert status in (0, -signal.SIGKILL), self._log.read_text()
        return name if status else None

    def finished(self, data: Path) -> str:
        """A run that nobody disturbs; its name."""
        name, _ = self._start(data)
        assert self._status() == 0, self._log.read_text()
        return name

    def end(self) -> None:
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        self._nursery.wait()

    def _start(self, data: Path) -> tuple[str, int]:
        self._count += 1
        name = f"run{self._count}"
        self._say(json.dumps([[str(self._urls), str(data), name], str(self._log)]))
        return name, int(self._line())

    def _status(self) -> int:
        self._say("")
        return int(self._line())

    def _say(self, line: str) -> None:
        assert self._nursery.stdin is not None
        print(line, file=self._nursery.stdin, flush=True)

    def _line(self) -> str:
        assert self._nursery.stdout is not None
        return self._nursery.stdout.readline().strip()


@pytest.fixture
def web() -> Iterator[Web]:
    with Server() as server:
        yield Web(server)


@pytest.fixture
def runs(tmp_path: Path, web: Web) -> Iterator[Runs]:
    known = [{"url_id": text_id(url), "url": url, "hits": []} for url in sorted(web.urls, key=text_id)]
    table_of(tmp_path / "urls", RETRIEVED_IMAGE_URLS, known)
    runs = Runs(tmp_path, tmp_path / "urls")
    yield runs
    runs.end()


def area_at(data: Path) -> Area:
    return Area(LocalFiles(data), "downloaded_images", "p")


def kept(data: Path) -> set[str]:
    """The URLs of finished rows of all runs, committed or not."""
    area = area_at(data)
    urls: set[str] = set()
    for shard in (*(shard for manifest in area.kept() for shard in manifest.shards), *area.wip()):
        with area.open_shard(shard) as file:
            urls.update(pq.read_table(file, columns=["url"]).column("url").to_pylist())
    return urls


def content(data: Path) -> list[dict[str, Any]]:
    """The rows of the current version, but for what is of its time."""
    manifest = area_at(data).latest()
    assert manifest is not None
    columns = [name for name in DOWNLOADED_IMAGES.arrow.names if name not in DOWNLOADED_IMAGES.bookkeeping]
    rows: list[dict[str, Any]] = Table(area_at(data), manifest).read(columns).to_pylist()
    return rows


@pytest.mark.timeout(300)
def test_downloads_that_are_killed_at_any_moment(
    runs: Runs, web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(7)
    runs.finished(tmp_path / "warm")
    started = time.monotonic()
    undisturbed = runs.finished(tmp_path / "clean")
    seconds = time.monotonic() - started
    clean = content(tmp_path / "clean")
    assert [row["url"] for row in clean] == sorted(web.urls, key=text_id)
    assert web.asked[undisturbed] == dict.fromkeys(web.urls, 1)
    lost: list[int] = []
    while len(lost) < KILLS:
        data = tmp_path / "killed"
        data.mkdir()
        for _ in range(KILLS_IN_A_ROW):
            at_hand = kept(data)
            name = runs.killed(data, rng.uniform(0, seconds))
            if name is None:  # it had ended before
                break
            assert not at_hand & set(web.asked[name]), "a URL whose row was kept was asked for again"
            finished = kept(data)
            assert at_hand <= finished
            lost.append(len(set(web.asked[name]) - finished))
            # The next run, on a copy: what was killed may be killed once more.
            copy = tmp_path / "copy"
            shutil.copytree(data, copy)
            after = runs.finished(copy)
            assert web.asked[after] == dict.fromkeys(set(web.urls) - finished, 1)
            assert content(copy) == clean
            report = area_at(copy).last_run()
            assert (report["rows_in"], report["rows_reused"]) == (URLS, len(finished))
            shutil.rmtree(copy)
        shutil.rmtree(data)
    with capsys.disabled():
        mean = sum(lost) / len(lost)
        print(
            f"\n{len(lost)} kills of runs of {seconds:.1f} s; asked for again: {mean:.0f}, at most {max(lost)}"
        )
    assert max(lost) <= MOST_LOST
