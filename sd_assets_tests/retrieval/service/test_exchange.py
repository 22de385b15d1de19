"""What comes instead of an answer, and the key that goes with the question."""

import gzip
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sd_assets import catalog
from sd_assets.errors import CatalogError, RetrievalError
from sd_assets.retrieval import open_index
from sd_assets.services.exchange import retry_after_s
from sd_assets.stages.retrieve import RetrieveStage
from sd_assets_tests.retrieval.answers import asked
from sd_assets_tests.retrieval.conftest import Backend, send
from sd_assets_tests.retrieval.service.conftest import MakeClient, failure, hits

Vectors = npt.NDArray[np.float32]
Misbehaviour = Callable[[BaseHTTPRequestHandler], None]


def to(
    poison: list[float], misbehave: Misbehaviour
) -> Callable[[BaseHTTPRequestHandler, dict[str, Any]], bool]:
    """Misbehaves to one query, and answers all others."""

    def answered(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if body.get("embedding_input") != poison:
            return False
        misbehave(handler)
        return True

    return answered


@pytest.mark.parametrize(
    ("status", "content", "kind", "expected", "times"),
    [
        (500, b'{"message": "Internal Server Error"}', "application/json", "HTTP 500", 3),
        (400, b"no", "text/plain", "HTTP 400", 1),
        (502, b"<html>Bad Gateway</html>", "text/html", "HTTP 502", 3),
        (200, b"<html><body>Please log in</body></html>", "text/html", "no JSON (text/html)", 1),
        (200, b"", "application/json", "no JSON", 1),
        (200, b"[" * 100_000, "application/json", "no JSON", 1),
        (200, b'{"message": "x"}', "application/json", "no list of results", 1),
        (200, b'["x"]', "application/json", "no list of results", 1),
        (
            200,
            b'[{"url": "http://h/a", "similarity": "0.5"}]',
            "application/json",
            "number as `similarity`",
            1,
        ),
        (200, b"[" + b" " * 200_000 + b"]", "application/json", "more than 100000 bytes", 1),
    ],
)
def test_one_failing_query_is_a_row(
    backend: Backend,
    vectors: Vectors,
    client: MakeClient,
    status: int,
    content: bytes,
    kind: str,
    expected: str,
    times: int,
) -> None:
    poison = vectors[2].tolist()
    backend.misbehave = to(poison, lambda handler: send(handler, status, content, kind))
    answers = asked(client(backend.url, max_bytes=100_000), vectors[:5], 3)
    assert expected in failure(answers[2])
    assert backend.url in failure(answers[2])
    assert all(len(hits(answer)) == 3 for i, answer in enumerate(answers) if i != 2)
    assert sum(body["embedding_input"] == poison for body in backend.requests) == times


def test_a_bomb_is_bounded_by_what_comes_out_of_it(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    def bomb(handler: BaseHTTPRequestHandler) -> None:
        content = gzip.compress(b" " * 10_000_000)
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    backend.misbehave = to(vectors[1].tolist(), bomb)
    assert "more than 100000 bytes" in failure(
        asked(client(backend.url, max_bytes=100_000), vectors[:2], 3)[1]
    )


def test_a_query_that_never_ends_is_a_row(backend: Backend, vectors: Vectors, client: MakeClient) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            pass
        handler.close_connection = True

    backend.misbehave = to(vectors[1].tolist(), drip)
    answers = asked(client(backend.url, timeout_s=0.4, retries=0), vectors[:2], 3)
    assert "in time" in failure(answers[1])
    assert len(hits(answers[0])) == 3


def test_a_redirect_is_not_followed(backend: Backend, vectors: Vectors, client: MakeClient) -> None:
    def elsewhere(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "https://login.example.org/")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    backend.misbehave = to(vectors[1].tolist(), elsewhere)
    answers = asked(client(backend.url), vectors[:2], 3)
    assert "redirect to https://login.example.org/" in failure(answers[1])


def test_results_of_other_types(backend: Backend, vectors: Vectors, client: MakeClient) -> None:
    """A similarity that is no number, and fields of all types: what can be kept is, and what cannot is counted."""
    rows = rb"""[{"id": 1, "similarity": 0.95}, {"url": "http://h/a", "similarity": 0.8, "caption": NaN, "WIDTH": "64"},
        {"url": null, "similarity": 0.7}, {"url": "http://h/b\ud800", "similarity": 1, "id": 3, "WIDTH": [1], "HEIGHT": -Infinity},
        {"url": "http://h/c", "similarity": NaN}, {"url": "http://h/d", "similarity": true}, {"url": 7, "similarity": 0.3},
        {"url": "http://h/e", "similarity": 1e999}, {"url": "http://h/f", "similarity": 0.6, "caption": {"en": "x"}, "NSFW": 0.25},
        {"url": "http://h/g", "similarity": 0.5, "caption": 5, "WIDTH": true, "HEIGHT": 3000000000}, {"url": "", "similarity": 0}]"""
    index = client(backend.url)
    index.search(vectors[1:2], 3)  # so that it is tried
    backend.misbehave = to(vectors[0].tolist(), lambda handler: send(handler, 200, rows))
    found = hits(asked(index, vectors[:1], 20)[0])
    assert [(hit.url, hit.rank, hit.alt_text, hit.width, hit.height, hit.nsfw) for hit in found] == [
        ("http://h/b?", 0, None, None, None, None),
        ("http://h/a", 1, None, 64, None, None),
        ("http://h/f", 2, None, None, None, "0.25"),
        ("http://h/g", 3, "5", None, None, None),
    ]
    facts = index.facts()
    assert (facts["results_without_url"], facts["results_without_similarity"]) == (4, 3)
    assert [hit.url for hit in hits(asked(index, vectors[:1], 2)[0])] == ["http://h/b?", "http://h/a"]


def test_images_of_the_services_own_have_no_url(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    local = [{"image_path": "/data/1.jpg", "image": "aGVsbG8=", "similarity": 0.9}]
    remote = [{"image_path": "https://h/2.jpg", "similarity": 0.8}]
    index = client(backend.url)
    index.search(vectors[1:2], 3)
    content = json.dumps(local + remote).encode()
    backend.misbehave = to(vectors[0].tolist(), lambda handler: send(handler, 200, content))
    answers = index.search(vectors[:1], 20)
    assert answers.hits.column("url").to_pylist() == ["https://h/2.jpg"]
    assert index.facts()["results_without_url"] == 1


def test_what_may_pass_is_asked_again(backend: Backend, vectors: Vectors, client: MakeClient) -> None:
    seen: list[int] = []

    def flaky(handler: BaseHTTPRequestHandler) -> None:
        seen.append(1)
        if len(seen) == 1:
            send(handler, 503, b"busy", "text/plain")
        elif len(seen) == 2:
            handler.close_connection = True  # closed without an answer
        else:
            send(handler, 200, b'[{"url": "http://h/a", "similarity": 0.5}]')

    index = client(backend.url, retries=1)
    index.search(vectors[1:2], 3)
    backend.misbehave = to(vectors[0].tolist(), flaky)
    assert [hit.url for hit in hits(asked(index, vectors[:1], 3)[0])] == ["http://h/a"]
    assert len(seen) == 3
    assert index.facts()["requests_retried"] == 1


# --- the key -----------------------------------------------------------------------------------------------------

KEY = "kNn-s3cret-0815"


def with_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, key: str = KEY, **more: str
) -> catalog.Catalog:
    monkeypatch.setenv("KNN_KEY", key)
    index = {"kind": "clip-retrieval", "url": url, "retries": 0, "api_key": "${KNN_KEY}", **more}
    entry = {"prompts": {"texts": ["-"]}, "clip": {"model": "local-dir:x"}, "retrieval": {"index": "mine"}}
    raw = {"indices": {"mine": index}, "seed_datasets": {"rooms": entry}}
    return catalog.parse(raw, tmp_path / "c.yaml")


def opened(found: catalog.Catalog) -> Any:
    settings = found.entry("rooms").retrieval
    return open_index("mine", found.index("mine"), settings)


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    ("more", "header", "value"),
    [
        ({}, "Authorization", f"Bearer {KEY}"),
        ({"api_key_header": "X-Api-Key"}, "X-Api-Key", KEY),
    ],
)
def test_the_key_is_sent_and_stands_nowhere(
    backend: Backend,
    vectors: Vectors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    more: dict[str, str],
    header: str,
    value: str,
    status: int,
) -> None:
    caplog.set_level(logging.DEBUG)

    def repeats(handler: BaseHTTPRequestHandler) -> None:
        send(handler, status, json.dumps({"message": f"what is {handler.headers[header]}?"}).encode())

    backend.misbehave = to(vectors[1].tolist(), repeats)
    found = with_key(tmp_path, monkeypatch, backend.url, **more)
    index = opened(found)
    index.open()
    answers = asked(index, vectors[:2], 3)
    assert {sent.get(header) for sent in backend.headers} == {value}
    stage = RetrieveStage(index, found.entry("rooms").retrieval)
    others = with_key(tmp_path, monkeypatch, backend.url, key="another", **more)
    assert RetrieveStage(opened(others), others.entry("rooms").retrieval).fingerprint() == stage.fingerprint()
    assert found.sections("rooms") == others.sections("rooms")
    index.close()
    told = [
        failure(answers[1]),
        index.identity,
        repr(found),
        str(found.sections("rooms")),
        str(stage.settings()),
        str(stage.facts()),
        found.model_dump_json(),
        caplog.text,
    ]
    assert "what is" in told[0] and "***" in told[0]
    assert not [text for text in told if KEY in text]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("when", ["at first", "later"])
def test_a_service_that_wants_another_key_is_one_error(
    backend: Backend,
    vectors: Vectors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    when: str,
) -> None:
    def refuses(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if when == "at first" or body:
            send(handler, status, f"no such key: {KEY}".encode())
            return True
        return False

    backend.misbehave = refuses
    index = opened(with_key(tmp_path, monkeypatch, backend.url))
    with pytest.raises(RetrievalError, match=rf"does not take the key.*HTTP {status}.*`?api_key:") as error:
        index.open()
        index.search(vectors, 3)
    index.close()
    assert KEY not in str(error.value)


def test_keys_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = opened(with_key(tmp_path, monkeypatch, "http://127.0.0.1:9", key=f"{KEY}\n"))
    with pytest.raises(RetrievalError, match=r"api_key:` holds characters that no HTTP header may") as error:
        index.open()
    assert KEY not in str(error.value)

    found = with_key(tmp_path, monkeypatch, "http://me:pass@127.0.0.1:9")
    with pytest.raises(RetrievalError, match="exclude each other") as error:
        opened(found).open()
    assert KEY not in str(error.value) and "pass" not in str(error.value).replace("password", "")

    monkeypatch.delenv("KNN_KEY")
    with pytest.raises(CatalogError, match="KNN_KEY is not set: export KNN_KEY="):
        opened(catalog.parse(_catalogue("Bearer ${KNN_KEY}"), tmp_path / "c.yaml"))


def test_a_key_that_yaml_reads_as_a_number_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(
        CatalogError, match=r"indices\.mine\.api_key: must be a text: put quotes around it"
    ) as error:
        catalog.parse(_catalogue(8150815), tmp_path / "c.yaml")
    assert "8150815" not in str(error.value)


def _catalogue(key: str | int) -> dict[str, Any]:
    index = {"kind": "clip-retrieval", "url": "http://h:1", "api_key": key}
    entry = {"prompts": {"texts": ["-"]}, "clip": {"model": "local-dir:x"}, "retrieval": {"index": "mine"}}
    return {"indices": {"mine": index}, "seed_datasets": {"rooms": entry}}


# --- Retry-After --------------------------------------------------------------------------------------------------


def test_a_service_that_wants_to_rest_is_left_alone_so_long(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    index = client(backend.url, connections=1)
    index.search(vectors[:1], 3)
    rests: list[float] = []
    early: list[float] = []

    def busy(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        now = time.monotonic()
        if not rests:
            rests.append(now)
            handler.send_response(429)
            handler.send_header("Retry-After", "1")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return True
        if now - rests[0] < 0.95:
            early.append(now)
        return False

    backend.misbehave = busy
    answers = asked(index, vectors[:8], 3)
    assert all(len(hits(answer)) == 3 for answer in answers)
    assert not early


def test_nobody_waits_longer_than_the_deadline(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    def busy(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if not body:
            return False
        date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
        handler.send_response(429)
        handler.send_header("Retry-After", date)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    index = client(backend.url, deadline_s=20)
    index.search(vectors[:1], 3)
    backend.misbehave = busy
    answers = asked(index, vectors[:4], 3)
    assert "HTTP 429" in failure(answers[0]) and "`deadline_s:` is 20" in failure(answers[0])
    assert all("left alone" in failure(answer) or "HTTP 429" in failure(answer) for answer in answers)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s(None) is None
    assert retry_after_s("7") == 7
    assert retry_after_s("soon") is None
    assert retry_after_s("-3") is None
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert retry_after_s(later) == pytest.approx(3600, abs=30)
