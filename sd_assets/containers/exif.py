"""The orientation in a block of EXIF, which is a small TIFF."""

import struct

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
UPRIGHT = 1


def orientation(block: bytes | None) -> int:
    """How the stored pixels are to be turned, 1 to 8; 1, upright, if the block does not say or is damaged."""
    if not block:
        return UPRIGHT
    for _ in range(2):  # some writers put the prefix twice
        block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 10:
        return UPRIGHT
    (start,) = struct.unpack(order + "L", block[4:8])
    if start + 2 > len(block):
        return UPRIGHT
    (count,) = struct.unpack_from(order + "H", block, start)
    entries = block[start + 2 : start + 2 + 12 * count]
    entries = entries[: len(entries) // 12 * 12]
    for tag, kind, number, value in struct.iter_unpack(order + "HHL4s", entries):
        if tag == _ORIENTATION:
            return from_tag(order, kind, number, value)
    return UPRIGHT


def from_tag(order: str, kind: int, number: int, value: bytes) -> int:
    """The orientation that a tag gives.

    Args:
        order: of the bytes, as in `struct`.
        kind: the type of the tag's values.
        number: how many there are.
        value: their bytes, or more.
    """
    if number != 1 or kind not in (_SHORT, _LONG):
        return UPRIGHT
    (turn,) = struct.unpack_from(order + ("H" if kind == _SHORT else "L"), value)
    return turn if 1 <= turn <= 8 else UPRIGHT
