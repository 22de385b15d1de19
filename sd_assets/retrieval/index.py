"""What every kind of kNN index answers to, and how one is chosen from the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import SecretStr

from sd_assets.catalog import require_secret_set, require_set
from sd_assets.errors import ErrorCode, RetrievalError, RowError
from sd_assets.schemas import HIT
from sd_assets.settings import FaissIndexSettings, RetrievalSettings, ServiceIndexSettings

HITS = pa.schema(list(HIT))
"""The columns of `Answers.hits`."""


@dataclass(frozen=True)
class Answers:
    """What an index answers to a batch of queries, in columns: a Python object a hit would cost more than finding it.

    Attributes:
        counts: int64, shape (queries,): candidates of each query.
        hits: the columns `HITS`, a row a candidate: the queries one after the other, each best first, its ranks from 0.
        exhausted: bool, shape (queries,): the index has no more for this query than these.
        errors: why a query failed, by its place in the batch; it has no candidates, and is exhausted.
        ids: int64, shape (candidates,): the candidates' numbers in a local index; None for a service.
    """

    counts: npt.NDArray[np.int64]
    hits: pa.RecordBatch
    exhausted: npt.NDArray[np.bool_]
    errors: Mapping[int, RowError]
    ids: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """The queries."""
        return len(self.counts)

    def __post_init__(self) -> None:
        if not len(self.counts) == len(self.exhausted) or int(self.counts.sum()) != len(self.hits):
            raise ValueError(
                f"{len(self.hits)} hits and {len(self.exhausted)} ends do not fit the counts of {len(self.counts)} queries"
            )


class KnnIndex(Protocol):
    """A kNN index over a corpus of images.

    Attributes:
        identity: names the content of the index; part of the fingerprint of what it answers. Raises `RetrievalError` where it has
            to look at an index that is not there.
        dim: of its vectors; None where only the index itself knows. Known after `open()`.
        local: False where answers may change although the identity does not.
        fields: of a hit that the index knows of some image at least; None where only the answers tell, and there
            was none yet. Known after `open()`, or the first answer.
        most: candidates of a query that it gives at the most, whatever it is asked for, where it has more; None: no limit.
        calls_at_once: calls of `search` that it wants to have under way, each of one query, from as many threads; 1: one call
            after the other, each of many queries.
    """

    @property
    def identity(self) -> str: ...

    @property
    def dim(self) -> int | None: ...

    @property
    def local(self) -> bool: ...

    @property
    def fields(self) -> frozenset[str] | None: ...

    @property
    def most(self) -> int | None: ...

    @property
    def calls_at_once(self) -> int: ...

    def open(self) -> None:
        """Make ready for `search`; once per worker.

        Raises:
            RetrievalError: the index is missing, damaged or does not answer.
        """

    def close(self) -> None:
        """Give back what `open` took, and end the calls that are under way."""

    def facts(self) -> dict[str, Any]:
        """What is worth to be known of the answers so far, for the metadata of the table."""

    def search(self, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """The `k` nearest images of each query, or fewer where the corpus has no more.

        Args:
            queries: float32, shape (queries, dim), L2-normalised.
            k: hits a query, at most.

        Returns:
            What each query found, in order; a query that failed has a `RowError` with the code `query_failed`.

        Raises:
            RetrievalError: queries and index do not fit, or the index is gone.
        """

    def vectors(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        """The vectors of these numbers, float32, shape (len(ids), dim), as far as a compressed index still knows them.

        None where the index cannot say (a service).
        """


def open_index(
    name: str, settings: FaissIndexSettings | ServiceIndexSettings, retrieval: RetrievalSettings
) -> KnnIndex:
    """The index that the catalogue calls `name`. Nothing is read or asked before its `open()` or `identity`.

    Raises:
        CatalogError: the path or URL uses an environment variable that is not set.
        RetrievalError: this kind of index cannot do what `retrieval` asks for.
    """
    # Imported here, so that naming the protocol does not load an HTTP client.
    if isinstance(settings, FaissIndexSettings):
        from sd_assets.retrieval.faiss_index import FaissIndex
        from sd_assets.retrieval.faiss_search import SearchOptions

        options = SearchOptions(nprobe=settings.nprobe, ef_search=settings.ef_search)
        index = FaissIndex(name, require_set(settings.path, f"indices.{name}.path"), options)
        if retrieval.aesthetic_score is None or retrieval.aesthetic_weight is None:
            return index
        from sd_assets.retrieval.aesthetic import AestheticIndex

        where = f"indices.{name}.aesthetic_embeddings"
        if settings.aesthetic_embeddings is None:
            raise RetrievalError(
                f"index {name!r} is local, and `aesthetic_score` of the entry needs embeddings of the CLIP that made it: give "
                f"`{where}` in the catalogue (a folder of rating0.npy to rating9.npy), or set the score to null"
            )
        embeddings = Path(require_set(settings.aesthetic_embeddings, where))
        return AestheticIndex(index, name, embeddings, retrieval.aesthetic_score, retrieval.aesthetic_weight)

    from sd_assets.retrieval.service import ServiceIndex

    where = f"indices.{name}"
    for url in settings.url:  # there may be a password beside the variable that is not set
        require_secret_set(SecretStr(url), f"{where}.url")
    require_secret_set(settings.api_key, f"{where}.api_key")
    return ServiceIndex(name, settings, retrieval)


def checked_queries(queries: npt.NDArray[np.float32], dim: int | None, name: str) -> npt.NDArray[np.float32]:
    """The queries as a contiguous float32 array, shape (queries, dim).

    Raises:
        RetrievalError: they are not two-dimensional, or not as wide as the index's vectors.
    """
    checked = np.ascontiguousarray(queries, dtype=np.float32)
    if checked.ndim != 2:
        raise RetrievalError(
            f"index {name!r}: queries must have the shape (queries, dim), got {checked.shape}"
        )
    if dim is not None and checked.shape[1] != dim:
        raise RetrievalError(
            f"index {name!r} holds vectors of {dim} dimensions, the queries have {checked.shape[1]}: `clip:` of the entry "
            "must be the model that made the index"
        )
    return checked


def query_failed(detail: str) -> RowError:
    """A query that has no answer; `detail` is cut to one bounded line."""
    return RowError(ErrorCode.QUERY_FAILED, " ".join(detail.split())[:300])
