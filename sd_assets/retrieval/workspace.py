"""Where an index is built: a folder beside its own, which takes that one's place when it is complete.

What is kept of a build that was broken off lies there too, until one of the same corpus and settings goes on with it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.layout import INDEX_FILE, METADATA_FOLDER, workspace_of
from sd_assets.retrieval.record import RECORD_FILE

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Workspace:
    """Of one index folder; see `workspace`.

    Attributes:
        folder: of the index, as it is used.
        path: of the workspace.
        new: the index folder that is being made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = workspace_of(folder)
        self.new = self.path / "new"
        self._plan = self.path / "made_from"

    def begin(self, made_from: str) -> bool:
        """Make ready to build what `made_from` is a digest of; whether there is something to go on with.

        What was kept of another build is deleted.
        """
        with suppress(FileNotFoundError):
            if self._plan.read_text("utf-8") == made_from:
                return True
        self.clear()
        (self.new / METADATA_FOLDER).mkdir(parents=True)
        (self.path / "steps").mkdir()
        whole(self._plan, made_from.encode())
        return False

    def finish(self) -> None:
        """Put the new folder in the place of the one that is used, and delete the workspace."""
        for file in (*self.new.rglob("*"), self.new):
            flush(file)
        if not self.folder.exists() or not any(self.folder.iterdir()):
            # Onto an empty folder, too.
            os.rename(self.new, self.folder)  # noqa: PTH104 - Path.rename says nothing of folders
        elif not _exchanged(self.new, self.folder):
            # Between these two there is no index. The next build finds the new one complete, and puts it in its place.
            self.folder.rename(self.path / "old")
            self.new.rename(self.folder)
        self.clear()

    def clear(self) -> None:
        """Delete what is kept."""
        # First what says that there is something to go on with.
        self._plan.unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.name == "lock":
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def workspace(folder: Path) -> Iterator[Workspace]:
    """The workspace of an index folder, held against other builds; it is gone afterwards if nothing is kept there.

    Raises:
        RetrievalError: another process builds this index; or the folder holds something else than an index of ours, or is a
            mount point.
    """
    # A link stays one: what it leads to is exchanged.
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise RetrievalError(f"{folder} is a file: an index needs a folder of its own; give another path")
    if folder.is_dir() and folder.stat().st_dev != folder.parent.stat().st_dev:
        raise RetrievalError(
            f"{folder} is a mount point, and a new index could not take the place of the one before it: give a folder below it"
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD_FILE).is_file():
        what = (
            f"an index that sd_assets did not build (it has no {RECORD_FILE})"
            if (folder / INDEX_FILE).exists()
            else "other files"
        )
        raise RetrievalError(
            f"{folder} holds {what}, and is left as it is: give a new folder to build an index in"
        )
    work = Workspace(folder)
    work.path.mkdir(parents=True, exist_ok=True)
    lock = work.path / "lock"
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetrievalError(f"another process is building {folder}: wait for it to end") from None
        try:
            yield work
        finally:
            if [path.name for path in work.path.iterdir()] == ["lock"]:
                shutil.rmtree(work.path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside this one to write to, which then takes its place, whole or not at all, also if the machine goes down."""
    temporary = path.with_name(f".{path.name}.part")
    yield temporary
    flush(temporary)
    temporary.replace(path)


def whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, also if the machine goes down."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def flush(path: Path) -> None:
    """Have a file or folder written to the disk, so that it is there also if the machine goes down."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, where the system and the file system can."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if not rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))
