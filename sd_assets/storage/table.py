"""Reading one version of a table."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.errors import TableError
from sd_assets.storage.area import Area, Manifest
from sd_assets.storage.files import Files
from sd_assets.storage.shards import read_batches

if TYPE_CHECKING:
    import pandas as pd


class Table:
    """A lazy handle on one version of a partition.

    It stays readable while newer versions are committed, as long as its version is kept. Nothing is read before
    `batches`, `read` or `to_pandas`.
    """

    def __init__(self, area: Area, manifest: Manifest) -> None:
        self._area = area
        self.manifest = manifest

    @property
    def uri(self) -> str:
        """The folder of Parquet shards, for other readers (of the current version)."""
        return self._area.uri

    @property
    def num_rows(self) -> int:
        return sum(shard.rows for shard in self.manifest.shards)

    @property
    def schema(self) -> pa.Schema:
        # Every version has a shard; an empty table has one without rows.
        with self._area.open_shard(self.manifest.shards[0]) as file:
            return pq.read_schema(file)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows in order, a row group at a time; only some columns if named."""
        for shard in self.manifest.shards:
            with self._area.open_shard(shard) as file:
                yield from read_batches(file, columns)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, in memory."""
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        return pa.Table.from_batches(self.batches(columns), schema.remove_metadata())

    def to_pandas(self) -> "pd.DataFrame":
        """All rows, in memory, as a data frame."""
        frame: pd.DataFrame = self.read().to_pandas()
        return frame

    def __repr__(self) -> str:
        return f"Table({self.uri!r}, version={self.manifest.version}, rows={self.num_rows})"


class TableStore:
    """All tables under one base."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def area(self, asset: str, partition: str) -> Area:
        return Area(self._files, asset, partition)

    def open(self, asset: str, partition: str) -> Table:
        """The current version of a partition.

        Raises:
            TableError: it was never committed.
        """
        area = self.area(asset, partition)
        manifest = area.latest()
        if manifest is None:
            raise TableError(
                f"{area.uri}: there is no committed version; materialize {asset} for {partition!r} first"
            )
        return Table(area, manifest)
