"""The current tables of a partition, searched for what they say of some images."""

from collections.abc import Collection, Sequence
from typing import Any

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
from sd_assets.storage.shards import payload_columns
from sd_assets.storage.table import TableStore

# A row of a table by its columns (`sd_assets.schemas`), without images and embeddings.
Row = dict[str, Any]

JUDGED_BY = (IMAGE_EMBEDDINGS, IMAGE_QUALITY, ALIGNMENT_SCORES, AESTHETIC_SCORES, NSFW_SCORES)
_TABLES = (
    SEED_IMAGES,
    SEED_PROMPTS,
    SEED_EMBEDDINGS,
    RETRIEVAL_HITS,
    RETRIEVED_IMAGE_URLS,
    DOWNLOADED_IMAGES,
    IMAGE_CAPTIONS,
    TEXT_IMAGE_PAIRS,
    *JUDGED_BY,
    NEAR_DUPLICATES,
    CURATED_PAIRS,
)
_EMBEDDING = "embedding"
# That are made Python objects at once.
_BLOCK_ROWS = 32


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

    def held(
        self, schema: TableSchema, column: str, values: Collection[str], columns: Sequence[str]
    ) -> "HeldRows":
        """The rows that have one of many texts in a column, with some small columns, in memory."""
        table = self._tables.get(schema.name)
        names = [column, *columns]
        if table is None:
            return HeldRows(pa.schema([schema.arrow.field(name) for name in names]).empty_table(), column)
        wanted = pa.array(values, pa.string())
        found = [
            batch.filter(pc.is_in(batch.column(column), wanted)).select(names)
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
    """Rows of a table, found by the text in one of their columns."""

    def __init__(self, rows: pa.Table, column: str) -> None:
        self._rows = rows.combine_chunks()
        self._decoded: tuple[int, list[Row]] = (-1, [])
        self._places: dict[str, list[int]] = {}
        for place, value in enumerate(self._rows.column(column).to_pylist()):
            self._places.setdefault(value, []).append(place)

    def column(self, name: str) -> list[Any]:
        """A column of all of them."""
        values: list[Any] = self._rows.column(name).to_pylist()
        return values

    def array(self, name: str) -> pa.ChunkedArray:
        """The same, as Arrow has it."""
        return self._rows.column(name)

    def of(self, value: str) -> list[Row]:
        """The rows that have this text, in order."""
        return [
            self._block(place // _BLOCK_ROWS)[place % _BLOCK_ROWS] for place in self._places.get(value, ())
        ]

    def _block(self, number: int) -> list[Row]:
        # Mostly asked for in the order in which they lie, and a few at a time are quicker than one.
        if number != self._decoded[0]:
            self._decoded = number, self._rows.slice(number * _BLOCK_ROWS, _BLOCK_ROWS).to_pylist()
        return self._decoded[1]
