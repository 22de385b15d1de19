"""Which bytes of an image a trainer is given: those that are there, unless it would see another picture in them than a viewer shows."""

import hashlib
import json

import numpy as np
import simplejpeg

from sd_assets import images
from sd_assets.containers.picture import Picture
from sd_assets.download.resize import resize, scaled_size
from sd_assets.images import EncodedFormat
from sd_assets.settings.exports import LayoutSettings

# Raise it when the same settings come to give other bytes.
VERSION = "1"
# What all trainers read, and the extension that they look for.
_EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp"}
# Of these the pixels are as they were made; what is made of others may lose as much as they did.
_LOSSLESS = frozenset({"png", "gif", "bmp", "tiff"})
EXTENSIONS = tuple(_EXTENSIONS.values())


def exported(data: bytes, settings: LayoutSettings) -> tuple[bytes, str]:
    """The bytes of an image and their extension: jpg, png or webp.

    The bytes are those that came, unless the image is to be resized, is of another format, or trainers, which open it with Pillow and
    convert it to RGB, would see it otherwise than it is shown: turned by EXIF, on transparency, in CMYK, in 16 bits, moving.

    Raises:
        RowError: the image is damaged, or larger than the format can say; see `images.decode_rgb`, `images.encode`.
    """
    picture = images.read_picture(data)
    width, height = picture.width, picture.height
    if not _changes_size(width, height, settings):
        if picture.format in _EXTENSIONS and _seen_as_shown(data, picture):
            return data, _EXTENSIONS[picture.format]
        made: EncodedFormat = "png" if picture.format in _LOSSLESS else "jpg"
        return images.encode(images.decode_rgb(data), made, settings.quality), made
    assert settings.image_size is not None
    pixels = np.asarray(images.decode_rgb(data))
    resized = resize(pixels, settings.image_size, settings.resize_mode, settings.resize_only_if_bigger)
    return images.encode(resized, settings.image_format, settings.quality), settings.image_format


def exported_size(width: int, height: int, settings: LayoutSettings) -> tuple[int, int]:
    """Width and height in pixels that `exported` gives an image of this size, without looking at it."""
    if settings.image_size is None:
        return width, height
    size = settings.image_size
    scaled = scaled_size(width, height, size, settings.resize_mode, settings.resize_only_if_bigger)
    if scaled is None:
        return width, height
    return (size, size) if settings.resize_mode in ("center_crop", "border") else scaled


def rendition(payload: bytes, settings: LayoutSettings) -> str:
    """Eight hex digits that change with the bytes of an image, and with what is made of them.

    Args:
        payload: a digest of the bytes as they are stored.
        settings: of the layout.
    """
    asked: list[object] = [VERSION, settings.quality]
    if settings.image_size is not None:
        asked += [
            settings.image_size,
            settings.resize_mode,
            settings.resize_only_if_bigger,
            settings.image_format,
        ]
    return hashlib.blake2b(payload + json.dumps(asked).encode(), digest_size=4).hexdigest()


def _changes_size(width: int, height: int, settings: LayoutSettings) -> bool:
    # Of a picture on its side the same is true.
    return exported_size(width, height, settings) != (width, height)


def _seen_as_shown(data: bytes, picture: Picture) -> bool:
    """Whether Pillow's `convert("RGB")` gives what a viewer shows."""
    if picture.orientation != 1:
        return False
    if picture.format == "jpeg":
        try:
            return simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "Gray", "RGB")
        except ValueError:  # a header that only Pillow understands
            return False
    if picture.format == "webp":
        # VP8X has flags of its own: transparency 0x10, animation 0x02; a lossless picture's are behind its size (RFC 9649).
        kind, flags, lossless_flags = data[12:16], data[20], data[24]
        return (
            kind == b"VP8 "
            or (kind == b"VP8X" and not flags & 0x12)
            or (kind == b"VP8L" and not lossless_flags & 0x10)
        )
    # IHDR: the colour type, of which 4 and 6 have transparency; tRNS makes others have it (PNG, 11.2.1 and 11.3.1).
    return picture.depth <= 8 and data[25] not in (4, 6) and b"tRNS" not in data[: data.find(b"IDAT")]
