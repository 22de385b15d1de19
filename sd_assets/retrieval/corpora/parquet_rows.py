"""Rows of a Parquet file from some place on, without holding it in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.errors import RetrievalError

_BATCH_ROWS = 8_192


class ParquetFile:
    """A Parquet file: its schema and number of rows, and its rows.

    Raises:
        RetrievalError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with pq.ParquetFile(path) as file:
                self.schema: pa.Schema = file.schema_arrow.remove_metadata()
                self.rows = int(file.metadata.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def batches(self, columns: Sequence[str], start: int) -> Iterator[pa.RecordBatch]:
        """The rows from `start` on; row groups before it are not read."""
        try:
            with pq.ParquetFile(self._path, pre_buffer=False) as file:
                groups = list(range(file.metadata.num_row_groups))
                while groups and start >= file.metadata.row_group(groups[0]).num_rows:
                    start -= file.metadata.row_group(groups.pop(0)).num_rows
                if not groups:
                    return
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=list(columns)):
                    if start < len(batch):
                        yield batch.slice(start)
                    start = max(0, start - len(batch))
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> RetrievalError:
        return RetrievalError(f"{self._path} cannot be read as Parquet: {error}; fetch or make it again")
