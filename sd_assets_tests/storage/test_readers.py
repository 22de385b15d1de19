"""A committed partition is plain Parquet: pandas, `datasets` and pyarrow read the folder."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
from datasets import load_dataset

from sd_assets import schemas
from sd_assets.compute.run import write_rows
from sd_assets.schemas import TableSchema
from sd_assets.stages.stage import rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore

EVERY = [
    schemas.SEED_IMAGES,
    schemas.SEED_PROMPTS,
    schemas.SEED_EMBEDDINGS,
    schemas.RETRIEVAL_HITS,
    schemas.RETRIEVED_IMAGE_URLS,
    schemas.DOWNLOADED_IMAGES,
    schemas.IMAGE_CAPTIONS,
    schemas.TEXT_IMAGE_PAIRS,
]


def committed(base: Path, schema: TableSchema, rows: int) -> Path:
    area = TableStore(LocalFiles(base)).area(schema.name, "p")
    keys: list[dict[str, Any]] = [{name: f"{name}{row}" for name in schema.key} for row in range(rows)]
    write_rows(schema, [rows_of(schema, keys)], area, "run").commit()
    return base / schema.name / "p"


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("schema", EVERY, ids=lambda schema: schema.name)
def test_every_table_is_read_by_everybody(tmp_path: Path, schema: TableSchema, rows: int) -> None:
    folder = committed(tmp_path, schema, rows)
    assert pd.read_parquet(folder).shape == (rows, len(schema.arrow))
    assert pyarrow.dataset.dataset(folder).to_table().schema.equals(schema.arrow)
    # Not streamed, `datasets` refuses any data set without rows ("corresponds to no data").
    loaded = load_dataset(str(folder), split="train", streaming=not rows, cache_dir=str(tmp_path / "cache"))
    assert len(list(loaded)) == rows
    assert loaded.column_names in (schema.arrow.names, None)


def test_vectors_come_back_as_they_were(tmp_path: Path) -> None:
    schema = schemas.SEED_EMBEDDINGS
    area = TableStore(LocalFiles(tmp_path)).area(schema.name, "p")
    rows: list[dict[str, Any]] = [
        {"query_id": "a", "embedding": [0.1, 0.2, 0.3]},
        {"query_id": "b", "error": "empty"},
    ]
    write_rows(schema, [rows_of(schema, rows)], area, "run").commit()
    column = TableStore(LocalFiles(tmp_path)).open(schema.name, "p").read(["embedding"]).column("embedding")
    assert column.to_pylist() == [pytest.approx([0.1, 0.2, 0.3]), None]
    assert column.type == pa.list_(pa.float32())
