"""Tables for tests, committed for real."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sd_assets.compute.run import write_rows
from sd_assets.schemas import TableSchema
from sd_assets.stages.stage import rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore


def table_of(
    base: Path, schema: TableSchema, rows: Iterable[Mapping[str, Any]], partition: str = "p"
) -> Table:
    """A committed table that holds these rows."""
    store = TableStore(LocalFiles(base))
    write_rows(schema, [rows_of(schema, rows)], store.area(schema.name, partition), "run").commit()
    return store.open(schema.name, partition)
