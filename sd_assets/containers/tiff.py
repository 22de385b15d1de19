"""TIFF and BigTIFF: a directory of tags somewhere in the file. Source: TIFF 6.0 and its supplements.

The bare file is a TIFF, never a BigTIFF (of which Pillow reads only those of one order of bytes), and has a directory of
its own, behind the data, of the tags that say how the pixels are stored. So no reader follows the file's other
directories, which may form loops, or takes a look at its metadata.
"""

import struct
from dataclasses import dataclass

from sd_assets.containers import exif
from sd_assets.containers.picture import MAX_METADATA, Picture, corrupt

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _PLANES = 256, 257, 258, 277, 284
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 278, 322, 323
# Where the strips or tiles are, and how long.
_PLACES = frozenset({273, 279, 324, 325})
_ORIENTATION, _PROFILE = 274, 34675
_NEEDED = (
    frozenset({_WIDTH, _HEIGHT, _BITS, _SAMPLES, _PLANES, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT})
    | _PLACES
    # Compression, photometric interpretation, fill order, options of fax, predictor, colour map, inks.
    | {259, 262, 266, 292, 293, 317, 320, 332}
    # Extra samples, their format, tables of JPEG, what belongs to its older form, YCbCr, black and white.
    | {338, 339, 347, *range(512, 522), 529, 530, 531, 532}
)
_LONG, _LONG8 = 4, 16
_INTEGERS = {1: "B", 3: "H", 4: "L", 16: "Q"}  # by the type of a tag
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_MAX_TAGS = 65_535
_MAX_PLACES = 100_000  # strips or tiles
_MAX_VALUES = 1024 * 1024  # bytes of the values of a tag that is needed
# A tile is decoded as a whole, however small the picture is. Those of real files have up to 1,024 x 1,024 pixels.
_MAX_TILE = 4_096 * 4_096


@dataclass(frozen=True)
class _Tag:
    kind: int
    number: int
    value: bytes


@dataclass(frozen=True)
class _Layout:
    """How a file writes its numbers: bytes of its head; counts, entries and offsets, as in `struct`; bytes in an entry."""

    order: str
    head: int
    count: str
    entry: str
    offset: str
    inline: int


def _classic(order: str) -> _Layout:
    return _Layout(order, 8, order + "H", order + "HHL4s", order + "L", 4)


def _big(order: str) -> _Layout:
    return _Layout(order, 16, order + "Q", order + "HHQ8s", order + "Q", 8)


def read(data: bytes) -> Picture:
    """The first picture of a TIFF.

    Raises:
        RowError: CORRUPT_IMAGE.
    """
    order = "<" if data[:2] == b"II" else ">"
    layout = (_big if data[2:4] in (b"+\0", b"\0+") else _classic)(order)
    try:
        tags = _tags(data, layout)
        width, height = _whole(tags, layout, _WIDTH), _whole(tags, layout, _HEIGHT)
        if not width or not height:
            raise corrupt("tiff", f"{width} x {height} pixels")
        tags |= _checked_places(tags, layout, width, height)
    except struct.error:
        raise corrupt("tiff", "truncated") from None
    turn, profile = tags.pop(_ORIENTATION, None), tags.pop(_PROFILE, None)
    return Picture(
        "tiff",
        width,
        height,
        lambda: _with_directory(data, tags, order),
        lambda: None if profile is None else profile.value,
        exif.UPRIGHT if turn is None else exif.from_tag(order, turn.kind, turn.number, turn.value),
        head=_with_directory(data[:8], tags, order),
        depth=_whole(tags, layout, _BITS, 1),
    )


def _tags(data: bytes, layout: _Layout) -> dict[int, _Tag]:
    """The tags of the first directory that matter; of one that is there twice the first."""
    (at,) = struct.unpack_from(layout.offset, data, layout.head - struct.calcsize(layout.offset))
    if at > len(data):
        raise corrupt("tiff", "truncated")
    (count,) = struct.unpack_from(layout.count, data, at)
    at += struct.calcsize(layout.count)
    length = struct.calcsize(layout.entry)
    if count > _MAX_TAGS or at + count * length > len(data):
        raise corrupt("tiff", f"a directory of {count} tags")
    tags: dict[int, _Tag] = {}
    for tag, kind, number, value in struct.iter_unpack(layout.entry, data[at : at + count * length]):
        if tag not in _NEEDED and tag not in (_ORIENTATION, _PROFILE):
            continue
        if tag in _PLACES:
            number = min(number, _MAX_PLACES)
        size = number * _TYPE_BYTES.get(kind, 0)
        if tag in tags or not size or size > (MAX_METADATA if tag == _PROFILE else _MAX_VALUES):
            continue
        if size > layout.inline:
            (start,) = struct.unpack(layout.offset, value)
            value = data[start : start + size]
        if len(value) >= size:
            tags[tag] = _narrow(_Tag(kind, number, value[:size]), layout.order)
    return tags


def _narrow(tag: _Tag, order: str) -> _Tag:
    """The tag without numbers of 64 bits, which a TIFF does not know. Larger ones could only lead beyond the file."""
    if tag.kind != _LONG8:
        return tag
    values = struct.unpack(f"{order}{tag.number}Q", tag.value)
    narrow = struct.pack(f"{order}{tag.number}L", *(min(value, 2**32 - 1) for value in values))
    return _Tag(_LONG, tag.number, narrow)


def _whole(tags: dict[int, _Tag], layout: _Layout, tag: int, default: int = 0) -> int:
    """The first value of a tag of whole numbers."""
    found = tags.get(tag)
    if found is None or found.kind not in _INTEGERS:
        return default
    (value,) = struct.unpack_from(layout.order + _INTEGERS[found.kind], found.value)
    return int(value)


def _checked_places(tags: dict[int, _Tag], layout: _Layout, width: int, height: int) -> dict[int, _Tag]:
    """The tags of where strips or tiles are, as many as the picture has: readers may believe what they say beyond it.

    Raises:
        RowError: CORRUPT_IMAGE: far too many, or so large that decoding one would take much memory.
    """
    # Often it is the largest number that there is, for one strip.
    across, rows = width, min(height, _whole(tags, layout, _ROWS_PER_STRIP, height))
    strips = {_ROWS_PER_STRIP: _Tag(_LONG, 1, struct.pack(layout.order + "L", rows))}
    if _TILE_WIDTH in tags:
        across, rows = _whole(tags, layout, _TILE_WIDTH), _whole(tags, layout, _TILE_HEIGHT)
        if across * rows > max(_MAX_TILE, 2 * width * height):
            raise corrupt("tiff", f"tiles of {across} x {rows} for {width} x {height} pixels")
    if not across or not rows:
        raise corrupt("tiff", f"strips or tiles of {across} x {rows} pixels")
    # Of separate planes, each has strips of its own.
    planes = _whole(tags, layout, _SAMPLES, 1) if _whole(tags, layout, _PLANES, 1) == 2 else 1
    most = -(-width // across) * -(-height // rows) * planes
    if most > _MAX_PLACES:
        raise corrupt("tiff", f"{most} strips or tiles")
    return strips | {
        tag: _Tag(found.kind, min(found.number, most), found.value[: _TYPE_BYTES[found.kind] * most])
        for tag, found in tags.items()
        if tag in _PLACES
    }


def _with_directory(data: bytes, tags: dict[int, _Tag], order: str) -> bytes:
    """The data as a TIFF with a directory of these tags behind them, which is the only one."""
    layout = _classic(order)
    padding = bytes(-len(data) % 8)
    start = len(data) + len(padding)
    values = start + 2 + len(tags) * struct.calcsize(layout.entry) + 4
    directory, behind = [struct.pack(layout.count, len(tags))], []
    for number, tag in sorted(tags.items()):
        value = tag.value
        if len(value) > layout.inline:
            behind.append(value + bytes(-len(value) % 8))
            value = struct.pack(layout.offset, values)
            values += len(behind[-1])
        directory.append(struct.pack(layout.entry, number, tag.kind, tag.number, value))
    head = data[:2] + struct.pack(layout.count, 42) + struct.pack(layout.offset, start)
    return b"".join([head, memoryview(data)[8:], padding, *directory, bytes(4), *behind])
