"""A stage in this process: reading ahead, preparing in threads, writing behind, so that the model never waits."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema
from sd_assets.stages.stage import InputCounts, Stage
from sd_assets.storage.area import Area
from sd_assets.storage.digests import row_digests
from sd_assets.storage.staging import Place, Staged, Staging, null_keys

Log = Callable[[str], None]
# Between two lines of progress; more often would freeze the page of a run.
LOG_SECONDS = 10.0

# Threads that prepare; more would hold more decoded images than they save time.
_PREPARERS = min(os.cpu_count() or 1, 16)

In = TypeVar("In")
Out = TypeVar("Out")


class _Work(NamedTuple):
    rows: pa.RecordBatch
    keys: list[bytes]  # work keys
    prepared: Any = None


def run_stage(stage: Stage, rows: Iterable[pa.RecordBatch], area: Area, run_id: str, log: Log) -> Staged:
    """Compute what is missing of a partition's next version.

    Args:
        stage: what to compute.
        rows: its input, all of it, in the order that the table is to have.
        area: of the partition.
        run_id: of this run; unique.
        log: for a line of progress now and then.

    Raises:
        TableError: the stage broke its contract; or the storage could not be written.
        Whatever the stage raises; what was finished before is kept for the next run.
    """
    started = time.monotonic()
    staging = Staging(area, stage.schema, run_id, stage.judge)
    reader = _Reader(stage, rows, staging)
    computed = 0
    logged = started
    try:
        try:
            ready = map_ahead(
                lambda work: work._replace(prepared=stage.prepare(work.rows)), reader.missing(), _PREPARERS
            )
            results = map_ahead(
                lambda work: (work, stage.process(work.rows, work.prepared)), ready, stage.threads
            )
            for work, result in results:
                if len(result) != len(work.keys):
                    raise TableError(
                        f"{area.folder}: the stage answered {len(result)} rows to {len(work.keys)}"
                    )
                staging.add(result, work.keys)
                computed += len(result)
                if time.monotonic() - logged > LOG_SECONDS:
                    logged = time.monotonic()
                    log(
                        f"{area.folder}: {computed} rows computed, {computed / (logged - started):.1f} rows/s"
                    )
        finally:
            if reader.opened:
                stage.close()
        facts = {
            "rows_computed": computed,
            "rows_per_s": round(computed / (time.monotonic() - started), 2) if computed else None,
            **(stage.facts() if reader.opened else {}),
        }
        staged = staging.finish(rows_skipped=reader.skipped, facts=facts)
    except BaseException:
        staging.abandon()
        raise
    staged.report["seconds"] = round(time.monotonic() - started, 3)
    return staged


def write_rows(
    schema: TableSchema,
    rows: Iterable[pa.RecordBatch],
    area: Area,
    run_id: str,
    counts: InputCounts | None = None,
) -> Staged:
    """The next version of a table whose rows are ready: a reduction, or what a user's own asset returns.

    Args:
        schema: of the table.
        rows: all of them, in order.
        area: of the partition.
        run_id: of this run; unique.
        counts: what `rows` fills while it is read.
    """
    started = time.monotonic()
    staging = Staging(area, schema, run_id)
    try:
        for batch in rows:
            staging.add_and_place(batch)
        counts = counts or InputCounts()
        staged = staging.finish(rows_duplicate=counts.duplicates, rows_skipped=counts.skipped)
    except BaseException:
        staging.abandon()
        raise
    staged.report["seconds"] = round(time.monotonic() - started, 3)
    return staged


class _Reader:
    """Reads the input, tells the staging of every row, and hands on the rows that have to be computed."""

    def __init__(self, stage: Stage, rows: Iterable[pa.RecordBatch], staging: Staging) -> None:
        self._stage = stage
        self._rows = rows
        self._staging = staging
        self.skipped = 0
        self.opened = False

    def missing(self) -> Iterator[_Work]:
        """What is to be computed, `batch_rows` at a time."""
        held: list[_Work] = []
        count = 0
        for batch in self._rows:
            work = self._new_rows(batch)
            if work.keys and not self.opened:
                # Here and not earlier: a refresh of what has not changed loads no model.
                self._stage.open()
                self.opened = True
            while work.keys:
                room = self._stage.batch_rows - count
                held.append(_Work(work.rows.slice(0, room), work.keys[:room]))
                count += len(held[-1].keys)
                work = _Work(work.rows.slice(room), work.keys[room:])
                if count == self._stage.batch_rows:
                    yield _joined(held)
                    held, count = [], 0
        if held:
            yield _joined(held)

    def _new_rows(self, batch: pa.RecordBatch) -> _Work:
        schema = self._stage.schema
        if "error" in batch.schema.names:
            good = batch.filter(batch.column("error").is_null())
            self.skipped += len(batch) - len(good)
            batch = good
        keys = row_digests(batch, schema.key)
        nulls = null_keys(batch, schema)
        works = row_digests(batch, (*schema.key, *self._stage.reads), salt=self._stage.fingerprint())
        new = [
            row
            for row, (key, null, work) in enumerate(zip(keys, nulls, works, strict=True))
            if self._staging.place(None if null else key, work) is Place.NEW
        ]
        return _Work(batch.take(pa.array(new, pa.int64())), [works[row] for row in new])


def _joined(held: list[_Work]) -> _Work:
    rows = pa.Table.from_batches([work.rows for work in held]).combine_chunks().to_batches()[0]
    return _Work(rows, [key for work in held for key in work.keys])


def map_ahead(function: Callable[[In], Out], items: Iterable[In], threads: int) -> Generator[Out, None, None]:
    """`map` in threads, in order, with at most `threads + 1` results under way or waiting."""
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Out]] = deque()
        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                if len(under_way) > threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
