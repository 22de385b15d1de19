"""PNG: chunks, each of a length, a name and a checksum. Source: the PNG specification (third edition)."""

import struct
import zlib
from collections.abc import Iterator

from sd_assets.containers import exif
from sd_assets.containers.picture import MAX_METADATA, MAX_PARTS, Picture, corrupt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type
_PALETTE = 3
# Of the pixels; what is in further ones is missing. Encoders cut them in pieces of 8 KB or more.
_MAX_DATA_PARTS = 100_000


def read(data: bytes) -> Picture:
    """The picture of a PNG; of an animated one the picture that viewers show which do not know animations.

    Raises:
        RowError: CORRUPT_IMAGE.
    """
    chunks = _chunks(data, len(SIGNATURE), MAX_PARTS)
    name, start, stop = next(chunks, (b"", 0, 0))
    if name != b"IHDR" or stop - start != 25 or not _sound(data, start, stop):
        raise corrupt("png", "no sound IHDR")
    width, height, depth, colour, *methods = struct.unpack_from(">IIBBBBB", data, start + 8)
    if depth not in _DEPTHS.get(colour, ()) or methods[:2] != [0, 0] or methods[2] > 1:
        raise corrupt("png", f"unknown kind of pixels: {depth} bits, colour type {colour}, methods {methods}")
    found = {b"IHDR": (start, stop)}
    for name, start, stop in chunks:
        if name == b"IHDR":
            raise corrupt("png", "more than one IHDR")
        if name == b"IDAT":
            break
        # A chunk that is not needed is skipped if it is damaged, as viewers do.
        useful = name in (b"PLTE", b"tRNS", b"iCCP", b"eXIf") and stop - start <= MAX_METADATA
        if useful and _sound(data, start, stop):
            found.setdefault(name, (start, stop))
    else:
        raise corrupt("png", f"no pixels in the first {MAX_PARTS} chunks")
    if colour == _PALETTE and b"PLTE" not in found:
        raise corrupt("png", "no sound palette")
    block = found.get(b"eXIf")
    turn = exif.orientation(data[block[0] + 8 : block[1] - 4]) if block else exif.UPRIGHT
    first = start
    return Picture(
        "png",
        width,
        height,
        lambda: _bare(data, found, first),
        lambda: _profile(data, found.get(b"iCCP")),
        turn,
        depth=depth,
    )


def _chunks(data: bytes, at: int, most: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of chunks, with all that belongs to them. A truncated last one ends behind the data."""
    for _ in range(most):
        if at + 8 > len(data):
            return
        stop = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at, stop
        at = stop


def _sound(data: bytes, start: int, stop: int) -> bool:
    checksum = zlib.crc32(memoryview(data)[start + 4 : stop - 4])
    return stop <= len(data) and checksum.to_bytes(4, "big") == data[stop - 4 : stop]


def _bare(data: bytes, found: dict[bytes, tuple[int, int]], first: int) -> bytes:
    stop = first
    for name, _, end in _chunks(data, first, _MAX_DATA_PARTS):
        if name != b"IDAT":
            break
        stop = end
    kept = [found[name] for name in (b"IHDR", b"PLTE", b"tRNS") if name in found]
    view = memoryview(data)
    pieces = [view[start:end] for start, end in [*kept, (first, stop)]]
    # Behind data that are truncated the end would pass for pixels.
    return b"".join([SIGNATURE, *pieces, _END if stop <= len(data) else b""])


def _profile(data: bytes, chunk: tuple[int, int] | None) -> bytes | None:
    if chunk is None:
        return None
    _, _, packed = data[chunk[0] + 8 : chunk[1] - 4].partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(packed[1:], MAX_METADATA)
    except zlib.error:
        return None
    return profile if packed[:1] == b"\0" and inflate.eof else None
