"""What a stage is: a map from rows to rows that says of itself what its results depend on."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar

import pyarrow as pa

from sd_assets.ahead import map_ahead, map_by_turns
from sd_assets.errors import RowError
from sd_assets.schemas import TableSchema
from sd_assets.storage.digests import json_digest
from sd_assets.storage.memory import kept_for_reuse
from sd_assets.storage.staging import Judge

# More threads that prepare would hold more decoded images than they save time.
_MOST_PREPARERS = 16
# Rows that a thread prepares at once: the first batch is ready after the time for so many, not for all of its rows.
PART_ROWS = 16

# Of these work keys the stored rows that the stage's judge refused, as far as there are any, by work key; only these
# columns of them if some are named.
Refused = Callable[[Sequence[bytes], Sequence[str] | None], Mapping[bytes, Mapping[str, Any]]]


T = TypeVar("T")


class Work(NamedTuple):
    """Rows, of the input or of the table, with the digests of their keys and their work keys."""

    rows: pa.RecordBatch
    keys: Sequence[bytes]
    works: Sequence[bytes]


class _Part(NamedTuple):
    """Some of the rows of a batch."""

    work: Work
    rows: pa.RecordBatch
    is_last: bool


def _joined(parts: Iterable[tuple[_Part, list[Any]]]) -> Generator[tuple[Work, list[Any]], None, None]:
    """Batches, with what was prepared for all of their rows."""
    held: list[Any] = []
    for part, prepared in parts:
        held += prepared
        if part.is_last:
            yield part.work, held
            held = []


def one_by_one(work: Work) -> Iterator[Work]:
    """Each row alone."""
    for place, (key, digest) in enumerate(zip(work.keys, work.works, strict=True)):
        yield Work(work.rows.slice(place, 1), [key], [digest])


def together(works: Sequence[Work], schema: TableSchema) -> Work:
    """The rows of the table that several have, as one; of none, one without rows."""
    rows = pa.Table.from_batches([work.rows for work in works], schema.arrow).combine_chunks().to_batches()
    return Work(
        rows[0] if rows else pa.RecordBatch.from_pylist([], schema.arrow),
        [key for work in works for key in work.keys],
        [digest for work in works for digest in work.works],
    )


class Stage(ABC):
    """One row in, one row out, a batch at a time.

    The result of a row depends on its key, on the columns that the stage `reads`, on `version` and on `settings`,
    and on nothing else: together they are its work key, which alone decides whether a stored row is taken over. The
    input has the columns of the table's key; where it has a column `error` that is not null, an earlier stage failed
    the row, and it is skipped.

    Attributes:
        version: raise it when the code changes results.
        reads: input columns that change the result, besides the key.
        batch_rows: rows handed to `process` at once; must not change results. `open` may change it.
        processors: threads that call `process`, more than one where there are several devices. Likewise.
        on_cpu: whether `process` keeps all cores busy, so that nothing is prepared meanwhile. Likewise.
        judge: which stored rows may be taken over; None: all.
        is_spread: whether an engine of many workers spreads it: not what costs little, or has to be in one place.
        uses_device: whether `open` loads a model onto a device, if there is one.
        cores: that `process` and `prepare` may use together. Whoever opens the stage may set it; likewise.
        seat: the number of the worker that this is, and how many there are. Likewise.
        counts: what `run` counts on the way, for `facts`; what several workers count is added up.
    """

    version: ClassVar[str] = "1"
    reads: ClassVar[tuple[str, ...]] = ()
    batch_rows: int = 32
    processors: int = 1
    on_cpu: bool = False
    judge: Judge | None = None
    is_spread: bool = False
    uses_device: ClassVar[bool] = False
    cores: int = os.cpu_count() or 1
    seat: tuple[int, int] = (0, 1)

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter()

    @property
    @abstractmethod
    def schema(self) -> TableSchema:
        """Of the table."""

    def settings(self) -> Mapping[str, Any]:
        """What else changes the results (model, revision, size, prompt), as JSON; never timeouts or batch sizes."""
        return {}

    def open(self) -> None:  # noqa: B027 - most reductions of the contract have nothing to open
        """Load what `process` needs. Called once a worker, and only if there is a row to compute."""

    def groups(self, rows: pa.RecordBatch) -> Sequence[int] | None:
        """Numbers from 0: rows with the same one have to be computed by the same worker; None: each by any.

        Args:
            rows: of the input, without images.
        """
        return None

    def prepare(self, rows: pa.RecordBatch) -> list[Any]:
        """The part of the work that runs ahead, in threads, while `process` has the device: decoding, resizing.

        Args:
            rows: some of those that `process` then gets at once; see `parts`.

        Returns:
            for each row whatever `process` wants.
        """
        return [None] * len(rows)

    def parts(self, rows: pa.RecordBatch) -> list[int]:
        """Before which rows a batch may be cut for `prepare`, the first aside: a thread prepares a part."""
        return list(range(PART_ROWS, len(rows), PART_ROWS))

    def process(self, rows: pa.RecordBatch, prepared: list[Any]) -> pa.RecordBatch:
        """Rows of the table, one for each input row, in their order. What fails is a row with an error."""
        raise NotImplementedError(f"{type(self).__name__} has neither `process` nor a `run` of its own")

    def run(self, missing: Iterator[Work], refused: Refused) -> Generator[Work, None, None]:
        """The rows of the table for all that is missing: here by `process`, a batch after the other.

        A stage whose rows do not come one after the other (they wait for the web) has its own: it may answer in any order,
        and in other batches than it was given. While it waits, it should answer with a batch of no rows about once a second,
        so that what is finished is not held back.

        Args:
            missing: input rows, `batch_rows` at a time. The stage is open.
            refused: finds the stored rows that the judge refused.
        """

        by_turns = self.on_cpu
        parts = (part for work in missing for part in self._parts(work))
        preparers = min(self.cores, _MOST_PREPARERS)
        prepared = (map_by_turns if by_turns else map_ahead)(self._prepared, parts, preparers)
        with closing(prepared), closing(_joined(prepared)) as ready:
            if by_turns:
                with kept_for_reuse():
                    yield from map(self._processed, ready)
                return
            # In threads of their own, so that the devices work while what they made is written.
            with closing(map_ahead(self._processed, ready, self.processors)) as results:
                yield from results

    def _parts(self, work: Work) -> Iterator[_Part]:
        starts = [0, *self.parts(work.rows)]
        for start, end in zip(starts, [*starts[1:], len(work.rows)], strict=True):
            yield _Part(work, work.rows.slice(start, end - start), end == len(work.rows))

    def _prepared(self, part: _Part) -> tuple[_Part, list[Any]]:
        return part, self.prepare(part.rows)

    def _processed(self, ready: tuple[Work, list[Any]]) -> Work:
        work, prepared = ready
        return work._replace(rows=self.process(work.rows, prepared))

    def facts(self) -> dict[str, Any]:
        """What the stage used (model, device), for the metadata."""
        return {}

    def close(self) -> None:  # noqa: B027
        """Give back what `open` took."""

    def fingerprint(self) -> bytes:
        """16 bytes that change with everything but the rows that results depend on."""
        return json_digest(self.schema.digest().hex(), self.version, self.reads, dict(self.settings()))


@dataclass
class InputCounts:
    """What a reduction read, and what of it became no row; it counts while it streams."""

    rows: int = 0
    duplicates: int = 0
    skipped: int = 0


def rows_of(schema: TableSchema, rows: Iterable[Mapping[str, Any]]) -> pa.RecordBatch:
    """A batch from mappings; what a mapping does not name is null."""
    listed = list(rows)
    columns = [pa.array([row.get(field.name) for row in listed], field.type) for field in schema.arrow]
    return pa.RecordBatch.from_arrays(columns, schema=schema.arrow)


def each_row(batches: Iterable[pa.RecordBatch], at_once: int = 16) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries, a few at a time: as Python objects lists of hits are ten times as large, images copies."""
    for batch in batches:
        for start in range(0, len(batch), at_once):
            yield from batch.slice(start, at_once).to_pylist()


def or_error(make: Callable[[bytes], T], data: bytes) -> T | RowError:
    """What is made of an image as it is encoded, or why nothing can be: that is then said of its row."""
    try:
        return make(data)
    except RowError as error:
        return error


def failure(error: RowError) -> dict[str, str]:
    """The error columns of a row that failed."""
    return {"error": str(error.code), "error_detail": error.detail}
