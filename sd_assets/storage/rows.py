"""Rows whose images have not been read yet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Rows:
    """Rows of which the images are read only where they turn out to be needed.

    Attributes:
        known: n rows, all columns but the lazy ones.
        lazy: the names of the others.
        digests: of what is in the lazy columns, 16 bytes a row; None: nothing may depend on it, as another column of
            `known` says the same.
        fetch: numbers of rows, from 0 -> their lazy columns, in the order asked for. Good until the next `Rows` of the
            same iterator is asked for.
        sizes: bytes of each row, about, the lazy columns included; None: not known.
    """

    known: pa.RecordBatch
    lazy: tuple[str, ...] = ()
    digests: Sequence[bytes] | None = None
    fetch: Callable[[Sequence[int]], pa.Table] | None = None
    sizes: Sequence[int] | None = None

    def take(self, places: Sequence[int]) -> pa.RecordBatch:
        """Some rows with all columns, the lazy ones last."""
        rows = self.known.take(pa.array(places, pa.int64()))
        if self.fetch is None:
            return rows
        fetched = self.fetch(places)
        names = [*rows.schema.names, *self.lazy]
        return pa.RecordBatch.from_arrays(
            [*rows.columns, *(as_array(fetched.column(name)) for name in self.lazy)], names
        )

    def repeated(self, places: Sequence[int], known: pa.RecordBatch) -> "Rows":
        """Rows of which several may have the same images. Of those that are fetched together the first has them, the others
        have null: they are large.

        Args:
            places: of each row the number of the one here whose lazy columns it has.
            known: their other columns.
        """
        fetch = self.fetch

        def fetched(asked: Sequence[int]) -> pa.Table:
            assert fetch is not None
            wanted = [places[number] for number in asked]
            distinct = list(dict.fromkeys(wanted))
            if len(distinct) == len(wanted):
                return fetch(distinct)
            number_of = {place: number for number, place in enumerate(distinct)}
            numbers = [number_of.pop(place, None) for place in wanted]
            return fetch(distinct).take(pa.array(numbers, pa.int64()))

        return Rows(
            known,
            self.lazy,
            None if self.digests is None else [self.digests[place] for place in places],
            fetched if fetch is not None else None,
            None if self.sizes is None else [self.sizes[place] for place in places],
        )


def as_batch(table: pa.Table) -> pa.RecordBatch:
    """A table as one batch, in one piece."""
    arrays = [as_array(column) for column in table.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


def as_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
