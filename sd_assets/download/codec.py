"""From the bytes of an image to the bytes that are kept: decoded, resized, encoded.

Measured with `python -m benchmarks.codecs`: two thirds of the time for a JPEG go into undoing its Huffman code, which no decoder
does faster than libjpeg-turbo and none can leave out. So what can be saved is saved around it:

- A JPEG that is to become much smaller is decoded at a half, a quarter or an eighth of its size (`_SHRINKS`), by simplejpeg:
  OpenCV's decoder is as quick, but writes to the console and passes truncated images; Pillow's copies the pixels twice.
- OpenCV's filters take a fifth of the time of Pillow's (`resize`); libvips takes longer than both together.
- A plain WebP is decoded by OpenCV: Pillow treats each as an animation, takes a third longer and four times the memory.
  Of damaged PNGs OpenCV writes to the console.
- Pixels are decoded into memory that the thread keeps: fresh memory costs as much as the decoding of what goes into it.
- A profile is applied, and an image turned, when it is small.

Threads suffice, and share the memory that processes would have each: all of this happens outside the interpreter's lock.
"""

import threading

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from sd_assets import images
from sd_assets.containers.picture import Picture
from sd_assets.download.resize import framed, resize, scale, scaled_size
from sd_assets.images import Pixels
from sd_assets.settings import DownloadSettings

# Of a decoder's own filter little is to be seen once at least so many of its pixels a side become one: at 2 the
# 1st percentile of photographs is 35 dB from exact, at 1 it is 27 dB.
_PIXELS_LEFT = 2
_SHRINKS = (8, 4, 2)  # what libjpeg-turbo has vector code for; it can do eighths of any number
# Bytes that a thread keeps to decode into; what is larger is rare, and gets memory of its own.
_KEPT_BYTES = 16 * 1024 * 1024
_kept = threading.local()


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
        decoded = _webp(picture) if info.format == "webp" else _jpeg(picture, scaled, settings.image_format)
        if decoded is not None:
            shown = _as_shown(decoded if scaled is None else scale(decoded, scaled), picture)
            return shown if scaled is None else framed(shown, size, mode)
    image = images.decode_rgb(data, max_pixels=settings.max_pixels)
    return resize(np.asarray(image), size, mode, only_if_bigger)


def _jpeg(picture: Picture, scaled: tuple[int, int] | None, becomes: images.EncodedFormat) -> Pixels | None:
    """Its pixels as they are stored, perhaps fewer of them; None if Pillow has to see to it.

    That is: CMYK, whose profile has to be applied before anything else, and what is damaged, of which Pillow knows what to pass.
    """
    bare = picture.bare()
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(bare)
        if space not in ("YCbCr", "Gray", "RGB"):
            return None
        ratio = min(width / scaled[0], height / scaled[1]) if scaled else 1.0
        by = next((by for by in _SHRINKS if ratio >= by * _PIXELS_LEFT), 1)
        pixels: Pixels = simplejpeg.decode_jpeg(
            bare,
            "RGB",
            # A colour sample as a block of 2 x 2 pixels: they become one pixel, or one sample of a JPEG, again.
            fastupsample=ratio >= (1 if becomes == "jpg" else 2),
            min_height=-(-height // by) if by > 1 else 0,
            min_width=-(-width // by) if by > 1 else 0,
            buffer=_memory(3 * -(-height // by) * -(-width // by)),
        )
    except ValueError:
        return None
    return pixels


def _webp(picture: Picture) -> Pixels | None:
    """Its pixels; None if Pillow has to see to it: it is an animation, has or may have transparency, or is damaged."""
    bare = picture.bare()
    kind, flags = bare[12:16], bare[20]
    if kind != b"VP8 " and (kind != b"VP8X" or flags or bare[30:34] != b"VP8 "):
        return None
    decoded = cv2.imdecode(np.frombuffer(bare, np.uint8), cv2.IMREAD_COLOR_RGB)
    if decoded is None or decoded.shape != (picture.height, picture.width, 3):
        return None
    pixels: Pixels = np.asarray(decoded, np.uint8)
    return pixels


def _memory(size: int) -> npt.NDArray[np.uint8]:
    """So many bytes to decode into: the thread's own, if they are not too many."""
    if size > _KEPT_BYTES:
        return np.empty(size, np.uint8)
    kept: npt.NDArray[np.uint8] | None = getattr(_kept, "memory", None)
    if kept is None or len(kept) < size:
        kept = _kept.memory = np.empty(size, np.uint8)
    return kept


def _as_shown(pixels: Pixels, picture: Picture) -> Pixels:
    """Turned as EXIF says, and in sRGB."""
    profile = picture.profile()
    if picture.orientation == 1 and profile is None:
        return pixels
    image = images.in_srgb(Image.fromarray(np.ascontiguousarray(pixels)), profile)
    return np.asarray(images.turned(image, picture.orientation).convert("RGB"))
