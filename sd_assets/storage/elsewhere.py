"""What another process needs to do a part of a run's writing: keep rows that are finished, and put shards together.

All that goes to it and comes back is small and can be pickled; rows are read from the storage, and written to it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema
from sd_assets.storage.area import Area
from sd_assets.storage.held import Held
from sd_assets.storage.shards import (
    SHARD_BYTES,
    RowIndex,
    Shard,
    ShardFile,
    ShardRows,
    conformed,
    indexed,
)

# Finished rows are kept after so many seconds.
FLUSH_SECONDS = 5.0
# Rows that are put together in memory at once, about; and what is held of the shards that they come from: those that came in
# another order lie in many.
GATHER_BYTES = 2 * 1024 * 1024
HELD_BYTES = 24 * 1024 * 1024


def finished(
    schema: TableSchema, rows: pa.RecordBatch | pa.Table, keys: Sequence[bytes], works: Sequence[bytes]
) -> tuple[pa.RecordBatch, RowIndex]:
    """Rows that a stage answered, with their index.

    Args:
        schema: of the table.
        rows: that the stage answered.
        keys: the digests of the keys they must have, in order.
        works: their work keys.

    Raises:
        TableError: the rows do not have the table's columns and types, or not these keys.
    """
    batch = conformed(rows, schema)
    if len(batch) != len(keys):
        raise TableError(f"table {schema.name}: the stage answered {len(batch)} rows to {len(keys)}")
    index = indexed(batch, schema, works)
    if index["key"].tolist() != list(keys):
        raise TableError(
            f"table {schema.name}: the stage answered other rows than it was given: it must answer one for "
            f"each, with the same {', '.join(schema.key)}, in order"
        )
    return batch, index


class WorkInProgress:
    """Rows that one worker has finished: kept as shards of work in progress, which the next run takes over if this one fails.

    Args:
        area: of the partition.
        schema: of the table.
        run_id: of the run, whose lease keeps them from being swept.
    """

    def __init__(self, area: Area, schema: TableSchema, run_id: str) -> None:
        self._area = area
        self._schema = schema
        self._run_id = run_id
        self._held = Held()

    def add(self, rows: pa.RecordBatch, keys: Sequence[bytes], works: Sequence[bytes]) -> None:
        """Finished rows; see `finished`."""
        self._held.add(*finished(self._schema, rows, keys, works))

    @property
    def is_due(self) -> bool:
        """Whether so much, or so old, is held that it should be written."""
        many = self._held.bytes >= SHARD_BYTES or len(self._held) >= 4 * self._schema.shard_rows
        return many or self._held.seconds > FLUSH_SECONDS

    def flush(self) -> tuple[Shard, RowIndex] | None:
        """Write what is held, in the order in which it came; None: nothing is."""
        works = self._held.works()
        if not works:
            return None
        index = self._held.records(works)
        file = ShardFile(self._schema)
        for start, end in gathered(index):
            file.add(self._held.take(works[start:end]), index["size"][start:end].tolist())
            self._held.drop(works[start:end])
        shard = self._area.put_shard(file, index, self._schema)
        self._area.record_wip(self._run_id, shard)
        return shard, index


@dataclass(frozen=True)
class Assembly:
    """A shard whose rows lie in others.

    Attributes:
        area: of the partition.
        schema: of the table.
        index: of the rows, in order.
        shards: that they lie in.
        starts: the number of the first row of each of these, and at last of all their rows.
        numbers: of the rows, counted through `shards`.
    """

    area: Area
    schema: TableSchema
    index: RowIndex
    shards: tuple[Shard, ...]
    starts: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]

    def write(self) -> Shard:
        """Put it together. Raises TableError if one of the others is gone."""
        rows = ShardRows(
            lambda number: self.area.open_shard(self.shards[number]), self.starts, None, HELD_BYTES
        )
        file = ShardFile(self.schema)
        try:
            for start, end in gathered(self.index):
                file.add(rows.take(self.numbers[start:end]), self.index["size"][start:end].tolist())
        finally:
            rows.close()
        return self.area.put_shard(file, self.index, self.schema)


def gathered(index: RowIndex) -> list[tuple[int, int]]:
    """Starts and ends of runs of rows of about `GATHER_BYTES`."""
    part_of = np.cumsum(index["size"], dtype=np.int64) // GATHER_BYTES
    ends = [*(np.flatnonzero(np.diff(part_of)) + 1).tolist(), len(index)]
    return [(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]


class StoredRows:
    """Finds stored rows that the judge of a stage refused: `Staging.refused`, elsewhere.

    Args:
        area: of the partition.
    """

    def __init__(self, area: Area) -> None:
        self._area = area
        self._places: dict[bytes, tuple[Shard, int]] = {}
        self._shards: dict[str, Shard] = {}  # each is held once

    def know(self, stored: Mapping[bytes, tuple[Shard, int]]) -> None:
        """Where rows lie that will be asked for."""
        for work, (shard, place) in stored.items():
            self._places[work] = self._shards.setdefault(shard.name, shard), place

    def forget(self, works: Iterable[bytes]) -> None:
        """Of rows that will not be asked for again."""
        for work in works:
            self._places.pop(work, None)

    def __call__(
        self, works: Sequence[bytes], columns: Sequence[str] | None
    ) -> dict[bytes, Mapping[str, Any]]:
        found = [work for work in works if work in self._places]
        shards = list(dict.fromkeys(self._places[work][0] for work in found))
        if not found:
            return {}
        starts = np.cumsum([0, *(shard.rows for shard in shards)])
        first = {shard: int(start) for shard, start in zip(shards, starts, strict=False)}
        numbers = [first[shard] + row for shard, row in (self._places[work] for work in found)]
        rows = ShardRows(lambda number: self._area.open_shard(shards[number]), starts, columns)
        try:
            taken = rows.take(np.array(numbers)).to_pylist()
        finally:
            rows.close()
        return dict(zip(found, taken, strict=True))
