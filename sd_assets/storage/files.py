"""The file operations that the storage is made of, on a local disk and on S3.

Each either happens whole or not at all, so a table that is killed between any two of them is the old version or
the new one. Paths are relative to the base, with `/`.
"""

import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from sd_assets.errors import WriteError


class Files(Protocol):
    """A base folder or bucket prefix.

    What changes it raises WriteError if that cannot be done: a full disk, a read-only one.
    """

    uri: str

    def put(self, path: str, *data: bytes | pa.Buffer) -> None:
        """Write a file whole, of one or more pieces, over whatever was there."""

    def create(self, path: str, data: bytes | pa.Buffer) -> bool:
        """Write a file whole if there is none: False, and nothing done, if there is."""

    def get(self, path: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""

    def open(self, path: str) -> pa.NativeFile:
        """A file for random access. Raises FileNotFoundError."""

    def names(self, folder: str) -> list[str]:
        """The names of the files directly in a folder, sorted; none if there is no such folder."""

    def ages(self, folder: str) -> dict[str, float]:
        """The names of the files directly in a folder, and the seconds since each was written."""

    def sizes(self, folder: str) -> dict[str, int]:
        """The names of the files directly in a folder, and the bytes of each."""

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in a folder, sorted; none if there is no such folder."""

    def usage(self, *folders: str) -> int:
        """The bytes that the files directly in some folders take; one that has several names there counts once."""

    def project(self, source: str, target: str) -> None:
        """Let a file appear under a second name too, if nothing does yet. Raises FileNotFoundError."""

    def delete(self, path: str) -> None:
        """Delete a file; if there is none, nothing is done."""

    def sweep_temporary(self, older_than_s: float) -> None:
        """Delete what killed writers left half-written, if it is old enough that no live one can own it."""


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


class S3Files:
    """A prefix of an S3 bucket (or of any server that speaks the protocol, conditional PUT included).

    Args:
        client: a boto3 S3 client.
        uri: `s3://bucket/prefix`.
    """

    def __init__(self, client: Any, uri: str) -> None:
        self._client = client
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        self.uri = uri.rstrip("/")

    def put(self, path: str, *data: bytes | pa.Buffer) -> None:
        self._client.put_object(**self._at(path), Body=b"".join(data))

    def create(self, path: str, data: bytes | pa.Buffer) -> bool:
        while True:
            try:
                self._client.put_object(**self._at(path), Body=bytes(data), IfNoneMatch="*")
                return True
            except self._client.exceptions.ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 412:  # the name is taken
                    return False
                if (
                    status != 409
                ):  # 409: another writer of the name is under way; who of us wins is to be seen
                    raise
                time.sleep(0.1)

    def get(self, path: str) -> bytes:
        try:
            body: bytes = self._client.get_object(**self._at(path))["Body"].read()
        except self._client.exceptions.NoSuchKey as error:
            raise FileNotFoundError(f"{self.uri}/{path}") from error
        return body

    def open(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(self.get(path))

    def names(self, folder: str) -> list[str]:
        return sorted(self.ages(folder))

    def ages(self, folder: str) -> dict[str, float]:
        now = time.time()
        return {name: now - item["LastModified"].timestamp() for name, item in self._objects(folder)}

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: item["Size"] for name, item in self._objects(folder)}

    def folders(self, folder: str) -> list[str]:
        prefix = f"{self._prefix}{folder}/"
        found = (item["Prefix"] for page in self._pages(prefix) for item in page.get("CommonPrefixes", ()))
        return sorted(name.removeprefix(prefix).rstrip("/") for name in found)

    def usage(self, *folders: str) -> int:
        return sum(item["Size"] for folder in folders for _, item in self._objects(folder))

    def _objects(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The objects directly in a folder, by name, as the server lists them."""
        prefix = f"{self._prefix}{folder}/"
        for page in self._pages(prefix):
            for item in page.get("Contents", ()):
                yield item["Key"].removeprefix(prefix), item

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        paginator = self._client.get_paginator("list_objects_v2")
        yield from paginator.paginate(Bucket=self._bucket, Prefix=prefix, Delimiter="/")

    def project(self, source: str, target: str) -> None:
        try:
            self._client.copy_object(**self._at(target), CopySource=self._at(source))
        except self._client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                raise FileNotFoundError(f"{self.uri}/{source}") from error
            raise

    def delete(self, path: str) -> None:
        self._client.delete_object(**self._at(path))

    def sweep_temporary(self, older_than_s: float) -> None:
        """Nothing: an object appears whole or not at all."""

    def _at(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + path}
