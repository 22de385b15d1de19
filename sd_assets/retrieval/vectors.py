"""Judging vectors, and bringing them to length 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sd_assets.retrieval.corpora.corpus import Reason, Reasons, Vectors

# What has length 1 but for rounding in float32 stays as it is, to the last bit.
_ROUNDING = 1e-6


def of_unit_length(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Vectors that were judged before (float32, shape (rows, dim)), L2-normalised; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def normalised(vectors: Vectors, reasons: Reasons) -> tuple[npt.NDArray[np.float32], Reasons]:
    """The good vectors, L2-normalised, and for every row why it is not among them.

    Args:
        vectors: float16, float32 or float64, shape (rows, dim); does not change.
        reasons: uint8, shape (rows,): a `Reason` each, as far as it is known.

    Returns:
        float32, shape (good rows, dim), contiguous; uint8, shape (rows,).
    """
    found = reasons.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        # What is too large for float32 becomes infinite.
        values = np.array(vectors, dtype=np.float32, order="C")
        squares = np.einsum("ij,ij->i", values, values)
    unsure = np.flatnonzero(~np.isfinite(squares) | (squares < np.finfo(np.float32).tiny))
    for row in unsure:
        # Its squares may be beyond float32, although it is not.
        exact = np.asarray(vectors[row], np.float64)
        largest = np.abs(exact).max(initial=0.0)
        if np.isfinite(largest) and largest > 0:
            values[row] = exact / largest
            squares[row] = values[row] @ values[row]
    problem = np.where(np.isfinite(squares), Reason.ZERO, Reason.NOT_FINITE)
    bad = ~np.isfinite(squares) | (squares == 0)
    found = np.where((found == Reason.NONE) & bad, problem, found).astype(np.uint8)
    good = found == Reason.NONE
    if not good.all():
        values, squares = values[good], squares[good]
    off = np.flatnonzero(np.abs(squares - 1) > _ROUNDING)
    if len(off) == len(values):
        values /= np.sqrt(squares)[:, None]
    else:
        values[off] /= np.sqrt(squares[off])[:, None]
    return values, found
