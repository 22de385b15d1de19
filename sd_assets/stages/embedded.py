"""Rows of image_embeddings as the input of the stages that score them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.errors import ErrorCode, RowError
from sd_assets.storage.table import Table


def embedded_rows(image_embeddings: Table) -> Iterator[pa.RecordBatch]:
    """`image_id`, `embedding`, `model`, and `embedding_error`: in a column `error` it would have the row skipped, not explained."""
    for batch in image_embeddings.batches(["image_id", "embedding", "model", "error"]):
        yield batch.rename_columns(["image_id", "embedding", "model", "embedding_error"])


def embeddings_of(rows: pa.RecordBatch) -> list[npt.NDArray[np.float32] | RowError]:
    """The embedding of each row, [dim], or the error that its embedding failed with."""
    columns = (rows.column(name) for name in ("embedding", "embedding_error"))
    return [_embedding(*values) for values in zip(*columns, strict=True)]


def _embedding(embedding: Any, error: Any) -> npt.NDArray[np.float32] | RowError:
    if error.is_valid:
        return RowError(ErrorCode(error.as_py()), "the image has no embedding: image_embeddings says why")
    if not embedding.is_valid:
        return RowError(ErrorCode.NOT_FINITE, "the image has no embedding, and image_embeddings no error")
    return np.asarray(embedding.values.to_numpy(zero_copy_only=False), np.float32)
