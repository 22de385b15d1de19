"""Reading the Parquet of a finished run, for the evaluators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sd_assets.errors import SdAssetsError


def rows_of(tables: Mapping[str, Path], name: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table, shard by shard, with only these columns.

    Args:
        tables: table name -> its folder of Parquet shards.
        name: of the table.
        columns: to read.

    Raises:
        SdAssetsError: the table is missing.
    """
    folder = tables.get(name)
    shards = sorted(folder.glob("*.parquet")) if folder is not None else []
    if not shards:
        raise SdAssetsError(
            f"there is no table {name} to judge: {folder or 'no folder given'} holds no Parquet"
        )
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(columns=list(columns)):
                yield from batch.to_pylist()
