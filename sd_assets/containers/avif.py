"""AVIF: boxes, of which libavif makes sense; here is judged whether it may try.

It looks for an item by going through all of them, so that a file of 1 MB can keep it busy for seconds and one of 50 MB
for hours; and it decodes pictures of any size that the AV1 data have, whatever the boxes say, and scales them. Sources:
ISO/IEC 14496-12 (boxes), the AVIF and AV1 specifications.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sd_assets.containers.picture import MAX_METADATA, MAX_PARTS, corrupt

# Bytes of the boxes that describe pictures (with a profile), at most; and of those in them that list items.
_MAX_META = MAX_METADATA + 1024 * 1024
_MAX_LIST = 128 * 1024
_MAX_FRAMES = 200_000
_CONTAINERS = {
    b"meta": 4,
    b"moov": 0,
    b"trak": 0,
    b"mdia": 0,
    b"minf": 0,
    b"stbl": 0,
}  # bytes before their boxes
# AV1 pictures of a file together, in pixels, for each pixel of what it shows: its colours, alpha, a gain map, depth.
_MAX_CODED = 4
_SMALL = 1024 * 1024
_SEQUENCE, _DELIMITER = 1, 2


class _Box(NamedTuple):
    name: bytes
    start: int  # of what is in it
    stop: int


def check(data: bytes) -> None:
    """Whether a decoder may open the file.

    Raises:
        RowError: CORRUPT_IMAGE: what describes the pictures is absurd.
    """
    for box in _all_boxes(data):
        size = box.stop - box.start
        if box.name in (b"meta", b"moov") and size > _MAX_META:
            raise corrupt("avif", f"{size} bytes of description")
        if box.name in (b"iloc", b"iinf", b"iref") and size > _MAX_LIST:
            raise corrupt("avif", f"{size} bytes of a list of items")
        if box.name == b"stsz" and _number(data, box.start + 8, 4) > _MAX_FRAMES:
            raise corrupt("avif", f"{_number(data, box.start + 8, 4)} frames")


def check_coded(data: bytes, width: int, height: int) -> None:
    """Whether the AV1 data are of about the size that the boxes say, in pixels.

    Raises:
        RowError: CORRUPT_IMAGE: decoding them would take far more memory than the picture.
    """
    coded = sum(_coded_pixels(data, at) for at in _starts(data))
    if coded > max(_SMALL, _MAX_CODED * width * height):
        raise corrupt("avif", f"{coded} coded pixels for a picture of {width} x {height}")


def _all_boxes(data: bytes) -> Iterator[_Box]:
    """The boxes that describe pictures, those that hold others before them."""
    todo = [(0, len(data))]
    count = 0
    while todo:
        at, end = todo.pop()
        while at + 8 <= end:
            size, head = _number(data, at, 4), 8
            if size == 1:
                size, head = _number(data, at + 8, 8), 16
            stop = min(at + size, end) if size else end
            name = data[at + 4 : at + 8]
            yield _Box(name, at + head, stop)
            if name in _CONTAINERS:
                todo.append((at + head + _CONTAINERS[name], stop))
            count += 1
            if count > MAX_PARTS:
                raise corrupt("avif", f"more than {MAX_PARTS} boxes")
            if stop < at + head:
                break  # damaged, as the decoder will tell, or behind all that it looks at
            at = stop


def _starts(data: bytes) -> Iterator[int]:
    """Where AV1 data begin: of each item, and of each track."""
    boxes = list(_all_boxes(data))
    for box in boxes:
        if box.name == b"iloc":
            within = next((other.start for other in boxes if other.name == b"idat"), 0)
            yield from _item_starts(data, box, within)
        elif box.name in (b"stco", b"co64") and _number(data, box.start + 4, 4):
            yield _number(data, box.start + 8, 4 if box.name == b"stco" else 8)


def _item_starts(data: bytes, box: _Box, idat: int) -> Iterator[int]:
    version, at = _number(data, box.start, 1), box.start + 4
    sizes = _number(data, at, 2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version in (1, 2) else 0
    wide = 4 if version == 2 else 2
    count, at = _number(data, at + 2, wide), at + 2 + wide
    for _ in range(count):
        if at >= box.stop:
            return
        at += wide
        method = 0
        if version in (1, 2):
            method, at = _number(data, at, 2) & 15, at + 2
        base = _number(data, at + 2, base_size)
        extents, at = _number(data, at + 2 + base_size, 2), at + 4 + base_size
        if extents:
            start = base + _number(data, at + index_size, offset_size)
            yield start + (idat if method == 1 else 0)
        at += extents * (index_size + offset_size + length_size)


def _coded_pixels(data: bytes, at: int) -> int:
    """Pixels of the pictures of AV1 data that begin here, by their sequence header; 0 if there is none (as in EXIF)."""
    for _ in range(2):  # a temporal delimiter may come first
        if at + 2 > len(data):
            return 0
        head = data[at]
        kind, extended, sized = head >> 3 & 15, head >> 2 & 1, head >> 1 & 1
        at += 1 + extended
        size, at = _leb128(data, at) if sized else (len(data) - at, at)
        if kind == _SEQUENCE:
            return _sequence_pixels(_Bits(data[at : at + min(size, 1024)]))
        if kind != _DELIMITER:
            return 0
        at += size
    return 0


def _sequence_pixels(bits: "_Bits") -> int:
    """The largest size of a frame, of the first fields of an AV1 sequence header."""
    bits.take(3 + 1)  # profile, still picture
    if bits.take(1):  # reduced to what a still picture needs
        bits.take(5)
    else:
        _skip_timing(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return (bits.take(width_bits) + 1) * (bits.take(height_bits) + 1)


def _skip_timing(bits: "_Bits") -> None:
    model = delay_bits = 0
    if bits.take(1):  # timing information
        bits.take(64)
        if bits.take(1):  # equal intervals: a number in as many bits as it has zeros before it
            zeros = 0
            while zeros < 32 and not bits.take(1):
                zeros += 1
            bits.take(zeros)
        model = bits.take(1)
        if model:
            delay_bits = bits.take(5) + 1
            bits.take(32 + 5 + 5)
    display = bits.take(1)
    for _ in range(bits.take(5) + 1):  # operating points
        bits.take(12)
        if bits.take(5) > 7:  # levels from 4.0 on have a tier
            bits.take(1)
        if model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if display and bits.take(1):
            bits.take(4)


class _Bits:
    """Bits of bytes, the highest first; 0 beyond their end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & (1 << count) - 1 if self._left >= 0 else 0


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number in 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for place in range(8):
        byte = data[at + place] if at + place < len(data) else 0
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    return value, at + 8


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
