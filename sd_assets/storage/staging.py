"""One run's work on one partition: what is at hand, what is new, and what the next version will be.

A run first says, row by row and in order, what the next version holds (`place`), and learns from that which rows are
at hand. It hands in the others when they are finished (`add`), in any order; they are kept as work in progress from
then on. `finish` puts the version together, rewriting no shard that is there already, and `Staged.commit` makes it
the current one.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema
from sd_assets.storage.area import Area, Lease, Manifest
from sd_assets.storage.digests import DIGEST_BYTES
from sd_assets.storage.memory import release_freed, use_system_allocator
from sd_assets.storage.shards import (
    ROW,
    Cutter,
    RowIndex,
    Shard,
    ShardFile,
    ShardRows,
    conformed,
    data_version,
    indexed,
    read_batches,
    shard_name,
    total,
)
from sd_assets.storage.table import Table

_log = logging.getLogger(__name__)

# Finished rows that do not fill a shard are kept as work in progress after so many seconds all the same.
FLUSH_SECONDS = 5.0
# What was freed goes back to the system so often, at least.
RELEASE_SECONDS = 0.5
# What `Area.last_run` says besides the report.
_OF_THE_RUN = ("run_id", "version", "made_by", "basis")
# Rows at hand that are put together in memory at once, about; and what is held of the shards that they come from: those
# that came in another order lie in many.
GATHER_BYTES = 2 * 1024 * 1024
HELD_BYTES = 24 * 1024 * 1024


class Place(Enum):
    """What `Staging.place` says of a row."""

    NEW = "new"  # to be computed, and handed in with `add`
    REUSED = "reused"  # at hand, from the last version or from an unfinished run
    PENDING = "pending"  # the same work is being computed for another row already
    DUPLICATE = "duplicate"  # an earlier row has this key: dropped


@dataclass(frozen=True)
class Judge:
    """Decides of stored rows whether they may be taken over.

    Attributes:
        columns: that `may_reuse` reads.
        may_reuse: rows -> one bool a row.
    """

    columns: tuple[str, ...]
    may_reuse: Callable[[pa.RecordBatch], Sequence[bool]]


class Staging:
    """See the module.

    Args:
        area: of the partition.
        schema: of the table.
        run_id: of this run; unique.
        judge: which stored rows may be taken over; None: all whose work key is asked for.
        basis: names all that the next version depends on; None: that cannot be told.

    Attributes:
        is_current: the current version was made on this basis, and no row of it is to be looked at again: `keep` it.
    """

    def __init__(
        self,
        area: Area,
        schema: TableSchema,
        run_id: str,
        judge: Judge | None = None,
        basis: str | None = None,
    ) -> None:
        self._area = area
        self._schema = schema
        self._run_id = run_id
        self._judge = judge
        self._basis = basis
        self._plan = bytearray()
        self._keys: set[bytes] = set()
        self._duplicates = 0
        self._reused = 0
        # Every row at hand: its index record, the shard it lies in, and its place there.
        self._shards: list[Shard] = []
        self._indices: list[RowIndex] = []
        self._starts = [0]  # the numbers of the first rows of the shards, and at last of all rows
        # By work key the number of the row at hand; until it is, its place in the plan, counted down from -1.
        self._by_work: dict[bytes, int] = {}
        # The same of those that the judge refused.
        self._refused: dict[bytes, int] = {}
        # By columns, what `refused` reads them with; made when it is first asked: by then those rows' numbers are final.
        self._refused_rows: dict[tuple[str, ...] | None, ShardRows] = {}
        self._own: list[Shard] = []
        # Added rows that no shard holds yet.
        self._held: list[pa.RecordBatch] = []
        self._held_index: list[RowIndex] = []
        self._cutter = Cutter(schema)
        self._flushed_at = self._released_at = time.monotonic()
        use_system_allocator()
        self._lease = area.lease(run_id)
        try:
            self._base = area.latest()
            current = self._base.shards if self._base else ()
            usable = {shard: self._usable(shard) for shard in current}
            self._last_run = area.last_run()
            same_basis = basis is not None and self._last_run.get("basis") == basis
            left = (self._last_run.get("version"), self._last_run.get("made_by"))
            same_version = self._base is not None and left == (self._base.version, self._base.run_id)
            nothing_refused = all(judged is None or all(judged) for judged in usable.values())
            self.is_current = same_basis and same_version and nothing_refused
            if not self.is_current:
                older = dict.fromkeys(shard for manifest in area.kept() for shard in manifest.shards)
                # A shard that comes back is the file that is there.
                self._named = {shard.name: shard for shard in older}
                # Of two rows with the same work the last one counts, so the current version comes last.
                for shard in (*older, *area.wip()):
                    # Another run's sweep may take it from under us; then its rows are computed again.
                    with suppress(FileNotFoundError, TableError):
                        if shard not in usable:
                            self._register(shard, area.read_index(shard), self._usable(shard))
                for shard, judged in usable.items():
                    self._register(shard, area.read_index(shard), judged)
            self._taken_over = self._starts[-1]
        except BaseException:
            self._lease.close()
            raise

    @property
    def last_used(self) -> dict[str, Any]:
        """What the run that made the last version said of the model it used, for a run that needs none."""
        report = self._base.report if self._base else {}
        return {name: report[name] for name in ("model", "device", "precision") if name in report}

    # --- what the next version holds -----------------------------------------------------------------------------

    def place(self, key: bytes | None, work: bytes) -> Place:
        """The next row of the version has this key (a digest; None where a key column is null) and work key."""
        if key is not None:
            if key in self._keys:
                self._duplicates += 1
                return Place.DUPLICATE
            self._keys.add(key)
        self._plan += work
        row = self._by_work.get(work)
        if row is None:
            self._by_work[work] = -len(self._plan) // DIGEST_BYTES
            return Place.NEW
        if row < 0 or row >= self._taken_over:
            return Place.PENDING
        self._reused += 1
        return Place.REUSED

    def refused(
        self, works: Sequence[bytes], columns: Sequence[str] | None = None
    ) -> dict[bytes, dict[str, Any]]:
        """Of these work keys the rows at hand that the judge refused, as far as there are any; read here.

        Some of what was read last is held: they are asked for a few at a time, and about in the order of the table.

        Args:
            works: of new rows.
            columns: None: all.
        """
        found = [work for work in works if work in self._refused]
        if not found:
            return {}
        names = None if columns is None else tuple(columns)
        if names not in self._refused_rows:
            self._refused_rows[names] = self._rows(names)
        rows = self._refused_rows[names].take(np.array([self._refused[work] for work in found]))
        return dict(zip(found, rows.to_pylist(), strict=True))

    def add(self, rows: pa.RecordBatch | pa.Table, keys: Sequence[bytes], works: Sequence[bytes]) -> None:
        """Finished rows: the digests of the keys they must have, in order, and their work keys.

        Without rows it only sees to it that none of those before is held back too long.

        Raises:
            TableError: the rows do not have the table's columns and types, or not these keys.
        """
        batch = conformed(rows, self._schema)
        if len(batch) != len(keys):
            raise TableError(
                f"table {self._schema.name}: the stage answered {len(batch)} rows to {len(keys)}"
            )
        index = indexed(batch, self._schema, works)
        if index["key"].tolist() != list(keys):
            raise TableError(
                f"table {self._schema.name}: the stage answered other rows than it was given: it must answer one for "
                f"each, with the same {', '.join(self._schema.key)}, in order"
            )
        start = 0
        for row, (key, size) in enumerate(zip(index["key"].tolist(), index["size"].tolist(), strict=True)):
            if self._cutter.ends_after(key, size):
                self._hold(batch.slice(start, row + 1 - start), index[start : row + 1])
                self._flush()
                start = row + 1
        self._hold(batch.slice(start), index[start:])
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self._flush()
        elif time.monotonic() - self._released_at > RELEASE_SECONDS:
            self._release()

    def add_and_place(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Rows that are finished from the start, in order: a reduction, or a table that a user's asset returns.

        Their work keys are the digests of all that they hold.
        """
        batch = conformed(rows, self._schema)
        index = indexed(batch, self._schema)
        nulls = null_keys(batch, self._schema)
        new: list[int] = []
        for row, (key, work) in enumerate(zip(index["key"].tolist(), index["work"].tolist(), strict=True)):
            if self.place(None if nulls[row] else key, work) is Place.NEW:
                new.append(row)
        if new:
            kept = index[new]
            self.add(batch.take(pa.array(new)), kept["key"].tolist(), kept["work"].tolist())

    # --- the version ---------------------------------------------------------------------------------------------

    def keep(self, facts: dict[str, Any] | None = None) -> "Staged":
        """The current version as it is; only if `is_current`."""
        assert self.is_current and self._base is not None
        base = self._base
        report = {name: it for name, it in self._last_run.items() if name not in _OF_THE_RUN}
        rows = report["rows_ok"] + report["rows_failed"]
        report |= {"rows_reused": rows, "rows_computed": 0, **(facts or {})}
        return Staged(
            self._area,
            self._schema,
            base,
            base.shards,
            base.data_version,
            self._run_id,
            report,
            (),
            self._lease,
            None,
            self._basis,
        )

    def finish(
        self,
        rows_in: int,
        *,
        rows_duplicate: int = 0,
        rows_skipped: int = 0,
        facts: dict[str, Any] | None = None,
    ) -> "Staged":
        """Put the next version together.

        Args:
            rows_in: input rows, as whoever read them counted.
            rows_duplicate: input rows that were found to repeat a key before they were placed.
            rows_skipped: input rows that an earlier stage had failed.
            facts: what else the report is to say.

        Raises:
            TableError: a row that was placed has not been added, or the counts do not add up.
        """
        self._flush()
        self._refused_rows.clear()  # what it holds; as much is held again below
        plan = bytes(self._plan)
        works = (plan[start : start + DIGEST_BYTES] for start in range(0, len(plan), DIGEST_BYTES))
        positions = np.fromiter((self._by_work[work] for work in works), np.int64)
        missing = int((positions < 0).sum())
        if missing:
            raise TableError(
                f"table {self._schema.name}: the stage answered nothing for {missing} of {len(positions)} rows"
            )
        planned = (np.concatenate(self._indices) if self._indices else np.empty(0, ROW))[positions]
        at_hand = self._rows()
        shards = []
        for start, end in self._cuts(planned):
            gathered = partial(self._gathered, planned[start:end], positions[start:end], at_hand)
            shards.append(self._written(planned[start:end], gathered))
            self._release()
        failed = Counter(code.decode() for code in planned["error"].tolist() if code)
        rows, size = total(shards)
        duplicates = self._duplicates + rows_duplicate
        if rows_in != rows + duplicates + rows_skipped:
            raise TableError(
                f"table {self._schema.name}: of {rows_in} rows, {rows} are in the table, {duplicates} were "
                f"duplicates and {rows_skipped} were skipped: that does not add up"
            )
        report = {
            "rows_in": rows_in,
            "rows_ok": rows - failed.total(),
            "rows_failed": failed.total(),
            "rows_duplicate": duplicates,
            "rows_skipped": rows_skipped,
            "rows_reused": self._reused,
            "rows_computed": rows - self._reused,
            "failures": dict(sorted(failed.items())),
            "bytes": size,
            "shards": len(shards),
            **(facts or {}),
        }
        version = data_version(planned)
        return Staged(
            self._area,
            self._schema,
            self._base,
            tuple(shards),
            version,
            self._run_id,
            report,
            tuple(self._own),
            self._lease,
            planned["error"].copy(),
            self._basis,
        )

    def abandon(self) -> None:
        """Stop without a version. What was finished stays as work in progress, as far as it can be written."""
        try:
            self._flush()
        except Exception as error:  # why we stop is more than this
            _log.warning("%s: the last finished rows could not be kept: %s", self._area.folder, error)
        finally:
            self._lease.close()

    # --- inside --------------------------------------------------------------------------------------------------

    def _usable(self, shard: Shard) -> list[bool] | None:
        """What the judge says of the rows of a shard; None: all may be taken over."""
        if self._judge is None:
            return None
        with self._area.open_shard(shard) as file:
            if not set(self._judge.columns) <= set(pq.read_schema(file).names):
                return [False] * shard.rows  # it is of an older schema
            return [
                ok for batch in read_batches(file, self._judge.columns) for ok in self._judge.may_reuse(batch)
            ]

    def _register(self, shard: Shard, index: RowIndex, usable: Sequence[bool] | None = None) -> None:
        for row, work in enumerate(index["work"].tolist()):
            at_hand = self._by_work if usable is None or usable[row] else self._refused
            at_hand[work] = self._starts[-1] + row
        self._named[shard.name] = shard
        self._shards.append(shard)
        self._indices.append(index)
        self._starts.append(self._starts[-1] + len(index))

    def _hold(self, rows: pa.RecordBatch, index: RowIndex) -> None:
        if len(index):
            self._held.append(rows)
            self._held_index.append(index)

    def _flush(self) -> None:
        """Keep what `_hold` got as a shard of work in progress, in the order of the plan.

        So what a shard of the next version needs of it lies together, in whatever order the rows came.
        """
        self._flushed_at = time.monotonic()
        if not self._held:
            return
        held, self._held = self._held, []
        index = np.concatenate(self._held_index)
        self._held_index = []
        order = np.argsort([-self._by_work[work] for work in index["work"].tolist()], kind="stable")
        index = index[order]
        shard = self._written(index, partial(self._file_of, held, order, index["size"]))
        self._area.record_wip(self._run_id, shard)
        self._register(shard, index)
        self._release()

    def _file_of(
        self, held: list[pa.RecordBatch], order: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
    ) -> ShardFile:
        """A shard of held rows in this order. Empties `held`: what is in the file is not in memory twice."""
        starts = np.cumsum([0, *map(len, held)])
        batch_of = np.searchsorted(starts, order, side="right") - 1
        breaks = np.flatnonzero((np.diff(order) != 1) | (np.diff(batch_of) != 0)) + 1
        runs: deque[pa.Table] = deque()  # rows that follow one another in a batch, too, are not copied
        for start, end in zip([0, *breaks], [*breaks, len(order)], strict=True):
            batch = batch_of[start]
            rows = held[batch].slice(order[start] - starts[batch], end - start)
            runs.append(pa.Table.from_batches([rows]))
        held.clear()
        file = ShardFile(self._schema)
        while runs:
            run = runs.popleft()
            file.add(run, sizes[file.rows : file.rows + len(run)].tolist())
        return file

    def _release(self) -> None:
        release_freed()
        self._released_at = time.monotonic()

    def _written(self, index: RowIndex, file: Callable[[], ShardFile]) -> Shard:
        """The shard of these rows; only what of it is not there yet is written."""
        known = self._named.get(shard_name(index, self._schema))
        if known is None:
            shard = self._area.put_shard(file(), index, self._schema)
        elif known.index == self._area.index_name(index):
            return known
        else:
            shard = replace(known, index=self._area.put_index(index))
        self._own.append(shard)
        self._named[shard.name] = shard
        return shard

    def _cuts(self, planned: RowIndex) -> list[tuple[int, int]]:
        """Where the next version's shards begin and end; an empty table has one shard of no rows."""
        cutter = Cutter(self._schema)
        rows = zip(planned["key"].tolist(), planned["size"].tolist(), strict=True)
        ends = [row + 1 for row, (key, size) in enumerate(rows) if cutter.ends_after(key, size)]
        if not ends or ends[-1] != len(planned):
            ends.append(len(planned))
        return list(zip([0, *ends], ends, strict=False))

    def _rows(self, columns: Sequence[str] | None = None) -> ShardRows:
        """The rows at hand, by their numbers."""
        return ShardRows(
            lambda number: self._area.open_shard(self._shards[number]), self._starts, columns, HELD_BYTES
        )

    def _gathered(self, index: RowIndex, positions: npt.NDArray[np.int64], at_hand: ShardRows) -> ShardFile:
        """A shard of rows at hand; few of them are in memory at a time."""
        file = ShardFile(self._schema)
        part_of = np.cumsum(index["size"], dtype=np.int64) // GATHER_BYTES
        ends = [*np.flatnonzero(np.diff(part_of)) + 1, len(index)]
        for start, end in zip([0, *ends], ends, strict=False):
            if start < end:
                file.add(at_hand.take(positions[start:end]), index["size"][start:end].tolist())
        return file


@dataclass(frozen=True)
class Staged:
    """A version that is complete, and not current yet.

    Attributes:
        data_version: digest of its content.
        report: rows_in = rows_ok + rows_failed + rows_duplicate + rows_skipped; of the rows there are, rows_reused and
            rows_computed; failures by code, bytes, shards, and what the stage said of itself.
        own: the shards that this run wrote, of this version or on the way to it.
        errors: the error codes of its rows, in order, empty where a row is good; None: not read yet.
        basis: see `Staging`.
    """

    area: Area
    schema: TableSchema
    base: Manifest | None
    shards: tuple[Shard, ...]
    data_version: str
    run_id: str
    report: dict[str, Any]
    own: tuple[Shard, ...]
    lease: Lease
    errors: npt.NDArray[np.bytes_] | None
    basis: str | None

    def table(self) -> Table:
        """Its rows, to be read before it is committed."""
        number = self.base.version + 1 if self.base else 1
        manifest = Manifest(number, self.data_version, self.run_id, "", self.shards, self.report)
        return Table(self.area, manifest, self.errors)

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """Around what comes between this and the commit: if it fails, the run does not count as alive any more."""
        try:
            yield
        except BaseException:
            self.lease.close()
            raise

    def commit(self) -> Manifest:
        """Make it the current version. Raises TableError if another run was first."""
        try:
            manifest = self.area.commit(
                self.schema,
                self.base,
                self.shards,
                self.data_version,
                self.run_id,
                self.report,
                self.lease,
                self.basis,
            )
            try:
                self.area.sweep(self.run_id, self.own)
            except Exception as error:  # it is committed; what stays behind, a later sweep finds
                _log.warning("%s: the sweep failed: %s", self.area.folder, error)
        finally:
            self.lease.close()
        return manifest


def null_keys(rows: pa.RecordBatch, schema: TableSchema) -> list[bool]:
    """For each row, whether a key column is null: such rows have no key that could occur twice."""
    columns = [rows.column(name).is_null().to_pylist() for name in schema.key]
    return [any(row) for row in zip(*columns, strict=True)]
