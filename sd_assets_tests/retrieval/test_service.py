"""The client of a clip-retrieval service, against a real server on loopback."""

import asyncio
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sd_assets.errors import CatalogError, ErrorCode, RetrievalError, RowError
from sd_assets.retrieval import Hit, KnnIndex, open_index
from sd_assets.retrieval import service as service_module
from sd_assets.settings import RetrievalSettings, ServiceIndexSettings
from sd_assets_tests.retrieval.conftest import DIM, ROWS, Backend, send

Vectors = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "_BACKOFF_S", 0.01)


def client(url: str, retrieval: RetrievalSettings | None = None, **settings: Any) -> KnnIndex:
    return open_index(
        "laion",
        ServiceIndexSettings.model_validate(
            {"kind": "clip-retrieval", "url": url, "timeout_s": 5, **settings}
        ),
        retrieval or RetrievalSettings(),
    )


def hits(answer: list[Hit] | RowError) -> list[Hit]:
    assert isinstance(answer, list), answer
    return answer


def failure(answer: list[Hit] | RowError) -> str:
    assert isinstance(answer, RowError)
    assert answer.code is ErrorCode.QUERY_FAILED
    return answer.detail


def test_it_finds_what_the_service_holds(backend: Backend, vectors: Vectors) -> None:
    index = client(f"{backend.url}/knn-service/", indice_name="rooms")
    index.open()
    assert not index.local
    assert index.dim is None
    assert index.identity == f"clip-retrieval:{backend.url}#rooms"
    answers = index.search(vectors[:20], 4)
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


def test_what_is_sent(backend: Backend, vectors: Vectors) -> None:
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


def test_queries_run_at_once_but_bounded(backend: Backend, vectors: Vectors) -> None:
    def slow(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        time.sleep(0.05)
        return False

    backend.misbehave = slow
    client(backend.url, connections=4).search(vectors[:24], 2)
    assert 2 <= backend.most_at_once <= 4


def test_rows_without_a_url_and_more_rows_than_asked(backend: Backend, vectors: Vectors) -> None:
    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        rows = b"""[{"id": 1, "similarity": 0.9}, {"url": "http://h/a", "similarity": 0.8, "caption": NaN},
            {"url": null, "similarity": 0.7}, {"url": "http://h/b\\ud800", "similarity": 0.6, "id": 3},
            {"url": "http://h/c", "similarity": NaN}, {"url": "http://h/d", "similarity": 0.5}]"""
        send(handler, 200, rows)
        return True

    backend.misbehave = answer
    found = hits(client(backend.url).search(vectors[:1], 2)[0])
    assert [(hit.url, hit.rank, hit.alt_text) for hit in found] == [
        ("http://h/a", 0, None),
        ("http://h/b?", 1, None),
    ]


def test_what_may_pass_is_asked_again(backend: Backend, vectors: Vectors) -> None:
    seen: list[int] = []

    def flaky(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        seen.append(1)
        if len(seen) == 1:
            send(handler, 503, b"busy", "text/plain")
        elif len(seen) == 2:
            handler.close_connection = True  # closed without an answer
        else:
            return False
        return True

    backend.misbehave = flaky
    assert len(hits(client(backend.url, retries=2).search(vectors[:1], 3)[0])) == 3
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("status", "content", "kind", "expected", "asked"),
    [
        (500, b'{"message": "Internal Server Error"}', "application/json", "HTTP 500", 3),
        (400, b"no", "text/plain", "HTTP 400", 1),
        (200, b"<html><body>Please log in</body></html>", "text/html", "no JSON (text/html)", 1),
        (200, b'{"message": "x"}', "application/json", "no list of results", 1),
        (200, b'["x"]', "application/json", "no list of results", 1),
    ],
)
def test_one_failing_query_is_a_row(
    backend: Backend, vectors: Vectors, status: int, content: bytes, kind: str, expected: str, asked: int
) -> None:
    poison = vectors[2].tolist()

    def fails(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if np.allclose(body.get("embedding_input", 0), poison):
            send(handler, status, content, kind)
            return True
        return False

    backend.misbehave = fails
    answers = client(backend.url).search(vectors[:5], 3)
    assert expected in failure(answers[2])
    assert all(len(hits(answer)) == 3 for i, answer in enumerate(answers) if i != 2)
    assert sum(np.allclose(body["embedding_input"], poison) for body in backend.requests) == asked


def test_a_query_that_never_ends_is_a_row(backend: Backend, vectors: Vectors) -> None:
    def drip(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if not body or not np.allclose(body["embedding_input"], vectors[0]):
            return False
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            pass
        handler.close_connection = True
        return True

    backend.misbehave = drip
    answers = client(backend.url, timeout_s=0.4, retries=0).search(vectors[:2], 3)
    assert "in time" in failure(answers[0])
    assert len(hits(answers[1])) == 3


def test_queries_of_the_wrong_width_and_of_nan_are_rows(backend: Backend, vectors: Vectors) -> None:
    assert "HTTP 500" in failure(
        client(backend.url, retries=0).search(np.ones((1, DIM + 1), np.float32), 3)[0]
    )
    assert "NaN" in failure(client(backend.url).search(np.full((1, DIM), np.nan, np.float32), 3)[0])
    with pytest.raises(RetrievalError, match="shape"):
        client(backend.url).search(vectors[0], 3)
    assert client(backend.url).search(vectors[:0], 3) == []


def test_a_dead_service_is_one_error_that_names_it(vectors: Vectors) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"  # bound, but nobody listens
        index = client(url)
        for act in (index.open, lambda: index.search(vectors[:3], 3)):
            with pytest.raises(RetrievalError) as error:
                act()
            assert url in str(error.value)
            assert "`indices: laion: url:" in str(error.value)
            assert "environment variable" in str(error.value)


def test_something_else_at_that_address(backend: Backend) -> None:
    def page(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        send(handler, 200, b"<html>Welcome to nginx</html>", "text/html")
        return True

    backend.misbehave = page
    with pytest.raises(RetrievalError, match=r"not a working clip-retrieval service.*nginx"):
        client(backend.url).open()


def test_an_index_that_the_service_does_not_have(backend: Backend) -> None:
    with pytest.raises(RetrievalError, match=r"no index 'other'; it has: rooms"):
        client(backend.url, indice_name="other").open()


def test_it_works_inside_a_running_loop(backend: Backend, vectors: Vectors) -> None:
    async def inside() -> int:
        return len(hits(client(backend.url).search(vectors[:1], ROWS)[0]))

    assert asyncio.run(inside()) == ROWS


def test_urls_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(CatalogError, match="NOT_SET_ANYWHERE"):
        client("${NOT_SET_ANYWHERE}")
    with pytest.raises(RetrievalError, match="must look like"):
        client("localhost:1234")


def test_a_password_stays_out_of_identity_and_messages() -> None:
    index = client("http://user:secret@127.0.0.1:9/knn-service", retries=0)
    assert index.identity == "clip-retrieval:http://127.0.0.1:9#"
    with pytest.raises(RetrievalError) as error:
        index.open()
    assert "secret" not in str(error.value)
