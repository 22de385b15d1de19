"""Thumbnails in packs: scripts that a page loads from the disk, which no browser lets it read as data."""

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from sd_assets.errors import RowError
from sd_assets.images import decode_rgb, encode
from sd_assets.report.folder import ReportFolder, content_name
from sd_assets.storage.rows import Rows

# Raise it when the same image comes to look different.
VERSION = b"1"
SIDE = 192  # px, the longer one
_QUALITY = 65
_THREADS = 4

# A pack ends at an image whose digest says so, one of so many, but has so many images at least and at most.
_MEAN, _LEAST, _MOST = 48, 16, 96


def packs(digests: Sequence[bytes]) -> Iterator[range]:
    """Images cut into packs by content: one more in front changes a pack or two, not all.

    Args:
        digests: 16 bytes of each image.
    """
    start = 0
    for place, digest in enumerate(digests, start=1):
        ends = int.from_bytes(digest[:4], "little") % _MEAN == 0 and place - start >= _LEAST
        if ends or place - start == _MOST or place == len(digests):
            yield range(start, place)
            start = place


def put_packs(
    folder: ReportFolder, rows: Rows, places: Sequence[int], digests: Sequence[bytes]
) -> Iterator[tuple[str, int]]:
    """Write the packs of some rows; images are read and decoded only for those that are not there.

    Args:
        folder: of the report.
        rows: whose images can be fetched.
        places: of them those that are shown.
        digests: of the images at these places.

    Yields:
        Name and number of images of each pack, in order.

    Raises:
        WriteError: a pack cannot be written.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for pack in packs(digests):
            name = content_name("thumbnails", VERSION, *digests[pack.start : pack.stop])
            if not folder.has(name):
                assert rows.fetch is not None
                images = rows.fetch([places[number] for number in pack]).column("image")
                made = pool.map(_thumbnail, images.to_pylist())
                script = f"report.pack({json.dumps(name)},{json.dumps(list(made))})"
                folder.put(name, script.encode("ascii"))
            yield name, len(pack)


def _thumbnail(data: bytes) -> str:
    """A thumbnail as JPEG in base64; of an image that cannot be decoded `!` and the error code."""
    try:
        image = decode_rgb(data, at_least=SIDE)
    except RowError as error:
        return f"!{error.code}"
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    return b64encode(encode(image, "jpg", _QUALITY)).decode("ascii")
