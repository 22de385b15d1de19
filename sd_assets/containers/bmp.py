"""BMP: a header of one of many sizes. Source: Microsoft's description of BITMAPFILEHEADER to BITMAPV5HEADER."""

import itertools
import struct

from sd_assets.containers.picture import MAX_METADATA, Picture, corrupt

# Sizes of the header that follows that of the file: two letters alone ("BM") also begin many a text.
HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_CORE, _V5 = 12, 124
_RLE8, _RLE4 = b"\1\0\0\0", b"\2\0\0\0"
_END_OF_ROW, _END, _SKIP = 0, 1, 2  # what a run of no pixels means
# Runs that are walked, at most: a second's work. A picture of a million pixels that is made of runs at all has a tenth.
_MAX_RUNS = 1_000_000
_EMBEDDED = b"DEBM"  # the kind of colour space that is a profile in the file


def read(data: bytes) -> Picture:
    """The picture of a BMP.

    Raises:
        RowError: CORRUPT_IMAGE.
    """
    size = int.from_bytes(data[14:18], "little")
    try:
        if size == _CORE:
            width, height = struct.unpack_from("<HH", data, 18)
        else:
            width, height = struct.unpack_from("<ii", data, 18)
    except struct.error:
        raise corrupt("bmp", "truncated") from None
    height = abs(height)  # negative: the rows go from the top down
    if width <= 0 or not height:
        raise corrupt("bmp", f"{width} x {height} pixels")
    packed = size != _CORE and data[30:34] in (_RLE8, _RLE4)
    if packed and data[28:30] != (b"\4\0" if data[30:34] == _RLE4 else b"\x08\0"):
        raise corrupt("bmp", "runs of another number of bits than the pixels have")
    return Picture(
        "bmp",
        width,
        height,
        (lambda: _unpacked(data, width, height)) if packed else lambda: data,
        lambda: _profile(data, size),
        head=data,
    )


def _unpacked(data: bytes, width: int, height: int) -> bytes:
    """The file with its runs spelt out, a byte a pixel. What they skip has the first colour.

    Pillow does this, too, one byte of Python at a time.
    """
    (start,) = struct.unpack_from("<I", data, 10)
    if start < 14 + 40:
        raise corrupt("bmp", "the pixels begin in the header")
    halves = data[30:34] == _RLE4
    stride = width + -width % 4
    try:
        rows = _rows(data, start, halves, width, height, stride)
    except IndexError:
        raise corrupt("bmp", "the runs are truncated") from None
    head = bytearray(data[:start])
    head[28:34] = struct.pack("<HI", 8, 0)
    if halves and not any(head[46:50]):
        head[46] = 16  # colours of the palette
    return bytes(head + rows)


def _rows(data: bytes, at: int, halves: bool, width: int, height: int, stride: int) -> bytearray:
    """The rows, each of `stride` bytes, of which the runs that begin at `at` tell; `halves`: two pixels a byte."""
    rows = bytearray(stride * height)
    x = y = 0
    for _ in range(_MAX_RUNS):
        if y >= height:
            break
        number, what = data[at], data[at + 1]
        at += 2
        if number:
            run = bytes([what >> 4, what & 15] * (number + 1 >> 1) if halves else [what] * number)
        elif what == _END_OF_ROW:
            x, y = 0, y + 1
            continue
        elif what == _END:
            break
        elif what == _SKIP:
            x, y = x + data[at], y + data[at + 1]
            at += 2
            continue
        else:  # so many pixels one by one, padded to 16 bits
            number, length = what, what + 1 >> 1 if halves else what
            run = data[at : at + length]
            if len(run) < length:
                raise IndexError
            if halves:
                run = bytes(itertools.chain.from_iterable((byte >> 4, byte & 15) for byte in run))
            at += length + length % 2
        run = run[: max(0, min(number, width - x))]
        place = y * stride + x
        rows[place : place + len(run)] = run
        x += len(run)
        if x == width and y == height - 1:
            break  # not all writers end the picture
    else:
        raise corrupt("bmp", f"more than {_MAX_RUNS:,} runs")
    return rows


def _profile(data: bytes, size: int) -> bytes | None:
    if size != _V5 or data[70:74] != _EMBEDDED:
        return None
    start, length = (int.from_bytes(data[at : at + 4], "little") for at in (126, 130))
    return data[14 + start : 14 + start + length] if 0 < length <= MAX_METADATA else None
