"""The rows of a table that failed: how many by error code, with examples."""

import json
from collections.abc import Sequence

import numpy as np

from sd_assets.schemas import TableSchema
from sd_assets.storage.table import Table, spread
from sd_assets.views.markdown import code
from sd_assets.views.markdown import table as markdown_table
from sd_assets.views.text import public, shortened

MAX_BYTES = 24_000
_MAX_CODES = 40
_MAX_EXAMPLES = 3
# Columns that say where a row is from, besides its key.
_ORIGINS = ("url", "source", "prompt")
_KEY_LENGTH, _ORIGIN_LENGTH, _DETAIL_LENGTH = 16, 80, 140

# Key, origin and detail of a row, as cells.
_Example = list[str]


def failures(table: Table, schema: TableSchema, *, max_bytes: int = MAX_BYTES) -> str | None:
    """Error codes, the most frequent first, each with up to three of its rows; no secret, and nothing that is markup.

    Args:
        table: to be read; only the row groups of the examples are.
        schema: its own.
        max_bytes: of the result as JSON; there are fewer examples, and at last fewer codes, where it would have more.

    Returns:
        Markdown; None if no row failed.
    """
    errors = table.errors
    codes, counts = np.unique(errors[errors != b""], return_counts=True)
    if not len(codes):
        return None
    order = np.lexsort([codes, -counts])
    ranked = [(codes[place], int(counts[place])) for place in order[:_MAX_CODES]]
    examples = _examples(table, schema, [np.flatnonzero(errors == name).tolist() for name, _ in ranked])
    rows, failed = len(errors), int(counts.sum())
    header = ["error", "rows", "share", ", ".join(map(_name, schema.key)), "from", "detail"]
    for shown, each in ((_MAX_CODES, _MAX_EXAMPLES), (_MAX_CODES, 1), (_MAX_CODES, 0), (10, 0)):
        cells: list[list[str]] = []
        for (name, count), found in list(zip(ranked, examples, strict=True))[:shown]:
            head = [code(_line(name.decode(errors="replace"), 48)), f"{count:,}", _share(count, rows)]
            first, *others = found[:each] or [["", "", ""]]
            cells += [[*head, *first], *(["", "", "", *other] for other in others)]
        said = f"{failed:,} of {rows:,} rows failed ({_share(failed, rows)})"
        if len(codes) > shown:
            said += f"; of {len(codes):,} error codes the {shown} most frequent"
        text = f"{said}\n\n{markdown_table(header, cells, numbers=(1, 2))}"
        if len(json.dumps(text)) <= max_bytes:
            break
    return text


def _examples(table: Table, schema: TableSchema, rows: Sequence[Sequence[int]]) -> list[list[_Example]]:
    """For each code, given the rows that have it, some of them."""
    chosen = [[places[at] for at in spread(_MAX_EXAMPLES, len(places))] for places in rows]
    origin = next((name for name in _ORIGINS if name in schema.arrow.names and name not in schema.key), None)
    columns = [*schema.key, *([origin] if origin else []), "error_detail"]
    read = iter(table.take([place for places in chosen for place in places], columns).to_pylist())
    return [
        [
            [
                code(", ".join(_line(row[name], _KEY_LENGTH) for name in schema.key)),
                code(_line(row[origin], _ORIGIN_LENGTH)) if origin else "",
                code(_line(row["error_detail"], _DETAIL_LENGTH)),
            ]
            for row in (next(read) for _ in places)
        ]
        for places in chosen
    ]


def _line(value: object, length: int) -> str:
    """A cell's value for everyone's eyes. Secrets go first: half of one would not be recognised."""
    return "" if value is None else shortened(public(str(value)), length)


def _name(column: str) -> str:
    return code(shortened(column, 40))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}"
