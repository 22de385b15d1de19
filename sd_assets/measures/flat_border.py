"""Bars of one colour at the sides of a picture, as those of films and screenshots, and of pictures put on a square.

A row or column at the edge belongs to a bar if nearly all of its pixels have the colour of the outermost one. Bars come in
pairs: one at the top counts only if there is one of the same colour at the bottom, left and right likewise, so that neither a
bare wall nor a clear sky is taken for one. What stands alone before one colour, as products and logos do, has such bars, too.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sd_assets.measures.pictures import Luma

_TOLERANCE = 10  # levels: what compression leaves of one colour, and the noise of a scan
_MOST_OTHERS = 0.02  # share of the pixels of a row that may differ: dust, or where a corner is round


class Box(NamedTuple):
    """Part of a picture, in pixels: from `left` and `top`, up to `right` and `bottom`, which lie outside of it."""

    left: int
    top: int
    right: int
    bottom: int


def content(luma: Luma) -> Box:
    """What lies within the bars; of a picture of one colour nothing.

    Args:
        luma: [height, width].
    """
    height, width = luma.shape
    top, bottom = _bars(luma)
    if top + bottom >= height:
        return Box(0, 0, 0, 0)
    # Within the bars at top and bottom, which would hide those at the sides: a frame has all four.
    left, right = _bars(luma[top : height - bottom].T)
    return Box(left, top, width - right, height - bottom)


def _bars(luma: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """How many of the first and of the last rows are bars of one colour, the same for both; all of them are counted as the first."""
    first, last = (float(np.median(row)) for row in (luma[0], luma[-1]))
    if abs(first - last) > _TOLERANCE:
        return 0, 0
    top = _flat_rows(luma, first)
    if top == len(luma):
        return top, 0
    bottom = _flat_rows(luma[::-1], last)
    return (top, bottom) if top and bottom else (0, 0)


def _flat_rows(luma: npt.NDArray[np.uint8], level: float) -> int:
    """How many rows, from the first on, have nearly this level everywhere."""
    for number, row in enumerate(luma):
        others = np.count_nonzero(np.abs(row - level) > _TOLERANCE)
        if others > _MOST_OTHERS * row.size:
            return number
    return len(luma)
