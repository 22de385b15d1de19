"""Rows to Parquet files, and the index that says what each file holds.

A shard is named by the digests of its rows and cut where a row's key says so, so that equal rows in equal order
give equal shards, and a row more or less changes the shard it is in and at most its neighbour.
"""

import hashlib
import io
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema, is_binary
from sd_assets.storage.digests import DIGEST_BYTES, joined, row_digests
from sd_assets.storage.rows import as_array, as_batch

# Mean bytes of a shard whose rows are large; of small rows, the schema says how many.
SHARD_BYTES = 16 * 1024 * 1024
MAX_ROW_GROUP_BYTES = 2 * 1024 * 1024
# Shards that are held open by who reads rows of many: to open one on S3 takes requests.
_OPEN_FILES = 16
# Rows that are read at once where they hold no images, about.
_ROWS_TOGETHER = 4_096

# One record a row: the digests of its key, of its work key, of its images (or other binary content), of its content
# columns and of all its columns, its size in bytes (about) and its error code, empty if it is ok.
ROW = np.dtype(
    [
        ("key", "V16"),
        ("work", "V16"),
        ("payload", "V16"),
        ("content", "V16"),
        ("whole", "V16"),
        ("size", "<u4"),
        ("error", "S48"),
    ]
)
RowIndex = npt.NDArray[np.void]
_DIGESTS = ("key", "work", "payload", "content", "whole")


@dataclass(frozen=True)
class Shard:
    """A Parquet file of a table, as a manifest lists it.

    Attributes:
        name: digest of its rows; the file is `{name}.parquet`.
        rows: how many.
        bytes: of the file.
        sha256: of the file.
        index: digest of its row index (the work keys of its rows), which is kept beside the manifests.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    index: str

    @property
    def file(self) -> str:
        return f"{self.name}.parquet"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Cutter:
    """Decides after which rows a shard ends: where a key's digest is below a bound, between a least and a most.

    A row's bound is its share of a shard of mean size, by rows or by bytes, whichever is larger. So cuts depend on the
    rows next to them alone, whatever their sizes: after a row more or less they fall where they fell before.

    Args:
        mean_rows: of a shard whose rows are small; at least a quarter of it, at most four times it.
        mean_bytes: of a shard whose rows are large; at least a quarter of it, at most twice it.
    """

    def __init__(self, mean_rows: int, mean_bytes: int = SHARD_BYTES) -> None:
        self._mean_rows = mean_rows
        self._mean_bytes = mean_bytes
        self._rows = 0
        self._bytes = 0

    def ends_after(self, key: bytes, size: int) -> bool:
        """Count one more row; True if the shard ends with it."""
        self._rows += 1
        self._bytes += size
        enough = self._rows >= self._mean_rows // 4 or self._bytes >= self._mean_bytes // 4
        # Three quarters of the mean are left to chance once a quarter is there.
        share = max(1 / self._mean_rows, size / self._mean_bytes) * 4 / 3
        hit = enough and int.from_bytes(key[:8], "big") < share * 2**64
        if hit or self._rows >= self._mean_rows * 4 or self._bytes >= self._mean_bytes * 2:
            self._rows = self._bytes = 0
            return True
        return False


def conformed(rows: pa.RecordBatch | pa.Table, schema: TableSchema) -> pa.RecordBatch:
    """The rows as one batch with exactly the schema's columns and types.

    Raises:
        TableError: a column is missing, unknown, or of another type; names it.
    """
    wanted = schema.arrow
    missing = [name for name in wanted.names if name not in rows.schema.names]
    unknown = [name for name in rows.schema.names if name not in wanted.names]
    if missing or unknown:
        raise TableError(
            f"table {schema.name}: the rows do not have its columns; missing: {missing or 'none'}, "
            f"unknown: {unknown or 'none'}"
        )
    columns = []
    for field in wanted:
        column = rows.column(field.name)
        if isinstance(column, pa.ChunkedArray):
            column = as_array(column)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise TableError(
                    f"table {schema.name}: column {field.name} is {column.type}, must be {field.type}: {error}"
                ) from error
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=wanted)


def payload_columns(schema: Iterable[pa.Field]) -> list[str]:
    """The columns that hold images, or other binary values: large, and seldom needed to know what a row is."""
    return [field.name for field in schema if is_binary(field.type)]


def indexed(rows: pa.RecordBatch, schema: TableSchema, work: Sequence[bytes] | None = None) -> RowIndex:
    """The index of n rows; without work keys a row's work key is the digest of all it holds."""
    index = np.empty(rows.num_rows, dtype=ROW)
    # Each on top of the one before, so that images are hashed once.
    payload_names = [name for name in payload_columns(schema.arrow) if name in schema.content]
    payload = row_digests(rows, payload_names)
    others = row_digests(rows, [name for name in schema.content if name not in payload_names])
    content = [joined(pair) for pair in zip(payload, others, strict=True)]
    bookkeeping = [name for name in schema.arrow.names if name in schema.bookkeeping]
    whole = [
        joined(pair)
        for pair in zip(content, row_digests(rows, bookkeeping, salt=schema.digest()), strict=True)
    ]
    columns = {
        "key": row_digests(rows, schema.key),
        "payload": payload,
        "content": content,
        "whole": whole,
        "work": work if work is not None else whole,
    }
    for name, digests in columns.items():
        index[name] = np.frombuffer(b"".join(digests), dtype="V16")
    index["size"] = _sizes(rows)
    index["error"] = _codes(rows.column("error"))
    return index


def _codes(errors: pa.Array | pa.ChunkedArray) -> list[bytes]:
    """Error codes as an index holds them. Ours are short and ASCII; one of a user's own table may have to be cut."""
    room = ROW["error"].itemsize
    return [(error or "").encode()[:room].decode(errors="ignore").encode() for error in errors.to_pylist()]


def _sizes(rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
    sizes = np.full(rows.num_rows, 64, dtype=np.int64)
    for column in rows.columns:
        if str(column.type) in ("binary", "large_binary", "string", "large_string"):
            sizes += np.asarray(pc.binary_length(column).fill_null(0))
        elif pa.types.is_list(column.type):
            # A number has its width; what a text or a struct has is guessed.
            each = (
                column.type.value_type.bit_width // 8 if pa.types.is_floating(column.type.value_type) else 128
            )
            sizes += np.asarray(pc.list_value_length(column).fill_null(0)) * each
    return sizes


SHARD_FILE = re.compile(r"[0-9a-f]{32}\.parquet")


def shard_name(index: RowIndex, schema: TableSchema) -> str:
    """The name of the shard that holds exactly these rows in this order."""
    return joined([schema.digest(), index["whole"].tobytes()]).hex()


def data_version(index: RowIndex) -> str:
    """Digest of the content columns of all rows in the order of their keys' digests, whatever the shards."""
    words = [index[name].copy().view(">u8").reshape(-1, 2) for name in ("content", "key")]
    order = np.lexsort([half for pair in words for half in (pair[:, 1], pair[:, 0])])
    return joined([index["content"][order].tobytes()]).hex()


class ShardFile:
    """A shard's Parquet file while it is made: finished row groups are held as bytes, and the rows of one more.

    Row groups end where the rows and their sizes say so, whatever the pieces that they came in: equal rows give equal
    files.

    Attributes:
        rows: that were added.
    """

    def __init__(self, schema: TableSchema) -> None:
        self._schema = schema
        self.rows = 0
        self._group: list[pa.Table] = []
        self._group_rows = 0
        self._group_bytes = 0
        self._sink = Pieces()
        binary = set(payload_columns(schema.arrow))
        leaves = _leaves(schema.arrow)
        self._writer = pq.ParquetWriter(
            self._sink,
            schema.arrow,
            # Images are compressed already: zstd is for the other columns.
            compression={path: "none" if path in binary else "zstd" for path in leaves},
            use_dictionary=[path for path in leaves if path not in binary and path not in schema.key],
            write_statistics=[path for path in leaves if path not in binary],
        )

    def add(self, rows: pa.Table, sizes: Iterable[int]) -> None:
        """The next rows, and the bytes of each, about."""
        start = 0
        for end, size in enumerate(sizes, 1):
            self._group_rows += 1
            self._group_bytes += size
            if self._group_rows >= self._schema.row_group_rows or self._group_bytes >= MAX_ROW_GROUP_BYTES:
                self._group.append(rows.slice(start, end - start))
                self._end_group()
                start = end
        if start < len(rows):
            self._group.append(rows.slice(start))
        self.rows += len(rows)

    def finish(self) -> list[bytes]:
        """The file, in pieces. Nothing can be added any more."""
        # `datasets` fails on a row group without rows, and reads a file without row groups as what it is: empty.
        if self._group:
            self._end_group()
        self._writer.close()
        return self._sink.pieces

    def _end_group(self) -> None:
        # In one chunk: a page of the file ends with a chunk.
        rows = pa.concat_tables(self._group).combine_chunks()
        self._writer.write_table(rows, row_group_size=self._group_rows)
        self._group = []
        self._group_rows = self._group_bytes = 0


class Pieces(io.RawIOBase):
    """A file in memory that does not move what it holds, as `BytesIO` does: that takes twice its size."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.pieces.append(bytes(data))
        self._bytes += len(self.pieces[-1])
        return len(self.pieces[-1])

    def tell(self) -> int:
        return self._bytes


@cache
def _leaves(schema: pa.Schema) -> list[str]:
    """The Parquet paths of all leaf columns."""
    metadata = pq.read_metadata(pa.BufferReader(_empty_file(schema)))
    return [metadata.schema.column(number).path for number in range(len(metadata.schema))]


def _empty_file(schema: pa.Schema) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return sink.getvalue()


def index_bytes(index: RowIndex) -> bytes:
    """A row index as a small Parquet file."""
    columns: dict[str, pa.Array] = {}
    for name in _DIGESTS:
        buffer = pa.py_buffer(np.ascontiguousarray(index[name]).tobytes())
        columns[name] = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(DIGEST_BYTES), len(index), [None, buffer]
        )
    columns["size"] = pa.array(index["size"])
    columns["error"] = pa.array([code.decode() for code in index["error"].tolist()]).cast(pa.string())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return bytes(sink.getvalue())


def parsed_index(data: bytes) -> RowIndex:
    """The opposite of `index_bytes`."""
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    index = np.empty(table.num_rows, dtype=ROW)
    for name in _DIGESTS:
        index[name] = _digests(table.column(name))
    index["size"] = table.column("size").to_numpy()
    index["error"] = _codes(table.column("error"))
    return index


def parsed_columns(data: bytes, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Of a file of `index_bytes` some fields alone, much quicker."""
    table = pq.ParquetFile(pa.BufferReader(data)).read(columns=list(names), use_threads=False)
    return [_parsed_column(table.column(name), name) for name in names]


def _parsed_column(column: pa.ChunkedArray, name: str) -> npt.NDArray[Any]:
    if name == "error":
        return np.array(_codes(column), dtype=ROW["error"])
    return np.asarray(column.to_numpy()) if name == "size" else _digests(column)


def _digests(column: pa.ChunkedArray) -> npt.NDArray[np.void]:
    digests = as_array(column)
    values = digests.buffers()[1]
    if values is None:
        return np.empty(0, "V16")
    return np.frombuffer(values, "V16", len(digests), digests.offset * DIGEST_BYTES)


def sha256(*data: bytes | pa.Buffer) -> str:
    """Of pieces as if they were joined; hex."""
    digest = hashlib.sha256()
    for piece in data:
        digest.update(piece)
    return digest.hexdigest()


def parquet_file(file: pa.NativeFile) -> pq.ParquetFile:
    """A shard that is open.

    What is a file of Python's, as those of S3 are, is read in the caller's thread: those of Arrow may still hold it when the
    interpreter ends, which then aborts ("terminate called without an active exception").
    """
    return pq.ParquetFile(file, pre_buffer=not isinstance(file, pa.PythonFile))


def read_batches(file: pa.NativeFile, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a shard, a row group at a time; without images, many of them are read together."""
    parquet = parquet_file(file)
    chosen = [field for field in parquet.schema_arrow if columns is None or field.name in columns]
    most = 1 if payload_columns(chosen) else _ROWS_TOGETHER
    groups: list[int] = []
    rows = 0
    for group in range(parquet.num_row_groups):
        groups.append(group)
        rows += parquet.metadata.row_group(group).num_rows
        if rows >= most or group == parquet.num_row_groups - 1:
            # Not in Arrow's threads: the allocator keeps a store of memory for each.
            yield as_batch(parquet.read_row_groups(groups, columns=columns, use_threads=False))
            groups, rows = [], 0


def take_rows(
    parquet: pq.ParquetFile, rows: npt.NDArray[np.int64], columns: Sequence[str] | None = None
) -> pa.Table:
    """Some rows of a shard in the order asked for; never more than one row group beside the result in memory."""
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    pieces: list[pa.Table] = []
    start = 0
    for group in range(parquet.num_row_groups):
        end = start + parquet.metadata.row_group(group).num_rows
        inside = wanted[(wanted >= start) & (wanted < end)]
        if len(inside):
            rows_of_group = parquet.read_row_group(group, columns=columns, use_threads=False)
            pieces.append(_taken(rows_of_group, inside - start))
        start = end
    return _put_back(pieces, order)


def _taken(rows: pa.Table, wanted: npt.NDArray[np.int64]) -> pa.Table:
    """`take`, but all rows in their order are not copied."""
    return rows if np.array_equal(wanted, np.arange(len(rows))) else rows.take(pa.array(wanted))


def _put_back(pieces: Sequence[pa.Table], order: npt.NDArray[np.int64]) -> pa.Table:
    """The rows of all pieces; row i of them goes to the place order[i]."""
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return _taken(pa.concat_tables(pieces), back)


class ShardRows:
    """Rows of several shards by their numbers, counted through all of them.

    Args:
        open_shard: a shard by its number.
        starts: the number of the first row of each shard, and at last the number of all rows. May grow.
        columns: None: all.
        held_bytes: so much of the row groups that were read last is held, about, for who asks for rows of many shards in
            about the order in which they lie in each.
    """

    def __init__(
        self,
        open_shard: Callable[[int], pa.NativeFile],
        starts: Sequence[int] | npt.NDArray[np.int64],
        columns: Sequence[str] | None = None,
        held_bytes: int = 0,
    ) -> None:
        self._open = open_shard
        self._starts = starts
        self._columns = columns
        self._most = held_bytes
        # Those that were read last, open, with the first rows of their row groups.
        self._files: OrderedDict[int, tuple[pq.ParquetFile, npt.NDArray[np.int64]]] = OrderedDict()
        self._held: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._held_bytes = 0

    def take(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        """At least one row, in the order asked for."""
        pieces, order = [], []
        for shard, places in by_part(self._starts, rows):
            inside = rows[places] - self._starts[shard]
            _, groups = self._file(shard)
            for group, within in by_part(groups, inside):
                pieces.append(_taken(self._group(shard, group), inside[within] - groups[group]))
                order.append(places[within])
        return _put_back(pieces, np.concatenate(order))

    def close(self) -> None:
        """Hold no shard open any more, and no rows; both come back when they are asked for."""
        for file, _ in self._files.values():
            file.close(force=True)
        self._files.clear()
        self._held.clear()
        self._held_bytes = 0

    def _file(self, shard: int) -> tuple[pq.ParquetFile, npt.NDArray[np.int64]]:
        found = self._files.pop(shard, None)
        if found is None:
            file = parquet_file(self._open(shard))
            known = file.metadata
            rows = (known.row_group(group).num_rows for group in range(known.num_row_groups))
            found = file, np.cumsum([0, *rows])
        self._files[shard] = found
        if len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1][0].close(force=True)
        return found

    def _group(self, shard: int, group: int) -> pa.Table:
        rows = self._held.pop((shard, group), None)
        if rows is None:
            file, _ = self._file(shard)
            rows = file.read_row_group(group, columns=self._columns, use_threads=False)
            self._held_bytes += rows.nbytes
        self._held[shard, group] = rows
        while self._held_bytes > self._most:
            self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return rows


def by_part(
    starts: Sequence[int] | npt.NDArray[np.int64], numbers: npt.NDArray[np.int64]
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """The parts that numbers fall into, by where parts start; with each the places of its numbers."""
    part_of = np.searchsorted(starts, numbers, side="right") - 1
    for part in np.unique(part_of):
        yield int(part), np.flatnonzero(part_of == part)


def total(shards: Iterable[Shard]) -> tuple[int, int]:
    """Rows and bytes of shards."""
    listed = list(shards)
    return sum(shard.rows for shard in listed), sum(shard.bytes for shard in listed)
