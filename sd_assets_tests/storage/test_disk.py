"""A disk that becomes full or read-only in the middle of a run: one clear error, readable tables, nothing lost."""

import ctypes
import errno
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sd_assets.compute.run import run_stage
from sd_assets.errors import WriteError
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore
from sd_assets_tests.optional import missing
from sd_assets_tests.storage.test_crash import EVENTS, NEW, OLD, content, expected, refresh
from sd_assets_tests.toy import ToyStage, toy_input

# Of <sched.h> and <sys/mount.h>.
_NEW_MOUNTS, _NEW_USERS = 0x0002_0000, 0x1000_0000
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 1, 32, 16_384, 1 << 18
_INODES = 500

_libc = ctypes.CDLL(None, use_errno=True)


def _called(answer: int) -> None:
    if answer:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Disk:
    """A disk of 4 MB, for this process alone: it is gone when the process ends.

    Attributes:
        data: a folder on it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.data = folder / "data"
        user, group = os.geteuid(), os.getegid()
        _called(_libc.unshare(_NEW_MOUNTS | (_NEW_USERS if user else 0)))
        if user:
            # Who is not root is it in a world of his own.
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _called(_libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None))
        self._mount(0)

    def full(self) -> None:
        """No byte fits any more."""
        with suppress(OSError), (self._folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def out_of_inodes(self) -> None:
        """No file, folder or link can be made any more."""
        with suppress(OSError):
            for number in range(_INODES):
                (self._folder / f"filler{number}").touch()

    def read_only(self) -> None:
        """Nothing can be written, made, renamed or deleted."""
        self._mount(_REMOUNT | _READ_ONLY)

    def mend(self) -> None:
        """All of it can be used again."""
        self._mount(_REMOUNT)
        for filler in self._folder.glob("filler*"):
            filler.unlink()

    def _mount(self, flags: int) -> None:
        options = f"size=4m,nr_inodes={_INODES}".encode()
        _called(_libc.mount(b"tmpfs", os.fsencode(self._folder), b"tmpfs", flags, options))


BREAK = {"full": Disk.full, "out of inodes": Disk.out_of_inodes, "read-only": Disk.read_only}


def on_a_disk(folder: Path, work: Callable[[Disk], None]) -> None:
    """Run `work` in a process that has a disk of its own at `folder`; skips the test where that is not permitted."""
    folder.mkdir(exist_ok=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "killed"
        try:
            try:
                disk = Disk(folder)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EACCES, errno.EINVAL):
                    raise
                answer = "not permitted"
            else:
                work(disk)
                answer = "passed"
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, answer.encode()[-60_000:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    assert not os.path.ismount(folder)
    if answer == "not permitted":
        missing("permission to mount a tmpfs", "run the tests as root, or allow user namespaces")
    assert answer == "passed", answer


class Trigger:
    """Calls something right before the n-th file operation under a folder."""

    def __init__(self) -> None:
        self._left = 0
        self._folder = ""
        self._action: Callable[[], None] = lambda: None
        sys.addaudithook(self._hook)  # for the rest of the process

    def arm(self, operation: int, folder: Path, action: Callable[[], None]) -> None:
        self._left, self._folder, self._action = operation, str(folder), action

    @property
    def fired(self) -> bool:
        return self._left <= 0

    def disarm(self) -> None:
        self._left = 0

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._left > 0 and event in EVENTS and self._folder in str(arguments[0]):
            self._left -= 1
            if self._left == 0:
                self._action()


def read(base: Path) -> dict[str, int | None]:
    """The rows of the current version, by name; looks at nothing else."""
    rows = TableStore(LocalFiles(base)).open("toy", "p").read().to_pylist()
    found = {row["name"]: row["square"] for row in rows}
    assert len(found) == len(rows)
    return found


def recorded(base: Path) -> set[str]:
    """The names of finished rows that the next run can take over."""
    area = TableStore(LocalFiles(base)).area("toy", "p")
    names: set[str] = set()
    for shard in area.wip():
        with area.open_shard(shard) as file:
            names.update(pd.read_parquet(file)["name"])
    return names


def goes_on(base: Path, clean_shards: dict[str, bytes]) -> None:
    """The next run ends as a clean one, and computes nothing that was kept."""
    kept = recorded(base) | set(read(base))
    computed = refresh(base, NEW, "third").computed
    assert max(computed.values(), default=0) <= 1
    assert not {f"n{number}" for number in computed} & kept
    assert content(base) == expected(NEW)
    assert {path.name: path.read_bytes() for path in (base / "toy" / "p").iterdir()} == clean_shards


@pytest.mark.parametrize("kind", BREAK)
def test_a_disk_that_breaks_at_any_file_operation(kind: str, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    refresh(clean, OLD, "first")
    refresh(clean, NEW, "second")
    clean_shards = {path.name: path.read_bytes() for path in (clean / "toy" / "p").iterdir()}

    def every_operation(disk: Disk) -> None:
        trigger = Trigger()
        outcomes = set()
        # Every third, and other ones for each way to break.
        operation = list(BREAK).index(kind)
        while True:
            operation += 3
            base = disk.data / f"{operation}"
            refresh(base, OLD, "first")
            trigger.arm(operation, base, lambda: BREAK[kind](disk))
            error = None
            try:
                refresh(base, NEW, "second")
            except WriteError as caught:
                error = str(caught)
                assert f"cannot write to {base}" in error and "make room (or make it writable)" in error
            broken = trigger.fired
            trigger.disarm()
            # What was committed is readable while the disk is broken, by us and by others.
            found = read(base)
            assert found in (expected(OLD), expected(NEW))
            assert error or found == expected(NEW)
            in_folder = set(pd.read_parquet(base / "toy" / "p")["name"])
            assert in_folder >= set(expected(OLD)) or in_folder >= set(expected(NEW))
            older = TableStore(LocalFiles(base)).area("toy", "p")
            assert Table(older, older.manifest(1)).num_rows == len(OLD)
            outcomes.add((bool(error), found == expected(NEW)))
            disk.mend()
            goes_on(base, clean_shards)
            for path in sorted(base.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            if not broken:
                break
        assert operation > 40
        # It failed before the commit and after it, and also where nothing had to be written any more.
        assert outcomes == {(True, False), (True, True), (False, True)}

    on_a_disk(tmp_path / "disk", every_operation)


@pytest.mark.parametrize("kind", BREAK)
def test_a_table_is_read_where_its_commit_was_interrupted_and_nothing_can_be_written(
    kind: str, tmp_path: Path
) -> None:
    def work(disk: Disk) -> None:
        refresh(disk.data, OLD, "first")
        refresh(disk.data, NEW, "second")
        # As a process leaves it that is killed after the commit.
        for path in (disk.data / "toy" / "p").iterdir():
            path.unlink()
        BREAK[kind](disk)
        assert read(disk.data) == expected(NEW)
        disk.mend()
        assert content(disk.data) == expected(NEW)

    on_a_disk(tmp_path / "disk", work)


@pytest.mark.parametrize("kind", BREAK)
def test_a_run_that_cannot_begin_says_so(kind: str, tmp_path: Path) -> None:
    def work(disk: Disk) -> None:
        disk.data.mkdir()
        BREAK[kind](disk)
        stage = ToyStage()
        with pytest.raises(WriteError, match=rf"cannot write to {disk.data}.* make room .* and run again"):
            run_stage(stage, toy_input(OLD), TableStore(LocalFiles(disk.data)).area("toy", "p"), "run", print)
        assert not stage.computed
        disk.mend()
        refresh(disk.data, OLD, "first")
        assert content(disk.data) == expected(OLD)

    on_a_disk(tmp_path / "disk", work)
