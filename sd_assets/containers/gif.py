"""GIF: blocks, up to the first image. Source: the GIF89a specification."""

from sd_assets.containers.picture import MAX_PARTS, Picture, corrupt, no_profile

_EXTENSION, _IMAGE = 0x21, 0x2C
_CONTROL = 0xF9
# Blocks are in pieces of at most 255 bytes; XMP, which is not, reads as many more.
_MAX_PIECES = 250_000


def read(data: bytes) -> Picture:
    """The first frame of a GIF.

    Raises:
        RowError: CORRUPT_IMAGE.
    """
    try:
        return _read(data)
    except IndexError:
        raise corrupt("gif", "truncated") from None


def _read(data: bytes) -> Picture:
    blocks = at = 13 + _palette_bytes(data[10])
    control, pieces = b"", 0
    for _ in range(MAX_PARTS):
        kind = data[at]
        if kind == _IMAGE:
            break
        if kind != _EXTENSION:
            raise corrupt("gif", "no image before the end" if kind == 0x3B else f"a block of kind {kind}")
        if data[at + 1] == _CONTROL and data[at + 2] == 4:
            control = data[at : at + 8]
        at += 2
        while length := data[at]:
            at += 1 + length
            pieces += 1
            if pieces > _MAX_PIECES:
                raise corrupt("gif", f"more than {_MAX_PIECES} pieces before the first image")
        at += 1
    else:
        raise corrupt("gif", f"more than {MAX_PARTS} blocks before the first image")
    if at + 10 > len(data):
        raise corrupt("gif", "truncated")
    canvas = _pair(data, 6)
    left, upper = _pair(data, at + 1)
    width, height = _pair(data, at + 5)
    if not width or not height:
        raise corrupt("gif", f"a frame of {width} x {height} pixels")
    # A frame that sticks out makes the picture larger, as it does in browsers.
    size = max(canvas[0], left + width), max(canvas[1], upper + height)
    frame = (left, upper, left + width, upper + height)
    start = at

    def bare() -> bytes:
        # Of the control only the transparent colour is kept: how a frame is disposed of matters to the next one.
        shown = b"!\xf9\x04" + bytes([control[3] & 1, 0, 0, control[6], 0]) if control else b""
        return b"".join([data[:blocks], shown, memoryview(data)[start:]])

    return Picture("gif", *size, bare, no_profile, covered=None if frame == (0, 0, *size) else frame)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _pair(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 2], "little"), int.from_bytes(data[at + 2 : at + 4], "little")
