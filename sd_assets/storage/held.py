"""Finished rows that no shard holds yet."""

import time
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa

from sd_assets.storage.shards import ROW, RowIndex


class Held:
    """Rows in memory, found by their work keys. A batch is freed when its last row has been dropped.

    Attributes:
        bytes: of all rows, about.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._batches: dict[int, tuple[pa.RecordBatch, RowIndex, float]] = {}  # and when they came
        self._left: dict[int, int] = {}  # rows of a batch that were not dropped
        self._places: dict[bytes, tuple[int, int]] = {}  # by work key: the batch, and the row there
        self._added = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, work: bytes) -> bool:
        return work in self._places

    @property
    def seconds(self) -> float:
        """For how long the oldest rows have been here."""
        return time.monotonic() - next(iter(self._batches.values()))[2] if self._batches else 0.0

    def works(self) -> list[bytes]:
        """The work keys of all rows, in the order in which they came."""
        return list(self._places)

    def add(self, rows: pa.RecordBatch, index: RowIndex) -> None:
        """Rows with their index records. One that is there already is replaced."""
        works: list[bytes] = index["work"].tolist()
        self.drop(work for work in works if work in self._places)
        self._added += 1
        places = {work: (self._added, row) for row, work in enumerate(works)}
        if places:
            self._batches[self._added] = rows, index, time.monotonic()
            self._left[self._added] = len(places)
            self._places |= places
            self.bytes += sum(int(index["size"][row]) for _, row in places.values())

    def records(self, works: Sequence[bytes]) -> RowIndex:
        """The index records of rows."""
        found = np.empty(len(works), ROW)
        for place, work in enumerate(works):
            batch, row = self._places[work]
            found[place] = self._batches[batch][1][row]
        return found

    def take(self, works: Sequence[bytes]) -> pa.Table:
        """Rows in the order asked for, at least one; those that follow one another in a batch, too, are not copied."""
        places = (self._places[work] for work in works)
        # Rows that follow one another are as far from their numbers as from their places in the result.
        runs = groupby(enumerate(places), lambda it: (it[1][0], it[1][1] - it[0]))
        slices = []
        for (batch, _), run in runs:
            rows = [row for _, (_, row) in run]
            slices.append(self._batches[batch][0].slice(rows[0], len(rows)))
        return pa.Table.from_batches(slices)

    def drop(self, works: Iterable[bytes]) -> None:
        """Forget rows; those that are not there count for nothing."""
        for work in works:
            place = self._places.pop(work, None)
            if place is not None:
                batch, row = place
                self.bytes -= int(self._batches[batch][1]["size"][row])
                self._left[batch] -= 1
                if not self._left[batch]:
                    del self._batches[batch], self._left[batch]
