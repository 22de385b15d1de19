"""Images as bytes: good ones of every kind that the web holds, and headers that promise more than anybody should decode."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SIZE = (96, 64)  # width, height of every good image, in pixels, before a rotation
HUGE = 60_000  # pixels a side, as a bomb's header says; 10.8 GB as RGB
LARGEST_AVIF = 16_000  # what its own library would still decode; 768 MB as RGB


def photo(seed: int = 0) -> Image.Image:
    """A smooth picture with some noise, so that a truncated one cannot look whole."""
    width, height = SIZE
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 40, (height, width))
    red, green, blue = x * 215 // width, y * 215 // height, (x + y) % 200
    return Image.fromarray((np.stack([red, green, blue], axis=-1) + noise[..., None]).astype(np.uint8))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    """The image as Pillow encodes it."""
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def png_chunk(name: bytes, value: bytes) -> bytes:
    """A chunk of a PNG, with its length and checksum."""
    return struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks, whatever they hold."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, value) for name, value in chunks)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _odd_profile() -> bytes:
    """A profile that is not for RGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()


def _sixteen_bit_png() -> bytes:
    width, height = SIZE
    grey = np.linspace(0, 65_535, width * height).astype(np.uint16).reshape(height, width)
    return saved(Image.fromarray(grey), "PNG")


def good_images() -> dict[str, tuple[bytes, str, tuple[int, int]]]:
    """By kind: the bytes, the format by content, and width and height in pixels as a viewer shows it."""
    image, frames = photo(), [photo(1), photo(2)]
    turned = (SIZE[1], SIZE[0])
    rgba = image.copy()
    rgba.putalpha(128)
    return {
        "jpeg": (saved(image, "JPEG"), "jpeg", SIZE),
        "jpeg-progressive": (saved(image, "JPEG", progressive=True), "jpeg", SIZE),
        "jpeg-cmyk": (saved(image.convert("CMYK"), "JPEG"), "jpeg", SIZE),
        "jpeg-grey": (saved(image.convert("L"), "JPEG"), "jpeg", SIZE),
        "jpeg-rotated": (saved(image, "JPEG", exif=_exif(6)), "jpeg", turned),
        "jpeg-flipped": (saved(image, "JPEG", exif=_exif(2)), "jpeg", SIZE),
        "jpeg-with-odd-profile": (saved(image, "JPEG", icc_profile=_odd_profile()), "jpeg", SIZE),
        "jpeg-and-more": (saved(image, "JPEG") + b"<html>appended by a proxy</html>" * 50, "jpeg", SIZE),
        "png": (saved(image, "PNG"), "png", SIZE),
        "png-16-bits": (_sixteen_bit_png(), "png", SIZE),
        "png-palette": (saved(image.quantize(16), "PNG"), "png", SIZE),
        "png-transparent": (saved(rgba, "PNG"), "png", SIZE),
        "gif": (saved(image, "GIF"), "gif", SIZE),
        "gif-animated": (saved(image, "GIF", save_all=True, append_images=frames), "gif", SIZE),
        "webp": (saved(image, "WEBP"), "webp", SIZE),
        "webp-lossless": (saved(image, "WEBP", lossless=True), "webp", SIZE),
        "webp-animated": (saved(image, "WEBP", save_all=True, append_images=frames), "webp", SIZE),
        "avif": (saved(image, "AVIF"), "avif", SIZE),
        "tiff": (saved(image, "TIFF"), "tiff", SIZE),
        "tiff-lzw": (saved(image, "TIFF", compression="tiff_lzw"), "tiff", SIZE),
        "bmp": (saved(image, "BMP"), "bmp", SIZE),
    }


# --- headers that promise HUGE x HUGE pixels ---------------------------------------------------------------------


def bombs() -> dict[str, bytes]:
    """By format: an image whose header promises `HUGE` x `HUGE` pixels; an AVIF, `LARGEST_AVIF` x `LARGEST_AVIF`."""
    return {
        "jpeg": _jpeg_frame(struct.pack(">HH", HUGE, HUGE), at=5),
        "png": png(
            (b"IHDR", struct.pack(">IIBBBBB", HUGE, HUGE, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(bytes(1_000_000))),
            (b"IEND", b""),
        ),
        "webp": _webp_bomb(),
        "gif": _gif_bomb(),
        "tiff": _tiff_bomb(),
        "bmp": _patched(saved(photo(), "BMP"), 18, struct.pack("<ii", HUGE, HUGE)),
        "avif": avif_bomb(LARGEST_AVIF),
    }


def twelve_bit_jpeg() -> bytes:
    """A JPEG whose frame header says 12 bits per sample."""
    return _jpeg_frame(b"\x0c", at=4)


def heic() -> bytes:
    """The beginning of a file of a telephone."""
    return b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)


SVG = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' width='96' height='64'/>"
HTML = b"<!DOCTYPE html><title>Photo</title><p>Not here any more" + b" " * 500


def _patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def _jpeg_frame(value: bytes, *, at: int) -> bytes:
    """A baseline JPEG with some bytes of its frame header (ITU T.81, B.2.2), from the marker on, replaced."""
    data = saved(photo(), "JPEG")
    return _patched(data, data.index(b"\xff\xc0") + at, value)


def _webp_bomb() -> bytes:
    """An extended header (RFC 9649, 2.7) before an ordinary picture: its canvas has 24 bits a side."""
    side = (HUGE - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + bytes(4) + side + side + saved(photo(), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _gif_bomb() -> bytes:
    """The screen, and the one frame on it, as large."""
    data = _patched(saved(photo(), "GIF"), 6, struct.pack("<HH", HUGE, HUGE))
    frame = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1 if data[10] & 0x80 else 0))
    return _patched(data, frame + 5, struct.pack("<HH", HUGE, HUGE))


def _tiff_bomb() -> bytes:
    """ImageWidth (256), ImageLength (257) and RowsPerStrip (278) of the first directory."""
    data = saved(photo(), "TIFF")
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, at)[0] in (256, 257, 278):
            data = _patched(data, at + 2, struct.pack("<HII", 4, 1, HUGE))
    return data


def avif_bomb(side: int) -> bytes:
    """The image spatial extents (ISO/IEC 23008-12, 6.5.3): version and flags, width, height."""
    data = saved(photo(), "AVIF")
    return _patched(data, data.index(b"ispe") + 8, struct.pack(">II", side, side))


# --- metadata that unfold, or have no end ------------------------------------------------------------------------


def metadata_bombs() -> dict[str, bytes]:
    """By kind: a good PNG or JPEG of less than a megabyte, with metadata of 256 MiB, compressed, or as many as fit."""
    data = saved(photo(), "PNG")
    start, end = data[:33], data[33:]  # IHDR, and what follows it
    unfolds = _zeros(256)
    jpeg = saved(photo(), "JPEG")
    segment = b"\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(65_527)
    return {
        "png-text": start + png_chunk(b"zTXt", b"Comment\0\0" + unfolds) + end,
        "png-international-text": start + png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + unfolds) + end,
        "png-profile": start + png_chunk(b"iCCP", b"icc\0\0" + unfolds) + end,
        "png-many-texts": start + png_chunk(b"tEXt", b"Comment\0x") * 20_000 + end,
        "jpeg-many-segments": jpeg[:2] + segment * 12 + jpeg[2:],
    }


def _zeros(mebibytes: int) -> bytes:
    """So many of them, as a stream of zlib."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(mebibytes)) + packer.flush()


# --- metadata ----------------------------------------------------------------------------------------------------

MARKER = b"PLANTED-SECRET"


def with_metadata(format: str) -> bytes:
    """A good image that carries everything: EXIF with a position, XMP, IPTC, a profile, comments, texts of a PNG.

    Each block holds `MARKER` in clear bytes, but for compressed ones and numbers.
    """
    text = MARKER.decode()
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = f"{text} exif"  # ImageDescription, Artist
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.6), 3: "E", 4: (2.0, 17.0, 40.2)})
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>' + MARKER + b" xmp</rdf:RDF></x:xmpmeta>"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + MARKER
    options: dict[str, Any] = {"icc_profile": profile, "exif": exif, "xmp": xmp}
    makers: dict[str, Callable[[], bytes]] = {
        "jpeg": lambda: _with_iptc(saved(photo(), "JPEG", comment=MARKER + b" comment", **options)),
        "png": lambda: _with_texts(saved(photo(), "PNG", **{**options, "xmp": None})),
        "webp": lambda: saved(photo(), "WEBP", **options),
        "avif": lambda: saved(photo(), "AVIF", **options),
        "tiff": lambda: saved(photo(), "TIFF", description=f"{text} tag", artist=text, **options),
        "gif": lambda: saved(photo(), "GIF", comment=MARKER + b" comment"),
    }
    return makers[format]()


def _with_iptc(jpeg: bytes) -> bytes:
    """With a caption as Photoshop writes it: IPTC 2:120 in an image resource 0x0404 in APP13, and an unknown APP9."""
    caption = b"\x1c\x02\x78" + struct.pack(">H", len(MARKER)) + MARKER
    resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(caption)) + caption
    segments = b"".join(
        marker + struct.pack(">H", len(value) + 2) + value
        for marker, value in ((b"\xff\xed", resource), (b"\xff\xe9", MARKER))
    )
    return jpeg[:2] + segments + jpeg[2:] + MARKER  # and bytes after the end of the image


def _with_texts(data: bytes) -> bytes:
    """With each kind of text chunk, a date, and a chunk that nobody knows."""
    chunks = [
        (b"tEXt", b"Comment\0" + MARKER),
        (b"zTXt", b"Author\0\0" + zlib.compress(MARKER)),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + MARKER),
        (b"tIME", struct.pack(">HBBBBB", 2024, 1, 2, 3, 4, 5)),
        (b"seCr", MARKER),
    ]
    end = 8 + 25  # the signature and IHDR
    return data[:end] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[end:] + MARKER
