"""WebP: RIFF chunks. Source: the WebP container specification (RFC 9649)."""

from sd_assets.containers import exif
from sd_assets.containers.picture import MAX_METADATA, MAX_PARTS, Picture, corrupt, no_profile

_ICC, _ALPHA, _EXIF, _ANIMATION = 0x20, 0x10, 0x08, 0x02
_FRAMES = (b"VP8 ", b"VP8L", b"ANMF")


def read(data: bytes) -> Picture:
    """The picture of a WebP; of an animated one the first frame on its canvas.

    Raises:
        RowError: CORRUPT_IMAGE.
    """
    if len(data) < 30:
        raise corrupt("webp", "truncated")
    first = data[12:16]
    if first == b"VP8X":
        return _extended(data)
    if first == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = _number(data, 26, 28) & 0x3FFF, _number(data, 28, 30) & 0x3FFF
    elif first == b"VP8L" and data[20] == 0x2F:
        size = _number(data, 21, 25)
        width, height = (size & 0x3FFF) + 1, (size >> 14 & 0x3FFF) + 1
    else:
        raise corrupt("webp", f"unknown first chunk {first!r}")
    if not width or not height:
        raise corrupt("webp", f"{width} x {height} pixels")
    return Picture("webp", width, height, lambda: _file(_chunk(data, 12)), no_profile)


def _extended(data: bytes) -> Picture:
    """The picture of a WebP that has more than pixels. Its canvas is given first, EXIF last."""
    flags = data[20]
    wanted = {
        b"ICCP": flags & _ICC,
        b"EXIF": flags & _EXIF,
        b"ALPH": flags & _ALPHA,
        b"ANIM": flags & _ANIMATION,
    }
    found: dict[bytes, int] = {}
    at = 12 + 8 + _number(data, 16, 20)
    at += at % 2
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            break
        name = data[at : at + 4]
        if name in _FRAMES or wanted.get(name):
            found.setdefault(name, at)
        size = _number(data, at + 4, at + 8)
        at += 8 + size + size % 2
    return Picture(
        "webp",
        _number(data, 24, 27) + 1,
        _number(data, 27, 30) + 1,
        lambda: _bare(data, found),
        lambda: _value(data, found.get(b"ICCP")),
        exif.orientation(_value(data, found.get(b"EXIF"))),
    )


def _bare(data: bytes, found: dict[bytes, int]) -> bytes:
    head = bytearray(data[12:30])
    head[4:8] = (10).to_bytes(4, "little")
    head[8] &= _ALPHA | _ANIMATION
    if head[8] & _ANIMATION:
        head[8] |= _ALPHA  # what the frame does not cover is transparent, whatever the file says
    names = (b"ANIM", b"ANMF") if head[8] & _ANIMATION else (b"ALPH", b"VP8 ", b"VP8L")
    if not any(name in found for name in names[-2:]):
        raise corrupt("webp", "no pixels")
    return _file(bytes(head), *(_chunk(data, found[name]) for name in names if name in found))


def _file(*chunks: bytes) -> bytes:
    body = b"".join(chunks)
    return b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WEBP" + body


def _chunk(data: bytes, at: int) -> bytes:
    """A chunk, padded to even length; a truncated one says its full length and is shorter."""
    size = _number(data, at + 4, at + 8)
    return data[at : at + 8 + size + size % 2]


def _value(data: bytes, at: int | None) -> bytes | None:
    """What is in a chunk of metadata; None if there is none, or an absurd one."""
    size = 0 if at is None else _number(data, at + 4, at + 8)
    return None if at is None or size > MAX_METADATA else data[at + 8 : at + 8 + size]


def _number(data: bytes, start: int, stop: int) -> int:
    return int.from_bytes(data[start:stop], "little")
