"""A local FAISS index in clip-retrieval's layout, memory-mapped; of the metadata only the rows that are hit are read."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.faiss_search import AS_THE_FILE_SAYS, SearchOptions, inverted_file_in, search
from sd_assets.retrieval.index import HITS, Answers, checked_queries, query_failed
from sd_assets.retrieval.layout import INDEX_FILE, METADATA_FOLDER
from sd_assets.retrieval.metadata import Metadata, edges_digest, metadata_files, open_metadata
from sd_assets.retrieval.record import IndexRecord

_log = logging.getLogger(__name__)

_Seen = list[tuple[int, int, int, int]]
"""Of every file where it lies, its size and when it was written: of another one it is another."""


class FaissIndex:
    """Implements `KnnIndex` over a folder that holds `image.index` and `metadata/*.parquet`.

    Args:
        name: of the index in the catalogue.
        folder: that it lies in.
        options: of each search.
    """

    local = True
    most = None
    calls_at_once = 1

    def __init__(self, name: str, folder: str | Path, options: SearchOptions = AS_THE_FILE_SAYS) -> None:
        self._name = name
        self._folder = Path(folder)
        self._options = options
        self._index: Any = None
        self._metadata: Metadata | None = None
        self._reconstructs = False
        self._lock = Lock()

    @cached_property
    def identity(self) -> str:
        """Of the files, wherever they lie, and of the options that override theirs.

        Of the files the edges count, so a change in the middle of a large one shows only where we built the index: its record
        says what of.
        """
        before = self._first_seen
        parts = ["faiss:" + edges_digest(self._folder, self._files())]
        record = IndexRecord.read(self._folder)
        if record is not None:
            parts.append(f"made_from={record.made_from}")
        parts += [f"{name}={value}" for name, value in asdict(self._options).items() if value is not None]
        self._still(before)
        return "#".join(parts)

    @property
    def dim(self) -> int | None:
        """Of the vectors; None before `open()`."""
        return None if self._index is None else int(self._index.d)

    @property
    def fields(self) -> frozenset[str] | None:
        """Those that the metadata has columns for; None before `open()`."""
        return None if self._metadata is None else self._metadata.fields

    @property
    def metadata(self) -> Metadata:
        """Of its images: as many rows as vectors, or more. Opens the index."""
        self.open()
        assert self._metadata is not None
        return self._metadata

    @property
    def mapped(self) -> Any:
        """The index of FAISS, mapped into memory. Opens it."""
        self.open()
        return self._index

    def open(self) -> None:
        """Map the index and read the footers of its metadata. Raises `RetrievalError`."""
        if self._index is not None:
            return
        import faiss

        before = self._first_seen

        # The older flag maps IVF only; the newer one, which not every FAISS has, Flat and HNSW too.
        flags = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP) | faiss.IO_FLAG_READ_ONLY
        try:
            index = faiss.read_index(str(self._index_file), flags)
        except RuntimeError as error:
            raise RetrievalError(
                f"index {self._name!r}: {self._index_file} is no FAISS index, or damaged; build it again ({error})"
            ) from error
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise RetrievalError(
                f"index {self._name!r}: {self._index_file} compares by a metric other than the inner product (FAISS metric "
                f"{index.metric_type}); build it with faiss.METRIC_INNER_PRODUCT over L2-normalised vectors"
            )
        metadata = open_metadata(self._name, self._folder)
        if metadata.rows < index.ntotal:
            raise RetrievalError(
                f"index {self._name!r}: {self._index_file} holds {index.ntotal} vectors, but the metadata in "
                f"{self._folder / METADATA_FOLDER} only {metadata.rows} rows: files are missing there, or belong to another index"
            )
        if metadata.rows > index.ntotal:
            # clip-retrieval serves such folders, so it may be meant.
            _log.warning(
                "index %r: %s has %d rows for %d vectors: if a file there belongs to another index and sorts first, every "
                "URL is wrong",
                self._name,
                self._folder / METADATA_FOLDER,
                metadata.rows,
                index.ntotal,
            )
        self._still(before)
        self._metadata = metadata
        self._index = index

    def close(self) -> None:
        """The mapped files go with the index."""

    def facts(self) -> dict[str, Any]:
        """Nothing that its identity does not say."""
        return {}

    def search(self, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """See `KnnIndex.search`. Quicker the more queries it has, up to some hundred; what each finds is the same."""
        self.open()
        assert self._metadata is not None
        vectors = checked_queries(queries, self.dim, self._name)
        failed: npt.NDArray[np.bool_] = np.logical_not(np.isfinite(vectors).all(axis=1))
        total = int(self._index.ntotal)
        k = min(k, total)
        if k < 1 or not len(vectors):
            nothing = np.empty(0, np.int64)
            return self._answers(
                nothing, nothing.astype(np.float32), nothing, np.ones(len(vectors), np.bool_), nothing
            )
        if failed.any():
            vectors = np.where(failed[:, None], np.float32(0), vectors)
        similarities, ids = search(self._index, vectors, k, self._options)
        found = (ids >= 0) & ~failed[:, None]  # fewer than k, perhaps
        exhausted = (ids[:, -1] < 0) | (k == total) | failed
        owners = np.repeat(np.arange(len(vectors)), found.sum(axis=1))
        return self._answers(owners, similarities[found], ids[found], exhausted, np.flatnonzero(failed))

    def _answers(
        self,
        owners: npt.NDArray[np.int64],
        similarities: npt.NDArray[np.float32],
        ids: npt.NDArray[np.int64],
        exhausted: npt.NDArray[np.bool_],
        failed: npt.NDArray[np.int64],
    ) -> Answers:
        """With what is known of the candidates, less those of which no URL is."""
        assert self._metadata is not None
        known = self._metadata.take(ids)
        if not self._metadata.mapped:  # but opened anew each time
            self._still(self._first_seen)
        if known.column("url").null_count:
            named = known.column("url").is_valid()
            kept = named.to_numpy(zero_copy_only=False)
            owners, similarities, ids = owners[kept], similarities[kept], ids[kept]
            known = known.filter(named)
        counts = np.bincount(owners, minlength=len(exhausted)).astype(np.int64)
        ranks = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = {
            **dict(zip(known.schema.names, known.columns, strict=True)),
            "rank": pa.array(ranks, pa.int32()),
            "similarity": pa.array(similarities, pa.float32()),
        }
        hits = pa.RecordBatch.from_arrays([columns[name] for name in HITS.names], schema=HITS)
        errors = {int(place): query_failed("the query holds NaN or infinity") for place in failed}
        return Answers(counts, hits, exhausted, errors, ids)

    def vectors(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """See `KnnIndex.vectors`.

        An inverted file does not know where a number lies: the first call reads the numbers of all its vectors, and keeps 8
        bytes for each from then on.

        Raises:
            RetrievalError: the index has no vector of such a number, or cannot give any.
        """
        self.open()
        with self._lock:
            if not self._reconstructs:
                inverted = inverted_file_in(self._index)
                if inverted is not None:
                    inverted.make_direct_map()
                self._reconstructs = True
        try:
            found: npt.NDArray[np.float32] = self._index.reconstruct_batch(np.asarray(ids, np.int64))
        except RuntimeError as error:
            raise RetrievalError(
                f"index {self._name!r}: {self._folder / INDEX_FILE} does not give its vectors: {error}"
            ) from error
        return found

    @cached_property
    def _first_seen(self) -> _Seen:
        return self._seen()

    def _seen(self) -> _Seen:
        try:
            states = [path.stat() for path in self._files()]
        except FileNotFoundError:  # since they were listed
            return []
        return [(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns) for state in states]

    def _still(self, before: _Seen) -> None:
        """Raise `RetrievalError` if the files are no longer those that were looked at first: numbers of the one index would be
        rows of the other one's metadata."""
        if self._seen() != before:
            raise RetrievalError(
                f"index {self._name!r}: {self._folder} was exchanged for another one while it was looked at: run this again"
            )

    def _files(self) -> list[Path]:
        return [self._index_file, *metadata_files(self._folder, f"index {self._name!r}: ")]

    @property
    def _index_file(self) -> Path:
        path = self._folder / INDEX_FILE
        if not path.is_file():
            raise RetrievalError(
                f"index {self._name!r}: there is no {path}; `indices: {self._name}: path:` in the catalogue must name a folder with "
                f"{INDEX_FILE} and {METADATA_FOLDER}/*.parquet, as clip-retrieval's `index` writes it"
            )
        return path
