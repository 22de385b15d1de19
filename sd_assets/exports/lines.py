"""The lines of a file that says something of each pair, until it can be written."""

import mmap
import tempfile

import pyarrow as pa

from sd_assets.errors import WriteError

# Of the pieces in which they are handed out.
_PIECE_BYTES = 1024 * 1024


class Lines:
    """Lines in a temporary file: those of a million pairs take more than a gigabyte."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does

    def add(self, line: str) -> None:
        """One more line, given without its end.

        Raises:
            WriteError: the disk of temporary files is full.
        """
        try:
            self._file.write(f"{line}\n".encode())
        except OSError as error:
            raise self._full(error) from error

    def pieces(self) -> list[pa.Buffer]:
        """All lines so far. They lie in the file, which is gone when no piece is held any more.

        Raises:
            WriteError: the disk of temporary files is full.
        """
        try:
            self._file.flush()
            size = self._file.tell()
            if not size:
                return []
            whole = pa.py_buffer(mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ))
        except OSError as error:
            raise self._full(error) from error
        return [whole.slice(start, min(_PIECE_BYTES, size - start)) for start in range(0, size, _PIECE_BYTES)]

    def close(self) -> None:
        """Nothing can be added any more."""
        self._file.close()

    def _full(self, error: OSError) -> WriteError:
        return WriteError(
            f"cannot write to {tempfile.gettempdir()}, where the lines of an export are kept until it is done: {error}. Make "
            "room, or name another folder as TMPDIR, and run again"
        )
