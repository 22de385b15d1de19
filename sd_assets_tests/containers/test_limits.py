"""Files that promise or hold far too much: none costs memory, and the picture comes out where there is one.

All are read in one process of its own, which may not even reserve much memory; what each of them cost is judged here.
"""

import functools
import io
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sd_assets
from sd_assets_tests.containers import crafted
from sd_assets_tests.containers.crafted import longs, png_chunk, riff_chunk, segment, shorts

ROOT = Path(sd_assets.__file__).parent.parent
MEGABYTE = 1_000_000
# Of what Pillow allocates for the small pictures of the bombs, of a copy of the file, and of what is measured roughly.
ENOUGH = 64 * MEGABYTE
SMALL = (16, 12)
CORRUPT, TOO_MANY = "corrupt_image: ", "too_many_pixels: "

READ = """
import contextlib, pickle, resource, sys
from pathlib import Path
from sd_assets.errors import RowError
from sd_assets.images import decode_rgb, inspect

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def forget_peak():
    with contextlib.suppress(OSError):  # where that is not allowed the peak only rises, which hides little
        Path("/proc/self/clear_refs").write_text("5")

folder = Path(sys.argv[1])
for data in pickle.loads((folder / "harmless").read_bytes()):  # all decoders are loaded, before anything is measured
    decode_rgb(data)
resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + 500_000_000, -1))
results = {}
for name in sys.argv[2:]:
    data = (folder / name).read_bytes()
    results[name] = []
    for call in (inspect, decode_rgb):
        forget_peak()
        before = status("VmHWM")
        try:
            image = call(data)
            told = (image.width, image.height)
        except RowError as error:
            told = str(error)
        results[name].append((told, status("VmHWM") - before))
    data = image = None
sys.stdout.buffer.write(pickle.dumps(results))
"""


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def photo(size: tuple[int, int] = SMALL) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(noise.astype(np.uint8))


@functools.cache
def zeros(count: int) -> bytes:
    """So many zeros, deflated a thousandfold."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(count // MEGABYTE)) + packer.flush()


def behind(data: bytes, mark: bytes, more: bytes, offset: int) -> bytes:
    at = data.index(mark) + offset
    return data[:at] + more + data[at:]


def png_with(*chunks: bytes, last: bool = False) -> bytes:
    data = saved(photo(), "PNG")
    at = len(data) - 12 if last else 33
    return data[:at] + b"".join(chunks) + data[at:]


def png_of_zeros() -> bytes:
    """A PNG whose data unfold to 100 MB, of which its pixels are the first 588 bytes."""
    header = struct.pack(">IIBBBBB", *SMALL, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zeros(100 * MEGABYTE)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def jpeg_with(more: bytes) -> bytes:
    return behind(saved(photo(), "JPEG"), b"\xff\xd8", more, 2)


def huge_jpeg() -> bytes:
    data = bytearray(saved(photo(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def jpeg_of_many_scans() -> bytes:
    data = saved(photo(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * 2_000 + data[-2:]


def webp_chunk(size: tuple[int, int] = SMALL, **options: Any) -> bytes:
    return saved(Image.new("RGB", size), "WEBP", **options)[12:]


def webp_animation(canvas: tuple[int, int], *frames: bytes) -> bytes:
    return crafted.webp(canvas, 2, riff_chunk(b"ANIM", bytes(6)), *frames)


def whole(width: int, height: int) -> tuple[int, int, int, int]:
    return 0, 0, width, height


PALETTE = [(255, 0, 0), (0, 255, 0)]
STRIP = photo().tobytes()


def deflated(**tags: tuple[int, int, bytes]) -> bytes:
    """A TIFF of 16 x 12 pixels with 100 MB of zeros where they are to be."""
    data = zeros(100 * MEGABYTE)
    numbered = {int(name[1:]): tag for name, tag in tags.items()}
    return crafted.tiff(*SMALL, {259: shorts(8)} | numbered, data)


def tiff_loop() -> bytes:
    """A TIFF whose first directory is also its second, its EXIF, its GPS and its sub-directories."""
    data = crafted.tiff(*SMALL, {330: longs(0), 34665: longs(0), 34853: longs(0)}, STRIP)
    start = int.from_bytes(data[4:8], "little")
    changed = bytearray(data)
    count = int.from_bytes(data[start : start + 2], "little")
    for at in range(start + 2, start + 2 + 12 * count, 12):
        if int.from_bytes(data[at : at + 2], "little") in (330, 34665, 34853):
            changed[at + 8 : at + 12] = struct.pack("<L", start)
    changed[start + 2 + 12 * count : start + 6 + 12 * count] = struct.pack("<L", start)
    return bytes(changed)


def avif(size: tuple[int, int] = SMALL) -> bytes:
    return saved(Image.new("RGB", size), "AVIF", speed=10)


def avif_of_many_frames() -> bytes:
    frames = [Image.new("RGB", SMALL, colour) for colour in ("red", "blue")]
    data = bytearray(saved(frames[0], "AVIF", save_all=True, append_images=frames[1:]))
    at = data.index(b"stsz") + 8
    data[at : at + 8] = struct.pack(">II", 1, 3_000_000_000)
    return bytes(data)


@dataclass(frozen=True)
class Bomb:
    """`shown`: the size of the picture, or the beginning of why there is none; `said`: likewise, of the header."""

    make: Callable[[], bytes]
    shown: tuple[int, int] | str = SMALL
    said: tuple[int, int] | str = SMALL


def refused(make: Callable[[], bytes], why: str) -> Bomb:
    """What the header already tells."""
    return Bomb(make, why, why)


def huge(make: Callable[[], bytes], *size: int) -> Bomb:
    return Bomb(make, TOO_MANY, (size[0], size[1]))


BOMBS = {
    "png-huge": huge(lambda: crafted.png(60_000, 60_000), 60_000, 60_000),
    "png-of-more-pixels-than-it-has": Bomb(png_of_zeros),
    "png-without-its-pixels": Bomb(lambda: crafted.png(5_000, 5_000), CORRUPT, (5_000, 5_000)),
    "png-profile": Bomb(lambda: png_with(png_chunk(b"iCCP", b"x\0\0" + zeros(100 * MEGABYTE)))),
    "png-text": Bomb(lambda: png_with(png_chunk(b"zTXt", b"x\0\0" + zeros(100 * MEGABYTE)))),
    "png-xmp": Bomb(
        lambda: png_with(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros(100 * MEGABYTE)))
    ),
    "png-many-texts": Bomb(
        lambda: png_with(*(png_chunk(b"zTXt", b"%d\0\0" % n + zeros(MEGABYTE)) for n in range(100)))
    ),
    "png-text-at-the-end": Bomb(
        lambda: png_with(png_chunk(b"zTXt", b"x\0\0" + zeros(100 * MEGABYTE)), last=True)
    ),
    "png-exif": Bomb(lambda: png_with(png_chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(20 * MEGABYTE)))),
    "png-many-chunks": refused(lambda: png_with(png_chunk(b"abCd", b"") * 500_000), CORRUPT),
    "png-many-pieces": Bomb(
        lambda: behind(saved(photo(), "PNG"), b"IDAT", png_chunk(b"IDAT", b"") * 500_000, -4), CORRUPT
    ),
    "jpeg-huge": huge(huge_jpeg, 65_500, 65_500),
    "jpeg-many-segments": refused(lambda: jpeg_with(segment(0xE5, b"") * 500_000), CORRUPT),
    "jpeg-exif": Bomb(lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 300)),
    "jpeg-profile": Bomb(
        lambda: jpeg_with(
            b"".join(
                segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 255]) + bytes(65_000)) for n in range(1, 256)
            )
        )
    ),
    "jpeg-padded": Bomb(lambda: jpeg_with(b"\xff" * 5 * MEGABYTE)),
    "jpeg-many-scans": Bomb(jpeg_of_many_scans, CORRUPT + "jpeg: more than 100 scans"),
    "gif-huge": huge(lambda: crafted.gif((60_000, 60_000), (0, 0, 4, 4), PALETTE), 60_000, 60_000),
    "gif-huge-frame": huge(
        lambda: crafted.gif((4, 4), whole(60_000, 60_000), PALETTE, disposal=2), 60_000, 60_000
    ),
    "gif-frame-without-its-pixels": Bomb(
        lambda: crafted.gif((4, 4), whole(5_000, 5_000), PALETTE, disposal=2), CORRUPT, (5_000, 5_000)
    ),
    "gif-many-frames": Bomb(lambda: crafted.gif(SMALL, whole(*SMALL), PALETTE, frames=100_000)),
    "gif-many-blocks": refused(
        lambda: crafted.gif(SMALL, whole(*SMALL), PALETTE, before=b"!\xfe\0" * 500_000), CORRUPT
    ),
    "gif-comment": refused(
        lambda: crafted.gif(SMALL, whole(*SMALL), PALETTE, before=b"!\xfe" + b"\1a" * 500_000 + b"\0"),
        CORRUPT,
    ),
    "webp-huge": huge(lambda: crafted.webp((16_383, 16_383), 0, webp_chunk()), 16_383, 16_383),
    "webp-canvas-larger-than-its-picture": Bomb(
        lambda: crafted.webp((5_000, 5_000), 0, webp_chunk()), CORRUPT, (5_000, 5_000)
    ),
    "webp-picture-larger-than-its-canvas": Bomb(
        lambda: crafted.webp(SMALL, 0, webp_chunk((16_383, 1_000))), CORRUPT
    ),
    "webp-lossless-picture-larger-than-its-canvas": Bomb(
        lambda: crafted.webp(SMALL, 0, webp_chunk((16_383, 4_000), lossless=True)), CORRUPT
    ),
    "webp-frame-larger-than-its-canvas": Bomb(
        lambda: webp_animation(
            SMALL, crafted.webp_frame(whole(16_383, 1_000), webp_chunk((16_383, 1_000), lossless=True))
        ),
        CORRUPT,
    ),
    "webp-frame-larger-than-it-says": Bomb(
        lambda: webp_animation(
            SMALL, crafted.webp_frame(whole(*SMALL), webp_chunk((16_383, 1_000), lossless=True))
        ),
        CORRUPT,
    ),
    "webp-many-frames": Bomb(
        lambda: webp_animation(SMALL, *[crafted.webp_frame(whole(*SMALL), webp_chunk())] * 50_000)
    ),
    "webp-many-chunks": Bomb(
        lambda: crafted.webp(SMALL, 8, webp_chunk(), riff_chunk(b"abcd", b"") * 500_000)
    ),
    "webp-profile-and-exif": Bomb(
        lambda: crafted.webp(
            SMALL,
            0x28,
            riff_chunk(b"ICCP", bytes(20 * MEGABYTE)),
            webp_chunk(),
            riff_chunk(b"EXIF", b"II*\0\x08\0\0\0\xff\xff" + bytes(20 * MEGABYTE)),
        )
    ),
    "tiff-huge": huge(lambda: crafted.tiff(60_000, 60_000, {}, STRIP), 60_000, 60_000),
    "tiff-huge-tile": refused(
        lambda: deflated(_322=longs(60_000), _323=longs(60_000), _324=longs(8), _325=longs(90_000)), CORRUPT
    ),
    "tiff-large-tile": Bomb(
        lambda: deflated(_322=longs(4_096), _323=longs(4_096), _324=longs(8), _325=longs(90_000))
    ),
    "tiff-huge-strip": Bomb(lambda: deflated(_278=longs(2**31))),
    "tiff-many-strips": Bomb(
        lambda: crafted.tiff(
            *SMALL, {278: longs(1), 273: longs(*[8] * 500_000), 279: longs(*[48] * 500_000)}, STRIP
        )
    ),
    "tiff-needs-many-strips": refused(
        lambda: crafted.tiff(1, 500_000, {278: longs(1)}, STRIP), CORRUPT + "tiff header: 500000 strips"
    ),
    "tiff-many-tags": refused(lambda: b"II*\0\x08\0\0\0\xff\xff" + bytes(1_000), CORRUPT),
    "bigtiff-many-tags": refused(
        lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + bytes(1_000), CORRUPT
    ),
    "tiff-many-colours": refused(
        lambda: crafted.tiff(
            *SMALL, {258: shorts(8), 262: shorts(3), 320: (3, 2**31, struct.pack("<L", 8))}, STRIP
        ),
        CORRUPT,
    ),
    "tiff-loop": Bomb(tiff_loop),
    "tiff-xmp-and-profile": Bomb(
        lambda: crafted.tiff(
            *SMALL,
            {700: (7, 20 * MEGABYTE, bytes(20 * MEGABYTE)), 34675: (7, 20 * MEGABYTE, bytes(20 * MEGABYTE))},
            STRIP,
        )
    ),
    "bmp-huge": huge(lambda: crafted.bmp(60_000, 60_000, 24, b""), 60_000, 60_000),
    "bmp-without-its-pixels": Bomb(lambda: crafted.bmp(5_000, 5_000, 24, b""), CORRUPT, (5_000, 5_000)),
    "bmp-of-empty-rows": Bomb(lambda: crafted.bmp(*SMALL, 8, bytes(MEGABYTE), palette=PALETTE, compression=1)),
    "avif-huge": huge(lambda: crafted.avif_of_another_size(avif(), 16_000, 16_000), 16_000, 16_000),
    "avif-larger-than-it-says": refused(
        lambda: crafted.avif_of_another_size(avif((2_048, 2_048)), *SMALL),
        CORRUPT + "avif header: 4194304 coded pixels",
    ),
    "avif-many-items": refused(lambda: crafted.avif_with_items(avif(), 60_000), CORRUPT),
    "avif-many-frames": refused(avif_of_many_frames, CORRUPT + "avif header: 3000000000 frames"),
    "avif-many-boxes": refused(lambda: behind(avif(), b"meta", b"\0\0\0\x08free" * 500_000, -4), CORRUPT),
}  # fmt: skip


Result = list[tuple[tuple[int, int] | str, int]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """What came of the header and of the picture, and by how many bytes the peak of the process's memory rose."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, bomb in BOMBS.items():
        (folder / name).write_bytes(bomb.make())
    formats = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")
    harmless = [saved(photo((256, 256)), format) for format in formats]
    (folder / "harmless").write_bytes(pickle.dumps(harmless))
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ, str(folder), *BOMBS],
        capture_output=True,
        timeout=120,
        cwd=ROOT,
    )
    assert (run.returncode, run.stderr) == (0, b"")
    answers: dict[str, Result] = pickle.loads(run.stdout)
    return answers


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_too_much_costs_nothing(name: str, results: dict[str, Result]) -> None:
    (said, header_bytes), (shown, picture_bytes) = results[name]
    for told, expected in ((said, BOMBS[name].said), (shown, BOMBS[name].shown)):
        if isinstance(expected, str):
            assert isinstance(told, str) and told.startswith(expected), told
        else:
            assert told == expected
    assert header_bytes < ENOUGH / 2
    assert picture_bytes < ENOUGH
