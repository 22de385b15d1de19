"""Rows to hashes: the one way in which rows are compared, named, ordered and counted as changed."""

import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

DIGEST_BYTES = 16
_NULL = b"\x00"
_LENGTH = struct.Struct("<BQ")
_COUNT = struct.Struct("<Q")


def row_digests(rows: pa.RecordBatch, columns: Sequence[str], *, salt: bytes = b"") -> list[bytes]:
    """A 16-byte BLAKE2b digest of some columns of each row.

    Equal values give equal digests whatever batch, chunk or file they come from. Every value is preceded by its
    length, so that ("ab", "c") and ("a", "bc") differ; null differs from empty.

    Args:
        rows: n rows.
        columns: the columns that count; their names and order count too.
        salt: what else counts, for all rows alike.

    Returns:
        n digests of 16 bytes.
    """
    start = hashlib.blake2b(salt, digest_size=DIGEST_BYTES)
    start.update("\x1f".join(columns).encode())
    digests = []
    encoded = [_encoded(rows.column(name)) for name in columns]
    for row in range(rows.num_rows):
        digest = start.copy()
        for column in encoded:
            value = column[row]
            if value is None:
                digest.update(_NULL)
            else:
                digest.update(_LENGTH.pack(1, len(value)))
                digest.update(value)
        digests.append(digest.digest())
    return digests


def joined(parts: Iterable[bytes]) -> bytes:
    """One 16-byte digest of parts in their order; how they were cut does not count, so let them be of fixed length."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def json_digest(*parts: Any) -> bytes:
    """A 16-byte digest of JSON values in their order; the order of the names of a mapping does not count."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=DIGEST_BYTES).digest()


def _encoded(column: pa.Array) -> Sequence[bytes | memoryview | None]:
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_string(kind):
        return list(_views(column))
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        return list(_vectors(column))
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        return list(_lists(column))
    return [None if value is None else _canonical(value).encode() for value in column.to_pylist()]


def _views(column: pa.Array) -> Iterator[memoryview | None]:
    """Binary values or texts where they lie: an image is not copied to be hashed."""
    _, offsets, data = column.buffers()
    values = memoryview(data if data is not None else b"")
    ends = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4).tolist() if offsets else [0]
    present = column.is_valid().to_pylist() if column.null_count else itertools.repeat(True)
    for start, end, there in zip(ends, ends[1:], present, strict=False):
        yield values[start:end] if there else None


def _vectors(column: pa.Array) -> Iterator[bytes | None]:
    # `values` ignores the array's offset; `offsets` does not, and points into it.
    values, offsets = np.asarray(column.values), np.asarray(column.offsets)
    for start, end, present in zip(offsets, offsets[1:], column.is_valid().to_pylist(), strict=False):
        yield values[start:end].tobytes() if present else None


def _lists(column: pa.Array) -> Iterator[bytes | None]:
    """Lists of structs, without a Python object for each value: a query's hits have a thousand."""
    ends = np.concatenate([[0], np.cumsum(pc.list_value_length(column).fill_null(0))]).tolist()
    items = list(_leaves(column.flatten()))
    for start, end, present in zip(ends, ends[1:], column.is_valid().to_pylist(), strict=False):
        # The number of items first: so the bytes of one leaf are not taken for those of the next.
        number = _COUNT.pack(end - start)
        yield b"".join([number, *(bytes_of(start, end) for bytes_of in items)]) if present else None


def _leaves(items: pa.Array) -> Iterator[Callable[[int, int], bytes]]:
    """What gives the bytes of the items from one number to another: of items with equal values, equal bytes."""
    kind = items.type
    yield _numbers(np.asarray(items.is_valid()))
    if pa.types.is_struct(kind):
        for field in items.flatten():  # null where the struct is
            yield from _leaves(field)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        ends = np.concatenate([[0], np.cumsum(pc.binary_length(items).fill_null(0))])
        yield _numbers(np.diff(ends))
        data = b"".join(it for it in items.cast(pa.binary()).to_pylist() if it)
        yield lambda start, end: data[ends[start] : ends[end]]
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        yield _numbers(np.asarray(items.fill_null(0)))
    else:
        texts = [_canonical(value).encode() for value in items.to_pylist()]
        yield _numbers(np.array([len(text) for text in texts]))
        yield lambda start, end: b"".join(texts[start:end])


def _numbers(values: npt.NDArray[Any]) -> Callable[[int, int], bytes]:
    return lambda start, end: values[start:end].tobytes()


def _canonical(value: Any) -> str:
    """A text that is equal exactly if the value is. Python's repr of floats and strings round-trips."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name!r}:{_canonical(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return repr(value)
