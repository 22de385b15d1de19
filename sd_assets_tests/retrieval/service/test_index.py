"""The index that a clip-retrieval service answers for, against a real server on loopback."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sd_assets.errors import CatalogError, RetrievalError
from sd_assets.retrieval import open_index
from sd_assets.retrieval.service.index import ServiceIndex
from sd_assets.settings import RetrievalSettings, ServiceIndexSettings
from sd_assets_tests.retrieval.answers import asked
from sd_assets_tests.retrieval.conftest import DIM, ROWS, Backend, normalised, send, serving
from sd_assets_tests.retrieval.service.conftest import MakeClient, failure, hits

Vectors = npt.NDArray[np.float32]


def test_it_finds_what_the_service_holds(backend: Backend, vectors: Vectors, client: MakeClient) -> None:
    index = client(f"{backend.url}/knn-service/", indice_name="rooms")
    index.open()
    assert not index.local
    assert index.dim is None
    assert index.identity == f"clip-retrieval:{backend.url}#rooms"
    answers = asked(index, vectors[:20], 4)
    assert index.dim == DIM
    assert [hits(answer)[0].url for answer in answers] == [f"http://h/{i}.jpg" for i in range(20)]
    assert [hit.rank for hit in hits(answers[9])] == [0, 1, 2, 3]
    assert hits(answers[3])[0].width is None  # a bare NaN in the answer
    one = hits(answers[1])[0]
    assert (one.alt_text, one.width, one.height, one.licence, one.nsfw) == (
        "text 1",
        101,
        201,
        "cc-by",
        "0.25",
    )
    assert one.similarity == pytest.approx(1, abs=1e-5)
    assert index.vectors(np.array([1])) is None


def test_what_is_sent(backend: Backend, vectors: Vectors, client: MakeClient) -> None:
    client(backend.url).search(vectors[:1], 7)
    sent = backend.requests[-1]
    assert sent.pop("embedding_input") == pytest.approx(vectors[0].tolist())
    assert sent == {
        "modality": "image",
        "indice_name": None,
        "num_images": 7,
        "num_result_ids": 7,
        "use_mclip": False,
        "deduplicate": False,
        "use_safety_model": False,
        "use_violence_detector": False,
    }
    client(backend.url, RetrievalSettings(aesthetic_score=9, aesthetic_weight=0.5)).search(vectors[:1], 7)
    assert (backend.requests[-1]["aesthetic_score"], backend.requests[-1]["aesthetic_weight"]) == (9, 0.5)


def test_a_query_is_exhausted_when_fewer_came_than_were_asked_for(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    index = client(backend.url)
    assert index.search(vectors[:2], 10).exhausted.tolist() == [False, False]
    assert index.search(vectors[:2], ROWS).exhausted.tolist() == [False, False]
    all_of_it = index.search(vectors[:2], ROWS + 1)
    assert all_of_it.exhausted.tolist() == [True, True]
    assert all_of_it.counts.tolist() == [ROWS, ROWS]
    # Results without a URL are no hits, and no sign of an end.
    del backend.rows[int(np.argsort(-(vectors @ vectors[0]))[1])]["url"]
    answers = index.search(vectors[:1], 10)
    assert (answers.counts.tolist(), answers.exhausted.tolist()) == ([9], [False])
    assert answers.hits.column("rank").to_pylist() == list(range(9))
    assert index.facts()["results_without_url"] == 1


def test_a_service_with_a_limit_is_never_asked_for_more(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    index = client(backend.url, max_results=12)
    assert index.most == 12
    for k in (12, 500):  # which does not say that the index has no more
        answers = index.search(vectors[:1], k)
        assert (answers.counts.tolist(), answers.exhausted.tolist()) == ([12], [False])
    assert max(body["num_result_ids"] for body in backend.requests) == 12
    assert index.identity.endswith(";max_results=12")


def test_queries_run_at_once_but_bounded(backend: Backend, vectors: Vectors, client: MakeClient) -> None:
    def slow(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        time.sleep(0.05)
        return False

    backend.misbehave = slow
    index = client(backend.url, connections=4)
    assert index.calls_at_once == 4
    index.search(vectors[:24], 2)
    assert 2 <= backend.most_at_once <= 4
    # Also when they come from more threads than that.
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda place: index.search(vectors[place : place + 1], 2), range(24)))
    assert backend.most_at_once <= 4


def test_connections_are_kept_from_one_search_to_the_next(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    index = client(backend.url, connections=3)
    index.open()
    for place in range(10):
        index.search(vectors[place : place + 2], 2)
    assert len(backend.requests) == 21  # and the one that tried it
    assert len(backend.connections) <= 3


def test_closing_ends_the_threads_and_what_is_under_way(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hangs(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if body.get("num_images") != 9:
            return False
        begun.set()
        go_on.wait(30)
        return False

    backend.misbehave = hangs
    index = client(backend.url, timeout_s=30)
    index.search(vectors[:1], 3)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(index.search, vectors[:1], 9)
        assert begun.wait(10)
        index.close()
        with pytest.raises(RuntimeError, match="closed while it was asked"):
            waiting.result(timeout=10)
    go_on.set()
    assert not [thread for thread in threading.enumerate() if thread.name == "sd-assets-knn-service"]
    with pytest.raises(RuntimeError, match="is closed"):
        index.search(vectors[:1], 3)
    index.close()
    index.open()
    assert len(index.search(vectors[:1], 3)) == 1


def test_it_works_inside_a_running_loop(backend: Backend, vectors: Vectors, client: MakeClient) -> None:
    async def inside() -> int:
        return len(hits(asked(client(backend.url), vectors[:1], ROWS)[0]))

    assert asyncio.run(inside()) == ROWS


def test_queries_of_nan_are_rows(backend: Backend, vectors: Vectors, client: MakeClient) -> None:
    broken = np.concatenate([np.full((1, DIM), np.nan, np.float32), vectors[:1]])
    answers = asked(client(backend.url), broken, 3)
    assert "NaN" in failure(answers[0])
    assert len(hits(answers[1])) == 3
    with pytest.raises(RetrievalError, match="shape"):
        client(backend.url).search(vectors[0], 3)
    assert len(client(backend.url).search(vectors[:0], 3)) == 0


# --- a service that does not fit --------------------------------------------------------------------------------


@pytest.fixture
def wide(rows: list[dict[str, Any]]) -> Iterator[Backend]:
    """A service whose vectors have 512 dimensions."""
    vectors = normalised(np.random.default_rng(6).standard_normal((ROWS, 512)))
    with serving(Backend(vectors, rows)) as state:
        yield state


def test_queries_of_another_width_are_one_error_that_says_both(
    wide: Backend, vectors: Vectors, client: MakeClient
) -> None:
    index = client(wide.url)
    index.open()
    with pytest.raises(
        RetrievalError,
        match=r"vectors of 512 dimensions, and the queries have 8: `clip:` of the entry must be",
    ):
        index.search(vectors, 3)
    assert all(body["embedding_input"] != vectors[1].tolist() for body in wide.requests)


def test_a_width_that_is_known_is_checked_here(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    index = client(backend.url)
    index.search(vectors[:1], 3)
    before = len(backend.requests)
    with pytest.raises(RetrievalError, match="vectors of 8 dimensions, the queries have 9"):
        index.search(np.ones((1, DIM + 1), np.float32), 3)
    assert len(backend.requests) == before


@pytest.mark.parametrize(
    ("works", "expected"),
    [
        (lambda body: False, r"fails every query: its log says why .the first query: .*HTTP 500"),
        (lambda body: "text" in body, r"answers a text, but fails every vector of 8 dimensions"),
        (lambda body: "aesthetic_score" not in body, r"fails them with `aesthetic_score`"),
    ],
)
def test_why_a_service_fails_its_first_query(
    backend: Backend, vectors: Vectors, works: Any, expected: str, client: MakeClient
) -> None:
    def fails(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if not body:
            return False
        if works(body):
            send(handler, 200, b'[{"url": "http://h/a", "similarity": 0.5}]')
        else:
            send(handler, 500, b'{"message": "Internal Server Error"}')
        return True

    backend.misbehave = fails
    index = client(backend.url, RetrievalSettings(aesthetic_score=9, aesthetic_weight=0.5))
    with pytest.raises(RetrievalError, match=expected):
        index.search(vectors, 3)


def test_one_query_that_fails_first_does_not_stop_the_others(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    poison = vectors[0].tolist()

    def fails(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if body.get("embedding_input") == poison:
            send(handler, 500, b"")
            return True
        return False

    backend.misbehave = fails
    answers = asked(client(backend.url), vectors[:5], 3)
    assert "HTTP 500" in failure(answers[0])
    assert all(len(hits(answer)) == 3 for answer in answers[1:])


def test_a_service_that_gives_no_urls(backend: Backend, vectors: Vectors, client: MakeClient) -> None:
    for row in backend.rows:
        del row["url"]
    with pytest.raises(
        RetrievalError,
        match=r"have no URLs, only: HEIGHT, .*caption.*`columns_to_return` must name one of url, URL",
    ):
        client(backend.url).search(vectors, 3)


# --- what is named wrongly ---------------------------------------------------------------------------------------


def test_a_dead_service_is_one_error_that_names_it(vectors: Vectors, client: MakeClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"  # bound, but nobody listens
        index = client(url)
        for act in (index.open, lambda: asked(client(url), vectors[:3], 3)):
            with pytest.raises(RetrievalError) as error:
                act()
            assert url in str(error.value)
            assert "`indices: laion: url:" in str(error.value)
            assert "environment variable" in str(error.value)


def test_something_else_at_that_address(backend: Backend, client: MakeClient) -> None:
    def page(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        send(handler, 200, b"<html>Welcome to nginx</html>", "text/html")
        return True

    backend.misbehave = page
    with pytest.raises(RetrievalError, match=r"not a working clip-retrieval service.*nginx"):
        client(backend.url).open()


def test_an_index_that_the_service_does_not_have(backend: Backend, client: MakeClient) -> None:
    with pytest.raises(RetrievalError, match=r"no index 'other'; it has: rooms"):
        client(backend.url, indice_name="other").open()


def test_urls_that_cannot_be(monkeypatch: pytest.MonkeyPatch, client: MakeClient) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(CatalogError, match="NOT_SET_ANYWHERE"):
        client(["http://h:1", "${NOT_SET_ANYWHERE}"])
    with pytest.raises(CatalogError, match="NOT_SET_ANYWHERE") as unset:
        client("http://me:secret@${NOT_SET_ANYWHERE}")
    assert "secret" not in str(unset.value)
    for url in (
        "localhost:1234",
        "me:secret@host:1234",
        "http://me:secret@host:x",
        "http://me:secret@host:99999",
    ):
        with pytest.raises(RetrievalError, match="must look like") as error:
            client(url)
        assert "secret" not in str(error.value)
    with pytest.raises(RetrievalError, match="lists http://h:1 more than once"):
        client(["http://h:1", "http://me:secret@h:1/knn-service"])
    with pytest.raises(RetrievalError, match=r"must end before the `\?`") as error:
        client("http://h:1/x?token=secret")
    assert "secret" not in str(error.value)


def test_a_password_stays_out_of_identity_and_messages(client: MakeClient) -> None:
    index = client("http://user:secret@127.0.0.1:9/knn-service", retries=0)
    assert index.identity == "clip-retrieval:http://127.0.0.1:9#"
    with pytest.raises(RetrievalError) as error:
        index.open()
    assert "secret" not in str(error.value)


def test_who_forgets_to_close_leaves_no_thread(backend: Backend, vectors: Vectors) -> None:
    settings = ServiceIndexSettings.model_validate({"kind": "clip-retrieval", "url": backend.url})
    index = open_index("laion", settings, RetrievalSettings())
    assert isinstance(index, ServiceIndex)
    index.search(vectors[:2], 3)
    del index
    deadline = time.monotonic() + 10
    while [thread for thread in threading.enumerate() if thread.name == "sd-assets-knn-service"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
