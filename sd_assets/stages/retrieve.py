"""retrieval_hits: for every query, the images of the index that are most like it."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from sd_assets.errors import ErrorCode, RowError
from sd_assets.retrieval.index import KnnIndex
from sd_assets.schemas import RETRIEVAL_HITS, TableSchema
from sd_assets.settings import RetrievalSettings
from sd_assets.stages.stage import Stage, failure, rows_of
from sd_assets.storage.staging import Judge
from sd_assets.storage.table import Table


class RetrieveStage(Stage):
    """A query's hits, best first. A query that the index failed is asked again by the next run."""

    version = "1"
    reads = ("kind", "embedding")
    batch_rows = 64
    judge = Judge(
        ("error",),
        lambda rows: [error != ErrorCode.QUERY_FAILED for error in rows.column("error").to_pylist()],
    )

    def __init__(self, index: KnnIndex, settings: RetrievalSettings) -> None:
        self._index = index
        self._settings = settings

    @property
    def schema(self) -> TableSchema:
        return RETRIEVAL_HITS

    def settings(self) -> dict[str, Any]:
        return {
            "index": self._index.identity,
            **self._settings.model_dump(exclude={"index"}),
            "name": self._settings.index,
        }

    def open(self) -> None:
        self._index.open()

    def facts(self) -> dict[str, Any]:
        return {"index": f"{self._settings.index} ({self._index.identity})"}

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        vectors = np.asarray(rows.column("embedding").flatten()).reshape(len(rows), -1)
        answers = self._index.search(vectors, self._settings.images_per_query)
        queries = rows.select(["query_id", "kind"]).to_pylist()
        return rows_of(
            RETRIEVAL_HITS,
            (
                {**query, "index": self._settings.index, **self._result(answer)}
                for query, answer in zip(queries, answers, strict=True)
            ),
        )

    def _result(self, answer: Any) -> dict[str, Any]:
        if isinstance(answer, RowError):
            return failure(answer)
        return {"hits": [asdict(hit) for hit in answer]}


def embedding_batches(seed_embeddings: Table) -> Iterator[pa.RecordBatch]:
    """Seed embeddings as the input of `RetrieveStage`."""
    return seed_embeddings.batches(["query_id", "kind", "embedding", "error"])
