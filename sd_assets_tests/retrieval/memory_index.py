"""A kNN index in memory, over a real FAISS index, that remembers what it was asked for."""

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.errors import RowError
from sd_assets.retrieval.index import HITS, Answers, query_failed
from sd_assets.schemas import CORPUS_FIELDS


class MemoryIndex:
    """Implements `KnnIndex`.

    Args:
        vectors: float32, shape (rows, dim), L2-normalised.
        metadata: a row a vector; columns of `schemas.HIT`, at least `url`.
        local: whether it claims to be.
        kind: of FAISS index.
        nprobe: of its search, where it is an inverted file.
        most: see `KnnIndex`.

    Attributes:
        asked: (queries, k) of every search.
    """

    identity = "memory"
    calls_at_once = 1

    def __init__(
        self,
        vectors: npt.NDArray[np.float32],
        metadata: pa.Table,
        *,
        local: bool = True,
        kind: str = "Flat",
        nprobe: int = 1,
        most: int | None = None,
    ) -> None:
        self.most = most
        # FAISS has no types for what kinds of index have of their own.
        made: Any = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        self._faiss = made
        self._faiss.train(vectors)
        self._faiss.add(vectors)
        if kind.startswith("IVF"):
            self._faiss.nprobe = nprobe
            self._faiss.make_direct_map()
        columns = [
            metadata[field.name].cast(field.type)
            if field.name in metadata.column_names
            else pa.nulls(len(metadata), field.type)
            for field in HITS
        ]
        self._metadata = pa.Table.from_arrays(columns, schema=HITS)
        self.local = local
        self.fields: frozenset[str] | None = frozenset(
            field.name for field in CORPUS_FIELDS if field.name in metadata.column_names
        )
        self.asked: list[tuple[int, int]] = []

    @property
    def dim(self) -> int:
        return int(self._faiss.d)

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def facts(self) -> dict[str, Any]:
        return {}

    def search(self, queries: npt.NDArray[np.float32], k: int) -> Answers:
        self.asked.append((len(queries), k))
        assert self.most is None or k <= self.most
        similarity, ids = self._faiss.search(np.ascontiguousarray(queries), min(k, self._faiss.ntotal))
        found = ids >= 0
        errors: dict[int, RowError] = {}
        for place in np.flatnonzero(~np.isfinite(queries).all(axis=1)).tolist():
            errors[place] = query_failed("NaN")
            found[place] = False
        counts = found.sum(axis=1)
        hits = self._metadata.take(pa.array(ids[found])).combine_chunks()
        ranks = np.concatenate([np.arange(count) for count in counts]) if len(counts) else np.zeros(0)
        for name, values in (("rank", ranks), ("similarity", similarity[found])):
            field = HITS.field(name)
            hits = hits.set_column(HITS.get_field_index(name), field, pa.array(values).cast(field.type))
        batches = hits.to_batches()
        return Answers(
            counts.astype(np.int64),
            batches[0] if batches else pa.RecordBatch.from_pylist([], HITS),
            (counts < k) | (k >= self._faiss.ntotal),
            errors,
            ids[found] if self.local else None,
        )

    def vectors(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        return self._faiss.reconstruct_batch(ids) if self.local else None
