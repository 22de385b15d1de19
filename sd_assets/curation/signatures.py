"""What near-duplicates are found by: of each image the embedding and the perceptual hash, as arrays."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.curation.joining import columns_for
from sd_assets.errors import TableError
from sd_assets.storage.rows import as_array
from sd_assets.storage.table import Table


@dataclass(frozen=True)
class Signatures:
    """Of n images.

    Attributes:
        ids: n texts; null where not even the bytes could be read.
        vectors: float32, shape (n, dim), L2-normalised; zeros where there is none.
        has_vector: bool, shape (n,).
        hashes: uint64, shape (n,).
        has_hash: bool, shape (n,).
        models: the CLIPs of the vectors: one, or none.
    """

    ids: pa.Array
    vectors: npt.NDArray[np.float32]
    has_vector: npt.NDArray[np.bool_]
    hashes: npt.NDArray[np.uint64]
    has_hash: npt.NDArray[np.bool_]
    models: frozenset[str]

    def __len__(self) -> int:
        return len(self.ids)

    def without(self, gone: npt.NDArray[np.bool_]) -> "Signatures":
        """As if nothing were known of some of them, not even the id; `vectors` and the other arrays are overwritten.

        Args:
            gone: shape (n,).
        """
        for values in (self.vectors, self.has_vector, self.hashes, self.has_hash):
            values[gone] = 0
        return replace(self, ids=pc.if_else(pa.array(gone), None, self.ids))


def read_signatures(embeddings: Table, hashes: Table, file: Path, *, may_lack: bool = False) -> Signatures:
    """The rows of image_embeddings, with the hashes of image_quality.

    Args:
        embeddings: with the columns image_id, embedding and model.
        hashes: with the columns image_id and perceptual_hash; a row for each of those of `embeddings`. May be the same table.
        file: where the vectors are put, so that they need not be in memory: 3 GB of a million of 768 numbers each.
        may_lack: whether `hashes` may have no row for some of them, which then have no hash.

    Raises:
        TableError: the tables do not speak of the same images, or vectors have different lengths.
    """
    known = embeddings.read(["image_id", "model"])
    ids = as_array(known.column("image_id"))
    texts = columns_for(ids, hashes, ["perceptual_hash"], may_lack=may_lack)["perceptual_hash"].to_pylist()
    has_vector = np.zeros(len(ids), np.bool_)
    return Signatures(
        ids,
        _vectors(embeddings, has_vector, file),
        has_vector,
        np.array([int(text or "0", 16) for text in texts], np.uint64),
        np.array([text is not None for text in texts], np.bool_),
        frozenset(known.column("model").unique().drop_null().to_pylist()),
    )


def _vectors(table: Table, has_vector: npt.NDArray[np.bool_], file: Path) -> npt.NDArray[np.float32]:
    """The vectors of all rows, on disk; notes which rows have one."""
    vectors = np.empty((len(has_vector), 0), np.float32)
    start = 0
    for batch in table.batches(["embedding"]):
        lists = batch.column("embedding")
        present = start + np.flatnonzero(np.asarray(lists.is_valid()))
        values = np.asarray(lists.flatten(), np.float32)
        if len(present) and not vectors.shape[1]:
            dim = len(values) // len(present)
            vectors = np.memmap(file, np.float32, "w+", shape=(len(has_vector), dim))
        if values.size != len(present) * vectors.shape[1]:
            raise TableError(f"{table.uri}: its embeddings are not all of one length: materialize it again")
        vectors[present] = values.reshape(len(present), vectors.shape[1])
        has_vector[present] = True
        start += len(batch)
    return vectors
