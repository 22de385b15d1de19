"""Putting vectors into an index, a step at a time, in a way that a later process can go on with.

Of an index with inverted lists each step's codes are kept as files, and the index file is put together of them at the end: so
neither the index nor the corpus need fit the memory. Any other kind grows in memory, and is written as a whole now and then.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from sd_assets.retrieval.faiss_search import inverted_file_in
from sd_assets.retrieval.training import graph_in, transformed
from sd_assets.retrieval.workspace import replacing

Floats = npt.NDArray[np.float32]

# Of an index that grows in memory: seconds after which it is written, beside the next step.
KEPT_EVERY_S = 300.0
# Of the lists that are put together at once.
_LISTS_BYTES = 256 * 1024**2
_ID_BYTES = 8


class Store(Protocol):
    """An index that is being filled.

    Attributes:
        kept: steps, from the first on, that need not be done again.
    """

    kept: int

    def add(self, step: int, vectors: Floats) -> Callable[[], None]:
        """Add the vectors of a step (float32, shape (rows, dim)): what is still to be done to keep them, in any thread."""

    def write(self, path: Path) -> None:
        """Write the index file."""


def store_for(index: Any, folder: Path) -> Store:
    """How a trained, empty index is filled.

    Args:
        index: of FAISS, trained.
        folder: where steps are kept, and are found again.
    """
    head = _head(index)
    return _Growing(index, folder) if head is None else _Inverted(index, folder)


# --- inverted lists --------------------------------------------------------------------------------------------------


def _head(index: Any) -> bytes | None:
    """The file of an index with inverted lists up to these; None of an index that has none, or writes them otherwise."""
    import faiss

    ivf = inverted_file_in(index)
    # Their files end in the lists; those of kinds derived from them may not.
    if type(ivf) not in (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ):
        return None
    file: bytes = faiss.serialize_index(index).tobytes()
    empty = _LISTS.pack(b"ilar", ivf.nlist, ivf.code_size) + b"sprs" + struct.pack("<Q", 0)
    return file.removesuffix(empty) if file.endswith(empty) else None


# How FAISS begins inverted lists: their number, and the bytes of a code.
_LISTS = struct.Struct("<4sQQ")


class _Inverted:
    """Of each step three files: its codes, ordered by list; the list of each; and its place in the step."""

    def __init__(self, index: Any, folder: Path) -> None:
        self._index = index
        self._ivf = inverted_file_in(index)
        self._folder = folder
        self.kept = 0
        while self._file(self.kept, "lists.npy").exists():
            self.kept += 1

    def add(self, step: int, vectors: Floats) -> Callable[[], None]:
        import faiss

        inner = np.ascontiguousarray(transformed(self._index, vectors))
        lists = self._ivf.quantizer.assign(inner, 1)[:, 0] if len(inner) else np.empty(0, np.int64)
        codes = np.empty((len(inner), self._ivf.code_size), np.uint8)
        pointers = (faiss.swig_ptr(array) for array in (inner, lists, codes))
        if len(inner):
            self._ivf.encode_vectors(len(inner), *pointers)
        order = np.argsort(lists, kind="stable").astype(np.int32)

        def keep() -> None:
            _saved(self._file(step, "codes.npy"), codes[order])
            _saved(self._file(step, "places.npy"), order)
            # The last one: it says that all are there.
            _saved(self._file(step, "lists.npy"), lists[order].astype(np.int32))

        return keep

    def write(self, path: Path) -> None:
        """The lists of all steps, a range of them at a time; the vectors of a list in the order of their numbers."""
        steps = range(self.kept)
        sizes = np.zeros(self._ivf.nlist, np.int64)
        starts = [0]
        for step in steps:
            lists = np.load(self._file(step, "lists.npy"), mmap_mode="r")
            sizes += np.bincount(lists, minlength=len(sizes))
            starts.append(starts[-1] + len(lists))
        self._ivf.ntotal = self._index.ntotal = starts[-1]
        head = _head(self._index)
        assert head is not None
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(head)
            file.write(_LISTS.pack(b"ilar", len(sizes), self._ivf.code_size))
            file.write(b"full" + struct.pack("<Q", len(sizes)) + sizes.astype("<u8").tobytes())
            for first, behind in _ranges(sizes, self._ivf.code_size + _ID_BYTES):
                self._write_lists(file, first, behind, starts)

    def _write_lists(self, file: BinaryIO, first: int, behind: int, starts: list[int]) -> None:
        parts: list[tuple[Any, Any, Any]] = []
        for step, start in enumerate(starts[:-1]):
            lists = np.load(self._file(step, "lists.npy"), mmap_mode="r")
            here = slice(*np.searchsorted(lists, [first, behind]).tolist())
            # Copies: a step that stays mapped holds maps, of which a process may have some 65,000.
            codes = np.array(np.load(self._file(step, "codes.npy"), mmap_mode="r")[here])
            numbers = np.load(self._file(step, "places.npy"), mmap_mode="r")[here].astype("<i8") + start
            parts.append((np.array(lists[here]), codes, numbers))
        lists, codes, numbers = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(lists, kind="stable")
        codes, numbers = codes[order], numbers[order]
        bounds = np.searchsorted(lists[order], np.arange(first, behind + 1))
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            file.write(codes[start:end].tobytes())
            file.write(numbers[start:end].tobytes())

    def _file(self, step: int, kind: str) -> Path:
        return self._folder / f"{step:08d}.{kind}"


def _ranges(sizes: npt.NDArray[np.int64], row_bytes: int) -> Iterator[tuple[int, int]]:
    """Neighbouring lists, as many as fit `_LISTS_BYTES`, at least one: (first, behind the last)."""
    behind = np.cumsum(sizes * row_bytes)
    first = 0
    while first < len(sizes):
        before = behind[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(behind, before + _LISTS_BYTES, side="right")))
        yield first, last
        first = last


def _saved(path: Path, array: npt.NDArray[Any]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


# --- all other kinds -------------------------------------------------------------------------------------------------


class _Growing:
    """The whole index, written every `KEPT_EVERY_S` seconds.

    The levels of an HNSW graph are drawn for each step anew, so that they do not depend on where an earlier process was broken off.
    Its edges depend on how the threads that add to it race, as always in FAISS.
    """

    def __init__(self, index: Any, folder: Path) -> None:
        import faiss

        self._folder = folder
        self.kept = 0
        self._index: Any = faiss.downcast_index(index)
        found = sorted(folder.glob("grown-*.index"))
        if found:
            self._index = faiss.read_index(str(found[-1]))
            self.kept = int(found[-1].stem.partition("-")[2])
        self._written_at = time.monotonic()

    def add(self, step: int, vectors: Floats) -> Callable[[], None]:
        import faiss

        if isinstance(self._index, faiss.IndexHNSW):
            self._draw_levels(step, len(vectors))
        if len(vectors):
            self._index.add(vectors)
        if time.monotonic() - self._written_at >= KEPT_EVERY_S:
            self._keep(step + 1)
        return lambda: None

    def write(self, path: Path) -> None:
        _written(self._index, path)

    def _keep(self, steps: int) -> None:
        path = self._folder / f"grown-{steps:08d}.index"
        _written(self._index, path)
        for older in self._folder.glob("grown-*.index"):
            if older != path:
                older.unlink()
        self._written_at = time.monotonic()

    def _draw_levels(self, step: int, rows: int) -> None:
        import faiss

        graph = self._index.hnsw
        neighbours = graph.nb_neighbors(1)
        drawn = np.random.default_rng(step).geometric(1 - 1 / neighbours, rows)
        drawn = drawn.clip(max=graph.assign_probas.size()).astype(np.int32)
        levels = np.concatenate([faiss.vector_to_array(graph.levels), drawn])
        faiss.copy_array_to_vector(levels, graph.levels)


def _written(index: Any, path: Path) -> None:
    import faiss

    with replacing(path) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:  # which FAISS raises for a full disk as for all else
            raise OSError(f"{temporary}: {str(error).strip().splitlines()[-1]}") from error


def described(index: Any) -> dict[str, int | None]:
    """The search parameters that an index's file keeps: `nprobe` and `ef_search`, None where it has none."""
    ivf = inverted_file_in(index)
    graph = graph_in(index)
    return {
        "nprobe": None if ivf is None else int(ivf.nprobe),
        "ef_search": None if graph is None else int(graph.efSearch),
    }
