"""An index's columnar answers as rows, which are easier to look at."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from sd_assets.errors import RowError
from sd_assets.retrieval import Answers, KnnIndex


@dataclass(frozen=True)
class Hit:
    """An element of `schemas.HIT`."""

    url: str
    rank: int
    similarity: float
    alt_text: str | None
    width: int | None
    height: int | None
    licence: str | None
    nsfw: str | None
    language: str | None
    sha256: str | None


def asked(index: KnnIndex, queries: npt.NDArray[np.float32], k: int) -> list[list[Hit] | RowError]:
    """The hits of each query, or its error."""
    return listed(index.search(queries, k))


def listed(answers: Answers) -> list[list[Hit] | RowError]:
    """The hits of each query, or its error."""
    hits = iter(answers.hits.to_pylist())
    of_queries = [[Hit(**hit) for hit in islice(hits, count)] for count in answers.counts.tolist()]
    return [answers.errors.get(place) or found for place, found in enumerate(of_queries)]
