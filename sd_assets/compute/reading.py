"""What of a stage's input has to be computed, and the batches that a stage is given."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from sd_assets.errors import TableError
from sd_assets.stages.stage import Stage, Work
from sd_assets.storage.digests import joined, row_digests
from sd_assets.storage.rows import Rows
from sd_assets.storage.staging import Place, Staging, null_keys

# A batch of large photographs is handed on before it has its rows: Arrow joins no more than 2 GiB.
MAX_BATCH_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Part:
    """Some rows that are to be computed, their images not read yet.

    Attributes:
        rows: that they are among.
        places: of each its number there.
        keys: of each the digest of its key.
        works: of each its work key.
    """

    rows: Rows
    places: Sequence[int]
    keys: Sequence[bytes]
    works: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.places)

    def cut(self, start: int, end: int) -> "Part":
        """Some of these rows."""
        return Part(self.rows, self.places[start:end], self.keys[start:end], self.works[start:end])

    def work(self) -> Work:
        """The rows with all columns: their images are read here."""
        return Work(self.rows.take(self.places), self.keys, self.works)


class Reader:
    """Reads the input, tells the staging of every row, and hands on the rows that have to be computed.

    Attributes:
        rows: that were read.
        skipped: of these, as an earlier stage had failed them.
    """

    def __init__(self, stage: Stage, rows: Iterable[pa.RecordBatch | Rows], staging: Staging) -> None:
        self._stage = stage
        self._input = rows
        self._staging = staging
        self._fingerprint = stage.fingerprint()
        self.rows = 0
        self.skipped = 0

    def parts(self) -> Iterator[Part]:
        """What is to be computed, in the order of the input."""
        for batch in self._input:
            rows = batch if isinstance(batch, Rows) else Rows(batch)
            new = self._new_rows(rows)
            if new:
                places, keys, works = map(list, zip(*new, strict=True))
                yield Part(rows, places, keys, works)

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


def batches(parts: Iterable[Part], stage: Stage) -> Iterator[Work]:
    """The rows of parts with their images, `batch_rows` of the stage at a time; it may change that meanwhile."""
    held: list[Work] = []
    room = stage.batch_rows
    for part in parts:
        start = 0
        while start < len(part):
            held.append(part.cut(start, start + room).work())
            start += room
            room -= len(held[-1].keys)
            if room <= 0 or sum(work.rows.nbytes for work in held) > MAX_BATCH_BYTES:
                yield _joined(held)
                held, room = [], stage.batch_rows
    if held:
        yield _joined(held)


def _joined(held: list[Work]) -> Work:
    rows = pa.Table.from_batches([work.rows for work in held]).combine_chunks().to_batches()[0]
    return Work(
        rows, [key for work in held for key in work.keys], [key for work in held for key in work.works]
    )
