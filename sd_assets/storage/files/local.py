"""The file operations on a local disk."""

import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from sd_assets.errors import WriteError


class LocalFiles:
    """A folder on a local (or POSIX network) file system."""

    def __init__(self, base: Path) -> None:
        self._base = base.resolve()
        self._temporary = self._base / "_sd_assets" / "tmp"
        self.uri = str(self._base)

    def put(self, path: str, *data: bytes | pa.Buffer) -> None:
        with self._changing(), self._written(*data) as temporary:
            temporary.replace(self._parent_made(path))

    def create(self, path: str, data: bytes | pa.Buffer) -> bool:
        with self._changing(), self._written(data) as temporary:
            try:
                # Unlike a rename, a link fails if the name is taken: this is the commit's compare-and-swap.
                os.link(temporary, self._parent_made(path))
            except FileExistsError:
                return False
        return True

    def get(self, path: str) -> bytes:
        return (self._base / path).read_bytes()

    def open(self, path: str) -> pa.NativeFile:
        return pa.OSFile(str(self._base / path))

    def names(self, folder: str) -> list[str]:
        return self._listed(folder, os.DirEntry.is_file)

    def ages(self, folder: str) -> dict[str, float]:
        ages = {}
        for name in self.names(folder):
            with suppress(FileNotFoundError):
                ages[name] = time.time() - (self._base / folder / name).stat().st_mtime
        return ages

    def sizes(self, folder: str) -> dict[str, int]:
        sizes = {}
        for name in self.names(folder):
            with suppress(FileNotFoundError):
                sizes[name] = (self._base / folder / name).stat().st_size
        return sizes

    def folders(self, folder: str) -> list[str]:
        return self._listed(folder, os.DirEntry.is_dir)

    def usage(self, *folders: str) -> int:
        sizes = {}
        for folder in folders:
            for name in self.names(folder):
                with suppress(FileNotFoundError):
                    status = (self._base / folder / name).stat()
                    sizes[status.st_dev, status.st_ino] = status.st_size
        return sum(sizes.values())

    def project(self, source: str, target: str) -> None:
        with self._changing(), suppress(FileExistsError):
            try:
                # A second name costs no space.
                os.link(self._base / source, self._parent_made(target))
            except OSError as error:
                # Some file systems know no links: EPERM, EMLINK, ENOTSUP.
                if error.errno not in (errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                    raise
                self.put(target, self.get(source))

    def delete(self, path: str) -> None:
        with self._changing():
            (self._base / path).unlink(missing_ok=True)

    def sweep_temporary(self, older_than_s: float) -> None:
        for name, age in self.ages(str(self._temporary.relative_to(self._base))).items():
            if age > older_than_s:
                self.delete(str((self._temporary / name).relative_to(self._base)))

    def _listed(self, folder: str, wanted: Callable[["os.DirEntry[str]"], bool]) -> list[str]:
        try:
            with os.scandir(self._base / folder) as entries:
                return sorted(entry.name for entry in entries if wanted(entry))
        except FileNotFoundError:
            return []

    @contextmanager
    def _written(self, *data: bytes | pa.Buffer) -> Iterator[Path]:
        """A new temporary file that holds `data` durably; what has no other name when the block ends is gone."""
        self._temporary.mkdir(parents=True, exist_ok=True)
        path = self._temporary / uuid.uuid4().hex
        try:
            with path.open("xb") as file:
                file.writelines(data)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            with suppress(OSError):  # a sweep finds it
                path.unlink(missing_ok=True)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Around everything that changes the disk: says what to do if that fails."""
        try:
            yield
        except FileNotFoundError:  # a file that somebody else swept: the caller knows what that means
            raise
        except OSError as error:
            raise WriteError(
                f"cannot write to {self._base}: {error}. Nothing that was committed is touched; "
                "make room (or make it writable) and run again"
            ) from error

    def _parent_made(self, path: str) -> Path:
        target = self._base / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target
