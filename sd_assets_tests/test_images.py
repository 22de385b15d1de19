"""Images as bytes: inspect, decode_rgb, encode, on images that Pillow made."""

import io
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from sd_assets.errors import ErrorCode, RowError
from sd_assets.images import FORMATS, EncodedFormat, ImageInfo, decode_rgb, encode, inspect

PILLOW_NAMES = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "tiff": "TIFF",
    "bmp": "BMP",
    "avif": "AVIF",
}


def photo(width: int = 97, height: int = 61) -> Image.Image:
    """A smooth picture with some noise, so that a truncated one cannot look whole."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width))
    red, green, blue = x * 215 // width, y * 215 // height, (x + y) % 200
    return Image.fromarray((np.stack([red, green, blue], axis=-1) + noise[..., None]).astype(np.uint8))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def code(data: bytes, **options: Any) -> ErrorCode:
    with pytest.raises(RowError) as caught:
        decode_rgb(data, **options)
    return caught.value.code


def at(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    pixel = image.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return pixel


def near(image: Image.Image, reference: Image.Image) -> float:
    """Mean absolute difference of two pictures."""
    assert image.size == reference.size
    return float(np.abs(np.asarray(image, np.int16) - np.asarray(reference.convert("RGB"), np.int16)).mean())


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))
        for name, value in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str) -> None:
    data = saved(photo(), PILLOW_NAMES[kind])
    assert inspect(data) == ImageInfo(kind, 97, 61)
    image = decode_rgb(data)
    assert (image.mode, image.size, type(image)) == ("RGB", (97, 61), Image.Image)
    assert near(image, photo()) < (25 if kind == "gif" else 8)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_every_kind_of_webp_header_is_read(mode: str, lossless: bool) -> None:
    image = photo().convert(mode)
    if mode == "RGBA":
        image.putpixel((0, 0), (1, 2, 3, 4))
    assert inspect(saved(image, "WEBP", lossless=lossless)) == ImageInfo("webp", 97, 61)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ErrorCode.EMPTY),
        (b"<!DOCTYPE html><title>gone</title>", ErrorCode.NOT_AN_IMAGE),
        (b"BMW drivers wanted, apply within", ErrorCode.NOT_AN_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ErrorCode.NOT_AN_IMAGE),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ErrorCode.NOT_AN_IMAGE),
        (b"\xff\xd8\xff", ErrorCode.CORRUPT_IMAGE),
        (b"\x89PNG\r\n\x1a\n", ErrorCode.CORRUPT_IMAGE),
        (b"GIF89a", ErrorCode.CORRUPT_IMAGE),
        (b"RIFF\x10\0\0\0WEBPVP8 ", ErrorCode.CORRUPT_IMAGE),
        (b"RIFF\x10\0\0\0WEBPwhat" + bytes(30), ErrorCode.CORRUPT_IMAGE),
        (b"II*\0\xff\xff\xff\xff", ErrorCode.CORRUPT_IMAGE),
    ],
)
def test_what_is_no_image_has_a_code(data: bytes, expected: ErrorCode) -> None:
    assert code(data) == expected
    with pytest.raises(RowError) as caught:
        inspect(data)
    assert caught.value.code == expected
    assert caught.value.detail


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_image_is_corrupt_and_never_half_grey(kind: str) -> None:
    data = saved(photo(), PILLOW_NAMES[kind])
    whole = decode_rgb(data)
    for share in (0.1, 0.5, 0.8, 0.95):
        cut = data[: int(len(data) * share)]
        try:
            image = decode_rgb(cut)
        except RowError as error:
            assert error.code == ErrorCode.CORRUPT_IMAGE, share
        else:  # only what comes after the last pixel was cut away
            assert share == 0.95
            assert near(image, whole) == 0


def test_a_truncated_progressive_jpeg_is_corrupt() -> None:
    data = saved(photo(400, 300), "JPEG", progressive=True)
    for share in (0.3, 0.6, 0.9):
        assert code(data[: int(len(data) * share)]) == ErrorCode.CORRUPT_IMAGE


def test_pixels_are_judged_from_the_header() -> None:
    bomb = png(60_000, 60_000, 8, 2, b"")  # 3.6 gigapixels, no data
    assert code(bomb) == ErrorCode.TOO_MANY_PIXELS
    assert inspect(bomb) == ImageInfo("png", 60_000, 60_000)
    with pytest.raises(RowError, match="over the limit of 1000 pixels"):
        inspect(saved(photo(), "JPEG"), max_pixels=1000)
    webp = bytearray(saved(photo().convert("RGBA"), "WEBP", exif=b"Exif\0\0x"))
    webp[24:30] = b"\xfe\x3f\0\xfe\x3f\0"
    assert code(bytes(webp)) == ErrorCode.TOO_MANY_PIXELS


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = photo(64, 32)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(stored, PILLOW_NAMES[kind], exif=exif, **({"quality": 95} if kind != "tiff" else {}))
    assert inspect(data) == ImageInfo(kind, 64, 32)
    assert near(decode_rgb(data), upright) < 10


def test_a_damaged_exif_block_does_not_cost_the_image() -> None:
    data = saved(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert decode_rgb(data).size == (97, 61)


def test_transparency_is_put_on_white() -> None:
    rgba = Image.new("RGBA", (4, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (200, 0, 0, 0))
    rgba.putpixel((2, 0), (200, 0, 0, 128))
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        image = decode_rgb(saved(rgba, format, **options))
        assert at(image, 0, 0) == (200, 0, 0), format
        assert at(image, 1, 0) == (255, 255, 255), format
        assert max(abs(a - b) for a, b in zip(at(image, 2, 0), (227, 127, 127), strict=True)) <= 1, format
    grey = Image.new("LA", (2, 1), (10, 255))
    grey.putpixel((1, 0), (10, 0))
    assert [at(decode_rgb(saved(grey, "PNG")), x, 0) for x in (0, 1)] == [(10,) * 3, (255,) * 3]


def test_a_palette_with_transparency_is_put_on_white() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for x in range(3):
        palette.putpixel((x, 0), x)
    for transparency, format in ((1, "PNG"), (b"\xff\x00\xff", "PNG"), (1, "GIF")):
        image = decode_rgb(saved(palette, format, transparency=transparency))
        assert [at(image, x, 0) for x in range(3)] == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]


@pytest.mark.parametrize(
    ("depth", "colour", "raw", "transparent", "expected"),
    [
        (1, 0, b"\0\x40", b"\0\1", [(0, 0, 0), (255, 255, 255)]),
        (2, 0, b"\0\x10", b"\0\1", [(0, 0, 0), (255, 255, 255)]),
        (4, 0, b"\0\x5a", b"\0\x0a", [(85, 85, 85), (255, 255, 255)]),
        (8, 0, b"\0\x05\x0a", b"\0\x0a", [(5, 5, 5), (255, 255, 255)]),
        (16, 0, b"\0\x12\x34\x56\x78", b"\x12\x34", [(255, 255, 255), (86, 86, 86)]),
        (8, 2, b"\0\1\2\3\4\5\6", b"\0\1\0\2\0\3", [(255, 255, 255), (4, 5, 6)]),
        (
            16,
            2,
            b"\0\x11\0\x22\0\x33\0\x44\0\x55\0\x66\0",
            b"\x11\0\x22\0\x33\0",
            [(255,) * 3, (0x44, 0x55, 0x66)],
        ),
    ],
)
def test_the_transparent_colour_of_a_png_is_put_on_white(
    depth: int, colour: int, raw: bytes, transparent: bytes, expected: list[tuple[int, int, int]]
) -> None:
    image = decode_rgb(png(2, 1, depth, colour, raw, (b"tRNS", transparent)))
    assert [at(image, x, 0) for x in range(2)] == expected


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16)[None, :]
    for format in ("PNG", "TIFF"):
        image = decode_rgb(saved(Image.fromarray(ramp), format))
        assert np.array_equal(np.asarray(image)[0, :, 0], np.arange(256)), format
    big_endian = b"\0" + ramp.astype(">u2").tobytes()
    assert np.array_equal(np.asarray(decode_rgb(png(256, 1, 16, 0, big_endian)))[0, :, 1], np.arange(256))


def test_floats_are_stretched() -> None:
    wide = np.array([[0.0, 0.5, 1.0, np.nan]], np.float32)
    assert [at(decode_rgb(saved(Image.fromarray(wide), "TIFF")), x, 0)[0] for x in range(4)] == [
        0,
        128,
        255,
        0,
    ]
    assert at(decode_rgb(saved(Image.new("F", (1, 1), 7.0), "TIFF")), 0, 0) == (0, 0, 0)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(format: str) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    r, g, b = at(decode_rgb(saved(red, format)), 8, 8)  # Pillow writes CMYK JPEGs inverted, as Adobe does
    assert r > 230 and g < 30 and b < 30


@pytest.mark.parametrize(
    ("size", "at_least", "expected"),
    [((800, 600), 100, (200, 150)), ((800, 600), 700, (800, 600)), ((900, 40), 100, (900, 40))],
)
def test_a_thumbnail_of_a_jpeg_is_decoded_smaller(
    size: tuple[int, int], at_least: int, expected: tuple[int, int]
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    image = photo(*size)
    small = decode_rgb(saved(image, "JPEG", quality=95, exif=turned), at_least=at_least)
    assert small.size == expected[::-1]
    upright = image.transpose(Image.Transpose.ROTATE_270).resize(small.size, Image.Resampling.BOX)
    assert near(small, upright) < 4
    # Of the other formats none can do that.
    assert decode_rgb(saved(image, "PNG"), at_least=at_least).size == size
    with pytest.raises(RowError):
        decode_rgb(saved(image, "JPEG")[:-3000], at_least=at_least)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LAB", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    if mode == "LAB":
        srgb = ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(photo(), srgb, ImageCms.createProfile("LAB"), outputMode="LAB")
        assert image is not None
    else:
        image = photo().convert(mode)
    result = decode_rgb(saved(image, "TIFF"))
    assert result.mode == "RGB"
    assert near(result, photo() if mode in ("LAB", "YCbCr") else image.convert("RGB")) < 3


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for format, options in (
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("PNG", {}),
        ("AVIF", {"quality": 100}),
    ):
        data = saved(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
        r, g, b = at(decode_rgb(data), 4, 4)
        assert r > 245 and g < 10 and b < 10, format


def test_an_icc_profile_is_converted_to_srgb() -> None:
    # A matrix profile whose red and blue primaries are swapped: what it calls red is blue.
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = srgb.find(b"rXYZ"), srgb.find(b"bXYZ")
    srgb[red : red + 4], srgb[blue : blue + 4] = b"bXYZ", b"rXYZ"
    swapped = bytes(srgb).replace("sRGB".encode("utf-16-be"), "odd!".encode("utf-16-be"))
    r, g, b = at(decode_rgb(saved(Image.new("RGB", (4, 4), "red"), "PNG", icc_profile=swapped)), 1, 1)
    assert r < 10 and g < 10 and b > 245
    plain = saved(Image.new("RGB", (4, 4), "red"), "PNG", icc_profile=b"no profile at all")
    assert at(decode_rgb(plain), 1, 1) == (255, 0, 0)


@pytest.mark.parametrize(("format", "kind"), [("jpg", "jpeg"), ("png", "png"), ("webp", "webp")])
def test_encoding_is_deterministic_and_carries_no_metadata(format: EncodedFormat, kind: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = Image.open(
        io.BytesIO(saved(photo(), "JPEG", exif=exif, icc_profile=icc, comment=b"secret", dpi=(300, 300)))
    )
    data = encode(source, format, 90)
    assert data == encode(source, format, 90) == encode(decode_rgb(saved(source, "PNG")), format, 90)
    assert inspect(data) == ImageInfo(kind, 97, 61)
    assert b"secret" not in data and b"home" not in data and b"sRGB" not in data
    assert near(decode_rgb(data), source) < 8


def test_what_the_format_cannot_hold_is_a_row_error() -> None:
    formats: tuple[EncodedFormat, ...] = ("jpg", "webp")
    for format in formats:
        with pytest.raises(RowError) as caught:
            encode(Image.new("RGB", (70_000, 1)), format, 90)
        assert caught.value.code == ErrorCode.TOO_MANY_PIXELS


def test_many_threads_decode_to_the_same_pixels() -> None:
    batch = [saved(photo(), PILLOW_NAMES[kind]) for kind in FORMATS] * 8
    alone = [decode_rgb(data).tobytes() for data in batch]
    with ThreadPoolExecutor(8) as pool:
        assert [image.tobytes() for image in pool.map(decode_rgb, batch)] == alone


def test_damaged_images_raise_row_errors_and_say_nothing_on_the_console() -> None:
    """1,350 mutations in a process of its own, where C libraries would write to its standard error."""
    script = """
import io, random, sys
sys.path.insert(0, {root!r})
from sd_assets.errors import ErrorCode, RowError
from sd_assets.images import decode_rgb, inspect
from sd_assets_tests.test_images import FORMATS, PILLOW_NAMES, photo, saved
dice = random.Random(7)
allowed = {{ErrorCode.NOT_AN_IMAGE, ErrorCode.CORRUPT_IMAGE, ErrorCode.TOO_MANY_PIXELS}}
sorts = [(kind, {{}}) for kind in FORMATS] + [("tiff", {{"compression": "jpeg"}}), ("tiff", {{"compression": "tiff_lzw"}})]
for kind, options in sorts:
    good = saved(photo(), PILLOW_NAMES[kind], **options)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(dice.randint(1, 8)):
            data[dice.randrange(len(data) if dice.random() < 0.5 else min(len(data), 200))] = dice.randrange(256)
        for call in (inspect, lambda data: decode_rgb(data, max_pixels=4_000_000)):
            try:
                call(bytes(data))
            except RowError as error:
                assert error.code in allowed, error
print("done")
"""
    root = str(__file__).rsplit("/sd_assets_tests/", 1)[0]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script.format(root=root)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")


def test_heic_is_named() -> None:
    with pytest.raises(RowError, match="HEIC is not read: convert it") as caught:
        inspect(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64))
    assert caught.value.code is ErrorCode.NOT_AN_IMAGE
