"""The folders of one partition of one table: shards, manifests, commit, work in progress, sweep.

`<base>/<asset>/<partition>/` holds the shards of the current version and nothing else. Everything else lives under
`<base>/_sd_assets/<asset>/<partition>/`:

    versions/000012.json    a manifest; its exclusive creation is the commit
    shards/                 shards that are not (yet, or any more) of the current version
    index/                  the row index of each shard: which work each row is
    wip/<run>-<shard>.json  a shard of finished rows of a run that has not committed
    leases/<run>.json       says until when a run counts as alive
    last_run.json           what the last run reported
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema
from sd_assets.storage.files import Files
from sd_assets.storage.shards import (
    RowIndex,
    Shard,
    index_bytes,
    parquet_bytes,
    parsed_index,
    sha256,
    shard_name,
)

FORMAT = 1
LEASE_SECONDS = 600.0
KEPT_VERSIONS = 3


class Lease:
    """Says to other runs that this one is alive; renewed by a thread until it is closed or the process ends."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = path
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="sd_assets-lease", daemon=True)
        self._put()
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._files.delete(self._path)

    def _renew(self) -> None:
        while not self._done.wait(LEASE_SECONDS / 4):
            self._put()

    def _put(self) -> None:
        self._files.put(self._path, json.dumps({"expires_at": time.time() + LEASE_SECONDS}).encode())


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
    """

    version: int
    data_version: str
    run_id: str
    created_at: str
    shards: tuple[Shard, ...]
    report: dict[str, Any]

    def as_json(self) -> bytes:
        body = {**self.__dict__, "format": FORMAT, "shards": [shard.as_json() for shard in self.shards]}
        return json.dumps(body, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        body = json.loads(data)
        if body.pop("format") != FORMAT:
            raise TableError(
                f"a manifest of an unknown format: {data[:200]!r}; read it with a newer sd_assets"
            )
        return cls(**{**body, "shards": tuple(Shard(**shard) for shard in body["shards"])})

    def same_rows(self, shards: tuple[Shard, ...]) -> bool:
        return [(s.name, s.index) for s in self.shards] == [(s.name, s.index) for s in shards]


class Area:
    """See the module. Methods that write are safe to be killed in and to be run by several processes at once."""

    def __init__(self, files: Files, asset: str, partition: str) -> None:
        self.files = files
        self.asset = asset
        self.partition = partition
        self.folder = f"{asset}/{partition}"
        self._hidden = f"_sd_assets/{asset}/{partition}"

    @property
    def uri(self) -> str:
        """Where a reader of Parquet finds the current version."""
        return f"{self.files.uri}/{self.folder}"

    # --- versions ------------------------------------------------------------------------------------------------

    def versions(self) -> list[int]:
        """The numbers of the versions that are kept, oldest first."""
        return [int(name.removesuffix(".json")) for name in self.files.names(f"{self._hidden}/versions")]

    def manifest(self, version: int) -> Manifest:
        """The manifest of a version. Raises TableError if it is not kept any more."""
        try:
            return Manifest.from_json(self.files.get(f"{self._hidden}/versions/{version:06d}.json"))
        except FileNotFoundError:
            raise TableError(
                f"{self.uri}: version {version} is not kept any more; kept: {self.versions()}"
            ) from None

    def latest(self) -> Manifest | None:
        """The current version, with the folder brought in line with it; None before the first."""
        versions = self.versions()
        if not versions:
            return None
        manifest = self.manifest(versions[-1])
        self._settle(manifest)
        return manifest

    def commit(
        self,
        base: Manifest | None,
        shards: tuple[Shard, ...],
        version: str,
        run_id: str,
        report: dict[str, Any],
    ) -> Manifest:
        """Make the shards the current version, unless they are already.

        Raises:
            TableError: another run committed since `base`. What this run computed stays, and the next takes it over.
        """
        manifest = base
        if base is None or not base.same_rows(shards):
            number = base.version + 1 if base else 1
            manifest = Manifest(number, version, run_id, datetime.now(UTC).isoformat(), shards, report)
            if not self.files.create(f"{self._hidden}/versions/{number:06d}.json", manifest.as_json()):
                winner = self.manifest(number)
                raise TableError(
                    f"{self.uri}: run {winner.run_id} committed version {number} at {winner.created_at} while run "
                    f"{run_id} was working on it. Nothing is lost: run again, and it takes over what was computed"
                )
        assert manifest is not None
        self._settle(manifest)
        self.files.put(f"{self._hidden}/last_run.json", json.dumps({"run_id": run_id, **report}).encode())
        return manifest

    def last_run(self) -> dict[str, Any]:
        """The report of the last run that committed or found nothing to commit. Raises FileNotFoundError."""
        report: dict[str, Any] = json.loads(self.files.get(f"{self._hidden}/last_run.json"))
        return report

    def _settle(self, manifest: Manifest) -> None:
        """Bring the folder in line with the current version.

        Shards come before shards go, so a reader never misses rows. A commit that was interrupted before this, or in
        it, is rolled forward here by whoever opens the table next.
        """
        while True:
            wanted = {shard.file for shard in manifest.shards}
            present = set(self.files.names(self.folder))
            for name in sorted(wanted - present):
                self.files.move(f"{self._hidden}/shards/{name}", f"{self.folder}/{name}")
            for name in sorted(present - wanted):
                self.files.move(f"{self.folder}/{name}", f"{self._hidden}/shards/{name}")
            newest = self.versions()[-1]
            if newest == manifest.version:
                return
            manifest = self.manifest(newest)

    # --- shards --------------------------------------------------------------------------------------------------

    def put_shard(self, rows: pa.Table, index: RowIndex, schema: TableSchema) -> Shard:
        """Write a shard that no version has yet."""
        name = shard_name(index, schema)
        data = parquet_bytes(rows, schema)
        self.files.put(f"{self._hidden}/shards/{name}.parquet", data)
        return Shard(name, len(index), data.size, sha256(data), self.put_index(index))

    @staticmethod
    def index_name(index: RowIndex) -> str:
        """The name of the file that `put_index` writes."""
        return sha256(index.tobytes())[:32]

    def put_index(self, index: RowIndex) -> str:
        """Write a row index; returns its name."""
        data = index_bytes(index)
        name = self.index_name(index)
        self.files.put(f"{self._hidden}/index/{name}.parquet", data)
        return name

    def read_index(self, shard: Shard) -> RowIndex:
        return parsed_index(self.files.get(f"{self._hidden}/index/{shard.index}.parquet"))

    def open_shard(self, shard: Shard) -> pa.NativeFile:
        """A shard of any version that is kept, wherever it lies at the moment."""
        places = (f"{self.folder}/{shard.file}", f"{self._hidden}/shards/{shard.file}")
        # A commit may move it from one place to the other between our two looks.
        for place in (*places, *places):
            try:
                return self.files.open(place)
            except FileNotFoundError:
                continue
        raise TableError(
            f"{self.uri}: shard {shard.file} is gone; if its version was swept, open the table again, "
            "otherwise files were deleted by hand: materialize the partition again"
        )

    # --- work in progress ----------------------------------------------------------------------------------------

    def record_wip(self, run_id: str, shard: Shard) -> None:
        """Make a shard of finished rows known to the next run, should this one not get to its commit."""
        self.files.put(f"{self._hidden}/wip/{run_id}-{shard.name}.json", json.dumps(shard.as_json()).encode())

    def wip(self) -> Iterator[Shard]:
        """What runs have finished and not committed, or not cleaned up."""
        for name in self.files.names(f"{self._hidden}/wip"):
            try:
                yield Shard(**json.loads(self.files.get(f"{self._hidden}/wip/{name}")))
            except FileNotFoundError:
                continue

    def lease(self, run_id: str) -> "Lease":
        """Until this is closed, no sweep of another run deletes what `run_id` writes."""
        return Lease(self.files, f"{self._hidden}/leases/{run_id}.json")

    def _others_alive(self, run_id: str) -> bool:
        alive = False
        for name in self.files.names(f"{self._hidden}/leases"):
            path = f"{self._hidden}/leases/{name}"
            try:
                expires_at = json.loads(self.files.get(path))["expires_at"]
            except FileNotFoundError:
                continue
            if expires_at < time.time():
                self.files.delete(path)
            elif name != f"{run_id}.json":
                alive = True
        return alive

    # --- sweep ---------------------------------------------------------------------------------------------------

    def sweep(self, run_id: str, keep: int = KEPT_VERSIONS) -> None:
        """Delete the work in progress that a commit has made superfluous, and what no kept version needs.

        If another run holds a lease, everything is left to the sweep of a later run: its shards may not be in any
        manifest yet.
        """
        own = f"{run_id}-"
        if self._others_alive(run_id):
            for name in self.files.names(f"{self._hidden}/wip"):
                if name.startswith(own):
                    self.files.delete(f"{self._hidden}/wip/{name}")
            return
        for name in self.files.names(f"{self._hidden}/wip"):
            self.files.delete(f"{self._hidden}/wip/{name}")
        versions = self.versions()
        for version in versions[:-keep]:
            self.files.delete(f"{self._hidden}/versions/{version:06d}.json")
        kept = [self.manifest(version) for version in versions[-keep:]]
        needed = {shard.file for manifest in kept for shard in manifest.shards}
        needed_indices = {f"{shard.index}.parquet" for manifest in kept for shard in manifest.shards}
        for folder, wanted in (("shards", needed), ("index", needed_indices)):
            for name in self.files.names(f"{self._hidden}/{folder}"):
                if name not in wanted:
                    self.files.delete(f"{self._hidden}/{folder}/{name}")
        self.files.sweep_temporary(LEASE_SECONDS)
