"""A local FAISS index in clip-retrieval's layout, memory-mapped; of the metadata only the rows that are hit are read."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.columns import NAMES, chosen_columns, hit_of
from sd_assets.retrieval.index import Answer, Hit, checked_queries, query_failed
from sd_assets.retrieval.layout import INDEX_FILE, METADATA_FOLDER

_log = logging.getLogger(__name__)

# From 20 queries on, FAISS computes a Flat index with one matrix product, whose last bits depend on the batch. Smaller blocks
# keep the promise that a row's result does not depend on its batch.
_BLOCK = 16
_EDGE_BYTES = 1 << 20


class FaissIndex:
    """Implements `KnnIndex` over a folder that holds `image.index` and `metadata/*.parquet`."""

    local = True

    def __init__(self, name: str, folder: str | Path) -> None:
        self._name = name
        self._folder = Path(folder)
        self._index: Any = None
        self._metadata: _Metadata | None = None

    @cached_property
    def identity(self) -> str:
        """A digest of the files' names, sizes, and first and last MiB: cheap on any size, and the same wherever the folder lies."""
        digest = hashlib.sha256()
        for path in (self._index_file, *self._metadata_files):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(self._folder).as_posix()}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(_EDGE_BYTES))
                file.seek(max(0, size - _EDGE_BYTES))
                digest.update(file.read(_EDGE_BYTES))
        return f"faiss:{digest.hexdigest()}"

    @property
    def dim(self) -> int | None:
        """Of the vectors; None before `open()`."""
        return None if self._index is None else int(self._index.d)

    def open(self) -> None:
        """Map the index and read the footers of its metadata. Raises `RetrievalError`."""
        if self._index is not None:
            return
        import faiss

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
        metadata = _Metadata(self._name, self._metadata_files)
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
        self._metadata = metadata
        self._index = index

    def search(self, queries: npt.NDArray[np.float32], k: int) -> list[Answer]:
        """See `KnnIndex.search`. Each row group of the metadata is read at most once a call."""
        self.open()
        assert self._metadata is not None
        vectors = checked_queries(queries, self.dim, self._name)
        if not len(vectors):
            return []
        k = min(k, int(self._index.ntotal))
        if k < 1:
            return [[] for _ in vectors]
        blocks = [self._index.search(vectors[i : i + _BLOCK], k) for i in range(0, len(vectors), _BLOCK)]
        similarities = np.concatenate([block[0] for block in blocks])
        ids = np.concatenate([block[1] for block in blocks])
        rows = self._metadata.take(np.unique(ids[ids >= 0]))
        answers: list[Answer] = []
        for query, query_ids, query_similarities in zip(vectors, ids, similarities, strict=True):
            if not np.isfinite(query).all():
                answers.append(query_failed("the query holds NaN or infinity"))
                continue
            hits: list[Hit] = []
            for id_, similarity in zip(query_ids.tolist(), query_similarities.tolist(), strict=True):
                if id_ < 0:  # the index found fewer than k
                    continue
                hit = hit_of(rows[id_], self._metadata.columns, similarity, rank=len(hits))
                if hit is not None:
                    hits.append(hit)
            answers.append(hits)
        return answers

    @property
    def _index_file(self) -> Path:
        path = self._folder / INDEX_FILE
        if not path.is_file():
            raise RetrievalError(
                f"index {self._name!r}: there is no {path}; `indices: {self._name}: path:` in the catalogue must name a folder with "
                f"{INDEX_FILE} and {METADATA_FOLDER}/*.parquet, as clip-retrieval's `index` writes it"
            )
        return path

    @property
    def _metadata_files(self) -> list[Path]:
        folder = self._folder / METADATA_FOLDER
        paths = sorted(folder.glob("*.parquet"))
        if not paths:
            raise RetrievalError(
                f"index {self._name!r}: there are no Parquet files in {folder}; copy the metadata that belongs to "
                f"{INDEX_FILE} there (row i of the files, sorted by name, is vector i)"
            )
        return paths


class _Metadata:
    """Rows by position over several Parquet files, without holding them in memory.

    Attributes:
        rows: in all files together.
        columns: for each field of a hit the column that holds it.
    """

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self._name = name
        # The position of the first row of every row group, and which it is.
        starts: list[int] = []
        self._groups: list[tuple[Path, int]] = []
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
        self.columns = chosen_columns(present or set())
        if "url" not in self.columns:
            raise RetrievalError(
                f"index {name!r}: the metadata in {paths[0].parent} has no column of URLs that all files share; looked for "
                f"{', '.join(NAMES['url'])}, the first file has {', '.join(sorted(present or set()))}"
            )

    def take(self, positions: npt.NDArray[np.int64]) -> dict[int, dict[str, Any]]:
        """The rows at these positions (ascending, distinct): their metadata by column name."""
        taken: dict[int, dict[str, Any]] = {}
        owners = np.searchsorted(self._starts, positions, side="right") - 1
        for owner in np.unique(owners):
            path, group = self._groups[owner]
            wanted = positions[owners == owner]
            try:
                table = self._opened(path).read_row_group(group, columns=list(self.columns.values()))
            except (pa.ArrowException, OSError) as error:
                raise RetrievalError(f"index {self._name!r}: cannot read {path}: {error}") from error
            found = table.take(pa.array(wanted - self._starts[owner])).to_pylist()
            taken.update(zip(wanted.tolist(), found, strict=True))
        return taken

    def _opened(self, path: Path) -> Any:
        try:
            return pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowException, OSError) as error:
            raise RetrievalError(f"index {self._name!r}: cannot read {path}: {error}") from error
