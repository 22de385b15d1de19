"""The names that public corpora give to what they know of an image, and how their values become ours.

LAION writes URL, TEXT, WIDTH, LICENSE, NSFW; clip-retrieval's `inference` image_path and caption; DataComp url, text,
original_width; img2dataset both width (after its resizing) and original_width, so the latter goes first.

What a value becomes is said once, for single ones (`text_of`, `pixels_of`: what comes as JSON); whole columns (`known_of`) come to
the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.retrieval.index import HITS

NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "URL", "image_url", "image_path"),
    "alt_text": ("caption", "TEXT", "text", "alt_text", "alt", "ALT"),
    "width": ("original_width", "WIDTH", "width"),
    "height": ("original_height", "HEIGHT", "height"),
    "licence": ("LICENSE", "license", "LICENCE", "licence"),
    "nsfw": ("NSFW", "nsfw", "punsafe"),
    "language": ("LANGUAGE", "language", "lang"),
    "sha256": ("sha256", "SHA256"),
}
"""For each field of a hit the columns that may hold it, the best first."""

KNOWN = pa.schema([field for field in HITS if field.name in NAMES])
"""The columns that a corpus may know of an image: those of a hit that are not the query's."""

_INT32_MAX = 2**31 - 1


def chosen_columns(present: Collection[str]) -> dict[str, str]:
    """For each field of a hit the column to read, among those that are present."""
    chosen = {}
    for field, candidates in NAMES.items():
        column = next((name for name in candidates if name in present), None)
        if column is not None:
            chosen[field] = column
    return chosen


def known_of(rows: pa.RecordBatch, columns: Mapping[str, str]) -> pa.RecordBatch:
    """Metadata as the columns `KNOWN`; a field without a column is null in all rows.

    Args:
        rows: metadata, less than 2 GiB of text in a column.
        columns: the column of each field, see `chosen_columns`.
    """
    known = []
    for field in KNOWN:
        if field.name not in columns:
            known.append(pa.nulls(len(rows), field.type))
        else:
            judged = _all_pixels if field.type == pa.int32() else _all_texts
            known.append(judged(rows.column(columns[field.name])))
    return pa.RecordBatch.from_arrays(known, schema=KNOWN)


def text_of(value: Any) -> str | None:
    """Texts, and what a corpus may write instead of one: a score, a yes or no; None for what is nothing, or holds several."""
    if value.__class__ is str and value.isascii():
        return value or None
    if value is None or isinstance(value, dict | list) or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace") or None
    # JSON may carry lone surrogates, which no Parquet file can hold.
    return str(value).encode("utf-8", "replace").decode("utf-8") or None


def pixels_of(value: Any) -> int | None:
    """A width or height, also one that is written as text; None for what can be none."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if 1 <= number <= _INT32_MAX else None


def _all_texts(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = values.cast(pa.binary() if pa.types.is_string(kind) else pa.large_binary())
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        try:
            texts = values.cast(pa.string())  # which looks at every byte: files may hold what is no UTF-8
        except pa.ArrowInvalid:
            return _one_by_one(values, text_of, pa.string())
        return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.string()), texts)
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        # As Python writes them, which is not as Arrow does.
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return pa.array(numbers.astype(str), pa.string(), mask=np.isnan(numbers))
    if pa.types.is_integer(kind):
        return values.cast(pa.string())
    return _one_by_one(values, text_of, pa.string())


def _all_pixels(values: pa.Array) -> pa.Array:
    if pa.types.is_float32(values.type) or pa.types.is_float64(values.type):
        values = pc.trunc(values.cast(pa.float64()))
    elif pa.types.is_integer(values.type) and not pa.types.is_uint64(values.type):
        values = values.cast(pa.int64())
    else:
        return _one_by_one(values, pixels_of, pa.int32())
    # Neither holds for NaN.
    sensible = pc.and_(pc.greater(values, 0), pc.less_equal(values, _INT32_MAX))
    return pc.if_else(sensible, values, pa.scalar(None, values.type)).cast(pa.int32())


def _one_by_one(values: pa.Array, judged: Any, kind: pa.DataType) -> pa.Array:
    """For the seldom kinds of columns."""
    return pa.array([judged(value) for value in values.to_pylist()], kind)
