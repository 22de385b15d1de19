"""Columns of one table for the rows of another."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.errors import TableError
from sd_assets.storage.rows import as_array
from sd_assets.storage.table import Table


def columns_for(
    image_ids: pa.Array, table: Table, columns: Sequence[str], *, may_lack: bool = False
) -> dict[str, pa.Array]:
    """Columns of a table in the order of `image_ids`; null where a row failed, or there is none.

    Args:
        image_ids: texts, without nulls.
        table: with a column image_id.
        columns: of it.
        may_lack: whether it may have no row for some of the images.

    Raises:
        TableError: it has none, and may not.
    """
    rows = table.read(["image_id", *columns])
    own = as_array(rows.column("image_id"))
    if own.equals(image_ids):
        return {name: as_array(rows.column(name)) for name in columns}
    places = pc.index_in(image_ids, value_set=own)
    if places.null_count and not may_lack:
        raise TableError(
            f"{table.uri} has no row for {places.null_count} of {len(image_ids)} images, so that it was made from another "
            "version of text_image_pairs than the other tables: materialize it again"
        )
    return {name: as_array(rows.column(name)).take(places) for name in columns}
