"""The views of a table as metadata of its materialization."""

from collections.abc import Callable, Sequence

import dagster as dg

from sd_assets.schemas import TableSchema
from sd_assets.storage.table import Table
from sd_assets.views.contact_sheet import contact_sheet
from sd_assets.views.distributions import distributions
from sd_assets.views.failures import failures
from sd_assets.views.text import public


def view_metadata(
    table: Table, schema: TableSchema, images: Sequence[Table], warn: Callable[[str], None]
) -> dict[str, dg.MarkdownMetadataValue]:
    """What there is to see of a table: about 140 KB at most.

    A view that fails is left out, and warned of: it must not fail the asset, whose rows are good.

    Args:
        table: of the asset.
        schema: its own.
        images: tables that hold the images that its rows speak of by `image_id`, if it holds none itself.
        warn: for a line of the log.
    """
    views: dict[str, Callable[[], str | None]] = {
        "contact_sheet": lambda: contact_sheet(table, images),
        "distributions": lambda: distributions(table, schema),
        "failure_examples": lambda: failures(table, schema),
    }
    metadata: dict[str, dg.MarkdownMetadataValue] = {}
    for name, view in views.items():
        try:
            text = view()
        except Exception as error:
            warn(f"{schema.name}: no {name}: {type(error).__name__}: {public(str(error))}")
            continue
        if text is not None:
            metadata[name] = dg.MetadataValue.md(text)
    return metadata
