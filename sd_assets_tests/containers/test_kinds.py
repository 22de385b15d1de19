"""Every kind of image that the web holds: its pixels against those that were drawn, or another decoder's."""

import base64
import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from sd_assets.containers import bmp as bmp_container
from sd_assets.errors import ErrorCode, RowError
from sd_assets.images import ImageInfo, decode_rgb, inspect
from sd_assets_tests.containers import crafted

Pixels = npt.NDArray[Any]
WIDTH, HEIGHT = 24, 16


def ramps(width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """Height x width x RGB; red grows to the right, green downwards, blue to both."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 10, y * 15, (x + y) * 6], axis=-1).astype(np.uint8)


def saved(pixels: Pixels | Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(out, format, **options)
    return out.getvalue()


def decoded(data: bytes, kind: str) -> npt.NDArray[np.int16]:
    """The pixels, of which the header said the same size."""
    image = decode_rgb(data)
    assert inspect(data) == ImageInfo(kind, *image.size)
    assert image.mode == "RGB" and image.info == {}
    return np.asarray(image).astype(np.int16)


def error(data: bytes) -> RowError:
    with pytest.raises(RowError) as caught:
        inspect(data)
    with pytest.raises(RowError) as again:
        decode_rgb(data)
    assert again.value.code == caught.value.code
    return caught.value


# --- JPEG --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
def test_jpeg_of_every_subsampling(subsampling: str, progressive: bool) -> None:
    data = saved(ramps(64, 16), "JPEG", quality=95, subsampling=subsampling, progressive=progressive)
    assert np.abs(decoded(data, "jpeg") - ramps(64, 16)).mean() < 9
    assert np.abs(decoded(data, "jpeg")[..., 1] - ramps(64, 16)[..., 1]).mean() < 4  # mostly brightness


def test_grey_jpeg() -> None:
    grey = ramps()[..., 1]
    pixels = decoded(saved(grey, "JPEG", quality=98), "jpeg")
    assert np.abs(pixels - grey[..., None]).max() <= 3


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg_is_inverted_as_adobe_does(adobe: bool) -> None:
    # Red is no cyan, all magenta and yellow, no black.
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=98)
    if not adobe:  # browsers take it for inverted all the same
        at = data.index(b"\xff\xee")
        data = data[:at] + data[at + 16 :]
        assert b"Adobe" not in data
    assert np.abs(decoded(data, "jpeg") - [255, 0, 0]).max() <= 3


def test_ycck_jpeg() -> None:
    # No brightness and no colour of the inverted inks are none of cyan, magenta and yellow; K is 55.
    data = bytearray(saved(Image.new("CMYK", (16, 16), (255, 127, 127, 55)), "JPEG", quality=98))
    data[data.index(b"Adobe") + 11] = 2  # the transformation: none becomes YCCK
    assert np.abs(decoded(bytes(data), "jpeg") - 200).max() <= 4


def test_rgb_jpeg_that_is_not_ycbcr() -> None:
    data = saved(ramps(), "JPEG", quality=98, keep_rgb=True)
    assert np.abs(decoded(data, "jpeg") - ramps()).max() <= 4


def test_arithmetic_coded_jpeg() -> None:
    """The ramps, as `cjpeg -arithmetic -quality 95 -sample 1x1` of libjpeg-turbo 2.1.5 writes them."""
    assert np.abs(decoded(ARITHMETIC, "jpeg") - ramps()).mean() < 1


def test_lossless_jpeg() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
    assert np.array_equal(decoded(crafted.lossless_jpeg(noise), "jpeg"), np.repeat(noise[..., None], 3, -1))


def test_jpeg_of_other_than_8_bits_is_refused() -> None:
    data = bytearray(saved(ramps(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    told = error(bytes(data))
    assert told.code == ErrorCode.NOT_AN_IMAGE
    assert told.detail == "JPEG of 12 bits a sample is not read: convert it to 8-bit JPEG, PNG or WebP"


def test_jpeg_with_two_frames_or_none_is_corrupt() -> None:
    data = saved(ramps(), "JPEG")
    at = data.index(b"\xff\xc0")
    frame = bytearray(data[at : at + 19])
    frame[5:7] = struct.pack(">H", 60_000)
    assert "more than one frame" in error(data[:at] + bytes(frame) + data[at:]).detail
    assert "no frame" in error(data[:at] + data[at + 19 :]).detail
    frame[5:7] = bytes(2)
    assert "DNL" in error(data[:at] + bytes(frame) + data[at + 19 :]).detail


def test_of_several_pictures_in_a_jpeg_the_first_is_taken() -> None:
    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (32, 32), "blue")
    data = saved(red, "MPO", save_all=True, append_images=[blue])
    assert np.abs(decoded(data, "jpeg") - [255, 0, 0]).max() <= 2
    film = np.random.default_rng(2).integers(0, 256, 1000).astype(np.uint8).tobytes() + b"\xff\xda" * 1000
    photo = saved(
        ramps(), "JPEG", quality=98, subsampling="4:4:4", progressive=True
    )  # such as telephones make
    assert np.abs(decoded(photo + film, "jpeg") - ramps()).max() <= 4


def test_junk_between_the_segments_of_a_jpeg_is_skipped() -> None:
    data = saved(ramps(), "JPEG", quality=98, subsampling="4:4:4")
    at = data.index(b"\xff\xdb")
    assert np.array_equal(
        decoded(data[:at] + b"junk\0" + b"\xff" * 9 + data[at:], "jpeg"), decoded(data, "jpeg")
    )


# --- PNG ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4)])
@pytest.mark.parametrize("depth", [8, 16])
def test_png_of_true_colour(colour: int, channels: int, depth: int, interlaced: bool) -> None:
    opaque = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    drawn = np.concatenate([ramps(), opaque], axis=-1)[..., :channels]
    # A byte twice is the same share of 65,535 as one is of 255.
    samples = np.repeat(drawn, depth // 8, axis=-1)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    data = crafted.png(
        WIDTH,
        HEIGHT,
        rows=crafted.adam7(samples) if interlaced else rows,
        depth=depth,
        colour=colour,
        interlaced=interlaced,
    )
    assert np.array_equal(decoded(data, "png"), ramps())


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_png_with_a_palette(depth: int) -> None:
    count = 2**depth
    palette = np.random.default_rng(depth).integers(0, 256, (count, 3)).astype(np.uint8)
    index = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % count
    bits = (index[..., None] >> np.arange(depth)[::-1] & 1).astype(np.uint8).reshape(HEIGHT, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    data = crafted.png(WIDTH, HEIGHT, (b"PLTE", palette.tobytes()), rows=rows, depth=depth, colour=3)
    assert np.array_equal(decoded(data, "png"), palette[index])
    clear = crafted.png(
        WIDTH, HEIGHT, (b"PLTE", palette.tobytes()), (b"tRNS", b"\xff\0"), rows=rows, depth=depth, colour=3
    )
    palette[1] = 255
    assert np.array_equal(decoded(clear, "png"), palette[index])


def test_png_of_grey_and_alpha_of_16_bits() -> None:
    samples = np.array([[[0x80, 0x80, 0xFF, 0xFF], [0x80, 0x80, 0, 0], [0x40, 0x40, 0x80, 0x80]]], np.uint8)
    pixels = decoded(crafted.png(3, 1, rows=b"\0" + samples.tobytes(), depth=16, colour=4), "png")
    assert np.abs(pixels[0, :, 0] - [0x80, 255, 255 - (255 - 0x40) * 0x80 / 255]).max() <= 1


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ({"depth": 4, "colour": 2}, "4 bits, colour type 2"),
        ({"depth": 8, "colour": 3}, "no sound palette"),
    ],
)
def test_png_that_cannot_be(options: dict[str, int], detail: str) -> None:
    assert detail in error(crafted.png(2, 2, rows=bytes(14), **options)).detail  # type: ignore[arg-type]


def test_png_with_two_headers_is_corrupt() -> None:
    second = (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    assert "more than one IHDR" in error(crafted.png(2, 2, second, rows=bytes(14))).detail


def test_a_damaged_chunk_of_metadata_does_not_cost_the_png() -> None:
    data = saved(ramps(), "PNG")
    damaged = crafted.png_chunk(b"tEXt", b"title\0x")[:-1] + b"?"
    assert np.array_equal(decoded(data[:33] + damaged + data[33:], "png"), ramps())


def test_of_an_animated_png_the_default_picture_is_taken() -> None:
    frames = [Image.fromarray(ramps()), Image.new("RGB", (WIDTH, HEIGHT), "blue")]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert b"acTL" in data and b"fdAT" in data
    assert np.array_equal(decoded(data, "png"), ramps())


# --- GIF ---------------------------------------------------------------------------------------------------------

PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)]


@pytest.mark.parametrize("transparent", [None, 3])
def test_what_a_frame_of_a_gif_does_not_cover_is_white(transparent: int | None) -> None:
    pixels = decoded(crafted.gif((10, 8), (3, 2, 4, 5), PALETTE, index=1, transparent=transparent), "gif")
    expected = np.full((8, 10, 3), 255)
    expected[2:7, 3:7] = (0, 255, 0)
    assert np.array_equal(pixels, expected)


def test_a_transparent_gif_is_white() -> None:
    pixels = decoded(crafted.gif((4, 4), (0, 0, 4, 4), PALETTE, index=1, transparent=1), "gif")
    assert np.array_equal(pixels, np.full((4, 4, 3), 255))


def test_a_frame_larger_than_its_canvas_enlarges_the_gif() -> None:
    pixels = decoded(crafted.gif((2, 2), (1, 0, 4, 3), PALETTE, index=2, disposal=2), "gif")
    assert pixels.shape == (3, 5, 3)
    assert np.array_equal(pixels[:, 1:], np.broadcast_to([0, 0, 255], (3, 4, 3)))


@pytest.mark.parametrize("interlaced", [0, 1])
def test_gif_of_a_palette(interlaced: int) -> None:
    few = Image.fromarray(ramps()).quantize(64)
    pixels = decoded(saved(few, "GIF", interlace=interlaced), "gif")
    assert np.array_equal(pixels, np.asarray(few.convert("RGB")))


# --- WebP --------------------------------------------------------------------------------------------------------


def test_lossless_webp() -> None:
    assert np.array_equal(decoded(saved(ramps(), "WEBP", lossless=True), "webp"), ramps())


def test_webp_with_alpha() -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:8] = 0
    data = saved(np.concatenate([ramps(), alpha], -1), "WEBP", quality=95)
    assert b"ALPH" in data
    pixels = decoded(data, "webp")
    assert (pixels[:8] == 255).all()
    assert np.abs(pixels[8:] - ramps()[8:]).mean() < 6


def test_the_first_frame_of_an_animated_webp_on_its_canvas() -> None:
    still = saved(Image.new("RGB", (6, 4), "red"), "WEBP", lossless=True)[12:]
    frames = [crafted.webp_frame((2, 4, 6, 4), still), crafted.webp_frame((0, 0, 6, 4), still)]
    data = crafted.webp((16, 12), 2, crafted.riff_chunk(b"ANIM", bytes(6)), *frames)
    expected = np.full((12, 16, 3), 255)
    expected[4:8, 2:8] = (255, 0, 0)
    assert np.array_equal(decoded(data, "webp"), expected)


# --- AVIF --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_avif_of_8_bits(subsampling: str) -> None:
    data = saved(ramps(), "AVIF", quality=95, subsampling=subsampling)
    assert np.abs(decoded(data, "avif") - ramps()).mean() < 6


def test_avif_of_10_bits() -> None:
    """The ramps, as `avifenc -d 10 --min 0 --max 10 -y 444` of libavif 0.11 writes them."""
    assert np.abs(decoded(TEN_BITS, "avif") - ramps()).mean() < 1


def test_avif_with_alpha() -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:8] = 0
    pixels = decoded(saved(np.concatenate([ramps(), alpha], -1), "AVIF", quality=100), "avif")
    assert (pixels[:7] >= 254).all()
    assert np.abs(pixels[9:] - ramps()[9:]).mean() < 8


# --- TIFF --------------------------------------------------------------------------------------------------------


def as_tiff(pixels: Pixels, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    "layout", [{}, {"rowsperstrip": 3}, {"tile": (16, 16)}, {"planarconfig": "separate"}], ids=str
)
def test_tiff_of_strips_tiles_and_planes(
    layout: dict[str, Any], compression: str | None, order: str, big: bool
) -> None:
    drawn = ramps(40, 21)
    pixels = np.moveaxis(drawn, -1, 0) if "planarconfig" in layout else drawn
    data = as_tiff(
        pixels, photometric="rgb", compression=compression, byteorder=order, bigtiff=big, metadata=None, **layout
    )  # fmt: skip
    assert np.array_equal(decoded(data, "tiff"), drawn)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "lzma"])
def test_tiff_of_every_compression(compression: str) -> None:
    assert np.array_equal(decoded(saved(ramps(), "TIFF", compression=compression), "tiff"), ramps())


def test_tiff_of_jpeg_and_fax() -> None:
    data = saved(ramps(), "TIFF", compression="jpeg", quality=95)
    assert np.abs(decoded(data, "tiff") - ramps()).mean() < 6
    fax = Image.fromarray(ramps()[..., 0] > 100)
    assert np.array_equal(
        decoded(saved(fax, "TIFF", compression="group4"), "tiff"), np.asarray(fax.convert("RGB"))
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_16_bits(order: str) -> None:
    wide = ramps().astype(np.uint16) * 257
    data = as_tiff(wide, photometric="rgb", byteorder=order, metadata=None)
    assert np.array_equal(decoded(data, "tiff"), ramps())
    grey = as_tiff(wide[..., 1], photometric="minisblack", byteorder=order, metadata=None)
    assert np.array_equal(decoded(grey, "tiff")[..., 0], ramps()[..., 1])


def test_tiff_whose_zero_is_white() -> None:
    for pixels in (ramps()[..., 1], ramps()[..., 1].astype(np.uint16) * 257):
        data = as_tiff(pixels, photometric="miniswhite", metadata=None)
        assert np.array_equal(decoded(data, "tiff")[..., 0], 255 - ramps()[..., 1])


def test_tiff_of_12_bits() -> None:
    # Two samples in three bytes: 0xFFF is white, 0x800 the middle.
    tags = {258: crafted.shorts(12), 262: crafted.shorts(1), 277: crafted.shorts(1)}
    pixels = decoded(crafted.tiff(2, 1, tags, b"\xff\xf8\0"), "tiff")
    assert pixels[0, :, 0].tolist() == [255, 128]


def test_tiff_of_cmyk() -> None:
    inks = np.zeros((4, 4, 4), np.uint8)
    inks[..., 1:3] = 255
    assert np.array_equal(
        decoded(as_tiff(inks, photometric="separated", metadata=None), "tiff"),
        np.broadcast_to([255, 0, 0], (4, 4, 3)),
    )


def test_tiff_whose_only_strip_has_as_many_rows_as_a_number_can_say() -> None:
    data = crafted.tiff(WIDTH, HEIGHT, {278: crafted.longs(2**32 - 1)}, ramps().tobytes())
    assert np.array_equal(decoded(data, "tiff"), ramps())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_tiff_of_one_strip(orientation: int) -> None:
    data = crafted.tiff(WIDTH, HEIGHT, {274: crafted.shorts(orientation)}, ramps().tobytes())
    upright = {
        1: ramps(),
        2: ramps()[:, ::-1],
        3: ramps()[::-1, ::-1],
        4: ramps()[::-1],
        5: ramps().transpose(1, 0, 2),
        6: np.rot90(ramps(), -1),
        7: ramps()[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(ramps()),
    }[orientation]
    assert np.array_equal(decoded(data, "tiff"), upright)


# --- BMP ---------------------------------------------------------------------------------------------------------


def rows_of_bmp(samples: Pixels, top_down: bool = False) -> bytes:
    """Rows of bytes, the last first, each padded to four."""
    rows = [row.tobytes() for row in (samples if top_down else samples[::-1])]
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


@pytest.mark.parametrize("top_down", [False, True])
def test_bmp_of_true_colour(top_down: bool) -> None:
    height = -HEIGHT if top_down else HEIGHT
    bgr = ramps()[..., ::-1]
    assert np.array_equal(decoded(crafted.bmp(WIDTH, height, 24, rows_of_bmp(bgr, top_down)), "bmp"), ramps())
    bgrx = np.concatenate([bgr, np.zeros_like(bgr[..., :1])], -1)
    data = rows_of_bmp(bgrx, top_down)
    assert np.array_equal(decoded(crafted.bmp(WIDTH, height, 32, data), "bmp"), ramps())


@pytest.mark.parametrize(("shifts", "widths"), [((10, 5, 0), (5, 5, 5)), ((11, 5, 0), (5, 6, 5))])
def test_bmp_of_16_bits(shifts: tuple[int, ...], widths: tuple[int, ...]) -> None:
    samples = sum(
        ramps()[..., channel].astype(np.uint16) >> 8 - width << shift
        for channel, (shift, width) in enumerate(zip(shifts, widths, strict=True))
    )
    masks = [(2**width - 1) << shift for shift, width in zip(shifts, widths, strict=True)]
    data = crafted.bmp(WIDTH, HEIGHT, 16, rows_of_bmp(np.asarray(samples)), compression=3, masks=masks)
    assert np.abs(decoded(data, "bmp") - ramps()).max() <= 8


@pytest.mark.parametrize("alpha", [0, 128])
def test_the_fourth_byte_of_a_bmp_is_alpha_where_a_mask_says_so_and_any_is_opaque(alpha: int) -> None:
    bgra = np.concatenate([ramps()[..., ::-1], np.full_like(ramps()[..., :1], alpha)], -1)
    masks = [0xFF0000, 0xFF00, 0xFF, 0xFF000000]
    data = crafted.bmp(WIDTH, HEIGHT, 32, rows_of_bmp(bgra), compression=3, masks=masks)
    expected = ramps() if alpha == 0 else 255 - (255 - ramps().astype(float)) * alpha / 255
    assert np.abs(decoded(data, "bmp") - expected).max() <= 1


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_with_a_palette(bits: int) -> None:
    palette = np.random.default_rng(bits).integers(0, 256, (2**bits, 3)).astype(np.uint8)
    index = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2**bits
    spread = (index[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(HEIGHT, -1)
    data = crafted.bmp(
        WIDTH, HEIGHT, bits, rows_of_bmp(np.packbits(spread, axis=-1)), palette=palette.tolist()
    )
    assert np.array_equal(decoded(data, "bmp"), palette[index])


def test_bmp_of_runs() -> None:
    """Rows from the last; a run, pixels one by one, a skip, and a run that is longer than its row."""
    palette = [(value, 255 - value, 7) for value in range(16)]
    eight = bytes([3, 5, 0, 3, 1, 2, 3, 0, 0, 0]) + bytes([0, 2, 2, 1, 9, 6, 0, 1])
    index = np.array([[0, 0, 6, 6, 6, 6, 6, 6], [0] * 8, [5, 5, 5, 1, 2, 3, 0, 0]])
    data = crafted.bmp(8, 3, 8, eight, palette=palette, compression=1)
    assert np.array_equal(decoded(data, "bmp"), np.array(palette)[index])
    four = bytes([3, 0x56, 0, 3, 0x12, 0x30, 0, 0]) + bytes([0, 2, 2, 1, 9, 0x67, 0, 1])
    index = np.array([[0, 0, 6, 7, 6, 7, 6, 7], [0] * 8, [5, 6, 5, 1, 2, 3, 0, 0]])
    data = crafted.bmp(8, 3, 4, four, palette=palette, compression=2)
    assert np.array_equal(decoded(data, "bmp"), np.array(palette)[index])
    with pytest.raises(RowError, match="the runs are truncated"):
        decode_rgb(data[:-4])


def test_old_bmp() -> None:
    header = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    data = b"BM" + struct.pack("<IHHI", 0, 0, 0, 26) + header + rows_of_bmp(ramps()[..., ::-1])
    assert np.array_equal(decoded(data, "bmp"), ramps())


@pytest.mark.parametrize(("bits", "compression"), [(24, 4), (2, 0)])
def test_bmp_that_is_not_read(bits: int, compression: int) -> None:
    told = error(crafted.bmp(2, 2, bits, bytes(64), compression=compression))
    assert told.code == ErrorCode.CORRUPT_IMAGE and "Unsupported BMP" in told.detail


ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQIAJQAlAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoK"
    "CgoKBggLDAsKDAkKCgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoK"
    "CgoKCgoKCgr/yQARCAAQABgDAREAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AO7E0Xm1DJA0HGhMTM8ZVPif5Sa7"
    "Z+Wt1qHmvNrnKppFIDJxd9Sn8Vfr7Y4Dj6lASaQ00TpWazRmPW2T2IEzNhccHkZF7rBE7BtbDdcUfyu+C/CzJ3/STNxQ5bBw/wDC"
    "naf0dJ/TVP/Z"
)
TEN_BITS = base64.b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADybWV0YQAAAAAAAAAoaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAA"
    "AGxpYmF2aWYAAAAADnBpdG0AAAAAAAEAAAAeaWxvYwAAAABEAAABAAEAAAABAAABGgAAAGkAAAAoaWluZgAAAAAAAQAAABppbmZl"
    "AgAAAAABAABhdjAxQ29sb3IAAAAAamlwcnAAAABLaXBjbwAAABRpc3BlAAAAAAAAABgAAAAQAAAAEHBpeGkAAAAAAwoKCgAAAAxh"
    "djFDgSBAAAAAABNjb2xybmNseAABAA0ABoAAAAAXaXBtYQAAAAAAAAABAAEEAQKDBAAAAHFtZGF0EgAKCDgQ7+xgIaDSMlsRQAEE"
    "EEQAYOKVRyo4T36vj4CN+MLb+JEFp0zKwu+dIdlejABsPtaIHIJ59Q/+FzVNxpskFH0FnTjdiXn1fWAiW8WgeLQS/0dpTT/Q3eD8"
    "0+VcT5iQD98Bbv0s"
)


@pytest.mark.parametrize(
    "data",
    [
        crafted.tiff(4_000_000_000, 1, {}),
        crafted.tiff(1, 2**31, {}),
        crafted.bmp(1, -(2**31), 24, b"\0" * 16),
    ],
    ids=["wide", "high", "upside down"],
)
def test_sides_that_no_table_could_tell_are_damage(data: bytes) -> None:
    with pytest.raises(RowError, match=r"corrupt_image: .* pixels"):
        inspect(data)


def test_runs_that_draw_nothing_are_not_walked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmp_container, "_MAX_RUNS", 100)
    palette = [(0, 0, 0)] * 256
    drawn = b"\x10\7\0\0" * 16  # 16 rows of one run each
    assert decode_rgb(crafted.bmp(16, 16, 8, drawn, palette=palette, compression=1)).size == (16, 16)
    for runs in (b"\xff\7" * 200, b"\0\2\0\0" * 200):
        with pytest.raises(RowError, match="more than 100 runs"):
            decode_rgb(crafted.bmp(16, 16, 8, runs, palette=palette, compression=1))
