"""Parquet files with a column of vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.errors import RetrievalError, SourceError
from sd_assets.retrieval.corpora.columns import is_vector, kept_columns
from sd_assets.retrieval.corpora.corpus import (
    Corpus,
    Part,
    Reason,
    Reasons,
    Vectors,
    files_identity,
    rebatched,
)
from sd_assets.retrieval.corpora.files import outside_indices
from sd_assets.retrieval.corpora.parquet_rows import ParquetFile
from sd_assets.settings import ParquetCorpus
from sd_assets.sources.files import list_files


def parquet_corpus(settings: ParquetCorpus, path: str, where: str) -> Corpus:
    """The files in the order of their names.

    Args:
        settings: which columns.
        path: a file, folder or pattern, with its environment variables replaced.
        where: the section of the catalogue, for messages.

    Raises:
        RetrievalError: files are missing or damaged, or have no such columns.
    """
    try:
        folder, listed = list_files(path, (".parquet",))
    except SourceError as error:
        raise RetrievalError(str(error).replace("source.path", f"{where}.path")) from error
    paths = outside_indices(folder, listed)
    if not paths:
        raise RetrievalError(
            f"{where}.path: there is only what lies in index folders ({listed[0]}, ...): give the files that have the vectors"
        )
    files = [ParquetFile(file) for file in paths]
    column = settings.vector_column or _found(files[0].schema, paths[0], where)
    parts = [ParquetVectors(name, file, column) for name, file in zip(paths, files, strict=True)]
    columns, schema = kept_columns(
        {file.name: part.schema for file, part in zip(paths, parts, strict=True)},
        where,
        url_column=settings.url_column,
        text_column=settings.text_column,
        keep=settings.columns,
        without=(column,),
    )
    identity = f"{column} {files_identity(folder, paths)}"
    return Corpus(
        f"the column {column!r} of {len(parts)} Parquet files in {folder}", identity, parts, columns, schema
    )


def _found(schema: pa.Schema, path: Path, where: str) -> str:
    found = [field.name for field in schema if is_vector(field.type)]
    if len(found) == 1:
        return str(found[0])
    what = (
        f"several columns of vectors: {', '.join(found)}" if found else "no column that holds lists of floats"
    )
    raise RetrievalError(f"{path} has {what}; name the one to index in {where}.vector_column")


class ParquetVectors(Part):
    """A Parquet file of which one column holds the vectors, and the others are the metadata."""

    def __init__(self, path: Path, file: ParquetFile, column: str) -> None:
        self.name = path.name
        self._file = file
        self._column = column
        if column not in file.schema.names or not is_vector(file.schema.field(column).type):
            held = ", ".join(f"{field.name} ({field.type})" for field in file.schema)
            raise RetrievalError(f"{path} has no column {column!r} of lists of floats; it has: {held}")
        self.rows = file.rows
        self.schema = pa.schema([field for field in file.schema if field.name != column])

    @cached_property
    def widths(self) -> Mapping[int, int]:
        """As the type says, or else as the first rows have it."""
        kind = self._file.schema.field(self._column).type
        if pa.types.is_fixed_size_list(kind):
            return {kind.list_size: self.rows}
        for batch in self._file.batches([self._column], 0):
            lengths = lengths_of(batch.column(0))
            widths, counts = np.unique(lengths[lengths > 0], return_counts=True)
            if len(widths):
                scale = self.rows / len(lengths)
                return {
                    int(width): round(int(count) * scale) for width, count in zip(widths, counts, strict=True)
                }
        return {}

    def vectors(self, dim: int, start: int, rows: int) -> Iterator[tuple[Vectors, Reasons]]:
        schema = pa.schema([self._file.schema.field(self._column)])
        for batch in rebatched(self._file.batches([self._column], start), rows, schema):
            yield vectors_of(batch.column(0), dim)

    def metadata(self, start: int) -> Iterator[pa.RecordBatch]:
        return self._file.batches(self.schema.names, start)


def vectors_of(column: pa.Array, dim: int) -> tuple[Vectors, Reasons]:
    """A column of lists as vectors, see `Block`; a null, or a list of another width, has its reason."""
    lengths = lengths_of(column)
    reasons = np.full(len(column), Reason.NONE, np.uint8)
    reasons[lengths != dim] = Reason.WRONG_WIDTH
    reasons[lengths < 0] = Reason.MISSING
    good = reasons == Reason.NONE
    flat = (column if good.all() else column.filter(pa.array(good))).flatten()
    # A null among the numbers is a NaN, and judged as one.
    numbers = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
    if good.all():
        return numbers, reasons
    vectors = np.zeros((len(column), dim), numbers.dtype)
    vectors[good] = numbers
    return vectors, reasons


def lengths_of(column: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Of the lists of a column; -1 where there is none."""
    lengths = pc.list_value_length(column).cast(pa.int64()).fill_null(-1)
    found: np.ndarray[tuple[int], np.dtype[np.int64]] = lengths.to_numpy()
    return found
