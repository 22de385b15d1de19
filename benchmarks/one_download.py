"""`python -m benchmarks.one_download FOLDER URLS MODE SIZE`: our download of the URLs that a file lists, one a line.

A process of its own for `benchmarks.download`. It first writes the table `retrieved_image_urls`; then the stage runs as the
asset downloaded_images runs it, with default settings but for MODE and SIZE, to a committed version in FOLDER. Prints one
JSON line last:

    seconds     from the start of the stage to the commit; the start of the process and imports do not count
    written     bytes of the table's files
    failed      rows with an error, by code

With the arguments `fetch URLS` the downloader alone fetches them, and what came is dropped; `seconds` begin before its first
request, and there is no `written`.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.nginx import NETWORK
from sd_assets.compute.run import run_stage, write_rows
from sd_assets.download.downloader import Downloader
from sd_assets.download.finish import as_it_came
from sd_assets.download.request import Request
from sd_assets.schemas import DOWNLOADED_IMAGES, RETRIEVED_IMAGE_URLS, text_id
from sd_assets.settings import DownloadSettings, ResizeMode
from sd_assets.stages.download import DownloadStage
from sd_assets.stages.stage import rows_of
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table

PARTITION = "web"


def settings(mode: ResizeMode, size: int) -> DownloadSettings:
    """Those of every benchmark of the download."""
    return DownloadSettings(resize_mode=mode, image_size=size, quality=95, allow_addresses=(NETWORK,))


def main() -> None:
    """See the module."""
    first, *others = sys.argv[1:]
    if first == "fetch":
        measured = fetched(Path(others[0]).read_text().split())
    else:
        urls, mode, size = others
        table = retrieved(Path(first), Path(urls).read_text().split())
        measured = downloaded(Path(first), table, settings(mode, int(size)))  # type: ignore[arg-type]
    print(json.dumps(measured), flush=True)


def retrieved(folder: Path, urls: Sequence[str]) -> Table:
    """The table that the stage reads."""
    rows = [{"url_id": text_id(url), "url": url, "hits": []} for url in urls]
    batch = rows_of(RETRIEVED_IMAGE_URLS, sorted(rows, key=lambda row: str(row["url_id"])))
    area = Area(LocalFiles(folder), RETRIEVED_IMAGE_URLS.name, PARTITION)
    return Table(area, write_rows(RETRIEVED_IMAGE_URLS, [batch], area, "retrieved").commit())


def downloaded(folder: Path, urls: Table, chosen: DownloadSettings) -> dict[str, Any]:
    """What the stage took, and whether all rows are good."""
    area = Area(LocalFiles(folder), DOWNLOADED_IMAGES.name, PARTITION)
    stage = DownloadStage(chosen)
    started = time.monotonic()
    staged = run_stage(stage, stage.url_rows(urls), area, "downloaded", _log, [urls])
    manifest = staged.commit()
    seconds = time.monotonic() - started
    table = Table(area, manifest)
    files = (path for path in (folder / area.folder).rglob("*") if path.is_file())
    return {
        "seconds": seconds,
        "rows": manifest.report["rows_in"],
        "failed": _failures(table.read(["error"]).column("error")),
        "written": sum(path.stat().st_size for path in files),
    }


def fetched(urls: Sequence[str]) -> dict[str, Any]:
    """What fetching alone took."""
    errors: list[str | None] = []
    started = time.monotonic()
    with (
        Downloader(settings("no", 256), as_it_came) as downloader,
        closing(downloader.stream((None, Request(url)) for url in urls)) as answers,
    ):
        errors.extend(answer.error for _, answer in answers)
    seconds = time.monotonic() - started
    return {"seconds": seconds, "rows": len(errors), "failed": _failures(pa.array(errors, pa.string()))}


def _failures(errors: pa.ChunkedArray | pa.Array) -> dict[str, int]:
    return dict(Counter(error for error in errors.to_pylist() if error is not None))


def _log(line: str) -> None:
    """Progress, which nobody reads here."""


if __name__ == "__main__":
    main()
