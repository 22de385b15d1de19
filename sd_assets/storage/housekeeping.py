"""What is there: tables, partitions, versions, work in progress, and the room that they take.

All of it is read from the storage alone, and nothing is changed: not even an interrupted commit is rolled forward.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sd_assets.errors import TableError
from sd_assets.schemas import TABLES
from sd_assets.storage.area import Area, Manifest
from sd_assets.storage.files import Files
from sd_assets.storage.shards import total
from sd_assets.storage.table import TableStore

ROOT = "_sd_assets"
TEMPORARY = f"{ROOT}/tmp"
# Any of these makes a folder that of a partition; `<asset>/<partition>` is at least two names.
_OF_A_PARTITION = frozenset({"versions", "shards", "wip", "leases", "notes"})
_ORDER = {table.name: place for place, table in enumerate(TABLES)}


@dataclass(frozen=True)
class Version:
    """A version that is kept.

    Attributes:
        number: 1, 2, 3 ...
        data_version: as Dagster shows it.
        created_at: ISO 8601, UTC.
        run_id: of the run that committed it.
        rows: all, those that failed included.
        rows_failed: with an error.
        shards: files.
        bytes: of these files; another version may share some of them.
    """

    number: int
    data_version: str
    created_at: str
    run_id: str
    rows: int
    rows_failed: int
    shards: int
    bytes: int


@dataclass(frozen=True)
class Partition:
    """One partition of one table.

    Attributes:
        asset: the table.
        partition: its key.
        uri: the folder of the current version.
        versions: that are kept, the current one first; none if no run has committed yet.
        unreadable: numbers of those whose manifest is damaged or of another format.
        wip_rows: rows that a run has finished without having committed, which the next run takes over.
        wip_bytes: of their shards.
        bytes: of everything: all versions, indices, work in progress, what waits for a sweep.
    """

    asset: str
    partition: str
    uri: str
    versions: tuple[Version, ...]
    unreadable: tuple[int, ...]
    wip_rows: int
    wip_bytes: int
    bytes: int


def find_areas(store: TableStore, asset: str | None = None, partition: str | None = None) -> list[Area]:
    """The partitions of all tables, or of one; in the order in which the tables are made, those of users last.

    Raises:
        TableError: there is no such table, or no such partition; says which there are.
    """
    found = sorted(
        (store.area(*names) for names in _partitions(store.files, ROOT, 0)),
        key=lambda area: (_ORDER.get(area.asset, len(_ORDER)), area.asset, area.partition),
    )
    of_asset = [area for area in found if asset in (None, area.asset)]
    if asset is not None and not of_asset:
        raise _not_there(store, "table", asset, [area.asset for area in found])
    wanted = [area for area in of_asset if partition in (None, area.partition)]
    if partition is not None and not wanted:
        raise _not_there(store, "partition", partition, [area.partition for area in of_asset])
    return wanted


def inventory(area: Area) -> Partition:
    """What a partition holds, and how large it is."""
    wip_rows, wip_bytes = total(area.wip())
    kept = area.kept()
    readable = {manifest.version for manifest in kept}
    return Partition(
        asset=area.asset,
        partition=area.partition,
        uri=area.uri,
        versions=tuple(_version(manifest) for manifest in reversed(kept)),
        unreadable=tuple(number for number in area.versions() if number not in readable),
        wip_rows=wip_rows,
        wip_bytes=wip_bytes,
        bytes=area.files.usage(
            area.folder,
            area.hidden,
            *(f"{area.hidden}/{name}" for name in area.files.folders(area.hidden)),
        ),
    )


def _version(manifest: Manifest) -> Version:
    rows, size = total(manifest.shards)
    return Version(
        number=manifest.version,
        data_version=manifest.data_version,
        created_at=manifest.created_at,
        run_id=manifest.run_id,
        rows=rows,
        rows_failed=manifest.report["rows_failed"],
        shards=len(manifest.shards),
        bytes=size,
    )


def _partitions(files: Files, folder: str, depth: int) -> Iterator[tuple[str, str]]:
    """(asset, partition) of each partition under a folder that lies so deep under ROOT."""
    names = files.folders(folder)
    if depth >= 2 and _OF_A_PARTITION & set(names):
        asset, _, partition = folder.removeprefix(f"{ROOT}/").rpartition("/")
        yield asset, partition
        return
    for name in names:
        if f"{folder}/{name}" != TEMPORARY:
            yield from _partitions(files, f"{folder}/{name}", depth + 1)


def _not_there(store: TableStore, what: str, name: str, there: list[str]) -> TableError:
    names = ", ".join(dict.fromkeys(there)) or "none"
    return TableError(f"{store.files.uri} has no {what} {name!r}; there are: {names}")
