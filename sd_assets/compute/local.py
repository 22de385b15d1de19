"""A stage in this process: what is missing is read and handed to it, what it answers is kept as it comes."""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema
from sd_assets.stages.stage import InputCounts, Stage, Work
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
    missing = reader.missing()
    computed = 0
    logged = started
    try:
        first = next(missing, None)
        if first is not None:  # a refresh of what has not changed loads no model
            stage.open()
            try:
                work = itertools.chain([first], missing)
                with closing(stage.run(work, staging.refused)) as results:
                    for done in results:
                        staging.add(*done)
                        computed += len(done.keys)
                        if time.monotonic() - logged > LOG_SECONDS:
                            logged = time.monotonic()
                            speed = computed / (logged - started)
                            log(f"{area.folder}: {computed} rows computed, {speed:.1f} rows/s")
            finally:
                stage.close()
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

    def missing(self) -> Iterator[Work]:
        """What is to be computed, `batch_rows` at a time."""
        held: list[Work] = []
        room = self._stage.batch_rows
        for batch in self._input:
            rows = batch if isinstance(batch, Rows) else Rows(batch)
            new = self._new_rows(rows)
            while new:
                now, new = new[:room], new[room:]
                places, keys, works = map(list, zip(*now, strict=True))
                held.append(Work(rows.take(places), keys, works))
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


def _joined(held: list[Work]) -> Work:
    rows = pa.Table.from_batches([work.rows for work in held]).combine_chunks().to_batches()[0]
    return Work(
        rows, [key for work in held for key in work.keys], [key for work in held for key in work.works]
    )
