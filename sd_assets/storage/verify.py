"""Is everything as it was written? Every shard of every version that is kept, read again and compared with its manifest.

Nothing is changed, and a table may be in use meanwhile. Of a shard a row group is in memory at a time.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.errors import GoneError, ReadError, TableError
from sd_assets.schemas import TABLES, TableSchema
from sd_assets.storage.area import Area, Manifest
from sd_assets.storage.files import Files
from sd_assets.storage.shards import (
    ROW,
    SHARD_FILE,
    RowIndex,
    Shard,
    data_version,
    indexed,
    read_batches,
    shard_name,
)

_READ_BYTES = 1024 * 1024
# What of a row index can be computed anew from the row: all but the work key, which is of the input.
_FROM_THE_ROW = tuple(name for name in ROW.names or () if name != "work")
_MISSING = "is missing"
_LATER = "Nothing says that it is damaged: mend what keeps it from being read, and verify again"
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Fault:
    """Something that is not as it was written.

    Attributes:
        where: a path under the base.
        what: is wrong with it, and for which versions.
        remedy: what to do, as a sentence.
    """

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.remedy}"


@dataclass
class Verified:
    """What was found in a partition.

    Attributes:
        versions: numbers of those that are kept.
        shards, rows, bytes: that were read; a shard that several versions share once.
        faults: what is wrong.
        notes: what is only to be known.
    """

    versions: Sequence[int] = ()
    shards: int = 0
    rows: int = 0
    bytes: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(area: Area) -> Verified:
    """Read a partition again: manifests, shards, row indices, work in progress, and the folder that others read."""
    return _Verification(area).run()


def half_written(files: Files, folder: str) -> str | None:
    """A note on files that killed writers left in the folder of temporary files; None if there are none."""
    count, size = len(files.names(folder)), files.usage(folder)
    return (
        f"{folder}: {count} temporary files ({size} bytes), of runs under way, or that were killed; old ones are deleted "
        "when a run commits"
        if count
        else None
    )


class _Verification:
    def __init__(self, area: Area) -> None:
        self._area = area
        self._found = Verified()
        # What is lost, and can only be computed again: a path, what is wrong there, the versions that it is wrong for.
        self._wrong: list[tuple[str, str, tuple[int, ...]]] = []
        # Whether something is not known, as the storage did not let it be read.
        self._unread = False
        # Names of the files that the folder should hold.
        self._current: set[str] = set()

    def run(self) -> Verified:
        manifests = dict(self._manifests())
        self._found.versions = sorted(manifests)
        holders: dict[Shard, list[int]] = {}
        for number, manifest in manifests.items():
            for shard in manifest.shards:
                holders.setdefault(shard, []).append(number)
        newest = max(manifests, default=0)
        self._current = {shard.file for shard in manifests[newest].shards} if manifests else set()
        damaged = {
            shard
            for shard, numbers in holders.items()
            if self._is_damaged(shard, [manifests[number] for number in numbers])
        }
        for number, manifest in manifests.items():
            if damaged.isdisjoint(manifest.shards):
                self._check_data_version(number, manifest)
        self._check_work_in_progress(set(holders), manifests.get(newest))
        self._blame()
        if manifests:
            self._check_folder(newest, manifests[newest], {shard.file for shard in damaged})
        return self._found

    # --- manifests -----------------------------------------------------------------------------------------------

    def _manifests(self) -> Iterator[tuple[int, Manifest]]:
        for number in self._area.versions():
            try:
                yield number, self._area.manifest(number)
            except ReadError as error:
                self._cannot_read(self._manifest_path(number), error)
            except (TableError, *_UNREADABLE) as error:
                if number in self._area.versions():  # or it was swept between the two looks
                    self._wrong.append((self._manifest_path(number), f"cannot be read: {error}", (number,)))

    def _manifest_path(self, number: int) -> str:
        return f"{self._area.hidden}/versions/{number:06d}.json"

    def _check_data_version(self, number: int, manifest: Manifest) -> None:
        try:
            index = np.concatenate([self._area.read_index(shard) for shard in manifest.shards])
        except TableError:  # swept meanwhile: it was there before
            return
        except ReadError as error:
            self._cannot_read(self._manifest_path(number), error)
            return
        computed = data_version(index)
        if computed != manifest.data_version:
            what = f"says data version {manifest.data_version}, and its rows have {computed}"
            self._wrong.append((self._manifest_path(number), what, (number,)))

    def _blame(self) -> None:
        """Turn what is wrong with versions into faults, with what to do about it."""
        bad = {number for _, _, numbers in self._wrong for number in numbers}
        remedy = self._remedy(bad) if bad else ""
        for where, what, numbers in self._wrong:
            of = ", ".join(map(str, numbers))
            self._found.faults.append(Fault(where, f"{what} (version {of})", remedy))

    def _cannot_read(self, where: str, error: ReadError) -> None:
        self._unread = True
        self._found.faults.append(Fault(where, f"cannot be verified: {error}", _LATER))

    def _remedy(self, bad: set[int]) -> str:
        if self._unread:
            return "Delete nothing before all can be read: verify again then, to be told what is whole"
        whole = [number for number in self._area.versions() if number not in bad]
        if not whole:
            return (
                f"No version is whole: delete {self._area.hidden} and {self._area.folder}, and materialize the partition "
                "again"
            )
        newest = whole[-1]
        paths = ", ".join(map(self._manifest_path, sorted(bad)))
        if newest > max(bad):
            return f"The current version is whole: delete {paths}, and with it the older version"
        return (
            f"Version {newest} is whole: to go back to it delete {paths}; the next run computes what it lacks"
        )

    # --- shards --------------------------------------------------------------------------------------------------

    def _is_damaged(self, shard: Shard, manifests: Sequence[Manifest]) -> bool:
        wrong: list[tuple[str, str]] = []
        was_read = self._look_at(shard, manifests[-1], wrong)
        # A sweep may have taken the versions, and their shards, while we looked.
        versions = self._area.versions() if wrong else []
        kept = tuple(manifest.version for manifest in manifests if manifest.version in versions)
        if not kept:
            return bool(wrong) or not was_read
        has_copy = shard.file in self._current and self._has_copy(shard)
        copy = f"{self._area.folder}/{shard.file}"
        for where, what in wrong:
            if has_copy and where == self._shard_path(shard):
                self._found.faults.append(Fault(where, what, f"Copy {copy} to there: that one is whole"))
            else:
                self._wrong.append((where, what, kept))
        return True

    def _look_at(self, shard: Shard, manifest: Manifest | None, wrong: list[tuple[str, str]]) -> bool:
        """Add to `wrong` what is; returns whether all could be read."""
        try:
            for found in self._shard_faults(shard, manifest):
                wrong.append(found)
        except ReadError as error:
            self._cannot_read(self._shard_path(shard), error)
            self._area.versions()  # of a server that is gone nothing more is asked
            return False
        return True

    def _has_copy(self, shard: Shard) -> bool:
        copy = f"{self._area.folder}/{shard.file}"
        try:
            return self._wrong_bytes(copy, shard) is None
        except ReadError as error:
            self._cannot_read(copy, error)
            return False

    def _shard_path(self, shard: Shard) -> str:
        return f"{self._area.hidden}/shards/{shard.file}"

    def _shard_faults(self, shard: Shard, manifest: Manifest | None) -> Iterator[tuple[str, str]]:
        """(path, what is wrong) of a shard and its row index."""
        shard_path = self._shard_path(shard)
        index_path = f"{self._area.hidden}/index/{shard.index}.parquet"
        wrong = self._wrong_bytes(shard_path, shard)
        if wrong:
            yield shard_path, wrong
        try:
            index = self._area.read_index(shard)
        except TableError:
            yield index_path, f"the row index of {shard.file} is missing"
            return
        except _UNREADABLE as error:
            yield index_path, f"the row index of {shard.file} is damaged: {error}"
            return
        if self._area.index_name(index) != shard.index or len(index) != shard.rows:
            yield (
                index_path,
                f"is not the row index that was written for {shard.file}: {len(index)} rows of {shard.rows}",
            )
        elif not wrong:
            differs = self._wrong_rows(shard, manifest, index)
            if differs:
                yield shard_path, differs
        self._found.shards += 1
        self._found.rows += shard.rows
        self._found.bytes += shard.bytes

    def _wrong_bytes(self, path: str, shard: Shard) -> str | None:
        """What is wrong with the bytes of a file that should be a shard's."""
        digest, size = hashlib.sha256(), 0
        try:
            with self._area.files.open(path) as file:
                while data := file.read(_READ_BYTES):
                    digest.update(data)
                    size += len(data)
        except GoneError:  # it is missing now, or was written anew: look again
            return self._wrong_bytes(path, shard)
        except FileNotFoundError:
            return _MISSING
        except OSError as error:
            return f"cannot be read: {error}"
        if size != shard.bytes:
            return f"has {size} bytes, and {shard.bytes} were written"
        if digest.hexdigest() != shard.sha256:
            return f"is damaged: its sha256 is {digest.hexdigest()}, and {shard.sha256} was written"
        return None

    def _wrong_rows(self, shard: Shard, manifest: Manifest | None, index: RowIndex) -> str | None:
        """What rows of a shard are not those that its index speaks of."""
        try:
            with self._area.open_shard(shard) as file:
                schema = _schema_of(self._area.asset, manifest, pq.read_schema(file), shard, index)
                if schema is None:
                    self._note(
                        f"{shard.file}: the schema of its rows is not known, so their digests were not recomputed"
                    )
                    return None
                start = 0
                for rows in read_batches(file):
                    computed = indexed(rows, schema)
                    stored = index[start : start + len(rows)]
                    for name in _FROM_THE_ROW:
                        different = np.flatnonzero(computed[name][: len(stored)] != stored[name])
                        if len(different):
                            return f"row {start + different[0]} is not the one of its index, by its {name}"
                    start += len(rows)
        except GoneError:
            return self._wrong_rows(shard, manifest, index)
        except TableError:
            return _MISSING
        except _UNREADABLE as error:
            return f"cannot be read: {error}"
        return None if start == len(index) else f"has {start} rows, and its index {len(index)}"

    def _check_work_in_progress(self, of_versions: set[Shard], current: Manifest | None) -> None:
        for name in self._area.files.names(f"{self._area.hidden}/wip"):
            path = f"{self._area.hidden}/wip/{name}"
            remedy = f"Delete {path}: the next run computes its rows again"
            try:
                shard = self._area.wip_shard(name)
            except FileNotFoundError:
                continue
            except ReadError as error:
                self._cannot_read(path, error)
                continue
            except _UNREADABLE as error:
                self._found.faults.append(Fault(path, f"cannot be read: {error}", remedy))
                continue
            if shard in of_versions:
                continue
            wrong: list[tuple[str, str]] = []
            self._look_at(shard, current, wrong)
            for where, what in wrong:
                if name in self._area.files.names(f"{self._area.hidden}/wip"):
                    self._found.faults.append(Fault(where, f"{what} (work in progress)", remedy))

    # --- the folder ----------------------------------------------------------------------------------------------

    def _check_folder(self, number: int, manifest: Manifest, damaged: set[str]) -> None:
        """Whether others read the current version. What is damaged itself has been said to be."""
        folder = self._area.folder
        again = "Whoever opens the table next, a run for one, {} it"
        faults = []
        wanted = {shard.file: shard for shard in manifest.shards}
        present = self._area.files.names(folder)
        for name in sorted(wanted.keys() - damaged):
            path = f"{folder}/{name}"
            try:
                wrong = self._wrong_bytes(path, wanted[name])
            except ReadError as error:
                self._cannot_read(path, error)
                continue
            if wrong == _MISSING:
                faults.append(
                    Fault(path, f"{wrong}, so other readers miss its rows", again.format("restores"))
                )
            elif wrong:
                faults.append(Fault(path, wrong, f"Delete it. {again.format('restores')}"))
        for name in present:
            if name not in wanted and SHARD_FILE.fullmatch(name):
                what = "is not of the current version, and other readers read its rows"
                faults.append(Fault(f"{folder}/{name}", what, again.format("deletes")))
            elif name not in wanted:
                self._note(
                    f"{folder}/{name}: is not one of our files; it is left alone, and readers of the folder read it"
                )
        # Or a run has committed meanwhile.
        if self._area.versions()[-1:] == [number]:
            self._found.faults += faults

    def _note(self, text: str) -> None:
        self._found.notes.append(text)


def _schema_of(
    asset: str, manifest: Manifest | None, stored: pa.Schema, shard: Shard, index: RowIndex
) -> TableSchema | None:
    """The table schema with which a shard was written: the one of its name, which is a digest of that, too."""
    arrow = pa.schema([pa.field(it.name, _as_declared(it.type)) for it in stored])
    said = manifest and TableSchema(asset, manifest.key, arrow, frozenset(manifest.bookkeeping))
    ours = next((table for table in TABLES if table.name == asset), None)
    return next((it for it in (ours, said) if it and shard_name(index, it) == shard.name), None)


def _as_declared(kind: pa.DataType) -> pa.DataType:
    """A type as schemas declare it: Parquet has a name of its own for the items of a list."""
    if pa.types.is_list(kind):
        return pa.list_(_as_declared(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(it.name, _as_declared(it.type)) for it in kind])
    return kind
