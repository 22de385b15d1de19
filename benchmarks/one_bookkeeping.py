"""`python -m benchmarks.one_bookkeeping FOLDER ROWS RUN`: what one run of a table of tiny rows takes.

A process of its own for `benchmarks.bookkeeping`. The runs, of the same folder and number of rows, in this order:

    first       the table is not there yet
    kept        nothing has changed, and `made_from` says so: no row is read
    read        nothing has changed, and only reading tells
    together    1% new rows, all at the end
    spread      1% new rows, one before every hundredth row; one version is kept, and all that is superseded is old
                enough to be swept
    scan        no run: the table is read, images included, as the stage after it would
    images      a first run of another table, of a hundredth of the rows, with 60 KB in each

Prints one JSON line last:

    cpu_s       processor seconds (user and system) from the first look at the table to the end of its commit
    peak_mb     the most that was resident meanwhile, less what was before it; MB are 10^6 bytes
    rows        of the table
    shards      of the table
    shards_new  that the run wrote
    files       of the partition
    requests    by kind and place, what S3 would be asked: `Files` of a local disk, counted; a list is a request for
                every 1,000 names
    manifest_bytes, index_bytes     of the version

Linux only.
"""

import gc
import json
import math
import resource
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.one_asset import forget_peak, resident
from sd_assets.compute.run import run_stage
from sd_assets.schemas import ERROR_FIELDS, TableSchema
from sd_assets.stages.stage import Stage
from sd_assets.storage.area import LEASE_SECONDS, Area
from sd_assets.storage.files import Files, LocalFiles
from sd_assets.storage.housekeeping import ROOT
from sd_assets.storage.table import Table

Numbers = npt.NDArray[np.int64]

RUNS = ("first", "kept", "read", "together", "spread", "scan", "images")
# Of an image of 512 pixels, about; and the mean rows of a shard: as many as of these fill one of 16 MiB.
IMAGE_BYTES, SHARD_ROWS = 60_000, 273
TINY = TableSchema(
    "tiny",
    ("name",),
    pa.schema([pa.field("name", pa.string()), pa.field("image", pa.binary()), *ERROR_FIELDS]),
    shard_rows=SHARD_ROWS,
    row_group_rows=32,
)
PARTITION, WARM_UP, IMAGES = "rows", "warm_up", "images"
# New rows: one for so many.
EVERY = 100
_BATCH_ROWS = 4_096
_PAGE = 1_000
_LISTS = frozenset({"names", "ages", "sizes", "folders"})
# Not a request at all on S3, or not of a run.
_NOT_COUNTED = frozenset({"sweep_temporary", "usage"})


class TinyStage(Stage):
    """Names, with a few bytes in the place of an image, or as many as an image has."""

    batch_rows = 256
    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, images: bool) -> None:
        self._noise = np.random.default_rng(0).bytes(2 * IMAGE_BYTES) if images else b""

    @property
    def schema(self) -> TableSchema:
        return TINY

    def process(self, rows: pa.RecordBatch, prepared: list[Any]) -> pa.RecordBatch:
        names = rows.column("name")
        images = [self._image(name) for name in names.to_pylist()]
        nothing = pa.nulls(len(names), pa.string())
        columns = [names, pa.array(images, pa.binary()), nothing, nothing]
        return pa.RecordBatch.from_arrays(columns, schema=TINY.arrow)

    def _image(self, name: str) -> bytes:
        start = int(name, 16) % IMAGE_BYTES
        return name.encode() + self._noise[start : start + IMAGE_BYTES]


class Counted:
    """`Files`, of which each call is counted, by what is done and where.

    Args:
        files: that are asked.
        older_s: so many seconds older all files are said to be.
    """

    def __init__(self, files: Files, older_s: float = 0.0) -> None:
        self._files = files
        self._older_s = older_s
        self.requests: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self._files, name)
        if not callable(asked) or name in _NOT_COUNTED:
            return asked

        def counted(path: str, *others: Any) -> Any:
            answer = asked(path, *others)
            pages = max(1, math.ceil(len(answer) / _PAGE)) if name in _LISTS else 1
            self.requests[f"{'list' if name in _LISTS else name} {_place(path)}"] += pages
            return {it: age + self._older_s for it, age in answer.items()} if name == "ages" else answer

        return counted


def _place(path: str) -> str:
    """The folder of a partition in which a path lies, such as `shards`."""
    parts = path.split("/")
    return parts[3] if parts[0] == ROOT else "folder"


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    folder, rows, run = sys.argv[1:] if arguments is None else arguments
    print(json.dumps(measured(Path(folder), int(rows), run)), flush=True)


def measured(folder: Path, rows: int, run: str) -> dict[str, Any]:
    """What a run takes."""
    swept = run == "spread"
    files = Counted(LocalFiles(folder), 10 * LEASE_SECONDS if swept else 0.0)
    partition = IMAGES if run == "images" else PARTITION
    area = Area(cast(Files, files), TINY.name, partition, kept_versions=1 if swept else 3)
    _work(Area(LocalFiles(folder), TINY.name, WARM_UP), np.arange(2 * SHARD_ROWS), run)  # loads what it needs
    gc.collect()
    numbers = _numbers(rows, run)
    before = {path.name for path in (folder / area.hidden / "shards").glob("*")}
    forget_peak()
    resident_before, cpu_before = resident("VmRSS"), cpu_seconds()
    files.requests.clear()
    if run == "scan":
        _scan(area)
    else:
        _work(area, numbers, run)
    cpu, peak, requests = cpu_seconds() - cpu_before, resident("VmHWM"), dict(files.requests)
    manifest = area.latest()
    assert manifest is not None
    return {
        "cpu_s": round(cpu, 3),
        "peak_mb": round(peak - resident_before, 1),
        "rows": sum(shard.rows for shard in manifest.shards),
        "shards": len(manifest.shards),
        "shards_new": sum(shard.file not in before for shard in manifest.shards),
        "files": sum(path.is_file() for path in folder.rglob("*") if partition in path.parts),
        "requests": requests,
        "manifest_bytes": len(manifest.as_json()),
        "index_bytes": sum(
            (folder / area.hidden / "index" / f"{shard.index}.parquet").stat().st_size
            for shard in manifest.shards
        ),
    }


def _work(area: Area, numbers: Numbers, run: str) -> None:
    made_from = {"first": ["a source"], "kept": ["a source"]}.get(run, [])
    run_stage(TinyStage(images=run == "images"), _input(numbers), area, run, print, made_from).commit()


def _scan(area: Area) -> None:
    manifest = area.latest()
    assert manifest is not None
    for rows in Table(area, manifest).rows(["name", "image"]):
        rows.take(range(len(rows.known)))


def _numbers(rows: int, run: str) -> Numbers:
    """The rows of the table after a run, by number, in their order."""
    numbers = np.arange(rows // 100 if run == "images" else rows)
    if run in ("together", "spread", "scan"):
        numbers = np.arange(rows + rows // EVERY)
    if run in ("spread", "scan"):
        places = np.arange(0, len(numbers), EVERY)
        numbers = np.insert(numbers, places, len(numbers) + np.arange(len(places)))
    return numbers


def _input(numbers: Numbers) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(numbers), _BATCH_ROWS):
        names = [f"{number:064x}" for number in numbers[start : start + _BATCH_ROWS].tolist()]
        yield pa.RecordBatch.from_pydict({"name": names})


def cpu_seconds() -> float:
    """Of this process, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
