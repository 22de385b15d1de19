"""JPEG: segments, each of a marker and a length, up to the scans. Sources: ITU-T T.81 (annex B), JFIF, ICC.1 (annex B)."""

import re

from sd_assets.containers import exif
from sd_assets.containers.picture import MAX_METADATA, MAX_PARTS, Picture, corrupt, unsupported
from sd_assets.errors import ErrorCode, RowError

# Whatever stands before it is junk or pixels, and skipped; further 0xFF pad, 0xFF00 is data, and so are restarts.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SOS, _EOI, _APP0, _EXIF, _ICC, _ADOBE = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})  # DHT, DAC, DQT, DRI: what decoding needs
# Markers without a length: TEM, SOI, those that are reserved.
_ALONE = frozenset(range(0x01, 0xC0)) | {0xD8} | frozenset(range(0xF0, 0xFE))
_EXIF_NAME, _ICC_NAME = b"Exif\0\0", b"ICC_PROFILE\0"
# Every scan of a picture goes over all of it, whatever it says: a small file of a thousand scans would take minutes.
# Encoders write about ten.
_MAX_SCANS = 100


def read(data: bytes) -> Picture:
    """The picture of a JPEG.

    Raises:
        RowError: CORRUPT_IMAGE; NOT_AN_IMAGE for samples of other than 8 bits.
    """
    kept: list[tuple[int, int]] = []
    profile: list[bytes] = []
    frame = turn = None
    many_scans = False
    at = 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, at)
        if found is None:
            raise corrupt("jpeg", "truncated")
        start, marker = found.start(), data[found.start() + 1]
        if marker in _ALONE:
            at = start + 2
            continue
        if marker == _SOS:
            break
        at = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == _EOI or at < start + 4:
            raise corrupt("jpeg", "no pixels" if marker == _EOI else "a segment without a length")
        if at > len(data):
            raise corrupt("jpeg", "truncated")
        if marker in _SOF:
            if frame is not None:
                raise corrupt("jpeg", "more than one frame")
            frame, many_scans = data[start + 4 : at], marker in _PROGRESSIVE
            kept.append((start, at))
        elif (
            marker in _TABLES
            or (marker == _APP0 and data.startswith(b"JFIF\0", start + 4))
            or (marker == _ADOBE and data.startswith(b"Adobe", start + 4))
        ):
            kept.append((start, at))
        elif marker == _EXIF and turn is None and data.startswith(_EXIF_NAME, start + 4):
            turn = exif.orientation(data[start + 4 : at])
        elif marker == _ICC and data.startswith(_ICC_NAME, start + 4):
            profile.append(data[start + 4 + len(_ICC_NAME) : at])
    else:
        raise corrupt("jpeg", f"more than {MAX_PARTS} segments before the pixels")
    kept.append((start, len(data)))
    width, height, components = _frame(frame)
    many_scans |= data[start + 4 : start + 5] != bytes([components])
    return Picture(
        "jpeg",
        width,
        height,
        lambda: _bare(data, kept, many_scans),
        lambda: _profile(profile),
        turn or exif.UPRIGHT,
    )


def _frame(frame: bytes | None) -> tuple[int, int, int]:
    """Width, height and number of colour components."""
    if frame is None or len(frame) < 6:
        raise corrupt("jpeg", "no frame before the pixels")
    bits, components = frame[0], frame[5]
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    if bits != 8:
        raise unsupported(f"JPEG of {bits} bits a sample")
    if components not in (1, 3, 4):
        raise corrupt("jpeg", f"{components} colour components")
    if not height:
        raise corrupt("jpeg", "the height is only told after the pixels (DNL)")
    if not width:
        raise corrupt("jpeg", "no width")
    return width, height, components


def _bare(data: bytes, kept: list[tuple[int, int]], many_scans: bool) -> bytes:
    start = kept[-1][0]
    # Most often counting all that looks like a scan suffices; a film that follows the picture looks like many.
    many_scans = many_scans and data.count(b"\xff\xda", start) > _MAX_SCANS
    if many_scans and _scans(data, start) > _MAX_SCANS:
        raise RowError(ErrorCode.CORRUPT_IMAGE, f"jpeg: more than {_MAX_SCANS} scans")
    view = memoryview(data)
    return b"".join([data[:2], *(view[start:stop] for start, stop in kept)])


def _scans(data: bytes, at: int) -> int:
    """How many scans there are up to the end of the image; more than are allowed, if they are in too many segments."""
    scans = 0
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, at)
        if found is None:
            return scans
        at, marker = found.start() + 2, data[found.start() + 1]
        if marker == _EOI or scans > _MAX_SCANS:
            return scans
        if marker not in _ALONE:
            scans += marker == _SOS
            at += int.from_bytes(data[at : at + 2], "big")
    return _MAX_SCANS + 1


def _profile(parts: list[bytes]) -> bytes | None:
    """The profile, whose parts begin with their number and how many there are."""
    if not parts or any(len(part) < 2 or part[1] != len(parts) for part in parts):
        return None
    profile = b"".join(part[2:] for part in sorted(parts))
    return profile if len(profile) <= MAX_METADATA else None
