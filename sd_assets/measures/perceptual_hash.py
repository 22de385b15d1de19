"""A hash that stays nearly the same when a picture is resized, compressed, or its light changed a little.

The DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), known as pHash: the 8 x 8
lowest frequencies but those of the mean rows and columns, each a bit that says whether it is over their median. Hashes differ by
so many bits as pictures differ: two of the same picture by a few, two of any others by 32 on the average.
"""

import cv2
import numpy as np

from sd_assets.measures.pictures import Luma

HASH_BITS = 64
_SIDE = 32  # px, of the picture that is transformed
_LOWEST = slice(1, 9)
# A wave of a 16th of a level, which nobody sees: photographs have a few frequencies at most of which there is no more, and
# gradients nearly all.
_NOTHING = 1.0


def perceptual_hash(luma: Luma) -> str | None:
    """64 bits as 16 hex digits, the lowest frequency first.

    None where less than a quarter of the frequencies are there, as in a picture of one colour or of a gradient: the bits of the
    others are all the same, and such pictures would be near-duplicates of each other.

    Args:
        luma: [height, width], any size.
    """
    # From more pixels an average over all of each new one, so that size and compression change little.
    shrunk = cv2.resize(luma.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    lowest = cv2.dct(shrunk)[_LOWEST, _LOWEST]
    lowest = np.where(np.abs(lowest) < _NOTHING, 0, lowest)
    if np.count_nonzero(lowest) < HASH_BITS / 4:
        return None
    bits = lowest > np.median(lowest)
    return np.packbits(bits).tobytes().hex()
