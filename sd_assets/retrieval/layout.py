"""The folder layout that clip-retrieval's `index` writes and its `back` serves.

`image.index` is a FAISS index over inner products; `metadata/*.parquet`, sorted by name and concatenated, has the row i of its
vector i.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

INDEX_FILE = "image.index"
METADATA_FOLDER = "metadata"

_ROW_GROUP = 1_024


def write_index(folder: Path, embeddings: npt.NDArray[np.float32], metadata: pa.Table) -> None:
    """Write an exact index (Flat, inner product): right for up to some ten thousand vectors.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        embeddings: float32, shape (rows, dim), L2-normalised.
        metadata: a row per vector; needs a URL column (`columns.NAMES`).

    Raises:
        ValueError: the two do not fit.
    """
    import faiss

    vectors = np.ascontiguousarray(embeddings, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != metadata.num_rows:
        raise ValueError(
            f"{metadata.num_rows} rows of metadata do not fit embeddings of the shape {vectors.shape}"
        )
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    (folder / METADATA_FOLDER).mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(folder / INDEX_FILE))
    pq.write_table(metadata, folder / METADATA_FOLDER / "metadata_0000.parquet", row_group_size=_ROW_GROUP)
