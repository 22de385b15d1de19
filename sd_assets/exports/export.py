"""Exporting a partition in one layout: what is missing is written, what belongs there no more is deleted.

A record beside the export says which version of the pairs it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from sd_assets.errors import ExportError
from sd_assets.exports.ai_toolkit import AiToolkit
from sd_assets.exports.folder import ExportFolder
from sd_assets.exports.imagefolder import ImageFolder
from sd_assets.exports.kohya import Kohya
from sd_assets.exports.layout import Layout, Written, delete_others
from sd_assets.exports.mds import Mds
from sd_assets.exports.pair import read_pairs
from sd_assets.exports.parquet import Parquet
from sd_assets.exports.picture import VERSION as PICTURE_VERSION
from sd_assets.exports.webdataset import WebDataset
from sd_assets.provenance.origins import Origins
from sd_assets.storage.digests import json_digest
from sd_assets.storage.table import Table

LAYOUTS: Final[dict[str, type[Layout]]] = {
    "imagefolder": ImageFolder,
    "kohya": Kohya,
    "ai_toolkit": AiToolkit,
    "webdataset": WebDataset,
    "mds": Mds,
    "parquet": Parquet,
}
# What an export is made of.
TABLES: Final = ("text_image_pairs", "curated_pairs", "image_captions")


@dataclass(frozen=True)
class Exported:
    """An export as it is now.

    Attributes:
        record: what the file beside the folder says.
        written: what this run did; None: nothing had changed.
    """

    record: dict[str, Any]
    written: Written | None


def export(
    layout: Layout,
    folder: ExportFolder,
    tables: Mapping[str, Table],
    log: Callable[[str], None],
    origins: Callable[[Table], Origins] | None = None,
) -> Exported:
    """Bring an export in line with the tables.

    Whatever a run that was interrupted has written is taken over. The record says that the export is unfinished until all
    is written and deleted.

    Args:
        layout: what to write.
        folder: where to.
        tables: those of `TABLES`, by name.
        log: for a line of the log.
        origins: says where the kept of `curated_pairs` come from: read if something is to be written.

    Raises:
        ExportError: no image of the kept pairs could be written, and so what was there is deleted; or the folder is
            somebody else's.
        TableError: curated_pairs was made from another version of text_image_pairs.
        WriteError: the folder cannot be written.
    """
    known = origins(tables["curated_pairs"]) if origins else None
    # Of these what is bookkeeping is not written.
    of_origins = known.data_versions if known else {}
    made_from = json_digest(
        folder.layout,
        layout.version,
        PICTURE_VERSION,
        folder.uri,
        layout.settings.effects(),
        of_origins,
        *(tables[name].identity for name in TABLES),
    ).hex()
    before = folder.record()
    _require_ours(layout, folder, before)
    if before.get("made_from") == made_from and before.get("files") == _files(layout, folder):
        log(
            f"{folder.uri}: nothing has changed since version {before['curated_pairs']['version']} of curated_pairs"
        )
        return Exported(before, None)
    read = partial(
        read_pairs,
        tables["text_image_pairs"],
        tables["curated_pairs"],
        tables["image_captions"],
        layout.settings,
        origins=known,
    )
    identity = {"layout": folder.layout, "partition": folder.partition}
    folder.put_record({**identity, "unfinished": True})
    written = layout.write(read, folder)
    # Before anything else can fail: it may have been taken down.
    delete_others(layout, folder, written)
    pairs, failed = sum(written.pairs.values()), sum(written.failures.values())
    if failed and not pairs:
        raise ExportError(
            f"{folder.uri}: none of {failed} pairs could be written ({_counted(written.failures)}): see the checks of text_image_pairs"
        )
    record = {
        **identity,
        "pairs": {split: count for split, count in written.pairs.items() if count},
        "failures": dict(written.failures),
        "settings": layout.settings.effects(),
        **{
            name: {"version": table.manifest.version, "data_version": table.manifest.data_version}
            for name, table in tables.items()
        },
        "origins": of_origins,
        "models": known.models if known else {},
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "data_version": json_digest(
            layout.version,
            PICTURE_VERSION,
            layout.settings.effects(),
            of_origins,
            *(tables[name].manifest.data_version for name in TABLES),
        ).hex(),
        "made_from": made_from,
        "files": _files(layout, folder),
    }
    folder.put_record(record)
    log(
        f"{folder.uri}: {pairs} pairs; files: {written.files_written} written, {written.files_kept} kept, {written.files_deleted} deleted"
        + (f"; {failed} pairs left out: {_counted(written.failures)}" if failed else "")
    )
    return Exported(record, written)


def _require_ours(layout: Layout, folder: ExportFolder, record: Mapping[str, Any]) -> None:
    """Raises ExportError if the folder holds what no export wrote, and this one would write over or delete."""
    if (record.get("layout"), record.get("partition")) == (folder.layout, folder.partition):
        return
    others = [f"{folder.uri}.json"] if record else []
    others += ["/".join(filter(None, it)) for it in folder.listing() if it in layout.indices]
    if others:
        raise ExportError(
            f"{folder.uri} holds what no export of {folder.partition} wrote ({', '.join(others[:3])}): name another place as "
            "`exports: path:`, or delete it"
        )


def _files(layout: Layout, folder: ExportFolder) -> str:
    """Digest of the places of all files that are ours."""
    return json_digest(*(place for place in folder.listing() if layout.is_ours(*place))).hex()


def _counted(failures: Mapping[str, int]) -> str:
    return ", ".join(f"{code} {count}" for code, count in sorted(failures.items()))
