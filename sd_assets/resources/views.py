"""The views of a table as metadata of its materialization."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import dagster as dg

from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema
from sd_assets.storage.area import Area
from sd_assets.storage.table import Table
from sd_assets.views.contact_sheet import contact_sheet
from sd_assets.views.distributions import distributions
from sd_assets.views.failures import failures
from sd_assets.views.text import public

# Raise it when the same table comes to look different.
VERSION: Final = "1"
_NOTE: Final = "views.json"

# Those in which rows can be seen.
SHOW_ROWS = frozenset({"contact_sheet", "failure_examples"})


def view_metadata(
    area: Area, table: Table, schema: TableSchema, images: Sequence[Table], warn: Callable[[str], None]
) -> dict[str, dg.MarkdownMetadataValue]:
    """What there is to see of a table: about 140 KB at most.

    The views of the last run are kept: of a table that is as it was then, nothing is drawn again. A view that fails is left
    out, and warned of: it must not fail the asset, whose rows are good.

    Args:
        area: of the table.
        table: of the asset.
        schema: its own.
        images: tables that hold the images that its rows speak of by `image_id`, if it holds none itself.
        warn: for a line of the log.
    """
    shown = [VERSION, schema.digest().hex(), table.identity, *(each.identity for each in images)]
    kept = _noted(area)
    if kept.get("shown") == shown:
        return {name: dg.MetadataValue.md(text) for name, text in kept["views"].items()}
    drawn, whole = _drawn(table, schema, images, warn)
    # Replaced in any case: what an older one shows may have been taken down.
    note = {"shown": shown if whole else None, "views": drawn}
    try:
        area.put_note(_NOTE, json.dumps(note).encode())
    except TableError as error:
        warn(f"{schema.name}: its views are not kept: {error}")
    return {name: dg.MetadataValue.md(text) for name, text in drawn.items()}


def _noted(area: Area) -> dict[str, Any]:
    try:
        noted: dict[str, Any] = json.loads(area.note(_NOTE) or b"{}")
    except ValueError:  # damaged: they are drawn again
        return {}
    return noted


def _drawn(
    table: Table, schema: TableSchema, images: Sequence[Table], warn: Callable[[str], None]
) -> tuple[dict[str, str], bool]:
    """The views by name, and whether none failed."""
    views: dict[str, Callable[[], str | None]] = {
        "contact_sheet": lambda: contact_sheet(table, images),
        "distributions": lambda: distributions(table, schema),
        "failure_examples": lambda: failures(table, schema),
    }
    drawn: dict[str, str] = {}
    whole = True
    for name, view in views.items():
        try:
            text = view()
        except Exception as error:
            warn(f"{schema.name}: no {name}: {type(error).__name__}: {public(str(error))}")
            whole = False
            continue
        if text is not None:
            drawn[name] = text
    return drawn, whole
