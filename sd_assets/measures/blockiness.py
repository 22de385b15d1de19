"""How visible the blocks of 8 x 8 pixels are that JPEG cuts a picture into.

After the blocking measure of Wang, Sheikh and Bovik, "No-Reference Perceptual Quality Assessment of JPEG Compressed Images" (ICIP
2002): the steps from pixel to pixel at the borders of blocks, beside those within them. Two things are different: steps are
compared with those right beside them and capped, so that the edges of what a picture shows do not count for more than a few levels;
and the grid may lie anywhere, as it does in a picture that was cropped.

It is measured in the pixels as they are kept. An image that was resized after it was compressed has no grid any more, and its
artefacts are not found.
"""

import numpy as np
import numpy.typing as npt

from sd_assets.measures.pictures import Luma

_BLOCK = 8
_LARGEST_STEP = 16  # levels: larger ones are edges of things
_LEAST_SIDE = 4 * _BLOCK


def blockiness(luma: Luma) -> float:
    """By how many levels (of 255) the steps at the borders of blocks exceed those beside them, in the mean; about 0 without blocks.

    Args:
        luma: [height, width]; with a side of less than 32 pixels 0 is answered, as there is nothing to compare.
    """
    if min(luma.shape) < _LEAST_SIDE:
        return 0.0
    return (_along_rows(luma) + _along_rows(luma.T)) / 2


def _along_rows(luma: npt.NDArray[np.uint8]) -> float:
    steps = np.abs(np.diff(luma.astype(np.int16), axis=1))
    excess = 2 * steps[:, 1:-1] - steps[:, :-2] - steps[:, 2:]
    by_column = np.clip(excess, -2 * _LARGEST_STEP, 2 * _LARGEST_STEP).mean(axis=0) / 2
    by_place = [float(by_column[place::_BLOCK].mean()) for place in range(_BLOCK)]
    return max(0.0, max(by_place) - float(np.median(by_place)))
