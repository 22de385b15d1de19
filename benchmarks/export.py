"""`python -m benchmarks.export`: what an export costs, against copying the same bytes.

The pairs are 2,000 photographs of noise (`--pairs`), each of at least 100 KB, in real tables, all kept, a tenth of
them for validation. Each layout is exported into a new folder. Then two copies of the same bytes are made,
`--samples` times by turns:

    copy    a plain loop that reads the images of text_image_pairs, a row group at a time, and writes each to a file of its own, or,
            for layouts of shards, all to as many files as there are shards; and a small file for each caption file
    cp      `shutil.copytree` of the export that came of it, which the kernel does, followed by `sync -f`

All are on the disk when the clock stops: the export and the loop see to that for each file, eight files at once. What
is read was read a moment before, so no time is for reading the disk.

Prints a line `detail` with all that was measured, seconds, and one JSON line last:

    vs_copy    by layout, the median of the seconds of an export over those of the loop after it
    vs_cp      likewise, over those of `cp`

Goal: vs_copy at most 2. What an export does besides: it reads the tables' other columns, looks into each image's header,
looks up where it comes from, makes the JSON and, of shards, the file format. Against `cp` a layout of shards has to
get the bytes out of Parquet, where a copy never leaves the kernel.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.photographs import SIDE, make_photographs
from sd_assets.ahead import map_ahead
from sd_assets.compute.run import write_rows
from sd_assets.exports.export import LAYOUTS, export
from sd_assets.exports.folder import ExportFolder
from sd_assets.exports.layout import WRITERS
from sd_assets.provenance.origins import origins_of_kept
from sd_assets.schemas import (
    CURATED_PAIRS,
    DOWNLOADED_IMAGES,
    IMAGE_CAPTIONS,
    RETRIEVED_IMAGE_URLS,
    SEED_PROMPTS,
    TEXT_IMAGE_PAIRS,
    TableSchema,
    image_id,
    text_id,
)
from sd_assets.settings import ExportsSettings
from sd_assets.stages.stage import rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore

PARTITION = "photographs"
_PROMPT = "a photograph"
_PROMPT_ID = text_id(_PROMPT)
_AT_ONCE = 256


def run(folder: Path, pairs: int, samples: int) -> dict[str, Any]:
    """Seconds of each export and of both copies, by layout.

    Args:
        folder: to work in.
        pairs: how many.
        samples: how often each layout is exported.
    """
    store = TableStore(LocalFiles(folder / "data"))
    tables = _tables(store, make_photographs(folder / "photographs", pairs))
    origins = partial(origins_of_kept, store, PARTITION)
    found: dict[str, Any] = {}
    for name, layout in LAYOUTS.items():
        settings = ExportsSettings.model_validate({name: {}}).layout(name)
        assert settings is not None
        found[name] = {"export": [], "copy": [], "cp": []}
        for _ in range(samples):
            out = folder / "out"
            target = ExportFolder(LocalFiles(out), name, PARTITION)
            steps: dict[str, Callable[[], object]] = {
                "export": partial(export, layout(settings), target, tables, lambda line: None, origins),
                "copy": partial(
                    _copy_images, tables["text_image_pairs"], out / name / PARTITION, folder / "loop"
                ),
                "cp": partial(_copy_files, out / name / PARTITION, folder / "cp"),
            }
            for step, work in steps.items():
                _sync(folder)
                started = time.perf_counter()
                work()
                found[name][step].append(time.perf_counter() - started)
            found[name]["bytes"] = sum(it.stat().st_size for it in (folder / "cp").rglob("*") if it.is_file())
            for made in (out, folder / "loop", folder / "cp"):
                shutil.rmtree(made)
    return found


def _copy_images(pairs: Table, export: Path, target: Path) -> None:
    """Write the images to as many files as the export has files that hold images, and its caption files."""
    target.mkdir()
    paths = [path for path in export.rglob("*") if path.is_file()]
    count = sum(path.suffix not in (".txt", ".json", ".jsonl", ".toml") for path in paths)
    texts = [[path.read_bytes()] for path in paths if path.suffix == ".txt"]
    shared = -(-pairs.num_rows // count)

    def images() -> Iterator[bytes]:
        for batch in pairs.batches(["image"]):
            yield from batch.column("image").to_pylist()

    def files() -> Iterator[tuple[int, list[bytes]]]:
        rest = images()
        yield from enumerate(chain((list(islice(rest, shared)) for _ in range(count)), texts))

    def write(file: tuple[int, list[bytes]]) -> None:
        number, data = file
        with (target / str(number)).open("xb") as opened:
            opened.writelines(data)
            opened.flush()
            os.fsync(opened.fileno())

    for _ in map_ahead(write, files(), WRITERS if shared == 1 else 1):
        pass


def _copy_files(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    _sync(source)


def ratios(found: Mapping[str, Mapping[str, Any]], to: str) -> dict[str, float]:
    """By layout, the median of the ratios of the export's seconds to those of `to`: copy or cp."""
    return {
        name: round(
            statistics.median(
                export / copy for export, copy in zip(seconds["export"], seconds[to], strict=True)
            ),
            2,
        )
        for name, seconds in found.items()
    }


def _sync(folder: Path) -> None:
    subprocess.run(["sync", "-f", str(folder)], check=True)


def _tables(store: TableStore, files: Sequence[Path]) -> dict[str, Table]:
    """The tables that say that all photographs are kept, and were found by a prompt, are written; those of an export."""
    ids = [image_id(file.read_bytes()) for file in files]

    def write(schema: TableSchema, rows: Iterator[dict[str, Any]]) -> Table:
        write_rows(schema, _batches(schema, rows), store.area(schema.name, PARTITION), "run").commit()
        return store.open(schema.name, PARTITION)

    size = dict.fromkeys(("width", "height", "original_width", "original_height"), SIDE)
    found = {
        "origin": "retrieved",
        "similarity": 0.75,
        "url": "https://example.org/a.jpg",
        "licence": "CC-BY-4.0",
    }
    pairs = (
        {
            "image_id": image,
            "image": file.read_bytes(),
            "captions": [f"photograph {image[:8]}"],
            **size,
            **found,
        }
        for image, file in zip(ids, files, strict=True)
    )
    curated: Iterator[dict[str, Any]] = (
        {
            "image_id": image,
            "keep": True,
            "reasons": [],
            "split": "validation" if number % 10 == 0 else "train",
            "resolution": SIDE,
            "alignment": 0.25,
            "similarity": 0.75,
        }
        for number, image in enumerate(ids)
    )
    captions = (
        {"image_id": image, "variant": "default", "caption": f"photograph {image[:8]}", "model": "none"}
        for image in ids
    )
    hit = {"query_id": _PROMPT_ID, "rank": 1, "similarity": 0.75, "url": found["url"]}
    write(SEED_PROMPTS, iter([{"prompt_id": _PROMPT_ID, "prompt": _PROMPT}]))
    write(RETRIEVED_IMAGE_URLS, ({"url_id": image, "url": found["url"], "hits": [hit]} for image in ids))
    write(DOWNLOADED_IMAGES, ({"url_id": image, "url": found["url"], "image_id": image} for image in ids))
    return {
        "text_image_pairs": write(TEXT_IMAGE_PAIRS, pairs),
        "curated_pairs": write(CURATED_PAIRS, curated),
        "image_captions": write(IMAGE_CAPTIONS, captions),
    }


def _batches(schema: TableSchema, rows: Iterator[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == _AT_ONCE:
            yield rows_of(schema, some)
            some = []
    yield rows_of(schema, some)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export", description=__doc__.partition(": ")[2]
    )
    parser.add_argument("--pairs", type=int, default=2_000)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk that counts; a new one, if none is given")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = run(Path(folder), options.pairs, options.samples)
    print("detail", json.dumps(found))
    print(json.dumps({"vs_copy": ratios(found, "copy"), "vs_cp": ratios(found, "cp")}))


if __name__ == "__main__":
    main()
