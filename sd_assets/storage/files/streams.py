"""Files that are not in one piece: one that is sent as it lies in memory, and one that is read in ranges."""

import io
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa

# Read first: the footer of a shard is 5 to 30 KB, and many files are smaller than this.
TAIL_BYTES = 64 * 1024
# Fetched at least: what lies closer together than this is cheaper to read along than to ask for; at 50 ms a request and
# 100 MB/s it would be megabytes, but of columns between images nearly all of that would be images.
_LEAST_BYTES = 128 * 1024
# Fetched at most beyond what was asked for, where a file is read from front to back.
_MOST_BYTES = 4 * 1024 * 1024
# Held of a file: the columns that lie beside the images of all its row groups, which Parquet reads one after the other.
_HELD_BYTES = 8 * 1024 * 1024
_BUFFER_BYTES = 256 * 1024


class _Seekable(io.RawIOBase):
    """A file of known size that is read from wherever one likes."""

    _size: int
    _at: int

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at


class _Pieces(_Seekable):
    """Pieces in memory, read as if they were joined."""

    def __init__(self, pieces: Sequence[bytes | pa.Buffer]) -> None:
        # Arrow's are of signed bytes; and an empty one cannot be cast.
        self._pieces = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        self._ends = list(accumulate(map(len, self._pieces)))
        self._size = self._ends[-1] if self._ends else 0
        self._at = 0

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        piece = bisect_right(self._ends, self._at)
        # Counted from the end, which is known: of a piece of n bytes the last -n.
        data = self._pieces[piece][self._at - self._ends[piece] :][: len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def joined(pieces: Sequence[bytes | pa.Buffer]) -> io.BufferedReader:
    """A file of pieces in memory; can be rewound, and takes no memory of its own but a buffer."""
    return io.BufferedReader(_Pieces(pieces), _BUFFER_BYTES)


class RangedFile(_Seekable):
    """A file somewhere else, for random access: reads ahead, and holds what it read last.

    Args:
        fetch: the bytes from a start to an end, both within the file, which is of `size`.
        tail: the last bytes, or all.
        size: of the file, in bytes.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], tail: bytes, size: int) -> None:
        self._fetch = fetch
        self._size = size
        self._tail = size - len(tail), memoryview(tail)
        self._held: deque[tuple[int, memoryview]] = deque()
        self._at = 0
        self._reached = 0
        self._ahead = _LEAST_BYTES

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, or all that are left; fewer at the end of the file."""
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        pieces = []
        while self._at < end:
            start, data = self._part_at(self._at, end)
            pieces.append(data[self._at - start : end - start])
            self._at += len(pieces[-1])
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _part_at(self, at: int, end: int) -> tuple[int, memoryview]:
        """Where a part starts that holds the byte `at`, and the part; up to `end`, if it has to be fetched."""
        for start, data in (self._tail, *self._held):
            if start <= at < start + len(data):
                return start, data
        near = 0 <= at - self._reached <= _LEAST_BYTES
        self._ahead = min(2 * self._ahead, _MOST_BYTES) if near else _LEAST_BYTES
        # The tail is there.
        self._reached = min(max(end, at + self._ahead), self._tail[0])
        self._held.append((at, memoryview(self._fetch(at, self._reached))))
        while len(self._held) > 1 and sum(len(data) for _, data in self._held) > _HELD_BYTES:
            self._held.popleft()
        return self._held[-1]
