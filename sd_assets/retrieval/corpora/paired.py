"""A part that is two files: vectors in NumPy's format, metadata in Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.corpora.arrays import VectorFile
from sd_assets.retrieval.corpora.corpus import Part, Reasons, Vectors
from sd_assets.retrieval.corpora.parquet_rows import ParquetFile

_SHOWN = 5


def refuse_alone(alone: Sequence[str], same: str, where: str) -> None:
    """Raise `RetrievalError` if there are files without their other half.

    Args:
        alone: these files.
        same: what the two would have in common.
        where: the field of the catalogue, for the message.
    """
    if alone:
        more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
        raise RetrievalError(
            f"{where}: vectors without metadata of the same {same}, or metadata without vectors: "
            f"{', '.join(alone[:_SHOWN])}{more}; add what is missing, or take these away"
        )


class PairedFiles(Part):
    """Row i of the Parquet file belongs to vector i.

    Args:
        vectors: a .npy or .npz file.
        metadata: a Parquet file.
        array: of the .npz file.

    Attributes:
        file: name of the Parquet file.

    Raises:
        RetrievalError: one of the two is damaged, or they have different numbers of rows.
    """

    def __init__(self, vectors: Path, metadata: Path, array: str | None = None) -> None:
        self._vectors = VectorFile(vectors, array)
        self._metadata = ParquetFile(metadata)
        if self._vectors.rows != self._metadata.rows:
            raise RetrievalError(
                f"{vectors} has {self._vectors.rows} vectors, and {metadata} {self._metadata.rows} rows: they do not belong "
                "together, or one is not complete; fetch or make them again"
            )
        self.name = self._vectors.name
        self.file = metadata.name
        self.rows = self._vectors.rows
        self.schema = self._metadata.schema

    @property
    def widths(self) -> Mapping[int, int]:
        return {self._vectors.width: self.rows}

    def vectors(self, dim: int, start: int, rows: int) -> Iterator[tuple[Vectors, Reasons]]:
        return self._vectors.blocks(dim, start, rows)

    def metadata(self, start: int) -> Iterator[pa.RecordBatch]:
        return self._metadata.batches(self.schema.names, start)

    def sample(self, dim: int, places: npt.NDArray[np.int64]) -> Vectors:
        sampled = self._vectors.sample(dim, places)
        return super().sample(dim, places) if sampled is None else sampled
