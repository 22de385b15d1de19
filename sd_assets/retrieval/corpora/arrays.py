"""Vectors in NumPy's formats, read in blocks: a .npy file, and an array of a .npz file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.corpora.corpus import Reason, Reasons, Vectors

_BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class VectorFile:
    """A two-dimensional array of floats on disk.

    Args:
        path: a .npy file, or a .npz file.
        array: of the .npz file; None: it is a .npy file.

    Attributes:
        rows: of the array.
        width: of its rows.

    Raises:
        RetrievalError: it is damaged, or holds something else.
    """

    def __init__(self, path: Path, array: str | None = None) -> None:
        self._path = path
        self._array = array
        self.name = path.name if array is None else f"{path.name}, {array}"
        try:
            with self._opened() as file:
                shape, in_columns, self._dtype = _header(file)
                # Of a member of an archive this is the place among its unpacked bytes.
                self._offset = file.tell()
        except _BROKEN as error:
            raise self._damaged(error) from error
        if len(shape) != 2 or self._dtype.kind != "f" or self._dtype.itemsize > 8 or in_columns:
            order = ", in columns" if in_columns else ""
            raise RetrievalError(
                f"{path}: expected an array of vectors, float16, float32 or float64 of the shape (rows, width), found "
                f"{self._dtype} of the shape {shape}{order}"
            )
        self.rows, self.width = shape
        if array is None and path.stat().st_size < self._offset + self.rows * self._row_bytes:
            raise RetrievalError(
                f"{path} is cut short: its header promises {self.rows} rows; fetch or make it again"
            )

    def blocks(self, dim: int, start: int, rows: int) -> Iterator[tuple[Vectors, Reasons]]:
        """See `Part.vectors`. All rows of a file of another width have the wrong width."""
        if self.width != dim:
            for first in range(start, self.rows, rows):
                count = min(rows, self.rows - first)
                yield np.zeros((count, dim), np.float32), np.full(count, Reason.WRONG_WIDTH, np.uint8)
            return
        try:
            with self._opened() as file:
                file.seek(self._offset + start * self._row_bytes)
                for first in range(start, self.rows, rows):
                    count = min(rows, self.rows - first)
                    data = file.read(count * self._row_bytes)
                    block = np.frombuffer(data, self._dtype).reshape(count, dim)
                    yield block, np.zeros(count, np.uint8)
        except _BROKEN as error:
            raise self._damaged(error) from error

    def sample(self, dim: int, places: npt.NDArray[np.int64]) -> Vectors | None:
        """See `Part.sample`; None where rows cannot be read out of order."""
        if self._array is not None:
            return None
        if self.width != dim or not len(places):
            return np.empty((0, dim), np.float32)
        try:
            return np.asarray(np.load(self._path, mmap_mode="r")[places])
        except _BROKEN as error:
            raise self._damaged(error) from error

    @property
    def _row_bytes(self) -> int:
        return self.width * int(self._dtype.itemsize)

    def _opened(self) -> IO[bytes]:
        if self._array is None:
            return self._path.open("rb")
        archive = zipfile.ZipFile(self._path)
        try:
            # The member keeps the archive's file open for as long as it is read itself.
            return archive.open(f"{self._array}.npy")
        except KeyError:
            held = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
            raise RetrievalError(f"{self._path} has no array {self._array!r}; it has: {held}") from None
        finally:
            archive.close()

    def _damaged(self, error: Exception) -> RetrievalError:
        return RetrievalError(f"{self._path} cannot be read: {error}; fetch or make it again")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in column-major order, and type."""
    major, _ = np.lib.format.read_magic(file)
    # The reader of version 2 is that of 3, too, for arrays without fields.
    read: Any = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    return cast("tuple[tuple[int, ...], bool, np.dtype[Any]]", read(file))
