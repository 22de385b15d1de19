"""Reading one version of a table."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.errors import TableError
from sd_assets.storage.area import KEPT_VERSIONS, Area, Manifest
from sd_assets.storage.digests import joined
from sd_assets.storage.files import Files
from sd_assets.storage.rows import Rows, as_batch
from sd_assets.storage.shards import (
    Shard,
    ShardRows,
    parquet_file,
    payload_columns,
    read_batches,
    take_rows,
)

if TYPE_CHECKING:
    import pandas as pd


class Table:
    """A lazy handle on one version of a partition.

    It stays readable while newer versions are committed, as long as its version is kept. Nothing is read before
    `batches`, `read`, `take` or `to_pandas`.
    """

    def __init__(self, area: Area, manifest: Manifest, errors: npt.NDArray[np.bytes_] | None = None) -> None:
        self._area = area
        self.manifest = manifest
        self._errors = errors

    @property
    def uri(self) -> str:
        """The folder of Parquet shards, for other readers (of the current version)."""
        return self._area.uri

    @property
    def identity(self) -> str:
        """Names exactly these rows, bookkeeping included, in this order."""
        return joined(bytes.fromhex(shard.name) for shard in self.manifest.shards).hex()

    @property
    def num_rows(self) -> int:
        return sum(shard.rows for shard in self.manifest.shards)

    @cached_property
    def schema(self) -> pa.Schema:
        # Every version has a shard; an empty table has one without rows.
        with self._area.open_shard(self.manifest.shards[0]) as file:
            return pq.read_schema(file)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows in order, a row group at a time; only some columns if named."""
        for shard in self.manifest.shards:
            with self._area.open_shard(shard) as file:
                yield from read_batches(file, columns)

    def rows(self, columns: Sequence[str]) -> Iterator[Rows]:
        """The rows in order, a shard at a time, their images (binary columns) left to be fetched."""
        lazy = [name for name in payload_columns(self.schema) if name in columns]
        others = [name for name in columns if name not in lazy] or ["error"]
        for shard in self.manifest.shards:
            with self._area.open_shard(shard) as file:
                parquet = parquet_file(file)
                known = parquet.read(columns=others, use_threads=False)
                digests, sizes = self._area.read_index_columns(shard, "payload", "size")
                fetch = _Images(self._area, shard, lazy, parquet)
                known = as_batch(known.replace_schema_metadata(None))
                yield Rows(known, tuple(lazy), digests.tolist(), fetch, sizes.tolist())

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, in memory."""
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        return pa.Table.from_batches(self.batches(columns), schema.remove_metadata())

    @property
    def errors(self) -> npt.NDArray[np.bytes_]:
        """The error codes of all rows, in order, empty where a row is good; read without a look at the rows."""
        if self._errors is None:
            parts = [self._area.read_index_column(shard, "error") for shard in self.manifest.shards]
            self._errors = np.concatenate(parts)
        return self._errors

    def take(self, rows: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """Rows by their places in the table, from 0, in the order asked for; reads the row groups they lie in."""
        if not rows:
            return self.schema.empty_table().select(columns or self.schema.names)
        shards = self.manifest.shards
        starts = np.cumsum([0, *(shard.rows for shard in shards)])
        found = ShardRows(lambda number: self._area.open_shard(shards[number]), starts, columns)
        return found.take(np.asarray(rows, dtype=np.int64))

    def thinned(self, rows: int) -> "Table":
        """A sample of whole shards at even distances, about `rows` rows; the table itself if it has no more."""
        if self.num_rows <= rows:
            return self
        shards = self.manifest.shards
        kept = spread(max(1, len(shards) * rows // self.num_rows), len(shards))
        return Table(self._area, replace(self.manifest, shards=tuple(shards[number] for number in kept)))

    def to_pandas(self) -> "pd.DataFrame":
        """All rows, in memory, as a data frame."""
        frame: pd.DataFrame = self.read().to_pandas()
        return frame

    def __repr__(self) -> str:
        return f"Table({self.uri!r}, version={self.manifest.version}, rows={self.num_rows})"


def spread(count: int, total: int) -> list[int]:
    """Up to `count` places of `total`, at even distances: a sample of the whole, and always the same."""
    count = min(count, total)
    return [(2 * place + 1) * total // (2 * count) for place in range(count)]


class _Images:
    """Fetches the binary columns of a shard's rows, here or, pickled, in another process."""

    def __init__(
        self, area: Area, shard: Shard, columns: Sequence[str], parquet: pq.ParquetFile | None = None
    ) -> None:
        self._area = area
        self._shard = shard
        self._columns = columns
        self._parquet = parquet

    def __call__(self, places: Sequence[int]) -> pa.Table:
        if self._parquet is None or self._parquet.closed:
            self._parquet = parquet_file(self._area.open_shard(self._shard))
        taken = take_rows(self._parquet, np.asarray(places, dtype=np.int64), self._columns)
        return taken.cast(pa.schema([(name, pa.binary()) for name in self._columns]))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Images, (self._area, self._shard, self._columns)


class TableStore:
    """All tables under one base.

    Args:
        files: the base.
        kept_versions: so many versions of a partition are kept, at least one.
    """

    def __init__(self, files: Files, kept_versions: int = KEPT_VERSIONS) -> None:
        self.files = files
        self._kept_versions = kept_versions

    def area(self, asset: str, partition: str) -> Area:
        return Area(self.files, asset, partition, self._kept_versions)

    def find(self, asset: str, partition: str) -> Table | None:
        """The current version of a partition; None: it was never committed."""
        area = self.area(asset, partition)
        manifest = area.latest()
        return None if manifest is None else Table(area, manifest)

    def open(
        self, asset: str, partition: str, *, version: int | None = None, data_version: str | None = None
    ) -> Table:
        """A version of a partition: the current one, or an older one by its number or its data version.

        Raises:
            TableError: it was never committed; or that version is not kept, with a list of those that are.
        """
        area = self.area(asset, partition)
        manifest = area.latest()
        if manifest is None:
            raise TableError(
                f"{area.uri}: there is no committed version; materialize {asset} for {partition!r} first"
            )
        if version is not None or data_version is not None:
            manifest = area.find(version=version, data_version=data_version)
        return Table(area, manifest)
