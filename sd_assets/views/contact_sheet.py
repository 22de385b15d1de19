"""The contact sheet: thumbnails spread over a table, with their captions."""

from base64 import b64encode
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from sd_assets.errors import RowError
from sd_assets.images import decode_rgb, encode, inspect
from sd_assets.schemas import is_binary
from sd_assets.storage.table import Table, spread
from sd_assets.views import svg
from sd_assets.views.markdown import picture
from sd_assets.views.text import public

IMAGE = "image"
# Columns that may say what an image shows; the first that a table has is its caption.
CAPTIONS = ("captions", "caption", "text")

MAX_BYTES = 96_000
_MAX_TILES = 30
_COLUMNS = 6
_SIDE, _GAP = 144, 12  # pixels
_LINES, _LINE_HEIGHT = 4, 15
# What is decoded for a sheet, at most; a JPEG, which is decoded smaller, counts an eighth.
_MAX_PIXELS = 60_000_000
_QUALITIES = (85, 70, 55, 40)


@dataclass(frozen=True)
class _Tile:
    """One place of the sheet: a thumbnail, or in words why there is none, and the lines of a caption."""

    thumbnail: Image.Image | None
    instead: str
    caption: list[str]


def contact_sheet(table: Table, images: Sequence[Table] = (), *, max_bytes: int = MAX_BYTES) -> str | None:
    """Up to 30 thumbnails, spread evenly over the rows that did not fail; the same table gives the same sheet.

    Only the row groups they lie in are read. Where they do not fit, the thumbnails become coarser, then fewer.

    Args:
        table: with a binary column `image`, or with captions and the `image_id` of images of other tables.
        images: other tables, of which those with `image_id` and `image` are taken.
        max_bytes: of the result, which is ASCII.

    Returns:
        Markdown; None if there are no images.

    Raises:
        ValueError: not even one thumbnail has less than `max_bytes`.
    """
    own = _has_images(table)
    if not own and ("image_id" not in table.schema.names or _caption_column(table) is None):
        return None
    sources = [table] if own else [source for source in images if _has_images(source)]
    rows = [np.flatnonzero(source.errors == b"") for source in sources]
    total = sum(map(len, rows))
    places = [
        (source, int(fine[place]))
        for source, fine, chosen in zip(sources, rows, _apart(spread(_MAX_TILES, total), rows), strict=True)
        for place in chosen
    ]
    if not places:
        return None
    tiles = _tiles(places, None if own else table)
    for count in (len(tiles), *(count for count in (24, 18, 12, 6, 3, 1) if count < len(tiles))):
        shown = [tiles[place] for place in spread(count, len(tiles))]
        for quality in _QUALITIES:
            sheet = f"{count:,} of {total:,} images, evenly spread\n\n{picture(_drawn(shown, quality), 'contact sheet')}"
            if len(sheet) <= max_bytes:
                return sheet
    raise ValueError(f"one thumbnail has more than {max_bytes} bytes")


def _has_images(table: Table) -> bool:
    return IMAGE in table.schema.names and is_binary(table.schema.field(IMAGE).type)


def _apart(places: Sequence[int], parts: Sequence[Collection[Any]]) -> Iterator[list[int]]:
    """Places in the concatenation of several parts as places in each of them."""
    start = 0
    for part in parts:
        yield [place - start for place in places if start <= place < start + len(part)]
        start += len(part)


def _tiles(places: Sequence[tuple[Table, int]], captions: Table | None) -> list[_Tile]:
    """The tiles of some rows, in order; a row is read, and its image let go, before the next.

    Args:
        places: tables with images, and numbers of rows.
        captions: the table that has the captions, by `image_id`; None: the tables of the images themselves.
    """
    tiles: dict[int, tuple[Image.Image | None, str]] = {}
    labels: dict[int, str] = {}
    left = _MAX_PIXELS
    # Every fifth first, so that the thumbnails are spread over the table even if not all can be decoded.
    for number in sorted(range(len(places)), key=lambda number: (number % 5, number)):
        table, row = places[number]
        column = _caption_column(table) if captions is None else "image_id"
        values = table.take([row], [IMAGE, *([column] if column else [])]).to_pylist()[0]
        image, instead, cost = _thumbnail(values[IMAGE] or b"", left)
        tiles[number] = (image, instead)
        labels[number] = _label(values[column]) if column else ""
        left -= cost
    if captions is not None:
        found = _captions_of(captions, set(labels.values()))
        labels = {number: found.get(image_id, "") for number, image_id in labels.items()}
    return [
        _Tile(*tiles[number], svg.wrapped(public(labels[number]), _SIDE, _LINES))
        for number in range(len(places))
    ]


def _thumbnail(data: bytes, max_cost: int) -> tuple[Image.Image | None, str, int]:
    """A thumbnail, or in words why there is none; and what it cost, in pixels."""
    try:
        info = inspect(data)
        cost = info.width * info.height // (8 if info.format == "jpeg" else 1)
        if cost > max_cost:
            return None, f"{info.width} x {info.height} {info.format}", 0
        image = decode_rgb(data, at_least=2 * _SIDE)
    except RowError as error:
        return None, error.code, 0
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return image, "", cost


def _caption_column(table: Table) -> str | None:
    return next((name for name in CAPTIONS if name in table.schema.names), None)


def _label(value: Any) -> str:
    """What a cell says: of a list the first text."""
    texts = value if isinstance(value, list) else [value]
    return next((str(text) for text in texts if text), "")


def _captions_of(table: Table, image_ids: set[str]) -> dict[str, str]:
    """The first caption of each of some images; of one that could not be captioned at all, the error."""
    column = _caption_column(table)
    if column is None or "image_id" not in table.schema.names:
        return {}
    wanted = pa.array(sorted(image_ids))
    found: dict[str, str] = {}
    failed: dict[str, str] = {}
    for batch in table.batches(["image_id", column, "error"]):
        for row in batch.filter(pc.is_in(batch.column("image_id"), wanted)).to_pylist():
            if row["error"] is None:
                found.setdefault(row["image_id"], _label(row[column]))
            else:
                failed.setdefault(row["image_id"], row["error"])
    return failed | found


# --- drawing -----------------------------------------------------------------------------------------------------


def _drawn(tiles: Sequence[_Tile], quality: int) -> str:
    """The sheet: all thumbnails as one JPEG, captions as text on top of it, so that they stay sharp in any script."""
    columns = min(_COLUMNS, len(tiles))
    row_height = _SIDE + _GAP + max(len(tile.caption) for tile in tiles) * _LINE_HEIGHT + 4
    size = (_GAP + columns * (_SIDE + _GAP), _GAP + -(-len(tiles) // columns) * row_height)
    paper = Image.new("RGB", size, svg.PAPER)
    words: list[str] = []
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        x, y = _GAP + column * (_SIDE + _GAP), _GAP + row * row_height
        paper.paste("white", (x, y, x + _SIDE, y + _SIDE))
        if tile.thumbnail is not None:
            width, height = tile.thumbnail.size
            paper.paste(tile.thumbnail, (x + (_SIDE - width) // 2, y + (_SIDE - height) // 2))
        middle = x + _SIDE / 2
        if tile.instead:
            words.append(svg.text(middle, y + _SIDE / 2 + 4, tile.instead, fill=svg.FAINT))
        words.extend(
            svg.text(middle, y + _SIDE + 1 + _LINE_HEIGHT * place, line)
            for place, line in enumerate(tile.caption, start=1)
        )
    jpeg = b64encode(encode(paper, "jpg", quality)).decode()
    picture = f'<image width="{size[0]}" height="{size[1]}" href="data:image/jpeg;base64,{jpeg}"/>'
    return svg.document(*size, [picture, '<g text-anchor="middle">', *words, "</g>"])
