"""What the storage asks of a file system."""

from typing import Protocol

import pyarrow as pa


class Files(Protocol):
    """A base folder or bucket prefix.

    What changes it raises WriteError if that cannot be done: a full disk, a read-only one, a bucket that denies it. In a bucket
    all others raise ReadError if it cannot be read.
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
