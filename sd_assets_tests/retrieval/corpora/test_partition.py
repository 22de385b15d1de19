"""Our own partitions as corpora: which URL each image has, and what is said where there is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sd_assets import schemas
from sd_assets.errors import RetrievalError, TableError
from sd_assets.retrieval.build import build_index
from sd_assets.retrieval.corpora import Corpus
from sd_assets.retrieval.faiss_index import FaissIndex
from sd_assets.schemas import image_id, text_id
from sd_assets.settings import IndexBuildSettings
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.retrieval.answers import asked
from sd_assets_tests.retrieval.corpora.reading import opened, read
from sd_assets_tests.tables import table_of

IMAGES = [f"image {number}".encode() for number in range(6)]
EMBEDDINGS = np.eye(6, 8, dtype=np.float32)


def seeds(base: Path, sources: list[str], **changed: Any) -> TableStore:
    """A partition `p` of six seed images, of which the fourth is broken, and a prompt."""
    rows: list[dict[str, Any]] = [
        {
            "image_id": image_id(data),
            "image": data,
            "text": f"text {number}",
            "source": source,
            "width": 10 + number,
            "height": 20,
        }
        for number, (data, source) in enumerate(zip(IMAGES, sources, strict=True))
    ]
    rows[3] = {"image_id": image_id(IMAGES[3]), "source": sources[3], "error": "corrupt_image"}
    table_of(base, schemas.SEED_IMAGES, rows)
    queries: list[dict[str, Any]] = [
        {
            "query_id": image_id(data),
            "kind": "image",
            "embedding": EMBEDDINGS[number],
            "model": "ViT-L-14/openai",
            **changed,
        }
        for number, data in enumerate(IMAGES)
        if number != 3
    ]
    queries[1] = {"query_id": image_id(IMAGES[1]), "kind": "image", "error": "not_finite"}
    queries.insert(
        2, {"query_id": text_id("a"), "kind": "text", "embedding": EMBEDDINGS[0], "model": "ViT-L-14/openai"}
    )
    table_of(base, schemas.SEED_EMBEDDINGS, queries)
    return TableStore(LocalFiles(base))


def partition(tables: TableStore, **settings: Any) -> Corpus:
    return opened(tables, kind="partition", partition="p", **settings)


URLS = [f"https://example.org/{number}.jpg" for number in range(6)]


def test_images_that_came_from_urls_have_them(tmp_path: Path) -> None:
    corpus = partition(seeds(tmp_path, URLS))
    assert (corpus.rows, corpus.dim, corpus.clip) == (4, 8, "ViT-L-14/openai")
    found = read(corpus)
    assert found.reasons == ["none"] * 4
    np.testing.assert_array_equal(found.vectors, EMBEDDINGS[[0, 2, 4, 5]])
    assert found.rows[1] == {
        "url": URLS[2],
        "caption": "text 2",
        "width": 12,
        "height": 20,
        "sha256": image_id(IMAGES[2]),
        "image_id": image_id(IMAGES[2]),
    }
    later = read(corpus, rows=2, start=1)
    np.testing.assert_array_equal(later.vectors, EMBEDDINGS[[2, 4, 5]])
    assert [row["url"] for row in later.rows] == [URLS[2], URLS[4], URLS[5]]


def test_a_folder_of_photographs_needs_a_web_server(tmp_path: Path) -> None:
    sources = [f"summer 2024/{number}#.jpg" for number in range(6)]
    tables = seeds(tmp_path / "data", sources)
    with pytest.raises(
        RetrievalError, match=r"none of 4 rows can be indexed \(4 no_url\): .*name it in `base_url:`"
    ):
        build_index(partition(tables), IndexBuildSettings(), tmp_path / "index", lambda line: None)
    corpus = partition(tables, base_url="http://127.0.0.1:8000/photos/")
    record = build_index(corpus, IndexBuildSettings(), tmp_path / "index", lambda line: None)
    assert (record.vectors, record.clip) == (4, "ViT-L-14/openai")
    [hits] = asked(FaissIndex("mine", tmp_path / "index"), EMBEDDINGS[4:5], 1)
    assert isinstance(hits, list)
    assert hits[0].url == "http://127.0.0.1:8000/photos/summer%202024/4%23.jpg"
    assert hits[0].sha256 == image_id(IMAGES[4])


def test_a_seed_that_came_from_nowhere_has_no_url(tmp_path: Path) -> None:
    sources: list[Any] = [None, "1.jpg", None, "3.jpg", "4.jpg", "5.jpg"]
    tables = seeds(tmp_path, sources)
    assert read(partition(tables)).reasons == ["no_url"] * 4
    found = read(partition(tables, base_url="http://h"))
    assert found.reasons == ["no_url", "no_url", "none", "none"]
    assert [row["url"] for row in found.rows] == [None, None, "http://h/4.jpg", "http://h/5.jpg"]


def test_base_url_is_for_files_that_are_an_image_each(tmp_path: Path) -> None:
    tables = seeds(tmp_path, ["a.parquet"] * 6)
    with pytest.raises(
        RetrievalError, match=r"`base_url` is for seeds of `kind: folder`.* several lie in a.parquet"
    ):
        partition(tables, base_url="http://h/")
    with pytest.raises(ValueError, match=r"'file:///photos' is no URL"):
        partition(tables, base_url="file:///photos")


def test_images_that_another_entry_downloaded_have_their_urls(tmp_path: Path) -> None:
    tables = seeds(tmp_path, ["data-1.parquet"] * 6)
    rows: list[dict[str, Any]] = [
        {"url_id": text_id(url), "url": url, "image_id": f"original {number}", "image": data}
        for number, (url, data) in enumerate(zip(URLS, IMAGES, strict=True))
        if number != 5
    ]
    rows.append({"url_id": text_id(URLS[5]), "url": URLS[5], "error": "not_found"})
    table_of(tmp_path, schemas.DOWNLOADED_IMAGES, rows)
    found = read(partition(tables, downloads_of="p"))
    assert found.reasons == ["none", "none", "none", "no_url"]
    assert [row["url"] for row in found.rows] == [URLS[0], URLS[2], URLS[4], None]
    assert [row["sha256"] for row in found.rows] == ["original 0", "original 2", "original 4", None]


def test_partitions_that_do_not_fit_or_are_not_there(tmp_path: Path) -> None:
    tables = seeds(tmp_path / "a", URLS)
    with pytest.raises(TableError, match=r"materialize seed_embeddings for 'other' first"):
        opened(tables, kind="partition", partition="other")
    one_more = [
        *schemas_rows(),
        {"query_id": "gone", "kind": "image", "embedding": EMBEDDINGS[0], "model": "m"},
    ]
    table_of(tmp_path / "a", schemas.SEED_EMBEDDINGS, one_more)
    with pytest.raises(RetrievalError, match=r"was made from another version of seed_images"):
        partition(tables)
    models = [
        {**one_more[-1], "query_id": image_id(IMAGES[0])},
        {**one_more[-1], "query_id": "b", "model": "n"},
    ]
    table_of(tmp_path / "a", schemas.SEED_EMBEDDINGS, models)
    with pytest.raises(RetrievalError, match=r"vectors of several models \(m, n\)"):
        partition(tables)
    table_of(tmp_path / "a", schemas.SEED_EMBEDDINGS, [{**one_more[-1], "kind": "text"}])
    with pytest.raises(RetrievalError, match=r"holds no embedded images"):
        partition(tables)


def schemas_rows() -> list[dict[str, Any]]:
    return [{"query_id": image_id(IMAGES[0]), "kind": "image", "embedding": EMBEDDINGS[0], "model": "m"}]


def test_another_version_of_a_table_is_another_corpus(tmp_path: Path) -> None:
    tables = seeds(tmp_path, URLS)
    before = partition(tables).identity
    assert partition(tables).identity == before
    seeds(tmp_path, [*URLS[:5], "https://example.org/other.jpg"])
    assert partition(tables).identity != before
