"""Which candidates of a query are the same image again.

The better candidate stays, and whether one stays depends on better ones alone. What is the same as a near-duplicate of a hit is no
hit either. So what a query finds does not change with how
many of its candidates were looked at, as it would with connected components of similar images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.retrieval.vectors import of_unit_length

Mask = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float32]

# Candidates whose vectors are compared with each other at once, at least.
_BLOCK = 128


def repeated(values: pa.Array, owners: npt.NDArray[np.int64], alive: Mask) -> Mask:
    """Which candidates have a text that a better one of the same query has.

    Args:
        values: a text of each candidate; what is null is the same as nothing.
        owners: the query of each candidate, ascending; of a query's candidates the better come first.
        alive: the candidates that count.
    """
    found = np.zeros(len(values), np.bool_)
    if values.null_count == len(values):
        return found
    codes = pc.fill_null(values.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(alive & (codes >= 0))
    keys = owners[places] * len(values) + codes[places]
    ordered = np.sort(keys)
    if (ordered[1:] != ordered[:-1]).any():  # seldom, so most of the time this is all
        _, first = np.unique(keys, return_index=True)
        found[places] = True
        found[places[first]] = False
    return found


def near_duplicates(
    ids: npt.NDArray[np.int64], wanted: int, least: float, vectors: Callable[[npt.NDArray[np.int64]], Vectors]
) -> Mask:
    """Which candidates of one query lie as near as this to a better one that stays.

    Args:
        ids: of the candidates, the best first.
        wanted: once so many stay, the others are not looked at, and not named.
        least: the cosine of two vectors from which on they are near.
        vectors: of ids, float32, shape (ids, dim).
    """
    near = np.zeros(len(ids), np.bool_)
    size = max(_BLOCK, min(wanted, 1_024))
    kept: list[Vectors] = []
    count = 0
    for start in range(0, len(ids), size):
        block = of_unit_length(vectors(ids[start : start + size]))
        gone = np.zeros(len(block), np.bool_)
        for better in kept:
            gone |= (block @ better.T >= least).any(axis=1)
        _thin(np.triu(block @ block.T >= least, 1), gone)
        near[start : start + len(block)] = gone
        kept.append(block[~gone])
        count += int((~gone).sum())
        if count >= wanted:
            break
    return near


def _thin(near: npt.NDArray[np.bool_], gone: Mask) -> None:
    """Drop each that is near to an earlier one that is not gone; `near` holds for pairs (earlier, later)."""
    for place in np.flatnonzero(near.any(axis=1)):  # those alone that have a near one
        if not gone[place]:
            gone |= near[place]
