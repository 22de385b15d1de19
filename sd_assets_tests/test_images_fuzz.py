"""The decode path on 20,000 damaged images, and on sound ones of any size, mode and format.

The damaged ones go through `inspect`, `decode_rgb` and `finish.resized` in processes of their own: one that crashes or hangs, writes
a line (from C, too), takes much memory or raises anything but RowError fails the test, which then says of what number.
"""

import functools
import io
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from sd_assets.containers import avif
from sd_assets.containers.formats import READERS, sniff
from sd_assets.download.finish import resized
from sd_assets.errors import ErrorCode, RowError
from sd_assets.images import EncodedFormat, ImageInfo, decode_rgb, encode, inspect
from sd_assets.settings import DownloadSettings
from sd_assets_tests.containers import crafted
from sd_assets_tests.containers.test_kinds import ARITHMETIC, TEN_BITS, as_tiff

ROOT = Path(__file__).parent.parent
IMAGES, PROCESSES = 20_000, 2
SECONDS = 20  # for one image: a thousand times what it takes
MAX_PIXELS = 1_000_000
# On top of what the modules take: of decoders, pictures of MAX_PIXELS and what malloc keeps.
MEMORY = 400_000_000
CODES = {
    ErrorCode.EMPTY,
    ErrorCode.NOT_AN_IMAGE,
    ErrorCode.CORRUPT_IMAGE,
    ErrorCode.TOO_MANY_PIXELS,
}

SETTINGS = [
    DownloadSettings(max_pixels=MAX_PIXELS, **options)
    for options in (
        {"image_size": 256, "resize_mode": "border"},
        {"image_size": 512, "resize_mode": "center_crop"},
        {"image_size": 16, "resize_mode": "border"},
        {"image_size": 12, "resize_mode": "center_crop"},
        {"image_size": 24, "resize_mode": "keep_ratio"},
        {"image_size": 40, "resize_mode": "keep_ratio", "resize_only_if_bigger": True, "image_format": "png"},
        {"image_size": 8, "resize_mode": "keep_ratio_largest", "image_format": "png"},
        {"image_size": 30, "resize_mode": "keep_ratio_largest", "image_format": "webp"},
        {"resize_mode": "no"},
        {"resize_mode": "no", "image_format": "png"},
    )
]


# --- sound images ------------------------------------------------------------------------------------------------


def photo(width: int = 48, height: int = 32) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 30, (height, width, 1))
    return Image.fromarray((np.stack([x * 4, y * 6, x + y], -1) + noise).astype(np.uint8))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


@functools.cache
def seeds() -> list[bytes]:
    """Small images of every format, and of the kinds in it that are decoded in other ways."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "somewhere"
    exif.get_ifd(0x8825)[1] = "N"
    profile = crafted.rgb_profile("Display P3", crafted.DISPLAY_P3, 2.2)
    extras = {"exif": exif, "icc_profile": profile}
    image, few = photo(), photo().quantize(16)
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(image.size))
    cmyk = image.convert("CMYK")
    press = crafted.cmyk_profile((100, 0, 0), (54, 81, 70))
    grey16 = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [photo(48, 32).rotate(90), rgba.convert("RGB")]}
    wide = np.asarray(image).astype(np.uint16) * 257
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    palette = [(value, 255 - value, 7) for value in range(16)]
    runs = bytes([3, 5, 0, 3, 1, 2, 3, 0, 0, 0]) + bytes([0, 2, 2, 1, 9, 6, 0, 1])
    still = saved(photo(16, 12), "WEBP")[12:]
    return [
        saved(image, "JPEG"),
        saved(image, "JPEG", **extras, comment=b"a comment", dpi=(300, 300)),
        saved(image, "JPEG", progressive=True, **extras),
        saved(image, "JPEG", subsampling="4:2:2", quality=95, restart_marker_blocks=2),
        saved(image, "JPEG", subsampling="4:1:1", progressive=True, optimize=True),
        saved(image.convert("L"), "JPEG"),
        saved(image, "JPEG", keep_rgb=True),
        saved(cmyk, "JPEG", icc_profile=press),
        saved(image, "MPO", save_all=True, append_images=[photo(24, 24)]),
        ARITHMETIC,
        crafted.lossless_jpeg(np.asarray(photo(20, 12).convert("L"))),
        saved(image, "PNG", **extras),
        saved(few, "PNG", transparency=3),
        saved(few, "PNG", bits=4),
        saved(image.convert("1"), "PNG"),
        saved(grey16, "PNG"),
        saved(image.convert("LA"), "PNG"),
        saved(rgba, "PNG", **frames),
        crafted.png(48, 32, rows=crafted.adam7(np.asarray(image)), interlaced=True),
        saved(image, "WEBP", **extras),
        saved(image, "WEBP", lossless=True),
        saved(rgba, "WEBP", **extras),
        saved(rgba, "WEBP", **frames),
        crafted.webp((16, 12), 2, crafted.riff_chunk(b"ANIM", bytes(6)), crafted.webp_frame((0, 0, 16, 12), still)),
        saved(few, "GIF", transparency=2, comment=b"a comment"),
        saved(image, "GIF", **frames, duration=50, loop=3, disposal=2),
        crafted.gif((30, 20), (4, 6, 20, 10), palette[:4], index=1, transparent=2),
        saved(image, "TIFF", icc_profile=profile, tiffinfo={274: 6, 270: "somewhere"}),
        *(saved(image, "TIFF", compression=name) for name in ("tiff_lzw", "packbits", "jpeg", "zstd", "lzma")),
        saved(image, "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2}),
        *(saved(image.convert("1"), "TIFF", compression=name) for name in ("group3", "group4", "tiff_ccitt")),
        saved(few, "TIFF"),
        saved(cmyk, "TIFF", icc_profile=press),
        saved(lab, "TIFF"),
        saved(image.convert("YCbCr"), "TIFF"),
        saved(image.convert("F"), "TIFF"),
        as_tiff(wide, photometric="rgb", tile=(16, 16), byteorder=">", metadata=None),
        as_tiff(np.asarray(image), photometric="rgb", tile=(16, 16), compression="zlib", bigtiff=True, metadata=None),
        as_tiff(np.moveaxis(np.asarray(image), -1, 0), photometric="rgb", planarconfig="separate", metadata=None),
        saved(image, "BMP"),
        saved(few, "BMP"),
        crafted.bmp(8, 3, 8, runs, palette=palette, compression=1),
        crafted.bmp(8, 3, 4, runs, palette=palette, compression=2),
        crafted.bmp(16, -8, 32, bytes(range(256)) * 2, compression=3, masks=[0xFF0000, 0xFF00, 0xFF, 0xFF000000]),
        crafted.bmp(16, 9, 24, bytes(432), profile=profile),
        saved(image, "AVIF", **extras),
        saved(rgba, "AVIF", quality=90, subsampling="4:4:4"),
        saved(image, "AVIF", **frames),
        TEN_BITS,
    ]  # fmt: skip


# --- damaged images ----------------------------------------------------------------------------------------------

LIES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def place(dice: random.Random, data: bytearray) -> int:
    """Somewhere in the data, half the times in what is likely to be the header."""
    return dice.randrange(len(data) if dice.random() < 0.5 else min(len(data), 300)) if data else 0


def piece(dice: random.Random, data: bytearray) -> slice:
    start = place(dice, data)
    return slice(start, start + dice.choice([1, 2, 4, 8, 12, 30, 100, 1000]))


def flip_bits(dice: random.Random, data: bytearray) -> None:
    for _ in range(dice.choice([1, 1, 2, 8, 64])):
        data[place(dice, data)] ^= 1 << dice.randrange(8)


def change_bytes(dice: random.Random, data: bytearray) -> None:
    for _ in range(dice.choice([1, 2, 8])):
        data[place(dice, data)] = dice.choice([0, 0xFF, dice.randrange(256)])


def cut(dice: random.Random, data: bytearray) -> None:
    del data[place(dice, data) :]


def remove(dice: random.Random, data: bytearray) -> None:
    del data[piece(dice, data)]


def repeat(dice: random.Random, data: bytearray) -> None:
    part = data[piece(dice, data)]
    at = place(dice, data)
    data[at:at] = part * dice.choice([1, 1, 2, 50])


def swap(dice: random.Random, data: bytearray) -> None:
    """Segments, chunks or tags in another order, if they happen to be of these places."""
    first, second, third = sorted(place(dice, data) for _ in range(3))
    data[first:third] = data[second:third] + data[first:second]


def swap_parts(dice: random.Random, data: bytearray) -> None:
    """Parts that begin with the same byte, such as the segments of a JPEG, or four letters, such as chunks."""
    starts = [at for at in range(len(data) - 8) if data[at] == 0xFF or data[at : at + 4].isalpha()]
    if len(starts) >= 3:
        first, second, third = sorted(dice.sample(starts, 3))
        data[first:third] = data[second:third] + data[first:second]


def lie(dice: random.Random, data: bytearray) -> None:
    """A number of two or four bytes that is a length, a size or an offset."""
    form = dice.choice(["<H", ">H", "<I", ">I"])
    at = place(dice, data)
    data[at : at + struct.calcsize(form)] = struct.pack(
        form, dice.choice(LIES) & (2 ** (8 * struct.calcsize(form)) - 1)
    )


def insert(dice: random.Random, data: bytearray) -> None:
    at = place(dice, data)
    data[at:at] = dice.choice([b"\0", b"\xff", b"\xff\xda", b"\xff\xc0", dice.randbytes(4)]) * dice.choice(
        [1, 4, 300]
    )


def splice(dice: random.Random, data: bytearray) -> None:
    """The beginning of one image and the end of another."""
    other = dice.choice(seeds())
    data[place(dice, data) :] = other[dice.randrange(len(other)) :]


MUTATIONS: list[Callable[[random.Random, bytearray], None]] = [
    flip_bits, change_bytes, cut, remove, repeat, swap, swap_parts, lie, insert, splice,
]  # fmt: skip


def damaged(number: int) -> bytes:
    """The same number gives the same image."""
    dice = random.Random(number)
    data = bytearray(dice.choice(seeds()))
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        if data:
            dice.choice(MUTATIONS)(dice, data)
    return bytes(data)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives; None if it raises a RowError."""
    try:
        return call()
    except RowError as error:
        assert error.code in CODES, error
        assert error.detail and "\n" not in error.detail, error
        return None


def read_unguarded(data: bytes) -> None:
    """What `images` guards against: a container that is not prepared for some damage."""
    reader = READERS.get(sniff(data))
    if reader is None:
        avif.check(data)
        avif.check_coded(data, 10_000, 10_000)
        return
    picture = reader(data)
    if picture.width * picture.height <= MAX_PIXELS:
        picture.make_bare()
        picture.find_profile()


def check(data: bytes, settings: DownloadSettings) -> None:
    """What must hold for any bytes.

    Raises:
        AssertionError: it does not.
    """
    outcome(lambda: read_unguarded(data))
    info = outcome(lambda: inspect(data))
    image = outcome(lambda: decode_rgb(data, max_pixels=MAX_PIXELS))
    if info is None:
        assert image is None
        return
    if image is not None:
        assert (image.mode, image.size, image.info) == ("RGB", (info.width, info.height), {})
    made = outcome(lambda: resized(data, info, settings))
    if made is not None:
        assert image is not None
        out, width, height = made
        format = {"jpg": "jpeg"}.get(settings.image_format, settings.image_format)
        assert inspect(out) == ImageInfo(format, width, height)


def work(start: int, progress: str) -> None:
    """Of every PROCESSES-th damaged image from `start` on; the number that it is at is in the file `progress`."""
    seeds()
    check(seeds()[0], SETTINGS[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file = os.open(progress, os.O_WRONLY)
    for number in range(start, IMAGES, PROCESSES):
        os.pwrite(file, number.to_bytes(4, "little"), 0)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # which ends the process, from within C, too
        check(damaged(number), SETTINGS[number % len(SETTINGS)])
    signal.setitimer(signal.ITIMER_REAL, 0)
    rise = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert rise < MEMORY, f"the peak of the memory rose by {rise} bytes"


def test_damaged_images_neither_crash_nor_hang_nor_write_nor_take_memory() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(start)) for start in range(PROCESSES)]
        processes = []
        for start, file in enumerate(files):
            file.write_bytes(bytes(4))
            script = f"from sd_assets_tests.test_images_fuzz import work; work({start}, {str(file)!r})"
            command = [sys.executable, "-W", "always", "-c", script]
            processes.append(
                subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            )
        try:
            for process, file in zip(processes, files, strict=True):
                written, _ = process.communicate(timeout=250)
                number = int.from_bytes(file.read_bytes(), "little")
                assert (process.returncode, written.decode()) == (0, ""), f"at image {number}"
                assert number >= IMAGES - PROCESSES
        finally:
            for process in processes:
                process.kill()
                process.wait()


def test_the_images_are_sound_before_they_are_damaged() -> None:
    for data in seeds():
        info = inspect(data)
        assert decode_rgb(data).size == (info.width, info.height)
        for settings in SETTINGS:
            out, width, height = resized(data, info, settings)
            assert decode_rgb(out).size == (width, height)


# --- sound images of any kind ------------------------------------------------------------------------------------

MODES = {
    "JPEG": ["L", "RGB", "CMYK"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["1", "L", "P", "RGB", "RGBA"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "AVIF": ["RGB", "RGBA"],
}
KINDS = [(format, mode) for format, modes in MODES.items() for mode in modes]
ENCODED: tuple[EncodedFormat, ...] = ("jpg", "png", "webp")
sides = st.integers(1, 70)


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), sides, sides, st.integers(1, 8))
def test_the_header_and_the_pixels_have_one_size(
    kind: tuple[str, str], width: int, height: int, orientation: int
) -> None:
    format, mode = kind
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = format not in ("GIF", "BMP")
    data = saved(Image.new(mode, (width, height)), format, **({"exif": exif} if turned else {}))
    expected = (height, width) if turned and orientation > 4 else (width, height)
    assert inspect(data) == ImageInfo(format.lower(), *expected)
    assert decode_rgb(data).size == expected
    small = decode_rgb(data, at_least=8).size
    assert all(side <= whole and side >= min(whole, 8) for side, whole in zip(small, expected, strict=True))


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.sampled_from(ENCODED), sides, sides, st.integers(1, 100))
def test_what_is_encoded_is_decoded_in_the_same_size(
    format: EncodedFormat, width: int, height: int, quality: int
) -> None:
    data = encode(photo(width, height), format, quality)
    assert inspect(data) == ImageInfo("jpeg" if format == "jpg" else format, width, height)
    assert decode_rgb(data).size == (width, height)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(range(60)))
def test_any_bytes_behind_the_beginning_of_an_image(tail: bytes, number: int) -> None:
    data = seeds()[number % len(seeds())]
    check(data[: 4 + number] + tail, SETTINGS[number % len(SETTINGS)])
