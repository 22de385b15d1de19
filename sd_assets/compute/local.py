"""A stage in this process: reading ahead, preparing in threads, writing behind, so that the model never waits."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import pyarrow as pa

from sd_assets.ahead import map_ahead
from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema
from sd_assets.stages.stage import InputCounts, Stage
from sd_assets.storage.area import Area
from sd_assets.storage.digests import joined, row_digests
from sd_assets.storage.rows import Rows
from sd_assets.storage.staging import Place, Staged, Staging, null_keys
from sd_assets.storage.table import Table

Log = Callable[[str], None]
# Between two lines of progress; more often would freeze the page of a run.
LOG_SECONDS = 10.0

# A batch of large photographs is handed on before it has its rows: Arrow joins no more than 2 GiB.
MAX_BATCH_BYTES = 256 * 1024 * 1024
# Threads that prepare; more would hold more decoded images than they save time.
_PREPARERS = min(os.cpu_count() or 1, 16)


class _Work(NamedTuple):
    """Rows to compute, with the digests of their keys and their work keys."""

    rows: pa.RecordBatch
    keys: list[bytes]
    works: list[bytes]
    prepared: Any = None


def run_stage(
    stage: Stage,
    rows: Iterable[pa.RecordBatch | Rows],
    area: Area,
    run_id: str,
    log: Log,
    made_from: Sequence[Table | str] = (),
) -> Staged:
    """Compute what is missing of a partition's next version.

    Args:
        stage: what to compute.
        rows: its input, all of it, in the order that the table is to have.
        area: of the partition.
        run_id: of this run; unique.
        log: for a line of progress now and then.
        made_from: all that `rows` depends on: tables, and texts that name the rest. If that, and the stage, are what they
            were in the last run, and the stage's judge has nothing to look at again, the version stays as it is, and
            `rows` is not read. Empty: only reading tells.

    Raises:
        TableError: the stage broke its contract; or the storage could not be written.
        Whatever the stage raises; what was finished before is kept for the next run.
    """
    started = time.monotonic()
    staging = Staging(area, stage.schema, run_id, stage.judge, _basis(stage.fingerprint(), made_from))
    if staging.is_current:
        return _kept(staging, stage.facts(), started)
    reader = _Reader(stage, rows, staging)
    computed = 0
    logged = started
    try:
        with ExitStack() as stack:
            # Closed in the opposite order: the stage last, when nothing is under way in it any more.
            stack.callback(lambda: stage.close() if reader.opened else None)
            ready = map_ahead(
                lambda work: work._replace(prepared=stage.prepare(work.rows)), reader.missing(), _PREPARERS
            )
            stack.enter_context(closing(ready))
            # One thread keeps the order by itself; of several, a slow batch must not hold up the others.
            results = map_ahead(
                lambda work: (work, stage.process(work.rows, work.prepared)),
                ready,
                stage.threads,
                ordered=stage.threads == 1,
            )
            stack.enter_context(closing(results))
            for work, result in results:
                staging.add(result, work.keys, work.works)
                computed += len(result)
                if time.monotonic() - logged > LOG_SECONDS:
                    logged = time.monotonic()
                    log(
                        f"{area.folder}: {computed} rows computed, {computed / (logged - started):.1f} rows/s"
                    )
        facts = {**staging.last_used, **stage.facts()}
        staged = staging.finish(reader.rows, rows_skipped=reader.skipped, facts=facts)
    except BaseException:
        staging.abandon()
        raise
    _time(staged, started)
    return staged


def write_rows(
    schema: TableSchema,
    rows: Iterable[pa.RecordBatch],
    area: Area,
    run_id: str,
    counts: InputCounts | None = None,
    made_from: Sequence[Table | str] = (),
) -> Staged:
    """The next version of a table whose rows are ready: a reduction, or what a user's own asset returns.

    Args:
        schema: of the table.
        rows: all of them, in order.
        area: of the partition.
        run_id: of this run; unique.
        counts: what `rows` fills while it is read.
        made_from: see `run_stage`; one of the texts is the version of what makes the rows.
    """
    started = time.monotonic()
    staging = Staging(area, schema, run_id, basis=_basis(schema.digest(), made_from))
    if staging.is_current:
        return _kept(staging, {}, started)
    counts = counts or InputCounts()
    placed = 0
    try:
        for batch in rows:
            staging.add_and_place(batch)
            placed += len(batch)
        rows_in = counts.rows or placed
        staged = staging.finish(rows_in, rows_duplicate=counts.duplicates, rows_skipped=counts.skipped)
    except BaseException:
        staging.abandon()
        raise
    _time(staged, started)
    return staged


def _basis(fingerprint: bytes, made_from: Sequence[Table | str]) -> str | None:
    if not made_from:
        return None
    names = [it.identity if isinstance(it, Table) else it for it in made_from]
    return joined([fingerprint, json.dumps(names).encode()]).hex()


def _kept(staging: Staging, facts: dict[str, Any], started: float) -> Staged:
    try:
        staged = staging.keep(facts)
    except BaseException:
        staging.abandon()
        raise
    _time(staged, started)
    return staged


def _time(staged: Staged, started: float) -> None:
    seconds = time.monotonic() - started
    staged.report["seconds"] = round(seconds, 3)
    staged.report["rows_per_s"] = round(staged.report["rows_in"] / seconds, 2)


class _Reader:
    """Reads the input, tells the staging of every row, and hands on the rows that have to be computed."""

    def __init__(self, stage: Stage, rows: Iterable[pa.RecordBatch | Rows], staging: Staging) -> None:
        self._stage = stage
        self._input = rows
        self._staging = staging
        self._fingerprint = stage.fingerprint()
        self.rows = 0
        self.skipped = 0
        self.opened = False

    def missing(self) -> Iterator[_Work]:
        """What is to be computed, `batch_rows` at a time."""
        held: list[_Work] = []
        room = self._stage.batch_rows
        for batch in self._input:
            rows = batch if isinstance(batch, Rows) else Rows(batch)
            new = self._new_rows(rows)
            if new and not self.opened:
                # Here and not earlier: a refresh of what has not changed loads no model.
                self._stage.open()
                self.opened = True
            while new:
                now, new = new[:room], new[room:]
                places, keys, works = map(list, zip(*now, strict=True))
                held.append(_Work(rows.take(places), keys, works))
                room -= len(now)
                if not room or sum(part.rows.nbytes for part in held) > MAX_BATCH_BYTES:
                    yield _joined(held)
                    held, room = [], self._stage.batch_rows
        if held:
            yield _joined(held)

    def _new_rows(self, rows: Rows) -> list[tuple[int, bytes, bytes]]:
        """Of the rows to compute the number, the digest of the key, and the work key."""
        schema = self._stage.schema
        known = rows.known
        self._require_columns(rows)
        keys = row_digests(known, schema.key)
        nulls = null_keys(known, schema)
        works = self._work_keys(rows, nulls)
        failed = (
            known.column("error").is_valid().to_pylist()
            if "error" in known.schema.names
            else itertools.repeat(False)
        )
        new = []
        for row, (key, null, work, skip) in enumerate(zip(keys, nulls, works, failed, strict=False)):
            if skip:
                self.skipped += 1
            elif self._staging.place(None if null else key, work) is Place.NEW:
                new.append((row, key, work))
        self.rows += len(known)
        return new

    def _require_columns(self, rows: Rows) -> None:
        missing = {*self._stage.schema.key, *self._stage.reads} - {*rows.known.schema.names, *rows.lazy}
        if missing:
            raise TableError(
                f"table {self._stage.schema.name}: the stage {type(self._stage).__name__} reads {', '.join(sorted(missing))}, "
                f"and its input has only: {', '.join([*rows.known.schema.names, *rows.lazy])}"
            )

    def _work_keys(self, rows: Rows, nulls: list[bool]) -> list[bytes]:
        salt = self._fingerprint
        reads = [name for name in self._stage.reads if name not in rows.lazy]
        works = row_digests(rows.known, (*self._stage.schema.key, *reads), salt=salt)
        if len(reads) < len(self._stage.reads):
            if rows.digests is None:
                raise TableError(
                    f"table {self._stage.schema.name}: the stage reads {', '.join(rows.lazy)}, and its input has no digests of it"
                )
            works = [joined(pair) for pair in zip(works, rows.digests, strict=True)]
        if not any(nulls):
            return works
        # Rows without a key are told apart by all that the input says of them.
        whole = row_digests(rows.known, rows.known.schema.names, salt=salt)
        if rows.digests is not None:
            whole = [joined(pair) for pair in zip(whole, rows.digests, strict=True)]
        return [
            all_of_it if null else work for null, all_of_it, work in zip(nulls, whole, works, strict=True)
        ]


def _joined(held: list[_Work]) -> _Work:
    rows = pa.Table.from_batches([work.rows for work in held]).combine_chunks().to_batches()[0]
    return _Work(
        rows, [key for work in held for key in work.keys], [key for work in held for key in work.works]
    )
