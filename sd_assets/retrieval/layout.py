"""The folder layout that clip-retrieval's `index` writes and its `back` serves.

`image.index` is a FAISS index over inner products; `metadata/*.parquet`, sorted by name and concatenated, has the row i of its
vector i.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

INDEX_FILE = "image.index"
METADATA_FOLDER = "metadata"
METADATA_ARROW = "metadata.arrow"


def workspace_of(folder: Path) -> Path:
    """Where an index folder is built: beside it."""
    return folder.with_name(f".{folder.name}.building")


def is_workspace(folder: Path) -> bool:
    """Whether an index is, or was, being built in this folder."""
    return folder.name.startswith(".") and folder.name.endswith(".building")


def size_of(folder: Path) -> int:
    """Bytes of an index folder: of the index and its metadata."""
    files = [folder / INDEX_FILE, folder / METADATA_ARROW, *(folder / METADATA_FOLDER).glob("*.parquet")]
    return sum(path.stat().st_size for path in files if path.exists())


def write_index(
    folder: Path, embeddings: npt.NDArray[np.float32], metadata: pa.Table, clip: str | None = None
) -> None:
    """Build an exact index (Flat) of what is in memory: right for up to some ten thousand vectors.

    Args:
        folder: made if it is not there; an index that was built there before is replaced.
        embeddings: float32, shape (rows, dim); they are L2-normalised.
        metadata: a row per vector; needs a URL column (`columns.NAMES`).
        clip: the model that made the vectors.

    Raises:
        ValueError: the two do not fit.
        RetrievalError: there is no column of URLs; or the folder holds something else.
    """
    # Both know the layout.
    from sd_assets.retrieval.build import build_index
    from sd_assets.retrieval.corpora.memory import memory_corpus
    from sd_assets.settings import IndexBuildSettings

    corpus = memory_corpus(embeddings, metadata, clip)
    build_index(corpus, IndexBuildSettings(factory="Flat"), folder, lambda line: None)
