"""Corpora that are pairs of files: clip-retrieval's and LAION-400M's, and DataComp's."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.errors import RetrievalError
from sd_assets_tests.retrieval.corpora.reading import opened, read, write_rows

RNG = np.random.default_rng(1)


def pair(
    vectors: Path,
    metadata: Path,
    rows: int,
    first: int,
    dim: int = 4,
    dtype: Any = np.float16,
    **columns: Any,
) -> Any:
    """Writes both; the vectors."""
    vectors.parent.mkdir(parents=True, exist_ok=True)
    array = RNG.standard_normal((rows, dim)).astype(dtype)
    np.save(vectors, array)
    write_rows(metadata, rows, first, **columns)
    return array


def urls(rows: list[dict[str, Any]]) -> list[int]:
    return [int(row["url"].removeprefix("http://h/").removesuffix(".jpg")) for row in rows]


@pytest.mark.parametrize(
    ("vectors", "metadata"),
    [
        ("img_emb/img_emb_{}.npy", "metadata/metadata_{}.parquet"),
        ("img_emb_{}.npy", "metadata_{}.parquet"),
        ("some/where/img_emb_{}.npy", "else/metadata_0{}.parquet"),
    ],
)
def test_pairs_go_by_number_wherever_they_lie(tmp_path: Path, vectors: str, metadata: str) -> None:
    arrays = [
        pair(tmp_path / vectors.format(number), tmp_path / metadata.format(number), 5, 10 * number)
        for number in (0, 2, 10)
    ]
    corpus = opened(kind="clip-retrieval", path=str(tmp_path))
    assert (corpus.rows, corpus.dim) == (15, 4)
    found = read(corpus)
    np.testing.assert_array_equal(found.vectors, np.concatenate(arrays))
    assert urls(found.rows) == [*range(5), *range(20, 25), *range(100, 105)]
    assert urls(read(corpus, start=3).rows) == [3, 4, 23, 24, 103, 104]
    np.testing.assert_array_equal(read(corpus, start=3).vectors[:2], arrays[0][3:])


def test_several_runs_come_one_after_the_other(tmp_path: Path) -> None:
    for place, run in enumerate(("a", "b")):
        pair(
            tmp_path / run / "img_emb" / "img_emb_0.npy",
            tmp_path / run / "metadata" / "metadata_0.parquet",
            2,
            10 * place,
        )
    assert urls(read(opened(kind="clip-retrieval", path=str(tmp_path))).rows) == [0, 1, 10, 11]
    pair(tmp_path / "a" / "img_emb_0.npy", tmp_path / "a" / "metadata_0.parquet", 2, 0)
    with pytest.raises(RetrievalError, match="have the same number 0: put each run into a folder of its own"):
        opened(kind="clip-retrieval", path=str(tmp_path))


def test_the_vectors_of_texts(tmp_path: Path) -> None:
    pair(tmp_path / "img_emb_0.npy", tmp_path / "metadata_0.parquet", 3, 0)
    np.save(tmp_path / "text_emb_0.npy", np.full((3, 6), 2, np.float32))
    found = read(opened(kind="clip-retrieval", path=str(tmp_path), vectors="text"))
    np.testing.assert_array_equal(found.vectors, np.full((3, 6), 2))


def test_laions_columns_get_the_names_that_back_answers_with(tmp_path: Path) -> None:
    np.save(tmp_path / "img_emb_0.npy", np.ones((2, 4), np.float16))
    laion = {
        "SAMPLE_ID": [1, 2],
        "URL": ["http://h/1", "http://h/2"],
        "TEXT": ["one", None],
        "LICENSE": ["?", "cc"],
        "NSFW": ["UNLIKELY", "NSFW"],
        "similarity": [0.3, 0.4],
        "WIDTH": [3.0, 4.0],
        "HEIGHT": [5, 6],
    }
    pq.write_table(pa.table(laion), tmp_path / "metadata_0.parquet")
    everything = opened(kind="clip-retrieval", path=str(tmp_path))
    names = ["SAMPLE_ID", "url", "caption", "license", "NSFW", "similarity", "width", "height"]
    assert everything.schema.names == names
    assert read(everything).rows[0] == dict(
        zip(names, [1, "http://h/1", "one", "?", "UNLIKELY", 0.3, 3.0, 5], strict=True)
    )
    few = opened(kind="clip-retrieval", path=str(tmp_path), columns=["SAMPLE_ID"])
    assert {"SAMPLE_ID", "url", "caption", "width"} <= set(few.schema.names)
    with pytest.raises(RetrievalError, match="there is no column 'sample'; there are: SAMPLE_ID, URL"):
        opened(kind="clip-retrieval", path=str(tmp_path), columns=["sample"])


def test_files_may_have_other_columns_or_nothing_but_nulls(tmp_path: Path) -> None:
    pair(tmp_path / "img_emb_0.npy", tmp_path / "metadata_0.parquet", 2, 0, caption=pa.nulls(2))
    pair(
        tmp_path / "img_emb_1.npy",
        tmp_path / "metadata_1.parquet",
        2,
        2,
        caption=pa.array(["a", "b"]).dictionary_encode(),
        width=[1, 2],
    )
    found = read(opened(kind="clip-retrieval", path=str(tmp_path)))
    assert [row["caption"] for row in found.rows] == [None, None, "a", "b"]
    assert [row["width"] for row in found.rows] == [None, None, 1, 2]
    pair(tmp_path / "img_emb_2.npy", tmp_path / "metadata_2.parquet", 2, 4, caption=[[1], [2]])
    with pytest.raises(
        RetrievalError, match=r"metadata_2.parquet: its columns do not fit those of the files before it"
    ):
        opened(kind="clip-retrieval", path=str(tmp_path))


def test_rows_without_a_url_have_their_reason(tmp_path: Path) -> None:
    vectors = np.ones((4, 4), np.float16)
    np.save(tmp_path / "img_emb_0.npy", vectors)
    values = ["http://h/1", None, "", "HTTPS://h/2"]
    pq.write_table(pa.table({"url": values}), tmp_path / "metadata_0.parquet")
    found = read(opened(kind="clip-retrieval", path=str(tmp_path)))
    assert found.reasons == ["none", "no_url", "no_url", "none"]
    # A path on somebody's disk is no URL.
    values = ["http://h/1", "/photos/1.jpg", "000000012", "HTTPS://h/2"]
    pq.write_table(pa.table({"image_path": values}), tmp_path / "metadata_0.parquet")
    corpus = opened(kind="clip-retrieval", path=str(tmp_path))
    assert read(corpus).reasons == ["none", "no_url", "no_url", "none"]
    assert "`image_path`" in corpus.hint


def test_an_index_among_the_files_is_no_corpus(tmp_path: Path) -> None:
    kinds = (("clip-retrieval", "img_emb_0.npy", "metadata_0.parquet"), ("datacomp", "a.npz", "a.parquet"))
    for kind, vectors, metadata in kinds:
        folder = tmp_path / kind
        write_rows(folder / "data" / metadata, 2)
        array = np.ones((2, 4), np.float16)
        if kind == "datacomp":
            np.savez(folder / "data" / vectors, l14_img=array)
        else:
            np.save(folder / "data" / vectors, array)
        for file in ("index/sd_assets.json", "theirs/image.index", ".index.building/made_from"):
            (folder / file).parent.mkdir()
            (folder / file).touch()
            write_rows(folder / Path(file).parent / "metadata" / "metadata_0.parquet", 2)
        assert opened(kind=kind, path=str(folder)).rows == 2


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match=r"indices.mine.corpus.path .*no cannot be listed: No such file"):
        opened(kind="clip-retrieval", path=str(tmp_path / "no"))


def test_a_damaged_compressed_array(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", 500)
    file = tmp_path / "a.npz"
    np.savez_compressed(file, l14_img=np.ones((500, 8), np.float16))
    data = bytearray(file.read_bytes())
    compressed = 30 + len("l14_img.npy") + int.from_bytes(data[28:30], "little")
    data[compressed] = 0xFF  # a block of a kind that there is not
    file.write_bytes(data)
    with pytest.raises(RetrievalError, match=r"a.npz cannot be read: .*invalid block type; fetch or make it"):
        opened(kind="datacomp", path=str(tmp_path))


def test_a_file_of_another_width_is_left_out(tmp_path: Path) -> None:
    pair(tmp_path / "img_emb_0.npy", tmp_path / "metadata_0.parquet", 2, 0, dim=8)
    pair(tmp_path / "img_emb_1.npy", tmp_path / "metadata_1.parquet", 7, 2)
    found = read(opened(kind="clip-retrieval", path=str(tmp_path)))
    assert found.reasons == ["wrong_width"] * 2 + ["none"] * 7


@pytest.mark.parametrize(
    ("array", "rows", "message"),
    [
        (np.zeros((3, 4), np.float16), 2, r"img_emb_0.npy has 3 vectors, and .*metadata_0.parquet 2 rows"),
        (np.zeros(3, np.float32), 3, r"expected an array of vectors.* found float32 of the shape \(3,\)"),
        (np.zeros((3, 4), np.int8), 3, r"found int8 of the shape \(3, 4\)"),
        (np.asfortranarray(np.zeros((3, 4), np.float32)), 3, r"in columns"),
    ],
)
def test_vectors_that_do_not_fit(tmp_path: Path, array: Any, rows: int, message: str) -> None:
    np.save(tmp_path / "img_emb_0.npy", array)
    write_rows(tmp_path / "metadata_0.parquet", rows)
    with pytest.raises(RetrievalError, match=message):
        opened(kind="clip-retrieval", path=str(tmp_path))


def test_files_that_are_missing_or_damaged(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kind": "clip-retrieval", "path": str(tmp_path)}
    with pytest.raises(RetrievalError, match=r"indices.mine.corpus.path: .* holds no img_emb_N.npy"):
        opened(**settings)
    pair(tmp_path / "img_emb_0.npy", tmp_path / "metadata_0.parquet", 2, 0)
    write_rows(tmp_path / "metadata_1.parquet", 2)
    with pytest.raises(RetrievalError, match=r"or metadata without vectors: .*metadata_1.parquet; add"):
        opened(**settings)
    whole = (tmp_path / "img_emb_0.npy").read_bytes()
    (tmp_path / "img_emb_1.npy").write_bytes(whole[:-1])
    with pytest.raises(RetrievalError, match=r"img_emb_1.npy is cut short: its header promises 2 rows"):
        opened(**settings)
    (tmp_path / "img_emb_1.npy").write_bytes(b"<html>")
    with pytest.raises(RetrievalError, match=r"img_emb_1.npy cannot be read"):
        opened(**settings)
    (tmp_path / "img_emb_1.npy").write_bytes(whole)
    (tmp_path / "metadata_1.parquet").write_bytes(b"")
    with pytest.raises(RetrievalError, match=r"metadata_1.parquet cannot be read as Parquet"):
        opened(**settings)
    pq.write_table(pa.table({"image_name": ["a", "b"]}), tmp_path / "metadata_1.parquet")
    pq.write_table(pa.table({"image_name": ["a", "b"]}), tmp_path / "metadata_0.parquet")
    with pytest.raises(RetrievalError, match=r"no column of URLs .*metadata_0.parquet has: image_name"):
        opened(**settings)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_datacomp(tmp_path: Path, save: Any) -> None:
    arrays = {}
    for number, uid in enumerate(("00ff", "0a01")):
        l14 = RNG.standard_normal((9, 8)).astype(np.float16)
        arrays[uid] = l14
        save(tmp_path / f"{uid}.npz", b32_img=l14[:, :4], b32_txt=-l14[:, :4], l14_img=l14, l14_txt=-l14)
        write_rows(
            tmp_path / f"{uid}.parquet",
            9,
            10 * number,
            uid=[uid] * 9,
            text=["t"] * 9,
            original_width=[640] * 9,
            clip_l14_similarity_score=[0.25] * 9,
            face_bboxes=[[[0.0, 1.0]]] * 9,
        )
    corpus = opened(kind="datacomp", path=str(tmp_path))
    assert (corpus.rows, corpus.dim, corpus.clip) == (18, 8, "ViT-L-14/openai")
    found = read(corpus, rows=4)
    np.testing.assert_array_equal(found.vectors, np.concatenate(list(arrays.values())))
    assert urls(found.rows) == [*range(9), *range(10, 19)]
    first = found.rows[0]
    assert (first["uid"], first["caption"], first["width"], first["face_bboxes"]) == (
        "00ff",
        "t",
        640,
        [[0.0, 1.0]],
    )
    np.testing.assert_array_equal(read(corpus, start=7).vectors[:2], arrays["00ff"][7:])
    part = corpus.parts[1]
    np.testing.assert_array_equal(part.sample(8, np.array([2, 7])), arrays["0a01"][[2, 7]])
    texts = opened(kind="datacomp", path=str(tmp_path), array="b32_txt")
    assert (texts.dim, texts.clip) == (4, "ViT-B-32/openai")
    assert texts.identity != corpus.identity
    np.testing.assert_array_equal(read(texts).vectors[:9], -arrays["00ff"][:, :4])


def test_datacomp_with_files_or_arrays_missing(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match=r"holds no .npz files"):
        opened(kind="datacomp", path=str(tmp_path))
    np.savez(tmp_path / "a.npz", b32_img=np.zeros((2, 4), np.float16))
    with pytest.raises(RetrievalError, match=r"without metadata of the same name.*a.npz"):
        opened(kind="datacomp", path=str(tmp_path))
    write_rows(tmp_path / "a.parquet", 2)
    with pytest.raises(RetrievalError, match=r"a.npz has no array 'l14_img'; it has: b32_img"):
        opened(kind="datacomp", path=str(tmp_path))
    write_rows(tmp_path / "b.parquet", 2)
    with pytest.raises(RetrievalError, match=r"or metadata without vectors: .*b.parquet"):
        opened(kind="datacomp", path=str(tmp_path), array="b32_img")
