"""What every kind of kNN index answers to, and how one is chosen from the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sd_assets.catalog import require_set
from sd_assets.errors import ErrorCode, RetrievalError, RowError
from sd_assets.settings import FaissIndexSettings, RetrievalSettings, ServiceIndexSettings


@dataclass(frozen=True)
class Hit:
    """One image that a query found: an element of `schemas.HIT`.

    Attributes:
        url: where the image was when the corpus was made.
        rank: 0 is the best; ranks of a query's hits have no gaps.
        similarity: inner product of the two embeddings: the cosine, where both are L2-normalised.
        alt_text: what the corpus has as its text.
        width: of the original, px.
        height: of the original, px.
        licence: as the corpus states it.
        nsfw: as the corpus states it: a label (`UNLIKELY`) or a score (`0.02`).
        sha256: of the image's bytes, hex, as the corpus states it.
    """

    url: str
    rank: int
    similarity: float
    alt_text: str | None = None
    width: int | None = None
    height: int | None = None
    licence: str | None = None
    nsfw: str | None = None
    sha256: str | None = None


Answer = list[Hit] | RowError
"""The hits of one query, best first, or why it has none."""


class KnnIndex(Protocol):
    """A kNN index over a corpus of images.

    Attributes:
        identity: names the content of the index; part of the fingerprint of what it answers. Raises `RetrievalError` where it has
            to look at an index that is not there.
        dim: of its vectors; None where only the index itself knows. Known after `open()`.
        local: False where answers may change although the identity does not.
    """

    @property
    def identity(self) -> str: ...

    @property
    def dim(self) -> int | None: ...

    @property
    def local(self) -> bool: ...

    def open(self) -> None:
        """Make ready for `search`; once per worker.

        Raises:
            RetrievalError: the index is missing, damaged or does not answer.
        """

    def search(self, queries: npt.NDArray[np.float32], k: int) -> list[Answer]:
        """The `k` nearest images of each query, or fewer where the corpus has no more.

        Args:
            queries: float32, shape (queries, dim), L2-normalised.
            k: hits a query, at most.

        Returns:
            One answer per query, in order; a query that failed is a `RowError` with the code `query_failed`.

        Raises:
            RetrievalError: queries and index do not fit, or the index is gone.
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

        if retrieval.aesthetic_score is not None or retrieval.aesthetic_weight is not None:
            raise RetrievalError(
                f"index {name!r} is a local FAISS index, and `aesthetic_score` and `aesthetic_weight` are only for "
                "clip-retrieval services (for now): set both to null under `retrieval:` of the entry, or use a service"
            )
        return FaissIndex(name, require_set(settings.path, f"indices.{name}.path"))

    from sd_assets.retrieval.service import ServiceIndex

    url = require_set(settings.url, f"indices.{name}.url")
    return ServiceIndex(name, settings.model_copy(update={"url": url}), retrieval)


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
