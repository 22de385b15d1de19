"""What can be told of a service before the first query: whether it takes queries of this width, and has URLs.

A back end says nothing of its index but a name, and answers 500 to all that is wrong. So it is asked one real query, and if
that fails, a few that tell why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import numpy.typing as npt

# Of the CLIP models that public indices are made with.
_DIMS = (512, 768, 640, 1024, 256, 384, 1152, 1280, 1536)

# Asks the service one query and says whether it answered with results.
Works = Callable[[dict[str, Any]], Awaitable[bool]]


async def why_it_fails(body: dict[str, Any], works: Works) -> str | None:
    """Why a service fails this query, and will fail all; None where it may be this one query only.

    Args:
        body: of the query that failed.
        works: asks another one.
    """
    dim = len(body["embedding_input"])
    plain = {name: value for name, value in body.items() if not name.startswith("aesthetic_")}
    if await works({**body, "embedding_input": _some_vector(dim)}):
        return None
    if len(plain) < len(body) and await works(plain):
        return (
            "answers queries, but fails them with `aesthetic_score` and `aesthetic_weight`: set both under `retrieval:` of the "
            "entry, or both to null"
        )
    for other in _DIMS:
        if other != dim and await works({**plain, "embedding_input": _some_vector(other)}):
            return (
                f"has an index of vectors of {other} dimensions, and the queries have {dim}: `clip:` of the entry must be the "
                "model that made the index"
            )
    without = {name: value for name, value in plain.items() if name != "embedding_input"}
    if await works({**without, "text": "a photo"}):
        return (
            f"answers a text, but fails every vector of {dim} dimensions: its index is likely of another width, and `clip:` of "
            "the entry must be the model that made the index"
        )
    return "answers /indices-list, but fails every query: its log says why"


def _some_vector(dim: int) -> list[float]:
    vector: npt.NDArray[np.float64] = np.full(dim, dim**-0.5)
    return [round(value, 6) for value in vector.tolist()]
