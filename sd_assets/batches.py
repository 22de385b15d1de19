"""Batches of rows, put together: what newer versions of pyarrow than clip-retrieval's do by themselves."""

from collections.abc import Sequence

import pyarrow as pa


def one_batch(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of several batches, of which there must be some, as one.

    Raises:
        pyarrow.ArrowException: they hold more text than an array does.
    """
    columns = zip(*(part.columns for part in parts), strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.concat_arrays(column) for column in columns], schema=parts[0].schema
    )


def with_column(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    """The batch with other values in one of its columns."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    return pa.RecordBatch.from_arrays(list({**columns, name: values}.values()), schema=batch.schema)
