"""Vectors and metadata that are in memory already: small ones, made on the spot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.columns import NAMES, chosen_columns
from sd_assets.retrieval.corpora.corpus import Corpus, Part, Reasons, Vectors


def memory_corpus(vectors: Vectors, metadata: pa.Table, clip: str | None = None) -> Corpus:
    """Vectors, shape (rows, dim), and a row of metadata for each.

    Args:
        vectors: float16, float32 or float64.
        metadata: with a column of URLs (`columns.NAMES`); columns keep their names.
        clip: the model that made the vectors.

    Raises:
        ValueError: the two do not fit.
        RetrievalError: there is no column of URLs.
    """
    if vectors.ndim != 2 or len(vectors) != metadata.num_rows:
        raise ValueError(
            f"{metadata.num_rows} rows of metadata do not fit embeddings of the shape {vectors.shape}"
        )
    if "url" not in chosen_columns(metadata.column_names):
        raise RetrievalError(f"the metadata has no column of URLs; looked for {', '.join(NAMES['url'])}")
    part = _InMemory(vectors, metadata)
    columns = {name: name for name in part.schema.names}
    return Corpus(f"{len(vectors)} vectors in memory", part.digest, [part], columns, part.schema, clip)


class _InMemory(Part):
    name = "vectors in memory"

    def __init__(self, vectors: Vectors, metadata: pa.Table) -> None:
        self._vectors = vectors
        self._metadata = metadata.replace_schema_metadata(None)
        self.rows = len(vectors)
        self.schema = self._metadata.schema

    @property
    def widths(self) -> Mapping[int, int]:
        return {self._vectors.shape[1]: self.rows}

    @property
    def digest(self) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(self._vectors).tobytes())
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.schema) as writer:
            writer.write_table(self._metadata)
        digest.update(sink.getvalue())
        return digest.hexdigest()

    def vectors(self, dim: int, start: int, rows: int) -> Iterator[tuple[Vectors, Reasons]]:
        for first in range(start, self.rows, rows):
            block = self._vectors[first : first + rows]
            yield block, np.zeros(len(block), np.uint8)

    def metadata(self, start: int) -> Iterator[pa.RecordBatch]:
        yield from self._metadata.slice(start).to_batches()
