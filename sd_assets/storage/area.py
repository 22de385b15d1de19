"""The folders of one partition of one table: shards, manifests, commit, work in progress, sweep.

`<base>/<asset>/<partition>/` holds the shards of the current version and nothing else of ours; it is a projection (hard
links on a disk, copies on S3) for other readers, and we never read it. All that counts lives under
`<base>/_sd_assets/<asset>/<partition>/`:

    versions/000012.json    a manifest; its exclusive creation is the commit
    shards/                 every shard: of kept versions, of work in progress, and not yet swept
    index/                  the row index of each shard: which work each row is
    wip/<run>-<shard>.json  a shard of finished rows of a run that has not committed
    leases/<run>.json       says until when a run counts as alive
    notes/<name>            what a source wants to know again at its next run, and can do without
    last_run.json           what the last run reported
"""

import json
import logging
import re
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from sd_assets.ahead import map_ahead
from sd_assets.errors import TableError, WriteError
from sd_assets.schemas import TableSchema
from sd_assets.storage.files import Files
from sd_assets.storage.shards import (
    SHARD_FILE,
    RowIndex,
    Shard,
    ShardFile,
    index_bytes,
    parsed_columns,
    parsed_index,
    sha256,
    shard_name,
    total,
)

FORMAT = 2
LEASE_SECONDS = 600.0
KEPT_VERSIONS = 3
# Requests of the same kind that are under way at once: on S3 each takes a while.
AT_ONCE = 16
_MANIFEST_FILE = re.compile(r"(\d+)\.json")

_log = logging.getLogger(__name__)


class Lease:
    """Says to other runs that this one is alive; renewed by a thread until it is closed or the process ends."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = path
        self._done = threading.Event()
        self._renewed_at = 0.0
        self._thread = threading.Thread(target=self._renew, name="sd_assets-lease", daemon=True)
        self._put()
        self._thread.start()

    def check(self) -> None:
        """Raises TableError if the lease ran out (a paused machine, a store that could not be written): others may
        have taken this run for dead, and swept what it wrote."""
        if time.monotonic() - self._renewed_at > LEASE_SECONDS:
            raise TableError(
                f"the lease {self._path} could not be renewed in time: run again, it takes over what is left"
            )

    def close(self) -> None:
        """End the lease. May be called twice."""
        self._done.set()
        self._thread.join()
        with suppress(WriteError):  # it runs out by itself
            self._files.delete(self._path)

    def _renew(self) -> None:
        wait = LEASE_SECONDS / 4
        while not self._done.wait(wait):
            try:
                self._put()
                wait = LEASE_SECONDS / 4
            except (
                Exception
            ) as error:  # a store that fails now may work in a moment; `check` judges in the end
                _log.warning("cannot renew the lease %s: %s", self._path, error)
                wait = LEASE_SECONDS / 60

    def _put(self) -> None:
        now = time.monotonic()
        self._files.put(self._path, json.dumps({"expires_at": time.time() + LEASE_SECONDS}).encode())
        self._renewed_at = now


@dataclass(frozen=True)
class Manifest:
    """One committed version of a partition.

    Attributes:
        version: 1, 2, 3 ...
        data_version: digest of the content, see `shards.data_version`.
        run_id: who committed it.
        created_at: ISO 8601, UTC.
        shards: in order.
        report: what the run counted and used.
        key: the columns that identify a row.
        bookkeeping: the columns that do not count in the data version.
    """

    version: int
    data_version: str
    run_id: str
    created_at: str
    shards: tuple[Shard, ...]
    report: dict[str, Any]
    key: tuple[str, ...] = ()
    bookkeeping: tuple[str, ...] = ()

    def as_json(self) -> bytes:
        body = {**self.__dict__, "format": FORMAT, "shards": [shard.as_json() for shard in self.shards]}
        return json.dumps(body, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> "Manifest":
        """The opposite of `as_json`. Raises TableError if it is damaged, or of another format than ours."""
        try:
            body: dict[str, Any] = json.loads(data)
            found = body.pop("format")
            if found == FORMAT:
                body["shards"] = [Shard(**shard) for shard in body["shards"]]
                lists = {name: tuple(items) for name, items in body.items() if isinstance(items, list)}
                return cls(**{**body, **lists})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TableError(
                f"{where} is damaged ({error!r}): `python -m sd_assets verify` says what can be done"
            ) from error
        raise TableError(
            f"{where} is of format {found}, and this sd_assets reads {FORMAT}: read it with the sd_assets that wrote it, or "
            "delete the folder `_sd_assets` beside the tables and materialize them again"
        )

    def line(self) -> str:
        """What tells it from other versions, for a person."""
        rows, _ = total(self.shards)
        return f"version {self.version}, data version {self.data_version}, {self.created_at}, {rows} rows"

    def same_rows(self, shards: tuple[Shard, ...]) -> bool:
        return [(s.name, s.index) for s in self.shards] == [(s.name, s.index) for s in shards]


class Area:
    """See the module. Methods that write are safe to be killed in and to be run by several processes at once.

    Attributes:
        folder: the current version, for other readers.
        hidden: where all that counts lies.
        kept_versions: so many are kept when a commit sweeps, at least one.
    """

    def __init__(self, files: Files, asset: str, partition: str, kept_versions: int = KEPT_VERSIONS) -> None:
        self.files = files
        self.asset = asset
        self.partition = partition
        self.kept_versions = kept_versions
        self.folder = f"{asset}/{partition}"
        self.hidden = f"_sd_assets/{asset}/{partition}"

    @property
    def uri(self) -> str:
        """Where a reader of Parquet finds the current version."""
        return f"{self.files.uri}/{self.folder}"

    # --- versions ------------------------------------------------------------------------------------------------

    def versions(self) -> list[int]:
        """The numbers of the versions that are kept, oldest first."""
        found = map(_MANIFEST_FILE.fullmatch, self.files.names(f"{self.hidden}/versions"))
        return sorted(int(match[1]) for match in found if match)

    def manifest(self, version: int) -> Manifest:
        """The manifest of a version. Raises TableError if it is not kept any more, or damaged."""
        path = self._manifest_path(version)
        try:
            data = self.files.get(path)
        except FileNotFoundError:
            raise TableError(
                f"{self.uri}: version {version} is not kept any more; kept: {self.versions()}"
            ) from None
        return Manifest.from_json(data, f"{self.files.uri}/{path}")

    def kept(self) -> list[Manifest]:
        """The versions that are kept, oldest first; without those whose manifest is damaged."""
        manifests = []
        for version in self.versions():
            with suppress(TableError):  # swept between the two looks
                manifests.append(self.manifest(version))
        return manifests

    def find(self, *, version: int | None = None, data_version: str | None = None) -> Manifest:
        """The version of a number, or of a data version; of several with that, the newest.

        Raises:
            TableError: none that is kept is; lists those that are.
        """
        kept = self.kept()
        for manifest in reversed(kept):
            if version in (None, manifest.version) and data_version in (None, manifest.data_version):
                return manifest
        asked = {"version": version, "data version": data_version}
        wanted = " with ".join(f"{what} {value}" for what, value in asked.items() if value is not None)
        there = "".join(f"\n  {manifest.line()}" for manifest in kept) or " none"
        raise TableError(f"{self.uri}: {wanted or 'a version'} is not kept (any more). Kept are:{there}")

    def latest(self) -> Manifest | None:
        """The current version, with the folder brought in line with it, if it can be; None before the first."""
        newest = self._newest()
        if not newest:
            return None
        try:
            return self._settle(newest)
        except WriteError as error:  # reading must not need writing: the next run brings the folder in line
            _log.warning("%s shows an older version for now: %s", self.uri, error)
            return self.manifest(self._newest())

    def commit(
        self,
        schema: TableSchema,
        base: Manifest | None,
        shards: tuple[Shard, ...],
        data_version: str,
        run_id: str,
        report: dict[str, Any],
        lease: Lease,
        basis: str | None = None,
    ) -> Manifest:
        """Make the shards the current version, unless they are already, and remember their basis; see `last_run`.

        Raises:
            TableError: another run committed since `base`, or took this one for dead. What this run computed and is
                still there is taken over by the next.
        """
        lease.check()
        if self._newest() != (base.version if base else 0):
            raise self._lost(run_id)
        if base is not None and base.same_rows(shards):
            manifest = base
        else:
            self._require(shards)
            number = base.version + 1 if base else 1
            manifest = Manifest(
                number,
                data_version,
                run_id,
                datetime.now(UTC).isoformat(),
                shards,
                report,
                schema.key,
                tuple(sorted(schema.bookkeeping)),
            )
            if not self.files.create(self._manifest_path(number), manifest.as_json()):
                winner = self.manifest(number)
                # Ours, if the answer to a first attempt was lost on the way.
                if (winner.run_id, winner.shards) != (run_id, shards):
                    raise self._lost(run_id)
            elif self._newest() > number:
                # We were so late that the number had been used and swept already.
                self.files.delete(self._manifest_path(number))
                raise self._lost(run_id)
        self._settle(self._newest())
        # The basis is that of our version: by now another run may have committed the next one.
        made = {"version": manifest.version, "made_by": manifest.run_id}
        last = {"run_id": run_id, **made, "basis": basis, **report}
        self.files.put(f"{self.hidden}/last_run.json", json.dumps(last).encode())
        return manifest

    def last_run(self) -> dict[str, Any]:
        """The report of the last run that committed or found nothing to commit; empty before the first.

        With the `version` that it left, the run that this was `made_by`, and its `basis`: a run that is about to work on the
        same has nothing to do. No commit waits for it, so it may be that of a run before the last.
        """
        try:
            report: dict[str, Any] = json.loads(self.files.get(f"{self.hidden}/last_run.json"))
        except (FileNotFoundError, ValueError):  # it can be done without
            return {}
        return report

    def _newest(self) -> int:
        return max(self.versions(), default=0)

    def _manifest_path(self, version: int) -> str:
        return f"{self.hidden}/versions/{version:06d}.json"

    def _lost(self, run_id: str) -> TableError:
        winner = self.manifest(self._newest())
        return TableError(
            f"{self.uri}: run {winner.run_id} committed version {winner.version} at {winner.created_at} while run "
            f"{run_id} was working on it. Nothing is lost: run again, and it takes over what was computed"
        )

    def _require(self, shards: tuple[Shard, ...]) -> None:
        missing = {shard.file for shard in shards} - set(self.files.names(f"{self.hidden}/shards"))
        if missing:
            raise TableError(
                f"{self.uri}: {len(missing)} shards are gone before they were committed: run again"
            )

    def _settle(self, version: int) -> Manifest:
        """Bring the folder in line with the current version, and return that.

        Shards come before shards go, so a reader of the folder never misses rows. A commit that was interrupted
        before this, or in it, is rolled forward here by whoever opens the table next. Files that we did not write
        stay.
        """
        while True:
            manifest = self.manifest(version)
            wanted = {shard.file for shard in manifest.shards}
            present = {name for name in self.files.names(self.folder) if SHARD_FILE.fullmatch(name)}
            with closing(map_ahead(self._project, sorted(wanted - present), AT_ONCE)) as projected:
                for gone in filter(None, projected):
                    if self._newest() == version:
                        raise self._gone(gone)
            for name in sorted(present - wanted):
                self.files.delete(f"{self.folder}/{name}")
            newest = self._newest()
            if newest == version:
                return manifest
            version = newest

    def _project(self, name: str) -> str | None:
        """Let a shard appear in the folder; returns its name if it is gone."""
        try:
            self.files.project(f"{self.hidden}/shards/{name}", f"{self.folder}/{name}")
        except FileNotFoundError:
            return name
        return None

    def _gone(self, name: str) -> TableError:
        return TableError(
            f"{self.uri}: shard {name} is gone; if its version was swept, open the table again, otherwise files were "
            f"deleted by hand: delete {self.files.uri}/{self.hidden} and materialize the partition again"
        )

    # --- shards --------------------------------------------------------------------------------------------------

    def put_shard(self, file: ShardFile, index: RowIndex, schema: TableSchema) -> Shard:
        """Write a shard that no version has yet."""
        if file.rows != len(index):
            raise TableError(f"{self.uri}: a shard of {file.rows} rows has an index of {len(index)}")
        name = shard_name(index, schema)
        data = file.finish()
        self.files.put(f"{self.hidden}/shards/{name}.parquet", *data)
        return Shard(name, len(index), sum(map(len, data)), sha256(*data), self.put_index(index))

    @staticmethod
    def index_name(index: RowIndex) -> str:
        """The name of the file that `put_index` writes."""
        return sha256(index.tobytes())[:32]

    def put_index(self, index: RowIndex) -> str:
        """Write a row index; returns its name."""
        data = index_bytes(index)
        name = self.index_name(index)
        self.files.put(f"{self.hidden}/index/{name}.parquet", data)
        return name

    def read_index(self, shard: Shard) -> RowIndex:
        return parsed_index(self._index(shard))

    def read_index_column(self, shard: Shard, name: str) -> npt.NDArray[Any]:
        """One field of `read_index`, much quicker."""
        return self.read_index_columns(shard, name)[0]

    def read_index_columns(self, shard: Shard, *names: str) -> list[npt.NDArray[Any]]:
        """Some fields of `read_index`, much quicker."""
        return parsed_columns(self._index(shard), names)

    def _index(self, shard: Shard) -> bytes:
        try:
            return self.files.get(f"{self.hidden}/index/{shard.index}.parquet")
        except FileNotFoundError:
            raise TableError(
                f"{self.uri}: the index of shard {shard.file} is gone: `python -m sd_assets verify` says what can be done"
            ) from None

    def open_shard(self, shard: Shard) -> pa.NativeFile:
        """A shard of any version that is kept. Raises TableError if it is gone."""
        try:
            return self.files.open(f"{self.hidden}/shards/{shard.file}")
        except FileNotFoundError:
            raise self._gone(shard.file) from None

    # --- work in progress ----------------------------------------------------------------------------------------

    def record_wip(self, run_id: str, shard: Shard) -> None:
        """Make a shard of finished rows known to the next run, should this one not get to its commit."""
        self.files.put(self._wip_path(run_id, shard), json.dumps(shard.as_json()).encode())

    def _wip_path(self, run_id: str, shard: Shard) -> str:
        return f"{self.hidden}/wip/{run_id}-{shard.name}.json"

    def wip(self) -> Iterator[Shard]:
        """What runs have finished and not committed, or not cleaned up."""
        for name in self.files.names(f"{self.hidden}/wip"):
            with suppress(FileNotFoundError):
                yield self.wip_shard(name)

    def wip_shard(self, name: str) -> Shard:
        """The shard that a record of work in progress speaks of. Raises FileNotFoundError."""
        return Shard(**json.loads(self.files.get(f"{self.hidden}/wip/{name}")))

    def lease(self, run_id: str) -> "Lease":
        """Until this is closed, no sweep of another run deletes what `run_id` writes."""
        return Lease(self.files, f"{self.hidden}/leases/{run_id}.json")

    def _others_alive(self, run_id: str) -> bool:
        alive = False
        for name in self.files.names(f"{self.hidden}/leases"):
            path = f"{self.hidden}/leases/{name}"
            if name == f"{run_id}.json":
                continue
            try:
                expires_at = json.loads(self.files.get(path))["expires_at"]
            except FileNotFoundError:
                continue
            if expires_at < time.time():
                self.files.delete(path)
            else:
                alive = True
        return alive

    # --- notes ---------------------------------------------------------------------------------------------------

    def note(self, name: str) -> bytes | None:
        """What `put_note` wrote last."""
        try:
            return self.files.get(f"{self.hidden}/notes/{name}")
        except FileNotFoundError:
            return None

    def put_note(self, name: str, data: bytes) -> None:
        """Keep a note for later runs. No commit waits for it, and of two runs the later one's stays."""
        self.files.put(f"{self.hidden}/notes/{name}", data)

    def notes(self) -> list[str]:
        """The names of all notes."""
        return self.files.names(f"{self.hidden}/notes")

    def delete_note(self, name: str) -> None:
        """Forget what `put_note` wrote."""
        self.files.delete(f"{self.hidden}/notes/{name}")

    # --- sweep ---------------------------------------------------------------------------------------------------

    def sweep(self, run_id: str, own: Collection[Shard], keep: int | None = None) -> None:
        """Delete what a commit has made superfluous: work in progress, and what no kept version needs.

        If another run is alive, all but our own records is left to a later sweep: that run's shards may not be in any
        manifest yet, and it may take over what we would delete. So we look again before each file: a run that starts after
        that look finds no manifest any more that names the file, and would have to make it anew before we delete it.

        Args:
            run_id: of the run that has committed.
            own: the shards that it wrote.
            keep: so many versions; None: `kept_versions`.
        """
        newest = self._newest()
        wip = self.files.ages(f"{self.hidden}/wip")
        for name in list(wip):
            if name.rpartition("-")[0] == run_id:
                self.files.delete(f"{self.hidden}/wip/{name}")
                del wip[name]
        own_files = {shard.file for shard in own} | {f"{shard.index}.parquet" for shard in own}
        candidates = [
            (folder, name)
            for folder in ("shards", "index")
            for name, age in self.files.ages(f"{self.hidden}/{folder}").items()
            if age > LEASE_SECONDS or name in own_files
        ]
        if self._others_alive(run_id):
            return
        for name, age in wip.items():
            if age > LEASE_SECONDS:
                self.files.delete(f"{self.hidden}/wip/{name}")
        for version in self.versions()[: -(keep or self.kept_versions)]:
            self.files.delete(self._manifest_path(version))
        needed = self._needed()
        for folder, name in candidates:
            if name not in needed:
                if self._others_alive(run_id) or self._newest() != newest:
                    return
                self.files.delete(f"{self.hidden}/{folder}/{name}")
        self.files.sweep_temporary(LEASE_SECONDS)

    def _needed(self) -> set[str]:
        """The files of shards and their indices that a kept version or work in progress has.

        Raises:
            TableError: a manifest is damaged: what it needs cannot be told.
        """
        kept = self.kept()
        for version in set(self.versions()) - {manifest.version for manifest in kept}:
            self.manifest(version)
        return {
            name
            for shard in (*(shard for manifest in kept for shard in manifest.shards), *self.wip())
            for name in (shard.file, f"{shard.index}.parquet")
        }

    # --- taking down ---------------------------------------------------------------------------------------------

    def superseded(self) -> set[str]:
        """The files of all shards that the current version does not have: of older ones, of work in progress, or of none."""
        newest = self._newest()
        current = {shard.file for shard in self.manifest(newest).shards} if newest else set()
        return {name for name in self.files.names(f"{self.hidden}/shards") if name not in current}

    def take_down(self, files: Collection[str], *, older_versions: bool) -> list[int]:
        """Delete work in progress that lies in these shards, and, if so wanted, the older versions that have one of them.

        At once, whoever is alive: the current version is committed, so a run that began before it cannot commit any more, and
        one that began after it is told to run again. Who reads an older version is told that it is gone.

        Args:
            files: the names of shard files, `superseded` ones.
            older_versions: whether those that need them go, too; or else their shards stay with them.

        Returns:
            The older versions that have one of these shards.
        """
        doomed = set(files)
        wip = f"{self.hidden}/wip"
        for name in self.files.names(wip):
            with suppress(FileNotFoundError):
                if self.wip_shard(name).file in doomed:
                    self.files.delete(f"{wip}/{name}")
        older = self.kept()[:-1]
        hit = [manifest for manifest in older if any(shard.file in doomed for shard in manifest.shards)]
        indices: set[str] = set()
        for manifest in hit if older_versions else ():
            self.files.delete(self._manifest_path(manifest.version))
            doomed |= {shard.file for shard in manifest.shards}
            indices |= {f"{shard.index}.parquet" for shard in manifest.shards}
        needed = self._needed()
        for folder, names in (("shards", doomed), ("index", indices)):
            for name in sorted(names - needed):
                self.files.delete(f"{self.hidden}/{folder}/{name}")
        return [manifest.version for manifest in hit]
