"""A hash that stays nearly the same when a picture is resized, compressed, or its light changed a little.

The DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), known as pHash: the 8 x 8
lowest frequencies but those of the mean rows and columns, each a bit that says whether it is over their median. Hashes differ by
so many bits as pictures differ: two of the same picture by a few, two of any others by 32 on the average.
"""

import cv2
import numpy as np

from sd_assets.measures.pictures import Luma

BITS = 64
_SIDE = 32  # px, of the picture that is transformed
_LOWEST = slice(1, 9)
# What is beyond the precision of the transformation: in a picture of one colour there is nothing to hash.
_NOTHING = 1e-3


def perceptual_hash(luma: Luma) -> str:
    """64 bits as 16 hex digits, the lowest frequency first; of a picture of one colour all are 0.

    Args:
        luma: [height, width], any size.
    """
    # From more pixels an average over all of each new one, so that size and compression change little.
    shrunk = cv2.resize(luma.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    lowest = cv2.dct(shrunk)[_LOWEST, _LOWEST]
    lowest = np.where(np.abs(lowest) < _NOTHING, 0, lowest)
    bits = lowest > np.median(lowest)
    return np.packbits(bits).tobytes().hex()
