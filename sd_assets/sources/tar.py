"""The members of a tar archive, streamed and strictly: damage is an error, and nothing is ever extracted or followed.

The walk is ours, because Python's `tarfile` takes a damaged header in the middle of an archive for its end, holds
extended headers of any size in memory, reads only the first member of a gzip file, and steps through a member that
claims exabytes. A header's fields are still parsed by it.
"""

import bz2
import gzip
import logging
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from sd_assets.errors import SourceError

logger = logging.getLogger(__name__)

_BLOCK = 512
_PIECE = 1024 * 1024
# Of a header that carries a long name; the longest path of any system is 32 KiB.
_MAX_EXTENDED_BYTES = 1024 * 1024
_PAX = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}
_EXTENDED = {*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_WITHOUT_DATA = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
}
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error)


@dataclass(frozen=True)
class Member:
    """One member of an archive.

    Attributes:
        name: as it stands there: a label, never a path to write to. Bytes that are not UTF-8 are lone surrogates.
        size: bytes of its content.
        other: what it is, if it is no file: `a symbolic link`; None for a file.
    """

    name: str
    size: int
    other: str | None
    _tar: "TarReader"

    def read(self) -> bytes:
        """The content of a file; only before the next member is asked for, and once.

        Raises:
            SourceError: the archive is cut short.
        """
        return self._tar.content(self)


class TarReader:
    """The members of an archive in their order; plain, or compressed by gzip, bzip2 or xz.

    Raises (from everywhere):
        SourceError: the file cannot be read, is no tar, is damaged or cut short; says after which member.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0  # bytes of the archive, after decompression
        self._left = 0  # bytes of the present member's content and padding that were not read yet
        self._last = ""
        self._stack = ExitStack()
        try:
            raw = self._stack.enter_context(path.open("rb"))
            magic = raw.read(6)
            raw.seek(0)
            if not magic:
                raise SourceError(f"{path} is empty: not even the end of a tar is in it")
            self._stream = self._stack.enter_context(_decompressed(raw, magic))
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error

    def __enter__(self) -> "TarReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Member]:
        ended = False
        records: dict[str, str] = {}  # what extended headers say of the next member
        while header := self._read(_BLOCK, or_end=True):
            # Zeros mark the end; archives that were put behind one another have some in their middle, too.
            ended = not header.strip(b"\0")
            if ended:
                continue
            info = self._parsed(header)
            if info.type in _EXTENDED:
                records |= self._extended(info)
                continue
            member = self._member(info, records)
            records = {}
            yield member
            self._skip(self._left)
            self._last = member.name
        if records:
            raise self._damage("it ends where a member should follow")
        if not ended:
            logger.warning(
                "%s lacks the mark of its end: if it was cut off after %r, samples are missing",
                self._path,
                self._last,
            )

    def content(self, member: Member) -> bytes:
        """See `Member.read`."""
        data = self._read(member.size)
        self._left -= member.size
        return data

    def _parsed(self, header: bytes) -> tarfile.TarInfo:
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            if self._at == _BLOCK:
                raise SourceError(
                    f"{self._path} is no tar, nor one that gzip, bzip2 or xz has compressed: {error}"
                ) from error
            raise self._damage(f"no member begins there ({error})") from error
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise self._damage("files with holes (GNU sparse) are not read: pack it without --sparse")
        return info

    def _extended(self, info: tarfile.TarInfo) -> dict[str, str]:
        """What a header in front of a header says of the next member: a long name, a size of more than 8 GiB."""
        if not 0 <= info.size <= _MAX_EXTENDED_BYTES:
            raise self._damage(f"an extended header of {info.size} bytes")
        data = self._read(_padded(info.size))[: info.size]
        if info.type == tarfile.GNUTYPE_LONGNAME:
            return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
        # What the global header of an archive may say of all members (comments, owners, times) is nothing to us.
        return self._pax_records(data) if info.type in _PAX else {}

    def _pax_records(self, data: bytes) -> dict[str, str]:
        """`30 path=...\\n` again and again: the length counts the whole record."""
        records: dict[str, str] = {}
        at, end = 0, len(data.rstrip(b"\0"))
        while at < end:
            length = data[at : at + 10].partition(b" ")[0]
            after = at + int(length) if length.isdigit() else 0
            key, equals, value = data[at + len(length) + 1 : after - 1].partition(b"=")
            if not at + len(length) < after <= end or not equals:
                raise self._damage("a malformed extended header")
            records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
            at = after
        return records

    def _member(self, info: tarfile.TarInfo, records: dict[str, str]) -> Member:
        name = records.get("path", info.name)
        try:
            size = int(records.get("size", info.size))
        except ValueError:
            size = -1
        if size < 0:
            raise self._damage(f"{name!r} has an impossible size")
        other = _WITHOUT_DATA.get(info.type)
        if other is not None:
            size = 0
        elif info.type not in _FILES:
            other = f"of the unknown type {info.type!r}"
        elif any(key.startswith("GNU.sparse.") for key in records):
            other = "a file with holes (GNU sparse)"
        self._left = _padded(size)
        return Member(name, size, other, self)

    def _read(self, size: int, *, or_end: bool = False) -> bytes:
        """The next `size` bytes; none at all at the end, if that may be there."""
        try:
            data = self._stream.read(size)
        except _BROKEN as error:
            raise self._damage(str(error) or type(error).__name__) from error
        self._at += len(data)
        if len(data) < size and (data or not or_end):
            raise self._damage("it is cut short")
        return data

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._read(min(size, _PIECE)))
        self._left = 0

    def _damage(self, what: str) -> SourceError:
        after = f"after the member {self._last!r}" if self._last else "at its first member"
        return SourceError(
            f"{self._path} is damaged or cut short {after} (byte {self._at}): {what}. Replace it and run again"
        )


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _decompressed(raw: BinaryIO, magic: bytes) -> BinaryIO:
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(raw))
    if magic == b"\xfd7zXZ\x00":
        return cast(BinaryIO, lzma.LZMAFile(raw))
    return raw
