"""One run's work on one partition: what is at hand, what is new, and what the next version will be.

A run first says, row by row and in order, what the next version holds (`place`), and learns from that which rows are
at hand. It hands in the others when they are finished (`add`), in any order. The version is put together meanwhile: a
shard is written as soon as its last row is there, unless it is there already. Rows that have to wait for others for long
are kept as work in progress. `finish` ends the last shard, and `Staged.commit` makes the version the current one.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.ahead import map_ahead
from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema
from sd_assets.storage.area import AT_ONCE, Area, Lease, Manifest
from sd_assets.storage.digests import DIGEST_BYTES
from sd_assets.storage.elsewhere import FLUSH_SECONDS, GATHER_BYTES, HELD_BYTES, Assembly, finished
from sd_assets.storage.held import Held
from sd_assets.storage.memory import release_freed, use_system_allocator
from sd_assets.storage.shards import (
    ROW,
    SHARD_BYTES,
    Cutter,
    RowIndex,
    Shard,
    ShardFile,
    ShardRows,
    by_part,
    conformed,
    data_version,
    indexed,
    read_batches,
    shard_name,
    total,
)
from sd_assets.storage.table import Table

_log = logging.getLogger(__name__)

T = TypeVar("T")

# What was freed goes back to the system so often, at least.
RELEASE_SECONDS = 2.0
# What `Area.last_run` says besides the report.
_OF_THE_RUN = ("run_id", "version", "made_by", "basis")
# Finished rows that wait in memory for others of their shard: more of them are kept as work in progress. Most shards that
# come in order are smaller.
_WAITING_BYTES = SHARD_BYTES * 3 // 2
# Rows of the plan that are looked at together.
_PLAN_ROWS = 16_384


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
        name: of asset and partition.
        run_id: of this run.
        assemble: has a shard put together elsewhere; None: it is done here, at once.
    """

    def __init__(
        self,
        area: Area,
        schema: TableSchema,
        run_id: str,
        judge: Judge | None = None,
        basis: str | None = None,
    ) -> None:
        self.name = area.folder
        self.run_id = run_id
        self.assemble: Callable[[Assembly], Future[Shard]] | None = None
        self.area = area
        self._schema = schema
        self._judge = judge
        self._basis = basis
        self._plan = bytearray()
        self._keys: set[bytes] = set()
        self._duplicates = 0
        self._reused = 0
        # Every row in a shard: its index record, the shard, and its place there.
        self._shards: list[Shard] = []
        self._indices: list[RowIndex] = []
        self._starts = [0]  # the numbers of the first rows of the shards, and at last of all rows
        self._taken_over = 0  # numbers below this are of rows that earlier runs finished
        # By work key the number of the row in a shard; until it is in one, its place in the plan, counted down from -1.
        self._by_work: dict[bytes, int] = {}
        # The same of those that the judge refused.
        self._refused: dict[bytes, int] = {}
        # By columns, what rows in shards are read with.
        self._readers: dict[tuple[str, ...] | None, ShardRows] = {}
        self._own: list[Shard] = []
        # Added rows that no shard holds yet.
        self._held = Held()
        # The next version as far as it is put together: its shards (or who makes them) and their rows; the rows of the shard
        # that comes next, as far as they are there; how many rows of the plan these are in all.
        self._version: list[Shard | Future[Shard]] = []
        self._planned: list[RowIndex] = []
        self._next: list[RowIndex] = []
        self._looked_at = 0
        self._cutter = Cutter(schema.shard_rows)
        self._released_at = time.monotonic()
        use_system_allocator()
        self._lease = area.lease(run_id)
        try:
            self._base = area.latest()
            current = self._base.shards if self._base else ()
            usable = dict(self._judged(current))
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
                others = [shard for shard in (*older, *area.wip()) if shard not in usable]
                # Another run's sweep may take one of these from under us; then its rows are computed again.
                judged = dict(self._judged(others, may_be_gone=True))
                self._register_all(judged, may_be_gone=True)
                self._register_all(usable)
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
        rows = self._reader(names).take(np.array([self._refused[work] for work in found]))
        return dict(zip(found, rows.to_pylist(), strict=True))

    def add(self, rows: pa.RecordBatch | pa.Table, keys: Sequence[bytes], works: Sequence[bytes]) -> None:
        """Finished rows: the digests of the keys they must have, in order, and their work keys.

        Without rows it only sees to it that none of those before is held back too long.

        Raises:
            TableError: the rows do not have the table's columns and types, or not these keys.
        """
        batch, index = finished(self._schema, rows, keys, works)
        self._held.add(batch, index)
        self._put_together()
        many = self._held.bytes >= _WAITING_BYTES or len(self._held) >= 4 * self._schema.shard_rows
        if many or self._held.seconds > FLUSH_SECONDS:
            self._flush()
        elif time.monotonic() - self._released_at > RELEASE_SECONDS:
            self._release()

    def add_shard(self, shard: Shard, index: RowIndex) -> None:
        """Finished rows that somebody else has written, and recorded as work in progress of this run."""
        self._own.append(shard)
        self._register(shard, index)
        self._put_together()

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
            self.area,
            self._schema,
            base,
            base.shards,
            base.data_version,
            self.run_id,
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
        self._put_together()
        rows_left = bytes(self._plan[self._looked_at * DIGEST_BYTES :])
        works = (rows_left[start : start + DIGEST_BYTES] for start in range(0, len(rows_left), DIGEST_BYTES))
        missing = sum(not self._is_there(work) for work in works)
        if missing:
            raise TableError(
                f"table {self._schema.name}: the stage answered nothing for {missing} of "
                f"{len(self._plan) // DIGEST_BYTES} rows"
            )
        if any(map(len, self._next)) or not self._version:  # an empty table has one shard of no rows
            self._end_shard()
        self._close_readers()
        planned = np.concatenate(self._planned)
        shards = [self._made(shard) for shard in self._version]
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
            self.area,
            self._schema,
            self._base,
            tuple(shards),
            version,
            self.run_id,
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
            _log.warning("%s: the last finished rows could not be kept: %s", self.area.folder, error)
        finally:
            self._close_readers()
            self._lease.close()

    # --- inside --------------------------------------------------------------------------------------------------

    def _judged(
        self, shards: Iterable[Shard], *, may_be_gone: bool = False
    ) -> Iterator[tuple[Shard, list[bool] | None]]:
        """Shards with what the judge says of their rows; None: all may be taken over."""
        judge = self._judge
        if judge is None:
            yield from ((shard, None) for shard in shards)
            return
        columns = judge.columns

        def read(shard: Shard) -> list[pa.RecordBatch] | None:
            with self.area.open_shard(shard) as file:
                if not set(columns) <= set(pq.read_schema(file).names):
                    return None  # it is of an older schema
                return list(read_batches(file, columns))

        for shard, batches in self._read_ahead(read, shards, may_be_gone=may_be_gone):
            # One after the other: a judge may remember what it has seen.
            told = None if batches is None else [ok for batch in batches for ok in judge.may_reuse(batch)]
            yield shard, [False] * shard.rows if told is None else told

    def _register_all(
        self, judged: Mapping[Shard, Sequence[bool] | None], *, may_be_gone: bool = False
    ) -> None:
        for shard, index in self._read_ahead(self.area.read_index, judged, may_be_gone=may_be_gone):
            self._register(shard, index, judged[shard])

    def _read_ahead(
        self, read: Callable[[Shard], T], shards: Iterable[Shard], *, may_be_gone: bool
    ) -> Iterator[tuple[Shard, T]]:
        """What is read of each shard, in order, several at once."""

        def with_shard(shard: Shard) -> tuple[Shard, T] | None:
            try:
                return shard, read(shard)
            except (FileNotFoundError, TableError):
                if may_be_gone:
                    return None
                raise

        with closing(map_ahead(with_shard, shards, AT_ONCE)) as found:
            yield from filter(None, found)

    def _register(self, shard: Shard, index: RowIndex, usable: Sequence[bool] | None = None) -> None:
        for row, work in enumerate(index["work"].tolist()):
            at_hand = self._by_work if usable is None or usable[row] else self._refused
            if not 0 <= at_hand.get(work, -1) < self._taken_over:  # what was taken over stays that
                at_hand[work] = self._starts[-1] + row
        self._named[shard.name] = shard
        self._shards.append(shard)
        self._indices.append(index)
        self._starts.append(self._starts[-1] + len(index))

    def _flush(self) -> None:
        """Keep what is held as a shard of work in progress, in the order of the plan.

        So what a shard of the next version needs of it lies together, in whatever order the rows came.
        """
        if not len(self._held):
            return
        works = sorted(self._held.works(), key=lambda work: -self._by_work[work])
        self._record(self._held.records(works))

    def _record(self, index: RowIndex) -> Shard:
        """The shard of these rows, some of which are held; they are in it from then on, and safe."""
        shard = self._written(index)
        self.area.record_wip(self.run_id, shard)
        self._register(shard, index)
        self._held.drop(index["work"].tolist())
        return shard

    def _put_together(self) -> None:
        """Write the next version's shards as far as all their rows are there."""
        while works := self._ready():
            index = self._records(works)
            start = 0
            rows = zip(index["key"].tolist(), index["size"].tolist(), strict=True)
            for end, (key, size) in enumerate(rows, 1):
                if self._cutter.ends_after(key, size):
                    self._next.append(index[start:end])
                    self._end_shard()
                    start = end
            self._next.append(index[start:])

    def _ready(self) -> list[bytes]:
        """The work keys of some of the plan's next rows, up to the first that is not there."""
        works: list[bytes] = []
        planned = len(self._plan) // DIGEST_BYTES
        while len(works) < _PLAN_ROWS and self._looked_at < planned:
            start = self._looked_at * DIGEST_BYTES
            work = bytes(self._plan[start : start + DIGEST_BYTES])
            if not self._is_there(work):
                break
            works.append(work)
            self._looked_at += 1
        return works

    def _is_there(self, work: bytes) -> bool:
        return self._by_work[work] >= 0 or work in self._held

    def _end_shard(self) -> None:
        """The next version's next shard is `_next`; only if it is not there yet it is written."""
        index = np.concatenate(self._next) if self._next else np.empty(0, ROW)
        self._next = []
        any_held = any(work in self._held for work in index["work"].tolist())
        if any_held:
            self._version.append(self._record(index))
        elif self.assemble and len(index) and shard_name(index, self._schema) not in self._named:
            self._version.append(self.assemble(self._assembly(index)))
        else:
            self._version.append(self._written(index))
        self._planned.append(index)

    def _made(self, shard: "Shard | Future[Shard]") -> Shard:
        if isinstance(shard, Future):
            shard = shard.result()
            self._own.append(shard)
        return shard

    def _assembly(self, index: RowIndex) -> Assembly:
        """Where the rows of a shard lie, all of which are in shards."""
        numbers = self._numbers(index["work"].tolist())
        parts = list(by_part(self._starts, numbers))
        shards = tuple(self._shards[part] for part, _ in parts)
        starts = np.cumsum([0, *(shard.rows for shard in shards)])
        for start, (part, places) in zip(starts, parts, strict=False):
            numbers[places] += start - self._starts[part]
        return Assembly(self.area, self._schema, index, shards, starts, numbers)

    def stored(self, works: Sequence[bytes]) -> dict[bytes, tuple[Shard, int]]:
        """Of these work keys the rows at hand that the judge refused: the shard of each, and its place there."""
        found = {work: self._refused[work] for work in works if work in self._refused}
        parts = np.searchsorted(self._starts, list(found.values()), side="right") - 1
        return {
            work: (self._shards[part], number - self._starts[part])
            for (work, number), part in zip(found.items(), parts.tolist(), strict=True)
        }

    def _release(self) -> None:
        release_freed()
        self._released_at = time.monotonic()

    def _written(self, index: RowIndex) -> Shard:
        """The shard of these rows; only what of it is not there yet is written."""
        known = self._named.get(shard_name(index, self._schema))
        if known is None:
            shard = self.area.put_shard(self._file_of(index), index, self._schema)
            self._release()
        elif known.index == self.area.index_name(index):
            return known
        else:
            shard = replace(known, index=self.area.put_index(index))
        self._own.append(shard)
        self._named[shard.name] = shard
        return shard

    def _numbers(self, works: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Where rows are, see `_by_work`."""
        return np.array([self._by_work[work] for work in works], np.int64)

    def _records(self, works: Sequence[bytes]) -> RowIndex:
        """The index records of rows that are there."""
        numbers = self._numbers(works)
        index = np.empty(len(works), ROW)
        held = np.flatnonzero(numbers < 0).tolist()
        index[held] = self._held.records([works[place] for place in held])
        in_shards = np.flatnonzero(numbers >= 0)
        for shard, places in by_part(self._starts, numbers[in_shards]):
            at = in_shards[places]
            index[at] = self._indices[shard][numbers[at] - self._starts[shard]]
        return index

    def _close_readers(self) -> None:
        """So that the space of shards that are deleted is free."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _reader(self, columns: tuple[str, ...] | None = None) -> ShardRows:
        """Reads rows in shards by their numbers."""
        if columns not in self._readers:
            self._readers[columns] = ShardRows(
                lambda number: self.area.open_shard(self._shards[number]), self._starts, columns, HELD_BYTES
            )
        return self._readers[columns]

    def _file_of(self, index: RowIndex) -> ShardFile:
        """A shard of these rows, in this order. What is in the file is not held any more: it would be in memory twice."""
        works: list[bytes] = index["work"].tolist()
        last = {work: row for row, work in enumerate(works)}  # of rows without a key some may be alike
        numbers = self._numbers(works)
        part_of = np.cumsum(index["size"], dtype=np.int64) // GATHER_BYTES
        ends = [*np.flatnonzero(np.diff(part_of) | np.diff(numbers < 0)) + 1, len(index)]
        file = ShardFile(self._schema)
        for start, end in zip([0, *ends], ends, strict=False):
            if start == end:
                continue
            if numbers[start] < 0:
                rows = self._held.take(works[start:end])
                self._held.drop(work for row, work in enumerate(works[start:end], start) if last[work] == row)
            else:
                rows = self._reader().take(numbers[start:end])
            file.add(rows, index["size"][start:end].tolist())
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
