"""The asset hub_dataset."""

from typing import Any, Final

import dagster as dg

from sd_assets import schemas
from sd_assets.assets.common import SEEDS, not_asked_for, section_key
from sd_assets.catalog import require_set
from sd_assets.exports.export import TABLES
from sd_assets.publishing.places import Places
from sd_assets.publishing.publish import Pushed, push
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource

VERSION: Final = "2"


@dg.asset(
    partitions_def=SEEDS,
    group_name="dataset",
    # The card speaks of all tables, and the rows of where images come from.
    deps=[*(schema.name for schema in schemas.TABLES), section_key("push_to_hub")],
    code_version=VERSION,
    kinds={"huggingface", "parquet"},
    owners=["team:sd_assets"],
)
def hub_dataset(
    context: dg.AssetExecutionContext,
    catalog: CatalogResource,
    storage: StorageResource,
) -> dg.MaterializeResult[None]:
    """The kept pairs as a dataset of the Hub, with its card; only where the catalogue says `push_to_hub:`."""
    partition = context.partition_key
    entry = catalog.entry(partition)
    settings = entry.push_to_hub
    places = Places(storage.store(), partition)
    for repo_id in places.left(settings.repo_id if settings else None):
        context.log.warning(
            f"the Hub dataset {repo_id!r} holds an earlier push of {partition}, which is not kept up to date any more, not even for "
            f"what is blocked: delete it there, and then {places.uri}, if nobody wants it"
        )
    if settings is None:
        return not_asked_for(f"the catalogue has no `push_to_hub:` for {partition}: nothing is pushed")
    require_set(settings.repo_id, f"seed_datasets.{partition}.push_to_hub.repo_id")
    tables = {name: storage.table(name, partition) for name in TABLES}
    pushed = push(storage.store(), partition, entry, settings, tables, context.log.info)
    places.add(settings.repo_id)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(pushed.record["data_version"]), metadata=pushed_metadata(pushed)
    )


def pushed_metadata(pushed: Pushed) -> dict[str, Any]:
    """What the UI shows of a push; the card is on the Hub, as what it says of images may have to be taken down."""
    record, written = pushed.record, pushed.written
    files = ("files_written", "files_kept", "files_deleted") if written else ()
    note = {} if pushed.changed else {"note": "nothing has changed: no commit was made"}
    return {
        "dataset": dg.MetadataValue.url(pushed.url),
        "commit": pushed.commit,
        "dagster/partition_row_count": sum(record["pairs"].values()),
        **{f"pairs_{split}": count for split, count in record["pairs"].items()},
        "failures": dg.MetadataValue.json(record["failures"]),
        **{f"{table}_data_version": record[table]["data_version"] for table in TABLES},
        **{name: getattr(written, name) for name in files},
        **note,
    }
