"""Events of Dagster that show what was taken down lose it: thumbnails, and examples of rows.

A materialization's metadata stands in two events of its run (what the step put out, and the materialization), and, on
SQLite, once more in the index of all runs; on Postgres and MySQL all are in one table. Dagster has no interface that edits
events: they are changed in these tables, where they are JSON, and stay whole otherwise: versions, counts, tags.

What is not reached: copies that somebody made of the storage, and what code of a user's own logged.
"""

import json
from typing import Any

import dagster as dg

from sd_assets.errors import SdAssetsError
from sd_assets.resources.views import SHOW_ROWS

_TYPES = (dg.DagsterEventType.STEP_OUTPUT.value, dg.DagsterEventType.ASSET_MATERIALIZATION.value)


def redact_events(instance: dg.DagsterInstance, asset: dg.AssetKey, step: str, partition: str | None) -> int:
    """Take the views out of all events of an asset's partition, before its next materialization is stored.

    Args:
        instance: whose storage it is.
        asset: the asset.
        step: that makes it.
        partition: its key; None: the asset has no partitions.

    Returns:
        How many events were changed.

    Raises:
        SdAssetsError: the storage is none that can be edited.
    """
    import sqlalchemy as db
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    events = SqlEventLogStorageTable.c
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise SdAssetsError(
            f"the event log is kept by {type(storage).__name__}, in which nothing can be redacted: what is on the list "
            "`blocked:` may still be seen in the contact sheets of older materializations; delete their runs"
        )
    with storage.index_connection() as connection:
        of_asset = (events.asset_key == asset.to_string()) & (events.partition == partition)
        runs = {row[0] for row in connection.execute(db.select(events.run_id).where(of_asset).distinct())}
        redacted = _redact(connection, of_asset)
    if partition is not None:
        # Runs, too, that did not get from the output of the step to the materialization.
        tagged = instance.get_run_records(dg.RunsFilter(tags={"dagster/partition": partition}))
        runs |= {run.dagster_run.run_id for run in tagged}
    for run_id in sorted(runs):
        with storage.run_connection(run_id) as connection:
            redacted += _redact(connection, (events.run_id == run_id) & (events.step_key == step))
    return redacted


def _redact(connection: Any, which: Any) -> int:
    """Take the views out of the events that fulfil a condition; how many that were."""
    import sqlalchemy as db
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    columns = SqlEventLogStorageTable.c
    if connection.dialect.name == "sqlite":
        # Or what was there before stays in the file, in pages that are free.
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
    showing = db.or_(*(columns.event.contains(json.dumps(name)) for name in SHOW_ROWS))
    events = db.select(columns.id, columns.event).where(
        which & columns.dagster_event_type.in_(_TYPES) & showing
    )
    found = connection.execute(events).fetchall()
    for number, event in found:
        redacted = json.dumps(_without_views(json.loads(event)))
        connection.execute(
            SqlEventLogStorageTable.update().where(columns.id == number).values(event=redacted)
        )
    return len(found)


def _without_views(value: Any) -> Any:
    """What Dagster has serialized, without the entries of metadata that are views."""
    if isinstance(value, list):
        return [_without_views(item) for item in value if not _is_view(item)]
    if isinstance(value, dict):
        return {name: _without_views(item) for name, item in value.items()}
    return value


def _is_view(item: Any) -> bool:
    return isinstance(item, dict) and item.get("label") in SHOW_ROWS
