"""The assets exports/<layout>."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import dagster as dg

from sd_assets.assets.common import SEEDS, section_key
from sd_assets.catalog import require_set
from sd_assets.exports.export import LAYOUTS, TABLES, Exported, export
from sd_assets.exports.folder import ExportFolder
from sd_assets.provenance.origins import origins_of_kept
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource
from sd_assets.settings import ExportsSettings

# In the base of the tables.
_ROOT: Final = "exports"


def export_key(layout: str) -> dg.AssetKey:
    """The asset of a layout."""
    return dg.AssetKey([_ROOT, layout])


# One step, as most entries choose one layout or none, and a step takes seconds to start.
@dg.multi_asset(
    name="exports",
    specs=[
        dg.AssetSpec(
            export_key(name),
            description=f"The pairs that are kept, as {name} wants them; made if `exports:` of the entry chooses it.",
            deps=[*TABLES, section_key("exports")],
            group_name="dataset",
            code_version=layout.version,
            kinds={name.replace("_", "")},
            owners=["team:sd_assets"],
            skippable=True,
        )
        for name, layout in LAYOUTS.items()
    ],
    partitions_def=SEEDS,
    can_subset=True,
)
def exports(
    context: dg.AssetExecutionContext, catalog: CatalogResource, storage: StorageResource
) -> Iterator[dg.MaterializeResult[None]]:
    """The curated pairs in the layouts of trainers."""
    partition = context.partition_key
    chosen = catalog.entry(partition).exports
    tables = {name: storage.table(name, partition) for name in TABLES}
    for name, layout in LAYOUTS.items():
        if export_key(name) not in context.selected_asset_keys:
            continue
        settings = chosen.layout(name)
        folder = export_folder(storage, chosen, name, partition)
        if settings is None:
            context.log.info(f"exports/{name}: `exports:` of {partition} does not choose it: not made")
            if folder.record():
                context.log.warning(
                    f"{folder.uri} holds an earlier export, which is not kept up to date any more, not even for what is "
                    "blocked: delete the folder, and the .json beside it, if nobody wants it"
                )
            continue
        started = time.monotonic()
        origins = partial(origins_of_kept, storage.store(), partition)
        done = export(layout(settings), folder, tables, context.log.info, origins)
        if done.record["failures"]:
            context.log.warning(f"{folder.uri}: pairs were left out: {done.record['failures']}")
        yield dg.MaterializeResult(
            asset_key=export_key(name),
            data_version=dg.DataVersion(done.record["data_version"]),
            metadata={**_metadata(folder, done), "seconds": round(time.monotonic() - started, 1)},
        )


def export_folder(
    storage: StorageResource, chosen: ExportsSettings, layout: str, partition: str
) -> ExportFolder:
    """Where the export of a partition lies.

    Raises:
        CatalogError: `path:` holds a variable that is not set.
    """
    if chosen.path is None:
        return ExportFolder(storage.files(), layout, partition, _ROOT)
    path = require_set(chosen.path, f"seed_datasets.{partition}.exports.path")
    return ExportFolder(storage.files(path), layout, partition)


def _metadata(folder: ExportFolder, done: Exported) -> dict[str, Any]:
    record, written = done.record, done.written
    counts = (
        {"note": "nothing has changed: nothing was written"}
        if written is None
        else {
            "files_written": written.files_written,
            "files_kept": written.files_kept,
            "files_deleted": written.files_deleted,
            "bytes_written": written.bytes_written,
        }
    )
    return {
        "path": dg.MetadataValue.path(folder.uri),
        "dagster/uri": folder.uri,
        "dagster/partition_row_count": sum(record["pairs"].values()),
        **{f"pairs_{split}": count for split, count in record["pairs"].items()},
        "failures": dg.MetadataValue.json(record["failures"]),
        **{f"{table}_version": record[table]["version"] for table in TABLES},
        **{f"{table}_data_version": record[table]["data_version"] for table in TABLES},
        **counts,
    }
