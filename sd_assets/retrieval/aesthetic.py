"""Queries that lean towards what people found beautiful, as clip-retrieval's `aesthetic_score` makes them lean.

LAION's aesthetic-predictor has for each CLIP of OpenAI's ten embeddings, of what was rated 0 to 9. A query is searched as
`normalise(query + weight * embedding)`; the similarities of its hits are those to that.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.index import Answers, KnnIndex
from sd_assets.retrieval.vectors import of_unit_length

Vectors = npt.NDArray[np.float32]


class AestheticIndex:
    """Implements `KnnIndex`: another one, asked for queries that the aesthetic embedding has moved.

    Args:
        index: that is asked.
        name: of the index, in the catalogue.
        embeddings: see `aesthetic_embedding`.
        score: which of them.
        weight: of the embedding beside the query's, which is of length 1.
    """

    def __init__(self, index: KnnIndex, name: str, embeddings: Path, score: int, weight: float) -> None:
        self._index = index
        self._name = name
        self._embeddings = embeddings
        self._score = score
        self._weight = weight

    @property
    def identity(self) -> str:
        """That of the index, and of the embedding."""
        digest = hashlib.sha256(self._pull.tobytes()).hexdigest()
        return f"{self._index.identity} aesthetic:{digest[:16]}"

    @property
    def dim(self) -> int | None:
        return self._index.dim

    @property
    def local(self) -> bool:
        return self._index.local

    @property
    def fields(self) -> frozenset[str] | None:
        return self._index.fields

    @property
    def most(self) -> int | None:
        return self._index.most

    @property
    def calls_at_once(self) -> int:
        return self._index.calls_at_once

    def open(self) -> None:
        """Raises `RetrievalError` also if the embedding is missing, or of another width than the index."""
        pull = self._pull
        self._index.open()
        if self.dim is not None and len(pull) != self.dim:
            raise RetrievalError(
                f"index {self._name!r} holds vectors of {self.dim} dimensions, the aesthetic embedding of {self._embeddings} "
                f"has {len(pull)}: it must be of the CLIP that made the index"
            )

    def close(self) -> None:
        self._index.close()

    def facts(self) -> dict[str, Any]:
        return self._index.facts()

    def search(self, queries: Vectors, k: int) -> Answers:
        return self._index.search(self._moved(queries), k)

    def vectors(self, ids: npt.NDArray[np.int64]) -> Vectors | None:
        return self._index.vectors(ids)

    @cached_property
    def _pull(self) -> Vectors:
        return aesthetic_embedding(self._embeddings, self._score, self._name)

    def _moved(self, queries: Vectors) -> Vectors:
        if queries.ndim != 2 or queries.shape[1] != len(self._pull):
            return queries  # the index says what is wrong with them
        return of_unit_length(queries + np.float32(self._weight) * self._pull)


def aesthetic_embedding(path: Path, score: int, name: str) -> Vectors:
    """The embedding of a score, float32, shape (dim,), at the length that it was given.

    Args:
        path: a folder of `rating0.npy` to `rating9.npy`, each one vector; or a .npy file, whose row number is the score.
        score: from 0 on.
        name: of the index, for messages.

    Raises:
        RetrievalError: there is none, or it is no vector of numbers.
    """
    where = f"index {name!r}: `aesthetic_embeddings`"
    file = path / f"rating{score}.npy" if path.is_dir() else path
    try:
        values = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise RetrievalError(
            f"{where}: there is no {file}; `aesthetic_score: {score}` needs a folder that holds rating{score}.npy (see "
            "vit_l_14_embeddings of LAION's aesthetic-predictor), or a .npy file with a row a score"
        ) from None
    except (OSError, ValueError, EOFError) as error:
        raise RetrievalError(f"{where}: {file} is no .npy file of numbers ({error})") from error
    if not (isinstance(values, np.ndarray) and values.ndim in (1, 2) and values.dtype.kind in "fiu"):
        raise RetrievalError(
            f"{where}: {file} must hold one vector, or a row a score, and holds {_described(values)}"
        )
    rows = np.atleast_2d(values)
    place = 0 if path.is_dir() else score
    if path.is_dir() and len(rows) != 1:
        raise RetrievalError(f"{where}: {file} must hold one vector, and holds {_described(values)}")
    if place >= len(rows):
        raise RetrievalError(
            f"{where}: {file} has {len(rows)} rows, for the scores 0 to {len(rows) - 1}, and `aesthetic_score` is {score}"
        )
    embedding = np.ascontiguousarray(rows[place], np.float32)
    if not np.isfinite(embedding).all():
        raise RetrievalError(f"{where}: the embedding of the score {score} in {file} holds NaN or infinity")
    return embedding


def _described(values: object) -> str:
    return (
        f"{values.dtype} of the shape {values.shape}"
        if isinstance(values, np.ndarray)
        else type(values).__name__
    )
