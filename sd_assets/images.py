"""Images as bytes: what they are, their pixels in RGB, and bytes again.

The type is judged by content, never by a name or a header. Read are JPEG, PNG, WebP, GIF, TIFF, BMP and AVIF; of an
animation the first frame. Everything here raises `RowError` only and may be called by many threads.
"""

import contextlib
import ctypes
import functools
import io
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from sd_assets.containers import avif, exif
from sd_assets.containers.formats import FORMATS as FORMATS
from sd_assets.containers.formats import READERS, sniff
from sd_assets.containers.picture import MAX_METADATA, Picture, corrupt, guarded
from sd_assets.errors import ErrorCode, RowError

# What Pillow warns of (odd tags, many pixels, odd palettes) is either an error of the row, or nobody's concern.
_PILLOW = re.compile(r"PIL\.\w+")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# libtiff says on the process's standard error, from C, what Pillow raises anyway. A null handler keeps it quiet; where
# it is not to be found (linked statically, or missing) there is nothing to be done, and no harm beyond the noise.
with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)  # type: ignore[attr-defined]

# The classes are opened directly: `Image.open` would try every format it knows, and judge the number of pixels by a
# limit that belongs to the process.
_DECODERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
}

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED = frozenset({5, 6, 7, 8})

# Modes of Pillow whose values it leaves as they are where 0 is white. (Of others it makes 0 black.)
_WHITE_IS_ZERO = frozenset({"I;16", "I;16B", "F"})

# What ImageCms raises where a profile is damaged.
_NO_PROFILE = (ImageCms.PyCMSError, OSError, TypeError, ValueError)
# Bytes of a profile that is looked at once and remembered. Those of RGB with curves have up to 4,000.
_MAX_KNOWN = 16 * 1024

Pixels = npt.NDArray[np.uint8]  # RGB, [height, width, 3]
EncodedFormat = Literal["jpg", "png", "webp"]
# The most pixels a side that the file format can say.
_MAX_SIDE: dict[str, int] = {"jpg": 65_500, "png": 2**31 - 1, "webp": 16_383}


@dataclass(frozen=True)
class ImageInfo:
    """What the header of an image says.

    Attributes:
        format: jpeg, png, webp, gif, tiff, bmp or avif.
        width: pixels, after the EXIF orientation is applied.
        height: pixels, likewise.
    """

    format: str
    width: int
    height: int


def inspect(data: bytes, *, max_pixels: int | None = None) -> ImageInfo:
    """Format and size of an image, from its header: no pixel is decoded.

    Raises:
        RowError: EMPTY, NOT_AN_IMAGE, CORRUPT_IMAGE (the header is damaged), TOO_MANY_PIXELS (over `max_pixels`).
    """
    picture = read_picture(data)
    if picture.head is not None:
        with _open(picture.head, picture):
            pass
    width, height = picture.width, picture.height
    if picture.orientation in _SIDES_SWAPPED:
        width, height = height, width
    _check_pixels(width, height, max_pixels)
    return ImageInfo(picture.format, width, height)


def decode_rgb(
    data: bytes, *, max_pixels: int | None = 100_000_000, at_least: int | None = None
) -> Image.Image:
    """The pixels of an image as a viewer shows them, in mode RGB.

    The EXIF orientation is applied, transparency put on white, an ICC profile converted to sRGB, 16 bits scaled to 8.
    The result carries no metadata. The number of pixels is judged from the header, before anything is decoded.

    Args:
        data: the image as it is encoded.
        max_pixels: the most that the header may promise.
        at_least: for thumbnails: a JPEG may come out smaller, which is quicker, but no side shorter than so many pixels.

    Raises:
        RowError: EMPTY, NOT_AN_IMAGE, CORRUPT_IMAGE (truncated ones too, never a half-grey picture),
            TOO_MANY_PIXELS (over `max_pixels`; None is no limit of ours, Pillow has its own for WebP and TIFF tiles).
    """
    picture = read_picture(data)
    _check_pixels(picture.width, picture.height, max_pixels)
    with _open(picture.bare(), picture) as image:
        try:
            if at_least is not None:
                image.draft(None, (at_least, at_least))  # does nothing but to a JPEG
            image.load()
            rgb = _to_rgb(image, picture)
        except Image.DecompressionBombError as error:
            raise RowError(ErrorCode.TOO_MANY_PIXELS, _line(error)) from error
        except Exception as error:  # whatever a decoder raises on damaged data is the row's error
            raise RowError(ErrorCode.CORRUPT_IMAGE, f"{picture.format}: {_line(error)}") from error
    rgb = turned(rgb, picture.orientation)
    rgb.info = {}
    return rgb


def read_picture(data: bytes) -> Picture:
    """What the container says of the picture, and the bare file to decode; no pixel is decoded.

    Raises:
        RowError: EMPTY, NOT_AN_IMAGE, CORRUPT_IMAGE (the header is damaged).
    """
    _silence()
    format = sniff(data)
    return guarded(format, lambda: READERS[format](data) if format in READERS else _avif(data))


def encode(image: Image.Image | Pixels, format: EncodedFormat, quality: int) -> bytes:
    """The image as bytes; the same pixels give the same bytes. No metadata is carried over.

    Args:
        image: of mode RGB, or its pixels.
        format: jpg (4:2:0), png or webp (lossy).
        quality: 1 to 100; PNG, which loses nothing, ignores it.

    Raises:
        RowError: TOO_MANY_PIXELS, if a side is longer than the file format can say.
    """
    pixels = np.ascontiguousarray(image)
    height, width = pixels.shape[:2]
    if max(width, height) > _MAX_SIDE[format]:
        raise RowError(
            ErrorCode.TOO_MANY_PIXELS,
            f"{width} x {height} does not fit into {format}: at most {_MAX_SIDE[format]} a side",
        )
    if format == "jpg":
        jpeg: bytes = simplejpeg.encode_jpeg(pixels, quality, "RGB", "420")
        return jpeg
    out = io.BytesIO()
    if format == "webp":
        Image.fromarray(pixels).save(out, "WEBP", quality=quality, method=4)
    else:
        Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image in sRGB; as it is if it has no profile, a damaged one, or one for another kind of pixels."""
    return _to_srgb(image, profile) if profile else image


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as a viewer shows it, whose stored pixels have this EXIF orientation."""
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


# --- the header --------------------------------------------------------------------------------------------------


def _avif(data: bytes) -> Picture:
    """The picture of an AVIF, as libavif reads its header."""
    avif.check(data)
    with _opened(data, "avif") as image:
        (width, height), info = image.size, image.info
    avif.check_coded(data, width, height)
    profile = info.get("icc_profile")
    if profile is not None and len(profile) > MAX_METADATA:
        profile = None
    # Of boxes that turn the picture Pillow makes an EXIF orientation.
    return Picture("avif", width, height, lambda: data, lambda: profile, exif.orientation(info.get("exif")))


def _open(data: bytes, picture: Picture) -> ImageFile.ImageFile:
    """The file for Pillow to decode, which must see the same picture in it."""
    image = _opened(data, picture.format)
    if image.size != (picture.width, picture.height):
        raise corrupt(picture.format, f"{image.size} pixels, or {(picture.width, picture.height)}")
    return image


def _opened(data: bytes, format: str) -> ImageFile.ImageFile:
    try:
        return _DECODERS[format](io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, _line(error)) from error
    except Exception as error:  # whatever a decoder raises on damaged data is the row's error
        raise corrupt(format, _line(error)) from error


def _silence() -> None:
    """Have Pillow's warnings ignored, in this process.

    `catch_warnings` around each image would not do: it swaps the filters of the whole process, under other threads
    too. Nor would a filter set once: whoever imports this module inside a `catch_warnings` takes it away again.
    """
    if all(entry[3] != _PILLOW for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)


def _check_pixels(width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise RowError(
            ErrorCode.TOO_MANY_PIXELS, f"{width} x {height}, over the limit of {max_pixels} pixels"
        )


def _line(error: BaseException) -> str:
    """An exception of Pillow as one line for a person."""
    line = " ".join(str(error).split())[:200] or type(error).__name__
    # What it does not find in a table of its own, or among the tags.
    return f"unknown value or missing tag {line}" if isinstance(error.__cause__, KeyError) else line


# --- pixels ------------------------------------------------------------------------------------------------------


def _to_rgb(image: Image.Image, picture: Picture) -> Image.Image:
    """The loaded image of any mode as RGB."""
    depth, profile = picture.depth, picture.profile()
    clear = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        rgb = _from_16_bits(image, clear, depth)
    elif image.mode in ("I", "F"):
        rgb = _stretched(image)
    elif picture.format == "bmp" and image.mode == "RGBA" and not image.getchannel("A").getbbox():
        rgb = image.convert("RGB")  # its writer left the fourth byte alone
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgb = _on_white(image)
    elif clear is not None and image.mode in ("1", "L", "P", "RGB"):
        # Pillow scales the samples to 8 bits, but leaves the transparent value as the file has it.
        if image.mode == "L" and depth < 8:
            image.info["transparency"] = clear * 255 // (2**depth - 1)
        elif image.mode == "RGB" and depth == 16:
            image.info["transparency"] = tuple(value >> 8 for value in clear)
        rgb = _on_white(image)
    elif image.mode == "LAB":
        rgb = _transformed(image, ImageCms.createProfile("LAB"))
        profile = None
    else:
        rgb = image  # 1, L, P, RGB, RGBX, CMYK, YCbCr, HSV
    if image.mode in _WHITE_IS_ZERO and _white_is_zero(image):
        rgb = ImageChops.invert(rgb)
    if profile:
        rgb = _to_srgb(rgb, profile)
    # Not the file itself, which would hold its bytes; its pixels are taken over, as large ones are better not copied.
    rgb = rgb.convert("RGB") if rgb.mode != "RGB" else Image.Image()._new(image.im) if rgb is image else rgb
    if picture.covered is None:
        return rgb
    whole = Image.new("RGB", image.size, "white")
    whole.paste(rgb.crop(picture.covered), picture.covered)
    return whole


def _white_is_zero(image: Image.Image) -> bool:
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    return tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")


def _from_16_bits(image: Image.Image, clear: int | None, depth: int) -> Image.Image:
    """Grey of more than 8 bits scaled to 8 (Pillow's own conversion would clip at 255)."""
    wide = np.asarray(image).astype(np.uint32)
    brightest = 2**depth - 1
    narrow = ((wide * 255 + brightest // 2) // brightest).astype(np.uint8)
    if clear is not None:
        narrow[wide == clear] = 255
    return Image.fromarray(narrow)


def _stretched(image: Image.Image) -> Image.Image:
    """Grey of 32 bits (TIFF), whose range no header tells: darkest to black, brightest to white, as viewers do."""
    with np.errstate(invalid="ignore"):  # what is no number may say so
        wide = np.asarray(image).astype(np.float64)
    finite = np.isfinite(wide)
    low, high = (wide[finite].min(), wide[finite].max()) if finite.any() else (0.0, 0.0)
    scaled = (np.where(finite, wide, low) - low) * (255 / (high - low) if high > low else 0)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image in sRGB; as it is if the profile is damaged or not for its kind of pixels, as browsers do."""
    try:
        if is_srgb(profile):
            return image
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and image.mode != "CMYK":
            image = image.convert("RGB")
        if space == "GRAY" and image.mode == "RGB" and _is_grey(image):
            image = image.getchannel(0)
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != image.mode:
            return image
        return _transformed(image, source)
    except _NO_PROFILE:
        return image


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))


def is_srgb(profile: bytes) -> bool:
    """Whether colours of this profile come out as they are in sRGB, by two of 255 at most.

    Most profiles on the web are sRGB by one name or another (and some of that name are not): of them the transformation,
    which takes longer than decoding, is left out.
    """
    return len(profile) <= _MAX_KNOWN and _changes_nothing(profile)


@functools.lru_cache(maxsize=64)
def _changes_nothing(profile: bytes) -> bool:
    """As `is_srgb`. The web's images share few profiles, and making a transformation takes as long as a small image."""
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(6, 36, 3)
    ramp = np.repeat(np.arange(0, 252, 7, dtype=np.uint8)[None, :, None], 3, axis=-1)
    colours = np.concatenate([grid, ramp])
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != "RGB":
            return False
        result = np.asarray(_transformed(Image.fromarray(colours), source))
    except _NO_PROFILE:
        return False
    return int(np.abs(result.astype(np.int16) - colours).max()) <= 2


def _transformed(image: Image.Image, source: Any) -> Image.Image:
    """The image in sRGB, from the space of `source`, a profile of ImageCms."""
    result = ImageCms.profileToProfile(
        image,
        source,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert result is not None  # None only when it works in place
    return result
