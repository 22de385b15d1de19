"""The current tables of a partition, searched for what they say of some images."""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.schemas import (
    AESTHETIC_SCORES,
    ALIGNMENT_SCORES,
    CURATED_PAIRS,
    DOWNLOADED_IMAGES,
    IMAGE_CAPTIONS,
    IMAGE_EMBEDDINGS,
    IMAGE_QUALITY,
    NEAR_DUPLICATES,
    NSFW_SCORES,
    RETRIEVAL_HITS,
    RETRIEVED_IMAGE_URLS,
    SEED_EMBEDDINGS,
    SEED_IMAGES,
    SEED_PROMPTS,
    TEXT_IMAGE_PAIRS,
    TableSchema,
)
from sd_assets.storage.area import Manifest
from sd_assets.storage.rows import as_array
from sd_assets.storage.shards import payload_columns
from sd_assets.storage.table import TableStore

# A row of a table by its columns (`sd_assets.schemas`), without images and embeddings.
Row = dict[str, Any]

JUDGED_BY = (IMAGE_EMBEDDINGS, IMAGE_QUALITY, ALIGNMENT_SCORES, AESTHETIC_SCORES, NSFW_SCORES)
# What says where an image comes from; a partition need not have all of them.
ORIGINS_IN = (
    SEED_IMAGES,
    SEED_PROMPTS,
    SEED_EMBEDDINGS,
    RETRIEVAL_HITS,
    RETRIEVED_IMAGE_URLS,
    DOWNLOADED_IMAGES,
)
_TABLES = (
    *ORIGINS_IN,
    IMAGE_CAPTIONS,
    TEXT_IMAGE_PAIRS,
    *JUDGED_BY,
    NEAR_DUPLICATES,
    CURATED_PAIRS,
)
_EMBEDDING = "embedding"
# That are made Python objects at once.
_BLOCK_ROWS = 32
_HASHED_ROWS = 1_024


class PartitionTables:
    """The current tables of a partition, as far as there are any; of one that is not there no rows are found."""

    def __init__(self, store: TableStore, partition: str) -> None:
        found = {schema.name: store.find(schema.name, partition) for schema in _TABLES}
        self._tables = {name: table for name, table in found.items() if table is not None}

    @property
    def manifests(self) -> dict[str, Manifest]:
        """Of the tables that there are, by name."""
        return {name: table.manifest for name, table in self._tables.items()}

    def row(self, schema: TableSchema, key: str) -> Row | None:
        """The row with a key of one column."""
        (column,) = schema.key
        return next(iter(self.rows(schema, column, [key])), None)

    def rows(self, schema: TableSchema, column: str, values: Collection[str]) -> list[Row]:
        """The rows that have one of these texts in a column, in order."""
        table = self._tables.get(schema.name)
        if table is None or not values:
            return []
        wanted = pa.array(values, pa.string())
        places: list[int] = []
        start = 0
        for batch in table.batches([column]):
            found = pc.indices_nonzero(pc.is_in(batch.column(0), wanted))
            places += (start + place for place in found.to_pylist())
            start += len(batch)
        large = {*payload_columns(table.schema), _EMBEDDING}
        rows: list[Row] = table.take(
            places, [name for name in table.schema.names if name not in large]
        ).to_pylist()
        return rows

    def held(self, schema: TableSchema, column: str, values: pa.Array, columns: Sequence[str]) -> "HeldRows":
        """The rows that have one of many texts in a column, with some small columns, in memory."""
        table = self._tables.get(schema.name)
        names = [column, *columns]
        if table is None:
            return HeldRows(pa.schema([schema.arrow.field(name) for name in names]).empty_table(), column)
        found = [
            batch.filter(pc.is_in(batch.column(column), values)).select(names)
            for batch in table.batches(names)
        ]
        stored = pa.schema([table.schema.field(name) for name in names])
        return HeldRows(pa.Table.from_batches(found, stored.remove_metadata()), column)

    def models(self) -> dict[str, list[str]]:
        """The models that the scores of images come from, by the table that they made; of tables that say one."""
        found = {
            schema.name: {
                model
                for batch in self._tables[schema.name].batches(["model"])
                for model in pc.unique(batch.column("model")).to_pylist()
            }
            for schema in JUDGED_BY
            if "model" in schema.arrow.names and schema.name in self._tables
        }
        return {name: sorted(models - {None}) for name, models in found.items() if models - {None}}


class HeldRows:
    """Rows of a table, found by the text in one of their columns: besides themselves 16 bytes a row."""

    def __init__(self, rows: pa.Table, column: str) -> None:
        self._rows = rows.combine_chunks()
        self._column = column
        self._decoded: tuple[int, list[Row]] = (-1, [])
        texts = self._rows.column(column)
        parts = (texts.slice(start, _HASHED_ROWS) for start in range(0, len(rows), _HASHED_ROWS))
        hashes = np.fromiter((hash(text) for part in parts for text in part.to_pylist()), np.int64, len(rows))
        order = np.argsort(hashes, kind="stable")
        # Sorted; and the place of the row of each. As arrays of Python, which `bisect` looks into quicker than into NumPy's.
        self._hashes = array("q", hashes[order].tobytes())
        self._places = array("q", order.astype(np.int64).tobytes())

    def column(self, name: str) -> list[Any]:
        """A column of all of them."""
        values: list[Any] = self._rows.column(name).to_pylist()
        return values

    def array(self, name: str) -> pa.Array:
        """The same, as Arrow has it."""
        return as_array(self._rows.column(name))

    def of(self, value: str) -> list[Row]:
        """The rows that have this text, in order."""
        wanted, found = hash(value), []
        number = bisect_left(self._hashes, wanted)
        while number < len(self._hashes) and self._hashes[number] == wanted:
            place = self._places[number]
            row = self._block(place // _BLOCK_ROWS)[place % _BLOCK_ROWS]
            if row[self._column] == value:
                found.append(row)
            number += 1
        return found

    def _block(self, number: int) -> list[Row]:
        # Mostly asked for in the order in which they lie, and a few at a time are quicker than one.
        if number != self._decoded[0]:
            self._decoded = number, self._rows.slice(number * _BLOCK_ROWS, _BLOCK_ROWS).to_pylist()
        return self._decoded[1]
