"""The assets exports/<layout>."""

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import dagster as dg

from sd_assets.assets.common import SEEDS, not_asked_for, section_key
from sd_assets.catalog import require_set
from sd_assets.errors import ExportError, SdAssetsError
from sd_assets.exports.export import LAYOUTS, TABLES, Exported, export
from sd_assets.exports.folder import ExportFolder
from sd_assets.exports.layout import Layout
from sd_assets.provenance.origins import ORIGIN_TABLES, origins_of_kept
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource
from sd_assets.settings import ExportsSettings
from sd_assets.storage.area import Area

# In the base of the tables.
_ROOT: Final = "exports"
# Of curated_pairs: JSON, where the exports of each layout were written.
_NOTE: Final = "exports.json"


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
            deps=[*TABLES, *ORIGIN_TABLES, section_key("exports")],
            group_name="dataset",
            code_version=layout.version,
            kinds={name.replace("_", "")},
            owners=["team:sd_assets"],
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
    places = _Places(storage, partition)
    errors: list[SdAssetsError] = []
    for name, layout in LAYOUTS.items():
        if export_key(name) not in context.selected_asset_keys:
            continue
        settings = chosen.layout(name)
        base = None if settings is None else _base(storage, chosen, partition)
        for folder in places.left(name, base):
            context.log.warning(
                f"{folder.uri} holds an earlier export, which is not kept up to date any more, not even for what is "
                "blocked: delete the folder, and the .json beside it, if nobody wants it"
            )
        if settings is None or base is None:
            yield not_asked_for(f"`exports:` of {partition} does not choose it: not made", export_key(name))
            continue
        places.add(name, base)
        try:
            yield _exported(context, storage, layout(settings), places.folder(name, base))
        except SdAssetsError as error:
            # The others are made all the same: what is blocked must go from them.
            context.log.error(f"exports/{name}: {error}")
            errors.append(error)
    if len(errors) > 1:
        raise ExportError("; ".join(map(str, errors))) from errors[0]
    if errors:
        raise errors[0]


def _exported(
    context: dg.AssetExecutionContext, storage: StorageResource, layout: Layout, folder: ExportFolder
) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    tables = {name: storage.table(name, folder.partition) for name in TABLES}
    folder.sweep()
    origins = partial(origins_of_kept, storage.store(), folder.partition)
    done = export(layout, folder, tables, context.log.info, origins)
    if done.record["failures"]:
        context.log.warning(f"{folder.uri}: pairs were left out: {done.record['failures']}")
    return dg.MaterializeResult(
        asset_key=export_key(folder.layout),
        data_version=dg.DataVersion(done.record["data_version"]),
        metadata={**_metadata(folder, done), "seconds": round(time.monotonic() - started, 1)},
    )


def _base(storage: StorageResource, chosen: ExportsSettings, partition: str) -> str:
    """The folder, or `s3://` prefix, that holds the layouts.

    Raises:
        CatalogError: `path:` holds a variable that is not set.
    """
    if chosen.path is None:
        return f"{storage.files().uri}/{_ROOT}"
    return storage.files(require_set(chosen.path, f"seed_datasets.{partition}.exports.path")).uri


class _Places:
    """Where the exports of a partition were written: what is moved, or not chosen any more, is left where it was.

    Args:
        storage: of the tables.
        partition: the seed dataset.
    """

    def __init__(self, storage: StorageResource, partition: str) -> None:
        self._storage = storage
        self._partition = partition
        self._area: Area = storage.store().area("curated_pairs", partition)
        self._bases: dict[str, list[str]] = json.loads(self._area.note(_NOTE) or b"{}")

    def folder(self, layout: str, base: str) -> ExportFolder:
        """Where the export of a layout lies in a base."""
        return ExportFolder(self._storage.files(base), layout, self._partition)

    def add(self, layout: str, base: str) -> None:
        """Let later runs know of a base."""
        known = self._bases.setdefault(layout, [])
        if base not in known:
            known.append(base)
            self._area.put_note(_NOTE, json.dumps(self._bases).encode())

    def left(self, layout: str, current: str | None) -> list[ExportFolder]:
        """Earlier exports of a layout that are still there, besides the current one."""
        folders = [self.folder(layout, base) for base in self._bases.get(layout, ()) if base != current]
        return [folder for folder in folders if _there(folder)]


def _there(folder: ExportFolder) -> bool:
    try:
        return bool(folder.record())
    except Exception:  # out of reach, as a bucket may be by now: nobody can say that it is gone
        return True


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
