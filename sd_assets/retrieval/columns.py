"""The names that public corpora give to what they know of an image, and how their values become ours.

LAION writes URL, TEXT, WIDTH, LICENSE, NSFW; clip-retrieval's `inference` image_path and caption; DataComp url, text,
original_width; img2dataset both width (after its resizing) and original_width, so the latter goes first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from sd_assets.retrieval.index import Hit

NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "URL", "image_url", "image_path"),
    "alt_text": ("caption", "TEXT", "text", "alt_text", "alt", "ALT"),
    "width": ("original_width", "WIDTH", "width"),
    "height": ("original_height", "HEIGHT", "height"),
    "licence": ("LICENSE", "license", "LICENCE", "licence"),
    "nsfw": ("NSFW", "nsfw", "punsafe"),
    "sha256": ("sha256", "SHA256"),
}
"""For each field of a hit the columns that may hold it, the best first."""

_INT32_MAX = 2**31 - 1


def chosen_columns(present: Collection[str]) -> dict[str, str]:
    """For each field of a hit the column to read, among those that are present."""
    chosen = {}
    for field, candidates in NAMES.items():
        column = next((name for name in candidates if name in present), None)
        if column is not None:
            chosen[field] = column
    return chosen


def hit_of(row: Mapping[str, Any], columns: Mapping[str, str], similarity: float, rank: int) -> Hit | None:
    """The hit that a row of metadata describes; None if the row has no URL.

    Args:
        row: metadata by column name.
        columns: the column of each field, see `chosen_columns`.
        similarity: of the row to the query.
        rank: that the hit gets.
    """
    value = {field: row.get(column) for field, column in columns.items()}
    url = _text(value.get("url"))
    if url is None:
        return None
    return Hit(
        url=url,
        rank=rank,
        similarity=similarity,
        alt_text=_text(value.get("alt_text")),
        width=_pixels(value.get("width")),
        height=_pixels(value.get("height")),
        licence=_text(value.get("licence")),
        nsfw=_text(value.get("nsfw")),
        sha256=_text(value.get("sha256")),
    )


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    # JSON may carry lone surrogates, which no Parquet file can hold.
    return str(value).encode("utf-8", "replace").decode("utf-8") or None


def _pixels(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number <= _INT32_MAX else None
