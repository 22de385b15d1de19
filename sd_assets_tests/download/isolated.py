"""A run of the download stage in a process of its own, with what can be seen of it from outside only.

`python -m sd_assets_tests.download.isolated FOLDER` does as `FOLDER/plan.json` says and leaves the table below FOLDER.
"""

import collections
import contextlib
import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sd_assets.compute.run import run_stage
from sd_assets.schemas import RETRIEVED_IMAGE_URLS, text_id
from sd_assets.settings import DownloadSettings
from sd_assets.stages.download import DownloadStage
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.tables import table_of

# What a name resolves to, lookup after lookup, the last one from then on: addresses, or the name of an error
# (EAI_NONAME). Names that are not listed do not exist.
Names = Mapping[str, Sequence[Sequence[str] | str]]


@dataclass(frozen=True)
class Run:
    """What a run left.

    Attributes:
        rows: of the table, in its order.
        report: of the run: how many rows came in, and what became of them.
        connected: each address and port that the process tried to connect to, and how often.
        grown: bytes resident at the peak, more than when all was loaded and nothing had begun.
        console: what it wrote on stdout and stderr.
    """

    rows: list[dict[str, Any]] = field(repr=False)
    report: dict[str, Any]
    connected: dict[tuple[str, int], int]
    grown: int
    console: str


def run(
    folder: Path,
    urls: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    names: Names | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 240,
) -> Run:
    """Download `urls` (each with a `url`, and a `sha256` if the corpus knows it) into the table below `folder`.

    A second run in the same folder goes on from what the first one left.

    Raises:
        subprocess.TimeoutExpired, AssertionError: the process did not end, or not well.
    """
    (folder / "plan.json").write_text(json.dumps({"urls": urls, "settings": settings, "names": names or {}}))
    process = subprocess.run(
        [sys.executable, "-m", __name__, str(folder)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    console = process.stdout + process.stderr
    assert process.returncode == 0, console
    seen = json.loads((folder / "seen.json").read_text())
    return Run(
        _tables(folder).open("downloaded_images", "p").read().to_pylist(),
        seen["report"],
        {(address, port): count for address, port, count in seen["connected"]},
        seen["grown"],
        console,
    )


def _tables(folder: Path) -> TableStore:
    return TableStore(LocalFiles(folder / "data"))


def _main(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    connected = _watch_connections()
    _resolve(plan["names"])
    listed = [{"hits": [], **row, "url_id": text_id(row["url"])} for row in plan["urls"]]
    number = len(list(folder.glob("urls*")))
    retrieved = table_of(
        folder / f"urls{number}", RETRIEVED_IMAGE_URLS, sorted(listed, key=lambda row: row["url_id"])
    )
    stage = DownloadStage(DownloadSettings(**plan["settings"]))
    _load()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    area = _tables(folder).area("downloaded_images", "p")
    staged = run_stage(stage, stage.url_rows(retrieved), area, f"run{number}", lambda _: None)
    grown = _resident("VmHWM") - before
    staged.commit()
    # What is still under way when all rows are there would say so only later.
    assert threading.active_count() == 1, threading.enumerate()
    seen = {
        "report": area.last_run(),
        "connected": [[*key, count] for key, count in connected.items()],
        "grown": grown,
    }
    (folder / "seen.json").write_text(json.dumps(seen, default=str))


def _load() -> None:
    """Have in memory what every run needs, before memory is looked at."""
    from sd_assets.download.downloader import Downloader

    Downloader(DownloadSettings()).close()


def _resident(which: str) -> int:
    """`VmRSS`, resident now, or `VmHWM`, its peak: bytes. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no {which}")


def _watch_connections() -> "collections.Counter[tuple[str, int]]":
    """Counts of (address, port), as the interpreter itself sees them, whoever connects; beyond loopback nobody gets."""
    connected: collections.Counter[tuple[str, int]] = collections.Counter()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
            address, port = arguments[1][:2]
            connected[address, port] += 1
            if not ipaddress.ip_address(address).is_loopback:
                raise ConnectionRefusedError(f"{address} is no place for a test")

    sys.addaudithook(hook)
    return connected


def _resolve(names: Names) -> None:
    """Have the system's resolver answer from `names`: a real one cannot be had. Addresses are what they are."""
    lookups: collections.Counter[str] = collections.Counter()
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            return real(host, port, *args, **options)
        turns = names.get(host, ["EAI_NONAME"])
        found = turns[min(lookups[host], len(turns) - 1)]
        lookups[host] += 1
        if isinstance(found, str):
            raise socket.gaierror(getattr(socket, found), f"{found} of {host}")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
