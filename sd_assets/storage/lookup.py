"""The rows of a partition that are at hand, found by the value of one column."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.errors import TableError
from sd_assets.storage.area import Area
from sd_assets.storage.shards import Shard, parquet_file


class RowsAtHand:
    """Rows of the last version, and finished rows of runs that have not committed.

    A few small columns of all rows are read at once, and held; what else is asked for of a row is read then, and the
    row group that it lies in is kept until one of another is. Of rows with the same value one without an error counts,
    or else the last.

    Open it while the run holds its lease (a `Staging` of the area is open): then no sweep takes away what it found.

    Args:
        area: of the partition.
        column: whose values are looked up: texts; rows where it is null are not found.
        columns: small ones, that `get` gives.
    """

    def __init__(self, area: Area, column: str, columns: Sequence[str]) -> None:
        self._area = area
        self._columns = tuple(columns)
        self._shards: list[Shard] = []
        wanted = list(dict.fromkeys([column, *columns, "error"]))
        parts: list[pa.Table] = []
        base = area.latest()
        for shard in (*(base.shards if base else ()), *area.wip()):
            with suppress(TableError), area.open_shard(shard) as file:  # swept before we had a lease
                part = parquet_file(file).read(columns=wanted)
                if len(part.column_names) == len(wanted):  # or it is of an older schema
                    parts.append(part.replace_schema_metadata(None))
                    self._shards.append(shard)
        self._starts = np.cumsum([0, *map(len, parts)])
        self._rows = pa.concat_tables(parts).combine_chunks() if parts else pa.table({})
        self._places: dict[str, int] = {}
        if parts:
            failed = self._rows.column("error").is_valid().to_pylist()
            for place, value in enumerate(self._rows.column(column).to_pylist()):
                before = self._places.get(value)
                if value is not None and (before is None or failed[before] or not failed[place]):
                    self._places[value] = place
        self._opened: tuple[int, pq.ParquetFile] | None = None
        self._group: tuple[tuple[int, str], pa.ChunkedArray] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def get(self, value: str) -> dict[str, Any] | None:
        """The small columns of the row with this value; None if there is none."""
        place = self._places.get(value)
        return (
            None
            if place is None
            else {name: self._rows.column(name)[place].as_py() for name in self._columns}
        )

    def read(self, value: str, column: str) -> Any:
        """Any column of the row with this value; None, too, if the row is not at hand any more."""
        place = self._places.get(value)
        if place is None:
            return None
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        try:
            return self._read(number, place - int(self._starts[number]), column)
        except (TableError, FileNotFoundError):
            return None

    def close(self) -> None:
        """Close the file that was read last."""
        if self._opened is not None:
            self._opened[1].close()
        self._opened = self._group = None

    def _read(self, number: int, row: int, column: str) -> Any:
        """A cell of the shard of this number. Rows are asked for in about the order in which they lie there."""
        if self._opened is None or self._opened[0] != number:
            self.close()
            self._opened = number, parquet_file(self._area.open_shard(self._shards[number]))
        file = self._opened[1]
        group, start = 0, 0
        while row >= start + (rows := file.metadata.row_group(group).num_rows):
            group, start = group + 1, start + rows
        if self._group is None or self._group[0] != (group, column):
            self._group = (group, column), file.read_row_group(group, columns=[column]).column(column)
        return self._group[1][row - start].as_py()
