"""A folder that somebody brought: what is found in it, and what it is given."""

import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.brought import examined
from sd_assets.retrieval.layout import INDEX_FILE, METADATA_ARROW, METADATA_FOLDER, size_of
from sd_assets.retrieval.metadata import open_metadata
from sd_assets_tests.retrieval.conftest import DIM, ROWS


@pytest.fixture
def theirs(tmp_path: Path, vectors: npt.NDArray[np.float32], metadata: pa.Table) -> Path:
    """A folder as `clip-retrieval index` writes it."""
    folder = tmp_path / "theirs"
    (folder / METADATA_FOLDER).mkdir(parents=True)
    pq.write_table(metadata, folder / METADATA_FOLDER / "metadata_0.parquet")
    write(faiss.IndexFlatIP(DIM), vectors, folder)
    return folder


def write(index: Any, vectors: npt.NDArray[np.float32], folder: Path) -> None:
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(folder / INDEX_FILE))


def test_what_is_there_is_told_and_the_metadata_made_quick(theirs: Path) -> None:
    found = examined("theirs", theirs)
    assert (found.vectors, found.dim, found.metadata_rows, found.kind) == (ROWS, DIM, ROWS, "IndexFlatIP")
    assert found.note == "metadata.arrow was written"
    assert open_metadata("theirs", theirs).mapped
    files = [path for path in theirs.rglob("*") if path.is_file()]
    assert size_of(theirs) == sum(path.stat().st_size for path in files)
    before = (theirs / METADATA_ARROW).stat().st_mtime_ns
    assert examined("theirs", theirs).note == "metadata.arrow is there"
    assert (theirs / METADATA_ARROW).stat().st_mtime_ns == before


def test_metadata_of_other_files_is_written_anew(theirs: Path, metadata: pa.Table) -> None:
    examined("theirs", theirs)
    pq.write_table(metadata.slice(0, 3), theirs / METADATA_FOLDER / "metadata_1.parquet")
    assert not open_metadata("theirs", theirs).mapped
    found = examined("theirs", theirs)
    assert (found.note, found.metadata_rows, found.vectors) == ("metadata.arrow was written", ROWS + 3, ROWS)
    assert open_metadata("theirs", theirs).mapped


@pytest.mark.parametrize(
    ("factory", "kind"),
    [
        ("IVF4,Flat", "IndexIVFFlat, 4 lists, nprobe 3"),
        ("L2norm,IVF4,SQ8", "IndexPreTransform, IndexIVFScalarQuantizer, 4 lists, nprobe 3"),
        ("HNSW8", "IndexHNSWFlat, efSearch 40"),
    ],
)
def test_kinds(theirs: Path, vectors: npt.NDArray[np.float32], factory: str, kind: str) -> None:
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    setting = "efSearch=40" if "HNSW" in factory else "nprobe=3"
    parameters: Any = faiss.ParameterSpace()
    parameters.set_index_parameters(index, setting)
    write(index, vectors, theirs)
    assert examined("theirs", theirs).kind == kind


def test_a_folder_that_cannot_be_written_is_used_as_it_is(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, whatever the mode.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "the folder cannot be written: metadata is read from Parquet" in examined("theirs", theirs).note
    assert not (theirs / METADATA_ARROW).exists()


def test_what_does_not_belong_together_is_said(theirs: Path, metadata: pa.Table) -> None:
    pq.write_table(metadata.slice(1), theirs / METADATA_FOLDER / "metadata_0.parquet")
    with pytest.raises(
        RetrievalError, match=f"holds {ROWS} vectors, but the metadata .* only {ROWS - 1} rows"
    ):
        examined("theirs", theirs)
