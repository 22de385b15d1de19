"""Corpora in Parquet with a column of vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.errors import RetrievalError
from sd_assets_tests.retrieval.corpora.reading import opened, read, write_rows

KINDS = [
    pa.list_(pa.float16(), 4),
    pa.list_(pa.float32(), 4),
    pa.list_(pa.float64(), 4),
    pa.list_(pa.float16()),
    pa.list_(pa.float32()),
    pa.large_list(pa.float64()),
]
VECTORS = np.arange(40, dtype=np.float64).reshape(10, 4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_lists_of_any_kind(tmp_path: Path, kind: pa.DataType) -> None:
    for number, part in enumerate((VECTORS[:6], VECTORS[6:])):
        column = pa.array(list(part.astype(kind.value_type.to_pandas_dtype())), kind)
        write_rows(tmp_path / f"{number}.parquet", len(part), 6 * number, vector=column)
    corpus = opened(kind="parquet", path=str(tmp_path))
    assert (corpus.rows, corpus.dim, corpus.schema.names) == (10, 4, ["url"])
    found = read(corpus)
    assert found.vectors.dtype == kind.value_type.to_pandas_dtype()
    np.testing.assert_array_equal(found.vectors, VECTORS)
    assert [row["url"] for row in found.rows] == [f"http://h/{row}.jpg" for row in range(10)]
    later = read(corpus, rows=2, start=3)  # the row groups have four rows
    np.testing.assert_array_equal(later.vectors, VECTORS[[3, 4, 5, 9]])
    assert [row["url"] for row in later.rows] == [f"http://h/{row}.jpg" for row in (3, 4, 5, 9)]
    np.testing.assert_array_equal(corpus.parts[0].sample(4, np.array([0, 5])), VECTORS[[0, 5]])


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 4), pa.list_(pa.float32())], ids=str)
def test_rows_without_a_vector_or_of_another_width(tmp_path: Path, kind: pa.DataType) -> None:
    values: list[Any] = [list(map(float, range(4)))] * 9
    values[1] = None
    values[2] = [1.0, None, 3.0, 4.0]
    expected = ["none", "missing", "none", *["none"] * 6]
    if not pa.types.is_fixed_size_list(kind):
        values[4], values[5] = [1.0, 2.0], []
        expected[4] = expected[5] = "wrong_width"
    try:
        write_rows(tmp_path / "a.parquet", 9, vector=pa.array(values, kind))
    except pa.ArrowNotImplementedError:
        pytest.skip("this pyarrow (clip-retrieval's) cannot write such a file")
    found = read(opened(kind="parquet", path=str(tmp_path)))
    assert found.reasons == expected
    assert np.isnan(found.vectors[2, 1])  # a null in a vector is no number, and found out when it is judged
    np.testing.assert_array_equal(found.vectors[8], range(4))


def test_columns_that_are_named(tmp_path: Path) -> None:
    columns = {
        "image_vector": pa.array(list(VECTORS[:3]), pa.list_(pa.float32(), 4)),
        "text_vector": pa.array(list(VECTORS[:3]), pa.list_(pa.float32(), 4)),
        "link": ["http://a/1", "http://a/2", "http://a/3"],
        "says": ["x", "y", "z"],
        "more": [1, 2, 3],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    settings: dict[str, Any] = {"kind": "parquet", "path": str(tmp_path / "*.parquet")}
    with pytest.raises(
        RetrievalError, match=r"several columns of vectors: image_vector, text_vector; name the one"
    ):
        opened(**settings)
    with pytest.raises(RetrievalError, match=r"no column of URLs"):
        opened(**settings, vector_column="image_vector")
    corpus = opened(**settings, vector_column="image_vector", url_column="link", text_column="says")
    assert read(corpus).rows[0] == {"url": "http://a/1", "caption": "x", "more": 1}
    both = opened(**settings, vector_column="image_vector", url_column="link", columns=["text_vector"])
    assert both.schema.names == ["text_vector", "url"]
    with pytest.raises(RetrievalError, match=r"no column 'more' of lists of floats; it has: image_vector"):
        opened(**settings, vector_column="more")
    with pytest.raises(RetrievalError, match=r"indices.mine.corpus.url_column: there is no column 'URI'"):
        opened(**settings, vector_column="image_vector", url_column="URI")


def test_a_column_that_was_named_displaces_one_of_a_usual_name(tmp_path: Path) -> None:
    columns = {
        "vector": pa.array(list(VECTORS[:1]), pa.list_(pa.float32(), 4)),
        "url": ["http://cache/1"],
        "original_url": ["http://h/1"],
        "caption": ["IMG_1.jpg"],
        "blip": ["a dog"],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    settings: dict[str, Any] = {"kind": "parquet", "path": str(tmp_path)}
    named = opened(**settings, url_column="original_url", text_column="blip")
    assert read(named).rows == [
        {
            "corpus_url": "http://cache/1",
            "url": "http://h/1",
            "corpus_caption": "IMG_1.jpg",
            "caption": "a dog",
        }
    ]
    few = opened(**settings, url_column="original_url", text_column="blip", columns=[])
    assert read(few).rows == [{"url": "http://h/1", "caption": "a dog"}]
    usual = opened(**settings, url_column="url", text_column="caption", columns=["blip"])
    assert read(usual).rows == [{"url": "http://cache/1", "caption": "IMG_1.jpg", "blip": "a dog"}]


@pytest.mark.parametrize("path", [".", "**/*.parquet"])
def test_an_index_among_the_files_is_no_corpus(tmp_path: Path, path: str) -> None:
    vector = pa.array(list(VECTORS[:2]), pa.list_(pa.float32(), 4))
    write_rows(tmp_path / "more" / "a.parquet", 2, vector=vector)
    for file in ("index/sd_assets.json", "theirs/image.index"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
        write_rows(tmp_path / Path(file).parent / "metadata" / "metadata_0.parquet", 2)
    assert opened(kind="parquet", path=str(tmp_path / path)).rows == 2
    (tmp_path / "more" / "a.parquet").unlink()
    with pytest.raises(RetrievalError, match=r"indices.mine.corpus.path: .* only what lies in index folders"):
        opened(kind="parquet", path=str(tmp_path / path))


def test_a_value_that_does_not_fit_the_type_of_other_files(tmp_path: Path) -> None:
    vector = pa.array(list(VECTORS[:1]), pa.list_(pa.float32(), 4))
    write_rows(tmp_path / "a.parquet", 1, vector=vector, uid=[2**53 + 1])
    write_rows(tmp_path / "b.parquet", 1, vector=vector, uid=[0.5])
    with pytest.raises(RetrievalError, match=r"a.parquet: its column 'uid' .*9007199254740993"):
        read(opened(kind="parquet", path=str(tmp_path)))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match=r"indices.mine.corpus.path .* there is no .*no.parquet"):
        opened(kind="parquet", path=str(tmp_path / "no.parquet"))
    write_rows(tmp_path / "a.parquet", 2)
    with pytest.raises(RetrievalError, match=r"a.parquet has no column that holds lists of floats"):
        opened(kind="parquet", path=str(tmp_path))
