"""The names that a corpus's columns get in an index: those that an unmodified `clip-retrieval back` answers with."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.columns import NAMES, chosen_columns

# `back` answers with url, image_path, caption and NSFW unless it is told more.
_OUR_NAMES = {
    "url": "url",
    "alt_text": "caption",
    "width": "width",
    "height": "height",
    "licence": "license",
    "nsfw": "NSFW",
    "sha256": "sha256",
}


def kept_columns(
    schemas: Mapping[str, pa.Schema],
    where: str,
    *,
    url_column: str | None = None,
    text_column: str | None = None,
    keep: Collection[str] | None = None,
    without: Collection[str] = (),
) -> tuple[dict[str, str], pa.Schema]:
    """Which columns an index keeps, and what they are called there.

    Columns of other vectors (lists of floats) are kept only if they are named. A column that is named for its URLs or texts gets
    our name for them; one of the corpus that has this name already is called `corpus_...` then, so that nobody reads it instead.

    Args:
        schemas: of the metadata, by the name of the file.
        where: the section of the catalogue, for messages.
        url_column: that holds the URLs; None: found by its name.
        text_column: that holds the texts; None: found by its name.
        keep: columns besides those that retrieval reads; None: all.
        without: columns that are no metadata.

    Returns:
        The name of each column in the corpus by its name in the index, and their schema.

    Raises:
        RetrievalError: there is no column of URLs, or of a name that was given, or the files do not fit each other.
    """
    merged = _merged(schemas)
    present = [name for name in merged.names if name not in without and not name.startswith("__index_level_")]
    for field, asked in {"url_column": url_column, "text_column": text_column}.items():
        _require(asked, present, f"{where}.{field}")
    for name in keep or ():
        _require(name, present, f"{where}.columns")
    chosen = chosen_columns(present)
    named = {"url": url_column, "alt_text": text_column}
    chosen |= {field: column for field, column in named.items() if column is not None}
    if "url" not in chosen:
        raise RetrievalError(
            f"{where}: the metadata has no column of URLs (looked for {', '.join(NAMES['url'])}); "
            f"{next(iter(schemas))} has: {', '.join(present) or 'none'}"
        )
    if keep is None:
        keep = [name for name in present if not is_vector(merged.field(name).type)]
    kept = [name for name in present if name in keep or name in chosen.values()]
    by_name = {column: _OUR_NAMES[field] for field, column in named.items() if column is not None}
    columns = {by_name.get(name) or _name(name, chosen, kept, by_name): name for name in kept}
    fields = [pa.field(ours, _storable(merged.field(theirs).type)) for ours, theirs in columns.items()]
    return columns, pa.schema(fields)


def is_vector(kind: pa.DataType) -> bool:
    """Whether a column holds lists of floats."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _name(column: str, chosen: Mapping[str, str], present: Sequence[str], taken: Mapping[str, str]) -> str:
    """Its own, unless it is one that is read under another name and that name is free; or its own was given to another one."""
    if column in taken.values():
        free = (f"{'corpus_' * times}{column}" for times in itertools.count(1))
        return next(name for name in free if name not in present)
    field = next((field for field, theirs in chosen.items() if theirs == column), None)
    # A path keeps its name: to `back` an `image_path` is a file of its own disk.
    if field is None or field not in _OUR_NAMES or column == "image_path":
        return column
    ours = _OUR_NAMES[field]
    return column if ours in present else ours


def _merged(schemas: Mapping[str, pa.Schema]) -> pa.Schema:
    """One schema that fits all files: a column that one file lacks is null there."""
    merged: pa.Schema | None = None
    for name, schema in schemas.items():
        try:
            bare = pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])
            merged = pa.unify_schemas([merged, bare], promote_options="permissive") if merged else bare
            if len(set(merged.names)) < len(merged.names):
                raise pa.ArrowInvalid("it has two columns of one name")
        except pa.ArrowException as error:
            raise RetrievalError(
                f"{name}: its columns do not fit those of the files before it: {error}"
            ) from error
    return merged or pa.schema([])


def _plain(kind: pa.DataType) -> pa.DataType:
    """A column of categories as what they stand for: each file has its own categories."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _storable(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_null(kind) else kind


def _require(name: Any, present: Sequence[str], where: str) -> None:
    if name is not None and name not in present:
        raise RetrievalError(
            f"{where}: there is no column {name!r}; there are: {', '.join(present) or 'none'}"
        )
