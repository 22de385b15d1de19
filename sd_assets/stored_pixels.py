"""The pixels of JPEGs and plain WebPs as they are stored, in the quickest way; of the rest Pillow has to make an image.

Measured with `python -m benchmarks.codecs`: two thirds of the time for a JPEG go into undoing its Huffman code, which no decoder
does faster than libjpeg-turbo and none can leave out. So what can be saved is saved around it:

- A JPEG that is to become much smaller is decoded at a half, a quarter or an eighth of its size (`_SHRINKS`), by simplejpeg:
  OpenCV's decoder is as quick, but writes to the console and passes truncated images; Pillow's copies the pixels twice.
- A plain WebP is decoded by OpenCV: Pillow treats each as an animation, takes a third longer and four times the memory.
  Of damaged PNGs OpenCV writes to the console.
- Pixels are decoded into memory that the thread keeps: fresh memory costs as much as the decoding of what goes into it.
- A profile is applied, and an image turned, when it is small (`as_shown`).

Threads suffice, and share the memory that processes would have each: all of this happens outside the interpreter's lock.
"""

import threading
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from sd_assets import images
from sd_assets.containers.picture import Picture
from sd_assets.images import Pixels

_SHRINKS = (8, 4, 2)  # what libjpeg-turbo has vector code for; it can do eighths of any number
# Bytes that a thread keeps to decode into; what is larger is rare, and gets memory of its own.
_KEPT_BYTES = 16 * 1024 * 1024
_kept = threading.local()


@dataclass(frozen=True)
class Stored:
    """Pixels of a picture, neither turned nor in sRGB.

    Attributes:
        pixels: RGB, [height, width, 3]; good until the thread decodes its next picture.
        width: how many of them the picture is wide: of 511 pixels decoded at a half there are 256, and the last is half outside.
        height: likewise.
    """

    pixels: Pixels
    width: float
    height: float


def stored_pixels(
    picture: Picture, ratio: float, *, pixels_left: float, coarse_colours_from: float
) -> Stored | None:
    """The pixels of a picture, perhaps fewer of them; None if Pillow has to see to it.

    That is: CMYK, whose profile has to be applied before anything else; what is damaged, of which Pillow knows what to pass; and
    all other formats.

    Args:
        picture: of any format.
        ratio: how many pixels a side are to become one.
        pixels_left: how many of them there have to be left at least, where fewer are decoded.
        coarse_colours_from: the ratio from which on a colour sample may be decoded as a block of 2 x 2 pixels.
    """
    if picture.format == "webp":
        pixels = _webp(picture)
        return None if pixels is None else Stored(pixels, picture.width, picture.height)
    if picture.format != "jpeg":
        return None
    bare = picture.bare()
    by = next((by for by in _SHRINKS if ratio >= by * pixels_left), 1)
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(bare)
        if space not in ("YCbCr", "Gray", "RGB"):
            return None
        pixels = simplejpeg.decode_jpeg(
            bare,
            "RGB",
            fastupsample=ratio >= coarse_colours_from,
            min_height=-(-height // by) if by > 1 else 0,
            min_width=-(-width // by) if by > 1 else 0,
            buffer=_memory(3 * -(-height // by) * -(-width // by)),
        )
    except ValueError:
        return None
    return Stored(pixels, width / by, height / by)


def as_shown(pixels: Pixels, picture: Picture) -> Pixels:
    """What was made of a picture's stored pixels, turned as EXIF says, and in sRGB."""
    profile = picture.profile()
    if picture.orientation == 1 and profile is None:
        return pixels
    image = images.in_srgb(Image.fromarray(np.ascontiguousarray(pixels)), profile)
    return np.asarray(images.turned(image, picture.orientation).convert("RGB"))


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
