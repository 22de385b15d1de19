"""Images as bytes: what they are, their pixels in RGB, and bytes again.

The type is judged by content, never by a name or a header. Read are JPEG, PNG, WebP, GIF, TIFF, BMP and AVIF; of an
animation the first frame. Everything here raises `RowError` only, keeps no state and may be called by many threads.
"""

import contextlib
import ctypes
import io
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

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
_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
}
FORMATS = tuple(_READERS)

_SIGNATURES = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
)
# Sizes of the header that follows the file header of a BMP: two letters alone ("BM") also begin many a text.
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})

_ORIENTATION_TAG = 0x0112
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
    _silence()
    kind = _sniff(data)
    if kind == "webp":
        # Pillow allocates the canvas of a WebP when it opens it, so its header is read here.
        width, height, orientation = _webp_header(data)
    else:
        with _open(data, kind) as image:
            (width, height), orientation = image.size, _orientation(image, kind)
    if orientation in _SIDES_SWAPPED:
        width, height = height, width
    _check_pixels(width, height, max_pixels)
    return ImageInfo(kind, width, height)


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
    _silence()
    kind = _sniff(data)
    if kind == "webp":
        width, height, _ = _webp_header(data)
        _check_pixels(width, height, max_pixels)
    with _open(data, kind) as image:
        _check_pixels(*image.size, max_pixels)
        # Taken before the pixels are loaded, as `inspect` sees it: a PNG may have another EXIF block after them.
        orientation = _orientation(image, kind)
        profile = image.info.get("icc_profile")
        try:
            if at_least is not None:
                image.draft(None, (at_least, at_least))  # does nothing but to a JPEG
            image.load()
            rgb = _to_rgb(image, data[24] if kind == "png" else 8, profile)
        except Image.DecompressionBombError as error:
            raise RowError(ErrorCode.TOO_MANY_PIXELS, _line(error)) from error
        except Exception as error:  # whatever a decoder raises on damaged data is the row's error
            raise RowError(ErrorCode.CORRUPT_IMAGE, f"{kind}: {_line(error)}") from error
    if orientation in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[orientation])
    rgb.info = {}
    return rgb


def encode(image: Image.Image, format: EncodedFormat, quality: int) -> bytes:
    """The image as bytes; the same pixels give the same bytes. No metadata is carried over.

    Args:
        image: of mode RGB.
        format: jpg (4:2:0), png or webp (lossy).
        quality: 1 to 100; PNG, which loses nothing, ignores it.

    Raises:
        RowError: TOO_MANY_PIXELS, if a side is longer than the file format can say.
    """
    longest = max(image.size)
    if longest > _MAX_SIDE[format]:
        raise RowError(
            ErrorCode.TOO_MANY_PIXELS,
            f"{image.width} x {image.height} does not fit into {format}: at most {_MAX_SIDE[format]} a side",
        )
    if image.info:
        image = image.copy()
        image.info = {}  # Pillow's writers take the profile, comment and resolution from here
    out = io.BytesIO()
    if format == "jpg":
        image.save(out, "JPEG", quality=quality, subsampling="4:2:0")
    elif format == "webp":
        image.save(out, "WEBP", quality=quality, method=4)
    else:
        image.save(out, "PNG")
    return out.getvalue()


# --- the header --------------------------------------------------------------------------------------------------


def _sniff(data: bytes) -> str:
    if not data:
        raise RowError(ErrorCode.EMPTY, "no bytes")
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if data[4:8] == b"ftyp":
        brands = data[8 : max(16, min(int.from_bytes(data[:4], "big"), 256))]
        if any(brands[at : at + 4] in (b"avif", b"avis") for at in range(0, len(brands), 4)):
            return "avif"
        if brands[:4] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
            raise RowError(ErrorCode.NOT_AN_IMAGE, "HEIC is not read: convert it to JPEG, PNG or WebP")
    raise RowError(ErrorCode.NOT_AN_IMAGE, f"the content begins with {data[:24]!r}")


def _open(data: bytes, kind: str) -> ImageFile.ImageFile:
    try:
        return _READERS[kind](io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, _line(error)) from error
    except Exception as error:  # whatever a decoder raises on damaged data is the row's error
        raise RowError(ErrorCode.CORRUPT_IMAGE, f"{kind} header: {_line(error)}") from error


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


def _orientation(image: ImageFile.ImageFile, kind: str) -> int:
    """The EXIF orientation that is still to be applied; 1 is upright. Pillow turns a TIFF itself."""
    return 1 if kind == "tiff" else _exif_orientation(image.info.get("exif"))


def _exif_orientation(block: bytes | None) -> int:
    if not block:
        return 1
    exif = Image.Exif()
    try:
        exif.load(block)
        value = exif.get(_ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block raises anything; viewers show the picture all the same
        return 1
    return value if isinstance(value, int) else 1


def _webp_header(data: bytes) -> tuple[int, int, int]:
    """Width and height in pixels, EXIF orientation. Source: the WebP container specification (RFC 9649)."""

    def number(start: int, stop: int) -> int:
        return int.from_bytes(data[start:stop], "little")

    if len(data) < 30:
        raise RowError(ErrorCode.CORRUPT_IMAGE, "webp header: truncated")
    first, orientation = data[12:16], 1
    if first == b"VP8X":
        width, height = number(24, 27) + 1, number(27, 30) + 1
        if data[20] & 0x08:
            orientation = _exif_orientation(_riff_chunk(data, b"EXIF"))
    elif first == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF
    elif first == b"VP8L" and data[20] == 0x2F:
        width, height = (number(21, 25) & 0x3FFF) + 1, (number(21, 25) >> 14 & 0x3FFF) + 1
    else:
        raise RowError(ErrorCode.CORRUPT_IMAGE, f"webp header: unknown first chunk {first!r}")
    if not width or not height:
        raise RowError(ErrorCode.CORRUPT_IMAGE, f"webp header: {width} x {height} pixels")
    return width, height, orientation


def _riff_chunk(data: bytes, name: bytes) -> bytes | None:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == name:
            return data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return None


def _line(error: BaseException) -> str:
    """An exception of Pillow as one line for a person."""
    return " ".join(str(error).split())[:200] or type(error).__name__


# --- pixels ------------------------------------------------------------------------------------------------------


def _to_rgb(image: Image.Image, depth: int, profile: bytes | None) -> Image.Image:
    """A loaded image of any mode as RGB. `depth` is the bits per sample of a PNG, which its tRNS values are in."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        rgb = _from_16_bits(image, clear)
    elif image.mode in ("I", "F"):
        rgb = _stretched(image)
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
    if profile:
        rgb = _to_srgb(rgb, profile)
    return rgb.convert("RGB") if rgb.mode != "RGB" else rgb.copy() if rgb is image else rgb


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")


def _from_16_bits(image: Image.Image, clear: int | None) -> Image.Image:
    """Grey of 16 bits scaled to 8 (Pillow's own conversion would clip at 255)."""
    wide = np.asarray(image).astype(np.uint32)
    narrow = ((wide * 255 + 32_767) // 65_535).astype(np.uint8)
    if clear is not None:
        narrow[wide == clear] = 255
    return Image.fromarray(narrow)


def _stretched(image: Image.Image) -> Image.Image:
    """Grey of 32 bits (TIFF), whose range no header tells: darkest to black, brightest to white, as viewers do."""
    wide = np.asarray(image).astype(np.float64)
    finite = np.isfinite(wide)
    low, high = (wide[finite].min(), wide[finite].max()) if finite.any() else (0.0, 0.0)
    scaled = (np.where(finite, wide, low) - low) * (255 / (high - low) if high > low else 0)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image in sRGB; as it is if the profile is damaged or not for its kind of pixels, as browsers do."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if "sRGB" in (source.profile.profile_description or ""):
            return image
        if space == "RGB" and image.mode != "CMYK":
            image = image.convert("RGB")
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != image.mode:
            return image
        return _transformed(image, source)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return image


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
