"""What every kind of corpus gives: parts, and of each part its rows, a block at a time."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.batches import one_batch
from sd_assets.errors import RetrievalError
from sd_assets.retrieval.columns import chosen_columns, known_of

Vectors = npt.NDArray[np.floating[Any]]
Reasons = npt.NDArray[np.uint8]

# Rows that are read at once where only vectors are wanted.
_SAMPLED_AT_ONCE = 16_384


class Reason(IntEnum):
    """Why a row is left out of an index; 0: it is not."""

    NONE = 0
    NOT_FINITE = 1  # the vector holds NaN or infinity
    ZERO = 2  # the vector has no direction
    WRONG_WIDTH = 3  # it is not as wide as most
    MISSING = 4  # there is a row, but no vector
    NO_URL = 5  # nobody could download the image: there is no URL, or a path on somebody's disk


@dataclass(frozen=True)
class Block:
    """Some rows of a part, in order.

    Attributes:
        vectors: float16, float32 or float64, shape (rows, dim), as they lie there. Of rows with a reason they mean nothing.
        reasons: uint8, shape (rows,): a `Reason` each, as far as the reader can tell.
        metadata: a row each, with the columns of the corpus's `schema`.
    """

    vectors: Vectors
    reasons: Reasons
    metadata: pa.RecordBatch


class Part(ABC):
    """A file of vectors with its rows of metadata.

    Attributes:
        name: for messages.
        rows: that it has.
        schema: of its metadata, with the names as they are there.
    """

    name: str
    rows: int
    schema: pa.Schema

    @property
    @abstractmethod
    def widths(self) -> Mapping[int, int]:
        """How many of its rows have which width, as far as that is known without reading them all."""

    @abstractmethod
    def vectors(self, dim: int, start: int, rows: int) -> Iterator[tuple[Vectors, Reasons]]:
        """The vectors from row `start` on, in blocks of `rows` (the last may be shorter), see `Block`.

        Raises:
            RetrievalError: the file is damaged.
        """

    @abstractmethod
    def metadata(self, start: int) -> Iterator[pa.RecordBatch]:
        """The rows from `start` on, in batches of any size, with the names as they are there.

        Raises:
            RetrievalError: the file is damaged.
        """

    def sample(self, dim: int, places: npt.NDArray[np.int64]) -> Vectors:
        """The vectors in some places (ascending); those that are wrong are left out. Shape (at most places, dim)."""
        taken = []
        start = int(places[0]) if len(places) else 0
        for vectors, reasons in self.vectors(dim, start, _SAMPLED_AT_ONCE) if len(places) else ():
            first, behind = np.searchsorted(places, [start, start + len(vectors)])
            wanted = places[first:behind] - start
            taken.append(vectors[wanted[reasons[wanted] == Reason.NONE]])
            start += len(vectors)
            if behind == len(places):
                break
        return np.concatenate(taken) if taken else np.empty((0, dim), np.float32)


@dataclass(frozen=True)
class Corpus:
    """Vectors with metadata, in parts.

    Attributes:
        description: in words, for the record and for messages.
        identity: changes when the corpus does.
        parts: in order.
        columns: of the metadata that is kept: the name that each has in the parts, by the name that it gets.
        schema: of the metadata that is kept, with the names that it gets.
        clip: the model that made the vectors, where the corpus says so.
        hint: what to do where no row is good.
    """

    description: str
    identity: str
    parts: Sequence[Part]
    columns: Mapping[str, str]
    schema: pa.Schema
    clip: str | None = None
    hint: str = "check that the files are what you think they are"

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def dim(self) -> int:
        """The width that most vectors have.

        Raises:
            RetrievalError: there are no vectors.
        """
        widths: dict[int, int] = {}
        for part in self.parts:
            for width, rows in part.widths.items():
                widths[width] = widths.get(width, 0) + rows
        if not any(widths.values()):
            raise RetrievalError(f"{self.description} holds no vectors: {self.hint}")
        return max(widths, key=lambda width: (widths[width], width))

    @property
    def url_column(self) -> str:
        """The column that holds the URLs, by the name that it has in the parts."""
        return self.columns[chosen_columns(self.schema.names)["url"]]

    def blocks(self, part: Part, dim: int, start: int, rows: int) -> Iterator[Block]:
        """The rows of a part from `start` on, in blocks of `rows`.

        Raises:
            RetrievalError: a file is damaged, or a value does not fit the type that its column has in all files together.
        """
        renamed = (self._named(batch, part.name) for batch in part.metadata(start))
        batches = rebatched(renamed, rows, self.schema)
        for vectors, reasons in part.vectors(dim, start, rows):
            batch = next(batches, None)
            if batch is None or len(batch) != len(vectors):
                raise RetrievalError(
                    f"{part.name}: has fewer rows of metadata than its header says: it is damaged"
                )
            lacking = np.where((reasons == Reason.NONE) & ~self._with_url(batch), Reason.NO_URL, reasons)
            yield Block(vectors, lacking.astype(np.uint8), batch)

    def _with_url(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        ours = chosen_columns(self.schema.names)["url"]
        urls = known_of(batch.select([ours]), {"url": ours}).column("url")
        if self.url_column == "image_path":
            # `clip-retrieval inference` writes what it read there: a URL only if its files are named so.
            return np.asarray(pc.match_substring_regex(urls, "(?i)^https?://").fill_null(False))
        return np.asarray(urls.is_valid())

    def _named(self, batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
        arrays = []
        for field in self.schema:
            column = self.columns[field.name]
            if column in batch.schema.names:
                try:
                    arrays.append(batch.column(column).cast(field.type))
                except pa.ArrowException as error:
                    raise RetrievalError(
                        f"{name}: its column {column!r} does not fit {field.type}, the type that holds what other files have there "
                        f"({error}): write the column with one type in all files"
                    ) from error
            else:
                arrays.append(pa.nulls(len(batch), field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def rebatched(batches: Iterable[pa.RecordBatch], rows: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `rows`; the last may be shorter."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while count + len(batch) >= rows:
            head = rows - count
            yield _joined([*waiting, batch.slice(0, head)], schema)
            waiting, count, batch = [], 0, batch.slice(head)
        if len(batch):
            waiting.append(batch)
            count += len(batch)
    if waiting:
        yield _joined(waiting, schema)


def _joined(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    return one_batch(batches) if batches else pa.RecordBatch.from_pylist([], schema=schema)


def files_identity(folder: Path, files: Iterable[Path]) -> str:
    """A digest of the names, sizes and times of change of files: cheap on any size."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(
            f"{file.relative_to(folder).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode()
        )
    return digest.hexdigest()
