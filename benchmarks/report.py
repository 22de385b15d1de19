"""`python -m benchmarks.report`: how heavy the HTML report of a large partition is, and how soon one sees something.

A partition of 20,000 pairs (`--pairs`): cut-outs of made photographs (`benchmarks.photographs`), 256 px a side, with captions and
addresses as long as those of the web, all scores, and reasons against a fifth. Its report is written; then once more after one pair has
come; then a headless Chromium, started anew, opens it from the disk.

Prints one JSON line last, times in seconds:

    write, refresh          the first report, and that after one pair has come
    report_mb               its folder
    refresh_mb              what the refresh wrote
    first_view              until the thumbnails of the first screen are there
    all_pairs               until all pairs can be searched and filtered
    opened_mb               what the browser has read by then, thumbnails included
    search, filter          from the last keystroke or the choice of a reason to the new pictures' captions
    heap_mb                 of the page, after it was scrolled through

It needs Chromium and playwright (the extra `dev`).
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.photographs import SIDE, make_photographs
from sd_assets.compute.run import write_rows
from sd_assets.images import encode
from sd_assets.report.write import Report, Tables, write_report
from sd_assets.schemas import (
    CURATED_PAIRS,
    DOWNLOADED_IMAGES,
    NEAR_DUPLICATES,
    RETRIEVED_IMAGE_URLS,
    SEED_IMAGES,
    TEXT_IMAGE_PAIRS,
    TableSchema,
    image_id,
)
from sd_assets.stages.stage import rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore

PARTITION = "made"
_CUT = 256  # px
_PER_PHOTOGRAPH = 100
_ROWS_AT_ONCE = 256
_REASON = "low_sharpness"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=None, help="where there is room: 40 KB a pair")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sd_assets-report-", dir=options.folder) as room:
        print(json.dumps(measure(Path(room), options.pairs)), flush=True)


def measure(folder: Path, pairs: int) -> dict[str, Any]:
    """All figures.

    Args:
        folder: an empty one, for the tables, the report and what the pictures are cut from.
        pairs: how many the partition has.
    """
    photographs = [
        np.asarray(Image.open(file))
        for file in make_photographs(folder / "photographs", -(-(pairs + 1) // _PER_PHOTOGRAPH))
    ]
    first, write = timed(folder, tables(folder, photographs, range(1, pairs + 1)))
    again, refresh = timed(folder, tables(folder, photographs, range(pairs + 1)))
    return {
        "pairs": again.pairs,
        "write": write,
        "refresh": refresh,
        "report_mb": mb(again.bytes),
        "refresh_mb": mb(again.bytes_written),
        **opened(Path(first.page)),
    }


def timed(folder: Path, made: Tables) -> tuple[Report, float]:
    """A report, and the seconds that it took."""
    started = time.perf_counter()
    report = write_report(LocalFiles(folder), PARTITION, made, print)
    return report, round(time.perf_counter() - started, 1)


def mb(count: int) -> float:
    return round(count / 1e6, 1)


# --- the partition -----------------------------------------------------------------------------------------------


def tables(folder: Path, photographs: Sequence[np.ndarray[Any, Any]], numbers: Sequence[int]) -> Tables:
    """The tables of the pairs of some numbers, committed; the same number gives the same pair."""
    store = TableStore(LocalFiles(folder))

    def committed(schema: TableSchema, rows: Iterable[Mapping[str, Any]] = ()) -> Table:
        write_rows(schema, batches(schema, rows), store.area(schema.name, PARTITION), "run").commit()
        return store.open(schema.name, PARTITION)

    ids: list[str] = []

    def pairs() -> Iterator[dict[str, Any]]:
        for number in numbers:
            row = pair(photographs[number // _PER_PHOTOGRAPH], number)
            ids.append(row["image_id"])
            yield row

    text_image_pairs = committed(TEXT_IMAGE_PAIRS, pairs())
    known = list(zip(ids, numbers, strict=True))
    return Tables(
        seed_images=committed(SEED_IMAGES),
        retrieved_image_urls=committed(RETRIEVED_IMAGE_URLS),
        downloaded_images=committed(DOWNLOADED_IMAGES),
        text_image_pairs=text_image_pairs,
        near_duplicates=committed(
            NEAR_DUPLICATES, ({"image_id": each, "cluster": each, "cluster_size": 1} for each in ids)
        ),
        curated_pairs=committed(CURATED_PAIRS, (judgement(each, number) for each, number in known)),
    )


def batches(schema: TableSchema, rows: Iterable[Mapping[str, Any]]) -> Iterator[pa.RecordBatch]:
    """Rows as batches of which few are in memory; one without rows if there are none."""
    part: list[Mapping[str, Any]] = []
    for row in rows:
        part.append(row)
        if len(part) == _ROWS_AT_ONCE:
            yield rows_of(schema, part)
            part = []
    yield rows_of(schema, part)


def pair(photograph: np.ndarray[Any, Any], number: int) -> dict[str, Any]:
    """A row of text_image_pairs."""
    left, top = np.random.default_rng(number).integers(0, SIDE - _CUT, 2)
    data = encode(Image.fromarray(photograph[top : top + _CUT, left : left + _CUT]), "jpg", 80)
    return {
        "image_id": image_id(data + number.to_bytes(4, "little")),
        "image": data,
        "width": _CUT,
        "height": _CUT,
        "captions": [
            f"a modern living room with a grey sofa, a wooden coffee table and a tall window, number {number}"
        ],
        "text": f"Modern Living Room Ideas | Interior Design Blog {number}",
        "origin": "retrieved",
        "url": f"https://www{number % 3_000}.example.org/wp-content/uploads/living-room-{number}-1024x768.jpg",
        "licence": None,
        "similarity": 0.3,
        "query_ids": [],
    }


def judgement(identity: str, number: int) -> dict[str, Any]:
    """A row of curated_pairs."""
    keep = number % 5 > 0
    sharpness, blockiness, alignment, aesthetic, nsfw = np.random.default_rng(number).random(5).tolist()
    return {
        "image_id": identity,
        "keep": keep,
        "reasons": [] if keep else [_REASON],
        "split": "train" if keep else None,
        "resolution": _CUT,
        "aspect_ratio": 1.0,
        "sharpness": sharpness,
        "blockiness": blockiness,
        "flat_border": 0.0,
        "alignment": alignment,
        "similarity": 0.3,
        "aesthetic": aesthetic,
        "nsfw": nsfw,
        "own_scores": [],
    }


# --- the browser -------------------------------------------------------------------------------------------------


def opened(index: Path) -> dict[str, float]:
    """What a browser says of a report."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        raise SystemExit("there is no Chromium: apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--enable-precise-memory-info"]
        browser = playwright.chromium.launch(executable_path=found, args=options)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        sizes: list[int] = []

        def note(url: str) -> None:
            if url.startswith("file:"):
                sizes.append(Path(unquote(urlsplit(url).path)).stat().st_size)

        page.on("request", lambda request: note(request.url))
        started = time.perf_counter()

        def since() -> float:
            return round(time.perf_counter() - started, 2)

        page.goto(index.as_uri())
        page.wait_for_function("document.querySelectorAll('.tile img').length >= 20")
        figures = {"first_view": since()}
        page.wait_for_selector("main:not([aria-busy])")
        figures["all_pairs"] = since()
        figures["opened_mb"] = mb(sum(sizes))
        before = page.locator("#count").inner_text()
        changed = "before => document.getElementById('count').textContent !== before"
        started = time.perf_counter()
        page.get_by_label("Search captions").fill("number 77")
        page.wait_for_function(changed, arg=before)
        figures["search"] = since()
        before = page.locator("#count").inner_text()
        started = time.perf_counter()
        page.get_by_label("Reason against it").select_option(index=1)
        page.wait_for_function(changed, arg=before)
        figures["filter"] = since()
        page.get_by_role("button", name="Clear").click()
        for step in range(50):
            page.locator("#results").evaluate(f"box => {{ box.scrollTop = box.scrollHeight * {step} / 50 }}")
            page.wait_for_timeout(60)
        figures["heap_mb"] = round(page.evaluate("performance.memory.usedJSHeapSize") / 1e6, 1)
        browser.close()
    return figures


if __name__ == "__main__":
    main()
