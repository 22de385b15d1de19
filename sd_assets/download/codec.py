"""From the bytes of an image to the bytes that are kept: decoded, resized, encoded.

Decoding takes two thirds of the time (`sd_assets.stored_pixels`). OpenCV's filters take a fifth of the time of Pillow's (`resize`);
libvips takes longer than both together.
"""

import numpy as np

from sd_assets import images
from sd_assets.download.resize import framed, resize, scale, scaled_size
from sd_assets.images import Pixels
from sd_assets.settings import DownloadSettings
from sd_assets.stored_pixels import as_shown, stored_pixels

# Of a decoder's own filter little is to be seen once at least so many of its pixels a side become one: at 2 the
# 1st percentile of photographs is 35 dB from exact, at 1 it is 27 dB.
_PIXELS_LEFT = 2


def resized(data: bytes, info: images.ImageInfo, settings: DownloadSettings) -> tuple[bytes, int, int]:
    """The image resized and encoded as the settings say; its width and height.

    Raises:
        RowError: CORRUPT_IMAGE, TOO_MANY_PIXELS, NOT_AN_IMAGE.
    """
    pixels = resized_pixels(data, info, settings)
    height, width = pixels.shape[:2]
    return images.encode(pixels, settings.image_format, settings.quality), width, height


def resized_pixels(data: bytes, info: images.ImageInfo, settings: DownloadSettings) -> Pixels:
    """The pixels that `resized` encodes; they are good until the thread decodes its next image.

    Raises:
        RowError: as `resized`.
    """
    size, mode, only_if_bigger = settings.image_size, settings.resize_mode, settings.resize_only_if_bigger
    if info.format in ("jpeg", "webp"):
        picture = images.read_picture(data)
        scaled = scaled_size(picture.width, picture.height, size, mode, only_if_bigger)
        stored = stored_pixels(
            picture,
            min(picture.width / scaled[0], picture.height / scaled[1]) if scaled else 1.0,
            pixels_left=_PIXELS_LEFT,
            # Of 2 x 2 pixels of one colour one pixel is made, or one sample of a JPEG, again.
            coarse_colours_from=1 if settings.image_format == "jpg" else 2,
        )
        if stored is not None:
            shown = as_shown(stored.pixels if scaled is None else scale(stored.pixels, scaled), picture)
            return shown if scaled is None else framed(shown, size, mode)
    image = images.decode_rgb(data, max_pixels=settings.max_pixels)
    return resize(np.asarray(image), size, mode, only_if_bigger)
