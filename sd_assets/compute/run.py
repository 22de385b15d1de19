"""Bringing a partition's table up to date: what is missing is read and handed to an engine, and the version is put together."""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from sd_assets.compute.local import Local
from sd_assets.compute.metrics import complete
from sd_assets.compute.reading import Part, Reader
from sd_assets.schemas import TableSchema
from sd_assets.stages.stage import InputCounts, Stage
from sd_assets.storage.area import Area
from sd_assets.storage.digests import joined
from sd_assets.storage.rows import Rows
from sd_assets.storage.staging import Staged, Staging
from sd_assets.storage.table import Table

Log = Callable[[str], None]


class Engine(Protocol):
    """Where a stage computes."""

    def compute(self, stage: Stage, parts: Iterator[Part], staging: Staging, log: Log) -> dict[str, Any]:
        """Have the rows of all parts computed, and handed to the staging.

        Args:
            stage: not open.
            parts: at least one.
            staging: of this run.
            log: for a line of progress now and then.

        Returns:
            The stage's facts.
        """

    def close(self) -> None:
        """The version is put together, or the run has failed."""


def run_stage(
    stage: Stage,
    rows: Iterable[pa.RecordBatch | Rows],
    area: Area,
    run_id: str,
    log: Log,
    made_from: Sequence[Table | str] = (),
    engine: Engine | None = None,
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
        engine: None: this process.

    Raises:
        TableError: the stage broke its contract; or the storage could not be written.
        Whatever the stage raises; what was finished before is kept for the next run.
    """
    started = time.monotonic()
    staging = Staging(area, stage.schema, run_id, stage.judge, _basis(stage.fingerprint(), made_from))
    if staging.is_current:
        return _kept(staging, stage.facts(), started)
    reader = Reader(stage, rows, staging)
    engine = engine or Local()
    try:
        try:
            parts = reader.parts()
            first = next(parts, None)
            # A refresh of what has not changed loads no model.
            facts = (
                engine.compute(stage, itertools.chain([first], parts), staging, log)
                if first
                else stage.facts()
            )
            staged = staging.finish(
                reader.rows, rows_skipped=reader.skipped, facts={**staging.last_used, **facts}
            )
        finally:
            engine.close()  # before the lease ends: until then others may still write
    except BaseException:
        staging.abandon()
        raise
    complete(staged.report, time.monotonic() - started)
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
    complete(staged.report, time.monotonic() - started)
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
    complete(staged.report, time.monotonic() - started)
    return staged
