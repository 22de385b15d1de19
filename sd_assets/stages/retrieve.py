"""retrieval_hits: for every query, the images of the index that are most like it."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.errors import ErrorCode, RowError
from sd_assets.retrieval.index import Hit, KnnIndex
from sd_assets.schemas import RETRIEVAL_HITS, TableSchema
from sd_assets.settings import RetrievalSettings
from sd_assets.stages.stage import Stage, failure, rows_of
from sd_assets.storage.staging import Judge
from sd_assets.storage.table import Table


class RetrieveStage(Stage):
    """A query's hits, best first. A query that the index failed is asked again by the next run.

    Blocked hits are left out; the others keep their ranks. An edit of the list has only those queries asked again of which
    it takes a hit away, or gives one back.

    Args:
        index: that is asked.
        settings: how.
        blocked: what no hit may be.
    """

    version = "1"
    reads = ("kind", "embedding")
    batch_rows = 64

    def __init__(self, index: KnnIndex, settings: RetrievalSettings, blocked: Blocked = NOTHING) -> None:
        self._index = index
        self._settings = settings
        self._blocked = blocked
        # Hits are many: they are read only if there is something to look for.
        self.judge = Judge(("error", "blocked_by", *(("hits",) if blocked else ())), self._may_reuse)

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

    def _result(self, answer: list[Hit] | RowError) -> dict[str, Any]:
        if isinstance(answer, RowError):
            return failure(answer)
        entries = [self._blocked.url(hit.url) or self._blocked.image(hit.sha256) for hit in answer]
        hits = [asdict(hit) for hit, entry in zip(answer, entries, strict=True) if entry is None]
        return {"hits": hits, "blocked_by": sorted({entry for entry in entries if entry}) or None}

    def _may_reuse(self, rows: pa.RecordBatch) -> list[bool]:
        columns = (rows.column(name).to_pylist() for name in ("error", "blocked_by"))
        return [
            error != ErrorCode.QUERY_FAILED and self._blocked.still(entries) and not held
            for error, entries, held in zip(*columns, self._blocked.rows(rows), strict=True)
        ]


def embedding_batches(seed_embeddings: Table) -> Iterator[pa.RecordBatch]:
    """Seed embeddings as the input of `RetrieveStage`."""
    return seed_embeddings.batches(["query_id", "kind", "embedding", "error"])
