"""A folder in clip-retrieval's layout that somebody brought: what it holds, and what it lacks to be quick."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_assets.retrieval.faiss_index import FaissIndex
from sd_assets.retrieval.layout import METADATA_ARROW
from sd_assets.retrieval.metadata import write_metadata_arrow


@dataclass(frozen=True)
class Brought:
    """What was found.

    Attributes:
        vectors: in the index.
        dim: of the vectors.
        kind: of index, in FAISS's words: `IndexIVFFlat, 4096 lists, nprobe 32`.
        metadata_rows: rows in `metadata/`; more than vectors, where clip-retrieval left some of another index.
        note: what was written, or why nothing was.
    """

    vectors: int
    dim: int
    kind: str
    metadata_rows: int
    note: str


def examined(name: str, folder: Path) -> Brought:
    """Check a folder as a query would, and write the metadata for quick access into it if it is not there.

    Raises:
        RetrievalError: the index or its metadata are missing, damaged, or do not belong together.
    """
    index = FaissIndex(name, folder)
    metadata = index.metadata
    return Brought(
        vectors=int(index.mapped.ntotal),
        dim=int(index.mapped.d),
        kind=_described(index.mapped),
        metadata_rows=metadata.rows,
        note=f"{METADATA_ARROW} is there" if metadata.mapped else _mapped_metadata(folder),
    )


def _mapped_metadata(folder: Path) -> str:
    """Write what makes metadata quick; says whether that could be done."""
    slower = "metadata is read from Parquet, which is slower"
    if not os.access(folder, os.W_OK):
        return f"there is no {METADATA_ARROW} of these files, and the folder cannot be written: {slower}"
    try:
        write_metadata_arrow(folder)
    except OSError as error:
        return f"{METADATA_ARROW} could not be written ({error.strerror}): {slower}"
    return f"{METADATA_ARROW} was written"


def _described(index: Any) -> str:
    """The kind of an index of FAISS, from the outside in."""
    import faiss

    words = []
    inner: Any = index
    while True:
        inner = faiss.downcast_index(inner)
        words.append(type(inner).__name__)
        if hasattr(inner, "nlist"):
            words += [f"{inner.nlist} lists", f"nprobe {inner.nprobe}"]
        if hasattr(inner, "hnsw"):
            words.append(f"efSearch {inner.hnsw.efSearch}")
        if not hasattr(inner, "index") or inner.index is None:
            return ", ".join(words)
        inner = inner.index
