"""What a local index knows of its images: rows by number, in memory only those that are asked for.

`metadata/*.parquet` is what clip-retrieval needs, but a row of it costs reading the row group that it lies in. So beside it lies
`metadata.arrow`: the same rows, as columns of a hit, uncompressed and mapped into memory, of which a row costs its own pages.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.batches import one_batch
from sd_assets.errors import RetrievalError
from sd_assets.retrieval.columns import KNOWN, NAMES, chosen_columns, known_of
from sd_assets.retrieval.layout import METADATA_ARROW, METADATA_FOLDER

Numbers = npt.NDArray[np.int64]

_log = logging.getLogger(__name__)

# Rows of one record batch of `metadata.arrow`, some 100 MB: what its writing holds in memory. A search touches most batches
# of the file, each at a cost, so they are not small.
_BATCH_ROWS = 1 << 18
# Of its text: an Arrow array of strings holds less than 2 GiB.
_BATCH_BYTES = 1 << 28
_READ_ROWS = 1 << 14
# Of what a digest reads: of each edge of a file, and of all edges of one kind together, but for so many files that each is the least.
_EDGE_BYTES, _LEAST_EDGE_BYTES, _EDGES_BYTES = 1 << 20, 1 << 14, 1 << 28
_FIELDS, _SOURCE = b"sd_assets.fields", b"sd_assets.source"


class Metadata(Protocol):
    """Rows of metadata by number.

    Attributes:
        rows: how many there are.
        fields: of a hit that there is a column for.
        mapped: whether a row costs its own pages only: it is read from `metadata.arrow`.
    """

    @property
    def mapped(self) -> bool: ...

    @property
    def rows(self) -> int: ...

    @property
    def fields(self) -> frozenset[str]: ...

    def take(self, numbers: Numbers) -> pa.RecordBatch:
        """The rows of these numbers, in their order, with the columns `columns.KNOWN`. Raises `RetrievalError`."""


def open_metadata(name: str, folder: Path) -> Metadata:
    """The metadata in an index folder: `metadata.arrow` if it is of the Parquet files there, else these.

    Args:
        name: of the index, for messages.
        folder: of the index.

    Raises:
        RetrievalError: files are missing, damaged, or without a column of URLs.
    """
    where = f"index {name!r}: "
    paths = metadata_files(folder, where)
    file = folder / METADATA_ARROW
    if not file.exists():
        _log.info(
            "%sthere is no %s: metadata is read from Parquet, which is slower; `write_metadata_arrow` makes it",
            where,
            file,
        )
        return _ParquetMetadata(paths, where)
    metadata = _ArrowMetadata(file, where)
    if metadata.source == edges_digest(folder, paths):
        return metadata
    _log.warning(
        "%s%s is of other Parquet files than those in %s, and left aside: metadata is read from Parquet, which is slower. "
        "Delete it, and make it again",
        where,
        file,
        folder / METADATA_FOLDER,
    )
    return _ParquetMetadata(paths, where)


def write_metadata_arrow(folder: Path) -> Path:
    """Write `metadata.arrow` of the Parquet files in an index folder, whole or not at all; one that is there is replaced.

    Raises:
        RetrievalError: the Parquet files are missing, damaged, or without a column of URLs.
        OSError: it cannot be written.
    """
    where = f"index folder {folder}: "
    paths = metadata_files(folder, where)
    parquet = _ParquetMetadata(paths, where)
    about = {_FIELDS: json.dumps(sorted(parquet.fields)), _SOURCE: edges_digest(folder, paths)}
    target = folder / METADATA_ARROW
    temporary = folder / f".{METADATA_ARROW}"
    try:
        with temporary.open("wb") as file:
            with pa.ipc.new_file(file, KNOWN.with_metadata(about)) as writer:
                for batch in _gathered(parquet.batches()):
                    writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def metadata_files(folder: Path, where: str) -> list[Path]:
    """The Parquet files of an index folder, in the order of their rows. Raises `RetrievalError` if there are none.

    Args:
        folder: of the index.
        where: begins the message.
    """
    paths = sorted((folder / METADATA_FOLDER).glob("*.parquet"))
    if not paths:
        raise RetrievalError(
            f"{where}there are no Parquet files in {folder / METADATA_FOLDER}; copy the metadata that belongs to the index there "
            "(row i of the files, sorted by name, is vector i)"
        )
    return paths


def edges_digest(folder: Path, paths: Sequence[Path]) -> str:
    """Of the files' names, sizes, and first and last MiB, or less of very many: cheap on any size, and the same wherever the folder
    lies."""
    digest = hashlib.sha256()
    edge = min(_EDGE_BYTES, max(_LEAST_EDGE_BYTES, _EDGES_BYTES // max(1, len(paths))))
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(edge))
            file.seek(max(0, size - edge))
            digest.update(file.read(edge))
    return digest.hexdigest()


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches as `metadata.arrow` has them."""
    parts: list[pa.RecordBatch] = []
    for batch in batches:
        if parts and (
            sum(map(len, parts)) + len(batch) > _BATCH_ROWS
            or sum(part.nbytes for part in parts) + batch.nbytes > _BATCH_BYTES
        ):
            yield one_batch(parts)
            parts = []
        parts.append(batch)
    if parts:
        yield one_batch(parts)


class _ArrowMetadata:
    """`metadata.arrow`, mapped into memory.

    Attributes:
        source: what it was made of, see `edges_digest`.
    """

    mapped = True

    def __init__(self, path: Path, where: str) -> None:
        self._where = where
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            about = reader.schema.metadata or {}
            if not reader.schema.equals(KNOWN) or not {_FIELDS, _SOURCE} <= set(about):
                # Of an earlier version, which knew other fields: no error, but nothing to be read.
                self.source, self.fields = "", frozenset[str]()
                self._batches: list[pa.RecordBatch] = []
            else:
                self.source = about[_SOURCE].decode()
                self.fields = frozenset(json.loads(about[_FIELDS]))
                self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RetrievalError(
                f"{where}{path} is damaged ({error}): delete it, and make it again"
            ) from error
        self._ends = np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)
        self.rows = int(self._ends[-1]) if self._batches else 0

    def take(self, numbers: Numbers) -> pa.RecordBatch:
        """See `Metadata.take`."""
        order = np.argsort(numbers, kind="stable")  # forwards through the file
        ascending = numbers[order]
        owners = np.searchsorted(self._ends, ascending, side="right")
        parts = []
        for owner in np.unique(owners):
            batch = self._batches[owner]
            within = ascending[owners == owner] - (self._ends[owner] - len(batch))
            parts.append(batch.take(pa.array(within)))
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return _taken(parts, places, self._where)


class _ParquetMetadata:
    """The Parquet files themselves: each row group of which a row is asked for is read, once a call."""

    mapped = False

    def __init__(self, paths: Sequence[Path], where: str) -> None:
        self._where = where
        # The position of the first row of every row group, and which it is.
        starts: list[int] = []
        self._groups: list[tuple[Path, int]] = []
        self._paths = paths
        self.rows = 0
        present: set[str] | None = None
        for path in paths:
            footer = self._opened(path).metadata
            names = set(footer.schema.to_arrow_schema().names)
            present = names if present is None else present & names
            for group in range(footer.num_row_groups):
                starts.append(self.rows)
                self._groups.append((path, group))
                self.rows += footer.row_group(group).num_rows
        self._starts = np.array(starts, dtype=np.int64)
        self._columns = chosen_columns(present or set())
        self.fields = frozenset(self._columns)
        if "url" not in self._columns:
            raise RetrievalError(
                f"{where}the metadata in {paths[0].parent} has no column of URLs that all files share; looked for "
                f"{', '.join(NAMES['url'])}, the first file has {', '.join(sorted(present or set()))}"
            )

    def take(self, numbers: Numbers) -> pa.RecordBatch:
        """See `Metadata.take`."""
        distinct, places = np.unique(numbers, return_inverse=True)
        owners = np.searchsorted(self._starts, distinct, side="right") - 1
        parts = []
        for owner in np.unique(owners):
            path, group = self._groups[owner]
            try:
                table = self._opened(path).read_row_group(group, columns=self._names)
                rows = table.take(pa.array(distinct[owners == owner] - self._starts[owner]))
            except (pa.ArrowException, OSError) as error:
                raise RetrievalError(f"{self._where}cannot read {path}: {error}") from error
            parts += [known_of(batch, self._columns) for batch in rows.combine_chunks().to_batches()]
        return _taken(parts, places, self._where)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, in order, with the columns `columns.KNOWN`."""
        for path in self._paths:
            try:
                for batch in self._opened(path).iter_batches(_READ_ROWS, columns=self._names):
                    yield known_of(batch, self._columns)
            except (pa.ArrowException, OSError) as error:
                raise RetrievalError(f"{self._where}cannot read {path}: {error}") from error

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(self._columns.values()))

    def _opened(self, path: Path) -> Any:
        try:
            return pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowException, OSError) as error:
            raise RetrievalError(f"{self._where}cannot read {path}: {error}") from error


def _taken(parts: Sequence[pa.RecordBatch], places: Numbers, where: str) -> pa.RecordBatch:
    """The rows at these places of all parts together."""
    if not parts:
        return pa.RecordBatch.from_pylist([], KNOWN)
    try:
        return one_batch(parts).take(pa.array(places)).replace_schema_metadata(None)
    except pa.ArrowException as error:  # more text than an array of strings holds
        raise RetrievalError(
            f"{where}the metadata of {len(places)} rows is too much at once ({error}): lower `images_per_query` or "
            "`max_candidates`"
        ) from error
