"""The local index, over real FAISS and real Parquet."""

import shutil
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.errors import CatalogError, ErrorCode, RetrievalError, RowError
from sd_assets.retrieval import KnnIndex, faiss_index, open_index
from sd_assets.retrieval.faiss_index import FaissIndex
from sd_assets.retrieval.layout import write_index
from sd_assets.retrieval.metadata import Metadata, open_metadata, write_metadata_arrow
from sd_assets.retrieval.selection import Selection
from sd_assets.settings import FaissIndexSettings, RetrievalSettings
from sd_assets_tests.retrieval.answers import Hit, asked
from sd_assets_tests.retrieval.conftest import DIM, ROWS, normalised

Vectors = npt.NDArray[np.float32]


def opened(folder: Path) -> KnnIndex:
    index = open_index(
        "rooms", FaissIndexSettings(kind="faiss", path=str(folder)), RetrievalSettings(index="rooms")
    )
    index.open()
    return index


def hits(answer: list[Hit] | RowError) -> list[Hit]:
    assert isinstance(answer, list)
    return answer


def test_the_nearest_come_first_with_what_the_corpus_knows(folder: Path, vectors: Vectors) -> None:
    index = opened(folder)
    assert index.dim == DIM
    assert index.local
    answers = asked(index, vectors[[3, 7]], 5)
    assert [len(hits(answer)) for answer in answers] == [5, 5]
    first, seventh = hits(answers[0])[0], hits(answers[1])[0]
    assert first.url == "http://h/3.jpg"
    assert first.rank == 0
    assert first.similarity == pytest.approx(1, abs=1e-5)
    assert first.width is None  # NaN in the corpus
    assert (seventh.alt_text, seventh.width, seventh.height) == (None, 107, 207)
    assert (seventh.licence, seventh.nsfw, seventh.sha256) == ("cc-by", "0.25", f"{7:064x}")
    expected = np.argsort(-(vectors @ vectors[7]))[:5]
    assert [hit.url for hit in hits(answers[1])] == [f"http://h/{i}.jpg" for i in expected]
    assert [hit.rank for hit in hits(answers[1])] == list(range(5))


def test_more_than_there_is_and_nothing_asked(folder: Path, vectors: Vectors) -> None:
    index = opened(folder)
    assert len(hits(asked(index, vectors[:1], 10_000)[0])) == ROWS
    assert asked(index, np.empty((0, DIM), np.float32), 5) == []


def test_a_result_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    corpus = normalised(random.standard_normal((3_000, 96)))
    write_index(tmp_path / "index", corpus, pa.table({"url": [f"http://h/{i}" for i in range(len(corpus))]}))
    index = opened(tmp_path / "index")
    queries = normalised(random.standard_normal((50, 96)))
    together = asked(index, queries, 10)
    alone = [asked(index, query[None], 10)[0] for query in queries]
    assert together == alone


def test_metadata_over_several_files_and_row_groups(folder: Path, vectors: Vectors) -> None:
    whole = pq.read_table(folder / "metadata" / "metadata_0000.parquet")
    (folder / "metadata" / "metadata_0000.parquet").unlink()
    for number, start in enumerate(range(0, ROWS, 25)):
        pq.write_table(
            whole.slice(start, 25), folder / "metadata" / f"metadata_{number}.parquet", row_group_size=4
        )
    answers = asked(opened(folder), vectors, 1)
    assert [hits(answer)[0].url for answer in answers] == [f"http://h/{i}.jpg" for i in range(ROWS)]


def test_ids_that_the_index_does_not_fill_are_dropped(folder: Path, vectors: Vectors) -> None:
    index = faiss.IndexHNSWFlat(DIM, 2, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    faiss.write_index(
        index, str(folder / "image.index")
    )  # a graph so thin that a walk does not come everywhere
    found = hits(asked(opened(folder), vectors[:1], ROWS)[0])
    assert 0 < len(found) < ROWS
    assert [hit.rank for hit in found] == list(range(len(found)))


def test_rows_without_a_url_are_dropped(folder: Path, vectors: Vectors) -> None:
    file = folder / "metadata" / "metadata_0000.parquet"
    table = pq.read_table(file)
    urls = [None if i == 4 else url for i, url in enumerate(table["URL"].to_pylist())]
    pq.write_table(table.set_column(0, "URL", pa.array(urls, pa.string())), file)
    found = hits(asked(opened(folder), vectors[4:5], 3)[0])
    assert len(found) == 2
    assert found[0].rank == 0


def test_a_query_of_nan_fails_alone(folder: Path, vectors: Vectors) -> None:
    queries = np.concatenate([np.full((1, DIM), np.nan, np.float32), vectors[:1]])
    failed, answered = asked(opened(folder), queries, 3)
    assert isinstance(failed, RowError)
    assert failed.code is ErrorCode.QUERY_FAILED
    assert len(hits(answered)) == 3


def test_the_identity_is_of_the_content(folder: Path, tmp_path: Path) -> None:
    before = opened(folder).identity
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert opened(tmp_path / "elsewhere").identity == before
    file = folder / "metadata" / "metadata_0000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "TEXT", pa.array(["other"] * ROWS)), file)
    assert opened(folder).identity != before


def test_the_identity_of_what_we_built_changes_in_the_middle_too(tmp_path: Path) -> None:
    corpus = normalised(np.random.default_rng(0).standard_normal((70_000, DIM)))
    urls = pa.table({"url": [f"http://h/{number}" for number in range(len(corpus))]})
    identities = []
    for negated in (slice(0), slice(34_000, 36_000)):
        corpus[negated] *= -1
        write_index(tmp_path / "index", corpus, urls)
        identities.append(opened(tmp_path / "index").identity)
    assert len(set(identities)) == 2
    shutil.copytree(tmp_path / "index", tmp_path / "elsewhere")
    assert opened(tmp_path / "elsewhere").identity == identities[-1]


def test_an_index_exchanged_later_is_refused_where_its_metadata_is_not_mapped(
    folder: Path, vectors: Vectors, metadata: pa.Table
) -> None:
    (folder / "metadata.arrow").unlink()
    write_index(folder.with_name("other"), -vectors, metadata)
    from_parquet = opened(folder)
    assert hits(asked(from_parquet, vectors[3:4], 1)[0])[0].url == "http://h/3.jpg"
    folder.rename(folder.with_name("gone"))
    folder.with_name("other").rename(folder)
    with pytest.raises(RetrievalError, match="was exchanged for another one"):
        from_parquet.search(vectors[3:4], 1)
    mapped = opened(folder)
    folder.rename(folder.with_name("gone too"))
    assert hits(asked(mapped, -vectors[3:4], 1)[0])[0].url == "http://h/3.jpg"  # what is mapped stays


@pytest.mark.parametrize("looked", ["before", "while"])
def test_an_index_exchanged_while_it_is_opened_is_refused(
    folder: Path, vectors: Vectors, metadata: pa.Table, monkeypatch: pytest.MonkeyPatch, looked: str
) -> None:
    other = folder.with_name("other")
    write_index(other, -vectors, metadata)

    def exchange() -> None:
        folder.rename(folder.with_name("gone"))
        other.rename(folder)

    index = FaissIndex("rooms", folder)
    if looked == "before":
        index.identity  # noqa: B018 - the looking is what counts
        exchange()
    else:

        def exchanged_before(name: str, folder: Path) -> Metadata:
            exchange()
            return open_metadata(name, folder)

        monkeypatch.setattr(faiss_index, "open_metadata", exchanged_before)
    with pytest.raises(RetrievalError, match="was exchanged for another one"):
        index.open()
    monkeypatch.undo()
    assert hits(asked(opened(folder), -vectors[3:4], 1)[0])[0].url == "http://h/3.jpg"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no folder", "there is no"),
        ("no metadata", "no Parquet files"),
        ("few rows", "holds 60 vectors"),
        ("no url", "no column of URLs"),
        ("garbage index", "no FAISS index, or damaged"),
        ("cut index", "no FAISS index, or damaged"),
        ("garbage metadata", "cannot read"),
        ("l2", "other than the inner product"),
    ],
)
def test_a_broken_folder_is_one_clear_error(
    folder: Path, vectors: Vectors, damage: str, message: str
) -> None:
    image, file = folder / "image.index", folder / "metadata" / "metadata_0000.parquet"
    match damage:
        case "no folder":
            shutil.rmtree(folder)
        case "no metadata":
            file.unlink()
        case "few rows":
            pq.write_table(pq.read_table(file).slice(1), file)
        case "no url":
            pq.write_table(pq.read_table(file).drop_columns(["URL"]), file)
        case "garbage index":
            image.write_bytes(b"garbage" * 50)
        case "cut index":
            image.write_bytes(image.read_bytes()[:300])
        case "garbage metadata":
            file.write_bytes(b"garbage" * 50)
        case "l2":
            index = faiss.IndexFlatL2(DIM)
            index.add(vectors)
            faiss.write_index(index, str(image))
    with pytest.raises(RetrievalError, match=message) as error:
        opened(folder)
    assert "'rooms'" in str(error.value)
    assert str(folder) in str(error.value)


def test_queries_of_another_model(folder: Path) -> None:
    with pytest.raises(RetrievalError, match=r"8 dimensions, the queries have 5: `clip:`"):
        asked(opened(folder), np.zeros((2, 5), np.float32), 3)


def inverted_file(folder: Path, vectors: Vectors) -> None:
    """Replace the index by one of eight cells, of which a search looks into one."""
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(folder / "image.index"))


def test_the_catalogue_says_how_far_a_search_goes(folder: Path, vectors: Vectors) -> None:
    inverted_file(folder, vectors)
    settings = {"kind": "faiss", "path": str(folder)}
    found = {}
    for nprobe in (None, 1, 8):
        index = open_index(
            "rooms", FaissIndexSettings.model_validate({**settings, "nprobe": nprobe}), RetrievalSettings()
        )
        assert (
            index.search(vectors, ROWS).counts.tolist() == [ROWS] * ROWS
        )  # further, where there are too few
        answers = index.search(vectors, 2)
        assert answers.hits.column("similarity").null_count == 0
        found[nprobe] = (sum(answers.hits.column("similarity").to_pylist()), index.identity)
    assert found[None][0] == found[1][0] < found[8][0]
    assert len({identity for _, identity in found.values()}) == 3  # it changes what is found
    with_ef = FaissIndexSettings.model_validate({**settings, "ef_search": 9})
    assert open_index("rooms", with_ef, RetrievalSettings()).identity == f"{found[None][1]}#ef_search=9"


def test_filters_reach_beyond_the_cells_that_are_looked_into_first(folder: Path, vectors: Vectors) -> None:
    inverted_file(folder, vectors)
    settings = RetrievalSettings.model_validate({"images_per_query": 10, "filters": {"min_width": 150}})
    selected = Selection(opened(folder), settings).select(vectors, pa.array(["text"] * ROWS))
    assert selected.counts.tolist() == [10] * ROWS
    assert set(selected.hits.column("url").to_pylist()) == {f"http://h/{i}.jpg" for i in range(50, ROWS)}


def test_answers_are_columns(folder: Path, vectors: Vectors) -> None:
    index = opened(folder)
    answers = index.search(vectors[[3, 7]], 5)
    assert answers.counts.tolist() == [5, 5]
    assert answers.exhausted.tolist() == [False, False]
    assert answers.ids is not None
    assert [answers.ids[0], answers.ids[5]] == [3, 7]
    assert answers.hits["url"].to_pylist() == [f"http://h/{number}.jpg" for number in answers.ids]
    assert answers.hits["rank"].to_pylist() == [*range(5), *range(5)]
    assert index.search(vectors[:2], ROWS).exhausted.all()
    # What failed is asked for no more.
    failed = index.search(np.full((1, DIM), np.inf, np.float32), 3)
    assert (failed.counts.tolist(), failed.exhausted.tolist(), list(failed.errors)) == ([0], [True], [0])


@pytest.mark.parametrize("kind", ["flat", "inverted file"])
def test_vectors_by_number(folder: Path, vectors: Vectors, kind: str) -> None:
    if kind == "inverted file":
        inverted_file(folder, vectors)
    index = opened(folder)
    numbers = np.array([7, 3, 3, 59], np.int64)
    for _ in range(2):
        given = index.vectors(numbers)
        assert given is not None
        np.testing.assert_array_equal(given, vectors[numbers])
    nothing = index.vectors(numbers[:0])
    assert nothing is not None and nothing.shape == (0, DIM)
    with pytest.raises(RetrievalError, match="does not give its vectors"):
        index.vectors(np.array([ROWS], np.int64))


def test_with_metadata_arrow_it_answers_the_same(folder: Path, vectors: Vectors) -> None:
    before = opened(folder)
    from_parquet = asked(before, vectors, 7)
    write_metadata_arrow(folder)
    after = opened(folder)
    assert asked(after, vectors, 7) == from_parquet
    assert after.identity == before.identity
    known = frozenset({"url", "alt_text", "width", "height", "licence", "nsfw", "sha256"})
    assert after.fields == known == before.fields


def test_an_unset_variable() -> None:
    with pytest.raises(CatalogError, match="NOT_SET_ANYWHERE"):
        open_index(
            "rooms", FaissIndexSettings(kind="faiss", path="${NOT_SET_ANYWHERE}/x"), RetrievalSettings()
        )


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path, vectors: Vectors) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        write_index(tmp_path, vectors, pa.table({"url": ["http://h/1"]}))
