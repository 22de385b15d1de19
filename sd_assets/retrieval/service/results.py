"""The list of results that a service answers, as the columns of hits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sd_assets.retrieval.columns import chosen_columns, pixels_of, text_of
from sd_assets.retrieval.index import HITS
from sd_assets.services.exchange import BadAnswerError

# Characters of an answer that a message quotes; it is cut further, after a key that is in it is gone.
_SHOWN = 2000
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Results:
    """What one query found.

    Attributes:
        hits: columns `HITS`, best first.
        exhausted: there is no more for this query.
        dropped: results that are no hits, by why: `results_without_url`, `results_without_similarity`.
        columns: the names of all that the results say.
    """

    hits: pa.RecordBatch
    exhausted: bool
    dropped: Counter[str]
    columns: frozenset[str]


def results_of(answer: Any, limit: int) -> Results:
    """The results that have a URL and a similarity, best first, of an answer in JSON.

    Some have only an id: the server drops the metadata of what it left out. A list shorter than asked for is all there is: a
    back end leaves out results only for flags that we do not set.

    Args:
        answer: of `POST /knn-service`.
        limit: results that were asked for.

    Raises:
        BadAnswerError: it is no list of objects, or has results without a single similarity.
    """
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise BadAnswerError(f"the answer is no list of results: {str(answer)[:_SHOWN]!r}", 200)
    similarities = [_number(row.get("similarity")) for row in answer]
    if answer and all(similarity is None for similarity in similarities):
        raise BadAnswerError(
            f"none of {len(answer)} results has a number as `similarity`: {str(answer[0])[:_SHOWN]!r}", 200
        )
    present = {name for row in answer for name in row}
    columns = chosen_columns(present)
    urls = [_url(row, columns.get("url", "url")) for row in answer]
    dropped: Counter[str] = Counter()
    places = []
    for place, (similarity, url) in enumerate(zip(similarities, urls, strict=True)):
        if similarity is None:
            dropped["results_without_similarity"] += 1
        elif url is None:
            dropped["results_without_url"] += 1
        else:
            places.append(place)
    # Stable: among equals the order of the service holds.
    places = sorted(places, key=lambda place: -(similarities[place] or 0.0))[:limit]
    taken: dict[str, list[Any]] = {
        "url": [urls[place] for place in places],
        "rank": list(range(len(places))),
        "similarity": [similarities[place] for place in places],
    }
    for field in HITS:
        column = columns.get(field.name)
        if field.name not in taken and column is not None:
            converted = _CONVERTED[field.type]
            taken[field.name] = [converted(answer[place].get(column)) for place in places]
    nothing = [None] * len(places)
    hits = [pa.array(taken.get(field.name, nothing), field.type) for field in HITS]
    return Results(
        pa.RecordBatch.from_arrays(hits, schema=HITS),
        exhausted=len(answer) < limit,
        dropped=dropped,
        columns=frozenset(present),
    )


def no_results() -> Results:
    """Of a query that failed."""
    return Results(pa.RecordBatch.from_pylist([], HITS), True, Counter(), frozenset())


def _url(row: dict[str, Any], column: str) -> str | None:
    value = row.get(column)
    if not isinstance(value, str):
        return None
    # Of images of its own a service gives the path, and the image instead of a URL.
    if column == "image_path" and not value.lower().startswith(("http://", "https://")):
        return None
    return text_of(value)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) <= _FLOAT32_MAX else None


_CONVERTED: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): text_of,
    pa.int32(): pixels_of,
}
