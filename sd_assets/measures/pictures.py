"""From an encoded image to the luma that is measured."""

import cv2
import numpy as np
import numpy.typing as npt

from sd_assets.images import Pixels, decode_rgb, read_picture
from sd_assets.stored_pixels import as_shown, stored_pixels

Luma = npt.NDArray[np.uint8]  # [height, width], of BT.601, 0 to 255

_MAX_PIXELS = 100_000_000  # more is for `decode_rgb` to refuse

# One image a thread; OpenCV's own threads would only get in the way of the others.
cv2.setNumThreads(1)


def luma_of(data: bytes) -> Luma:
    """The luma of an image as a viewer shows it; see `sd_assets.images.decode_rgb`.

    Args:
        data: the image as it is encoded.

    Raises:
        RowError: as `decode_rgb`.
    """
    return np.asarray(cv2.cvtColor(_pixels(data), cv2.COLOR_RGB2GRAY), np.uint8)


def _pixels(data: bytes) -> Pixels:
    """RGB, good until the thread decodes its next picture."""
    picture = read_picture(data)
    if picture.width * picture.height <= _MAX_PIXELS:
        stored = stored_pixels(picture, 1, pixels_left=1, coarse_colours_from=2)
        if stored is not None:
            return as_shown(stored.pixels, picture)
    return np.asarray(decode_rgb(data))
