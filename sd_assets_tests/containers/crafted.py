"""Image files written by hand, for what Pillow does not write: rare kinds, and headers that promise too much."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Grid = npt.NDArray[np.uint8]


# --- PNG ---------------------------------------------------------------------------------------------------------


def png_chunk(name: bytes, value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))


def png(
    width: int,
    height: int,
    *chunks: tuple[bytes, bytes],
    rows: bytes = b"",
    depth: int = 8,
    colour: int = 2,
    interlaced: bool = False,
) -> bytes:
    """A PNG of these rows, each with its byte for the filter; `chunks` come before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def adam7(pixels: Grid) -> bytes:
    """Rows of an interlaced PNG of height x width x channels of bytes."""
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    rows = b""
    for left, top, right, down in passes:
        part = pixels[top::down, left::right]
        if part.size:
            rows += b"".join(b"\0" + row.tobytes() for row in part)
    return rows


# --- JPEG --------------------------------------------------------------------------------------------------------


def segment(marker: int, value: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(value) + 2) + value


def lossless_jpeg(pixels: Grid) -> bytes:
    """A grey picture of height x width in the lossless mode of JPEG (T.81, annex H), every sample from its left one."""
    height, width = pixels.shape
    wide = pixels.astype(int)
    before = np.empty_like(wide)
    before[:, 1:] = wide[:, :-1]
    before[1:, 0] = wide[:-1, 0]
    before[0, 0] = 128
    bits = ""
    for step in (wide - before).ravel().tolist():
        size = abs(step).bit_length()
        # All nine sizes have codes of four bits, in order; then the step itself, as in baseline JPEG.
        bits += f"{size:04b}" + (f"{step if step > 0 else step + 2**size - 1:0{size}b}" if size else "")
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHB3B", 8, height, width, 1, 1, 0x11, 0)
    table = bytes([0, 0, 0, 0, 9, *[0] * 12, *range(9)])
    return b"".join(
        [b"\xff\xd8", segment(0xC3, frame), segment(0xC4, table), segment(0xDA, bytes([1, 1, 0, 1, 0, 0])), scan]
    ) + b"\xff\xd9"  # fmt: skip


# --- GIF ---------------------------------------------------------------------------------------------------------


def gif(
    canvas: tuple[int, int],
    box: tuple[int, int, int, int],
    palette: Sequence[tuple[int, int, int]],
    *,
    index: int = 0,
    transparent: int | None = None,
    disposal: int = 0,
    frames: int = 1,
    before: bytes = b"",
) -> bytes:
    """A GIF of frames of one colour at left, upper, width, height; `before`: blocks before the first."""
    colours = b"".join(bytes(colour) for colour in palette).ljust(12, b"\0")
    flags = disposal << 2 | (transparent is not None)
    frame = b"!\xf9\x04" + bytes([flags, 0, 0, transparent or 0, 0])
    frame += b"," + struct.pack("<HHHHB", *box, 0) + b"\x02" + _lzw(index, box[2] * box[3])
    head = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x81, 0, 0) + colours
    return head + before + frame * frames + b";"


def _lzw(index: int, pixels: int) -> bytes:
    """So many pixels of one colour of four, uncompressed: codes of three bits, cleared before they get longer."""
    bits = ""
    for start in range(0, min(pixels, 10_000), 2):
        bits = "".join(f"{index:03b}" for _ in range(min(2, pixels - start))) + f"{4:03b}" + bits
    bits = f"{5:03b}" + bits
    data = int(bits, 2).to_bytes((len(bits) + 7) // 8, "little")
    blocks = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


# --- WebP --------------------------------------------------------------------------------------------------------


def riff_chunk(name: bytes, value: bytes) -> bytes:
    return name + struct.pack("<I", len(value)) + value + bytes(len(value) % 2)


def webp(canvas: tuple[int, int], flags: int, *chunks: bytes) -> bytes:
    """An extended WebP; `flags`: 2 animation, 8 EXIF, 16 alpha, 32 ICC."""
    body = b"WEBP" + riff_chunk(
        b"VP8X", bytes([flags, 0, 0, 0]) + _three(canvas[0] - 1) + _three(canvas[1] - 1)
    )
    body += b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_frame(box: tuple[int, int, int, int], pixels: bytes) -> bytes:
    """A frame of an animation, at left, upper (both even), width, height."""
    left, upper, width, height = box
    where = _three(left // 2) + _three(upper // 2) + _three(width - 1) + _three(height - 1)
    return riff_chunk(b"ANMF", where + b"\x64\0\0\0" + pixels)


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")


# --- TIFF --------------------------------------------------------------------------------------------------------

Tag = tuple[int, int, bytes]  # type, how many values, the values


def longs(*values: int) -> Tag:
    return 4, len(values), struct.pack(f"<{len(values)}L", *values)


def shorts(*values: int) -> Tag:
    return 3, len(values), struct.pack(f"<{len(values)}H", *values)


def tiff(width: int, height: int, tags: dict[int, Tag], data: bytes = b"") -> bytes:
    """A TIFF of one uncompressed RGB strip, unless `tags` says otherwise. `data` begins at byte 8."""
    strips = {} if 322 in tags else {273: longs(8), 278: longs(height), 279: longs(len(data))}
    tags = {
        256: longs(width),
        257: longs(height),
        258: shorts(8, 8, 8),
        259: shorts(1),
        262: shorts(2),
        277: shorts(3),
        **strips,
        **tags,
    }
    start = 8 + len(data)
    directory, values, at = struct.pack("<H", len(tags)), b"", start + 2 + 12 * len(tags) + 4
    for tag, (kind, count, value) in sorted(tags.items()):
        if len(value) > 4:
            value, values = struct.pack("<L", at + len(values)), values + value
        directory += struct.pack("<HHL4s", tag, kind, count, value)
    return b"II*\0" + struct.pack("<L", start) + data + directory + bytes(4) + values


# --- BMP ---------------------------------------------------------------------------------------------------------


def bmp(
    width: int,
    height: int,
    bits: int,
    data: bytes,
    *,
    palette: Sequence[tuple[int, int, int]] = (),
    compression: int = 0,
    masks: Sequence[int] = (),
    profile: bytes = b"",
) -> bytes:
    """A BMP; with three masks behind the header of 40 bytes, or four, or a profile, in that of 124."""
    long = len(masks) == 4 or bool(profile)
    size = 124 if long else 40
    colours = b"".join(bytes([*colour[::-1], 0]) for colour in palette)
    header = struct.pack(
        "<IiiHHIIiiII", size, width, height, 1, bits, compression, len(data), 0, 0, len(palette), 0
    )
    header += struct.pack(f"<{len(masks)}I", *masks)
    if long:
        header = header.ljust(56, b"\0") + (b"DEBM" if profile else b" niW") + bytes(36 + 12 + 4)
        header += struct.pack("<III", 124 + len(colours) + len(data), len(profile), 0)
    start = 14 + len(header) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + colours + data + profile


# --- AVIF --------------------------------------------------------------------------------------------------------


def avif_of_another_size(data: bytes, width: int, height: int) -> bytes:
    """An AVIF whose boxes say another size than its AV1 data have."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def avif_with_items(data: bytes, count: int) -> bytes:
    """An AVIF with so many more items than it had. The places of its pixels are no longer right."""
    more = b"".join(
        struct.pack(">I4sIHH4sB", 21, b"infe", 2 << 24, 100 + number & 0xFFFF, 0, b"Exif", 0)
        for number in range(count)
    )
    at = data.index(b"iinf") - 4
    meta = data.index(b"meta") - 4
    size, total = (int.from_bytes(data[place : place + 4], "big") for place in (at, meta))
    changed = bytearray(data)
    changed[at : at + 4] = struct.pack(">I", size + len(more))
    changed[meta : meta + 4] = struct.pack(">I", total + len(more))
    changed[at + 12 : at + 14] = struct.pack(">H", min(0xFFFF, count + 1))
    changed[at + size : at + size] = more
    return bytes(changed)


# --- ICC ---------------------------------------------------------------------------------------------------------

# Colorants of RGB spaces as XYZ of D50, a row each for red, green, blue.
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def rgb_profile(name: str, colorants: Sequence[Sequence[float]], gamma: float) -> bytes:
    """A matrix profile of a monitor."""
    tags = {b"desc": _description(name), b"wtpt": _xyz(0.9642, 1, 0.8249)}
    for letter, colorant in zip((b"r", b"g", b"b"), colorants, strict=True):
        tags[letter + b"XYZ"] = _xyz(*colorant)
        tags[letter + b"TRC"] = _gamma(gamma)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    tags = {b"desc": _description("grey"), b"wtpt": _xyz(0.9642, 1, 0.8249), b"kTRC": _gamma(gamma)}
    return _profile(b"mntr", b"GRAY", b"XYZ ", tags)


def cmyk_profile(white: tuple[float, float, float], cyan: tuple[float, float, float]) -> bytes:
    """A profile of a printer that prints `white` without ink, `cyan` (both L*a*b*) with cyan alone, else black."""
    corners = []
    for corner in range(16):  # cyan counts slowest
        lab = {0: white, 8: cyan}.get(corner, (0.0, 0.0, 0.0))
        corners += [round(lab[0] * 2.55), round(lab[1]) + 128, round(lab[2]) + 128]
    matrix = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix
    table += bytes(range(256)) * 4 + bytes(corners) + bytes(range(256)) * 3
    tags = {b"desc": _description("press"), b"wtpt": _xyz(0.9642, 1, 0.8249), b"A2B0": table, b"A2B1": table}
    return _profile(b"prtr", b"CMYK", b"Lab ", tags)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, values, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(values), len(value))
        values += value
    head = struct.pack(">I4sI4s4s4s", at + len(values), b"", 0x02100000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    head = head.ljust(68, b"\0") + _xyz(0.9642, 1, 0.8249)[8:]
    return head.ljust(128, b"\0") + table + values


def _description(name: str) -> bytes:
    text = name.encode() + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
