"""Several services of one index: spread over those that live, and going on when one dies."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.service import pool, services
from sd_assets_tests.retrieval.answers import asked
from sd_assets_tests.retrieval.conftest import Backend, send, serving
from sd_assets_tests.retrieval.service.conftest import MakeClient, failure, hits

Vectors = npt.NDArray[np.float32]


class Replica:
    """A service that can be killed, and started again at the same address."""

    def __init__(self, vectors: Vectors, rows: list[dict[str, Any]]) -> None:
        self.state = Backend(vectors, rows)
        self._serving = ExitStack()
        self.start()
        self.url = self.state.url

    def start(self) -> None:
        port = int(self.state.url.rpartition(":")[2] or 0)
        self._serving.enter_context(serving(self.state, port))

    def kill(self) -> None:
        self._serving.close()

    def dies_at(self, number: int) -> None:
        """Answers no query from this one on, and is gone."""

        def dying(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
            if len(self.state.requests) < number:
                return False
            handler.close_connection = True
            threading.Thread(target=self.kill, daemon=True).start()
            return True

        self.state.misbehave = dying


@pytest.fixture
def replicas(vectors: Vectors, rows: list[dict[str, Any]]) -> Iterator[list[Replica]]:
    made = [Replica(vectors, rows) for _ in range(3)]
    yield made
    for replica in made:
        replica.kill()


def urls(replicas: list[Replica]) -> list[str]:
    return [replica.url for replica in replicas]


def left_out(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "is left out" in line]


def test_queries_are_spread_over_all(replicas: list[Replica], vectors: Vectors, client: MakeClient) -> None:
    index = client(urls(replicas), connections=2)
    assert index.calls_at_once == 6
    assert index.identity == f"clip-retrieval:{replicas[0].url}#"
    answers = asked(index, vectors, 3)
    assert [hits(answer)[0].url for answer in answers] == [f"http://h/{i}.jpg" for i in range(len(vectors))]
    shares = [len(replica.state.requests) for replica in replicas]
    assert sum(shares) == len(vectors) + 3  # each was tried once
    assert min(shares) >= 5
    assert all(replica.state.most_at_once <= 2 for replica in replicas)
    assert index.facts()["requests_by_service"] == dict(zip(urls(replicas), shares, strict=True))


def test_a_dead_one_is_left_out_from_the_start_with_one_line(
    replicas: list[Replica], vectors: Vectors, client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    replicas[1].kill()
    index = client(urls(replicas), retries=0)
    index.open()
    assert all(len(hits(answer)) == 3 for answer in asked(index, vectors, 3))
    (line,) = left_out(caplog)
    assert replicas[1].url in line and "tried again after 30 s" in line
    assert index.facts()["services_left_out"] == 1


def test_one_that_dies_costs_no_query(
    replicas: list[Replica], vectors: Vectors, client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    index = client(urls(replicas), retries=0, connections=2)
    index.open()
    replicas[0].dies_at(5)
    assert all(len(hits(answer)) == 3 for answer in asked(index, vectors, 3))
    (line,) = left_out(caplog)
    assert replicas[0].url in line
    assert all(len(hits(answer)) == 3 for answer in asked(index, vectors, 3))
    assert len(left_out(caplog)) == 1


def test_one_that_comes_back_is_asked_again(
    replicas: list[Replica],
    vectors: Vectors,
    client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services, "LEFT_OUT_S", 0.05)
    replicas[2].kill()
    index = client(urls(replicas), connections=1)
    index.open()
    index.search(vectors, 3)
    replicas[2].start()
    deadline = time.monotonic() + 20
    while not replicas[2].state.requests:
        assert time.monotonic() < deadline
        index.search(vectors[:6], 3)


def test_when_all_are_dead_it_says_so_once(
    replicas: list[Replica], vectors: Vectors, client: MakeClient
) -> None:
    index = client(urls(replicas), connections=2)
    index.open()
    for replica in replicas:
        replica.dies_at(4)
    with pytest.raises(RetrievalError, match="none of its 3 services answers") as error:
        index.search(vectors, 3)
    assert all(url in str(error.value) for url in urls(replicas))
    with pytest.raises(RetrievalError, match="none of its 3 services answers"):
        index.search(vectors, 3)
    with pytest.raises(RetrievalError, match="none of its 3 services answers"):
        client(urls(replicas)).open()


def test_a_proxy_with_nobody_behind_it_is_dead(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    index = client(backend.url)
    index.open()
    index.search(vectors[:3], 3)

    def gateway(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        send(handler, 502, b"<html>Bad Gateway</html>", "text/html")
        return True

    backend.misbehave = gateway
    with pytest.raises(RetrievalError, match=r"does not answer .HTTP 502: '<html>Bad Gateway"):
        index.search(vectors, 3)


def test_one_that_hangs_is_left_out(
    replicas: list[Replica], vectors: Vectors, client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    index = client(urls(replicas[:2]), timeout_s=0.3, connections=4)
    index.search(vectors[:1], 3)
    over = threading.Event()

    def hangs(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        over.wait(20)
        handler.close_connection = True
        return True

    replicas[0].state.misbehave = hangs
    try:
        answers = asked(index, vectors, 3)
    finally:
        over.set()
    assert all(len(hits(answer)) == 3 for answer in answers)
    assert [replicas[0].url in line for line in left_out(caplog)] == [True]


def test_one_that_fails_what_others_answer_is_left_out(
    replicas: list[Replica], vectors: Vectors, client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    index = client(urls(replicas), retries=0)
    index.search(vectors[:1], 3)

    def out_of_order(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if body:
            send(handler, 500, b"out of memory")
        return bool(body)

    replicas[1].state.misbehave = out_of_order
    assert all(len(hits(answer)) == 3 for answer in asked(index, vectors, 3))
    (line,) = left_out(caplog)
    assert replicas[1].url in line and "fails queries that others answer" in line
    # A query that all fail is the query's own fault.
    poison = vectors[0].tolist()

    def fails(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if body.get("embedding_input") != poison:
            return False
        send(handler, 500, b"")
        return True

    for replica in replicas:
        replica.state.misbehave = fails
    for _ in range(6):
        answers = asked(index, vectors[:2], 3)
        assert "HTTP 500" in failure(answers[0])
        assert len(hits(answers[1])) == 3
    assert len(left_out(caplog)) == 1


def rooms_but(lists: bytes) -> Callable[[BaseHTTPRequestHandler, dict[str, Any]], bool]:
    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if not body:
            send(handler, 200, lists)
        return not body

    return answer


def test_all_must_have_the_index(replicas: list[Replica], client: MakeClient) -> None:
    replicas[1].state.misbehave = rooms_but(b'["other", "third"]')
    with pytest.raises(RetrievalError, match=r"has no index 'rooms'; it has: other, third") as error:
        client(urls(replicas), indice_name="rooms").open()
    assert replicas[1].url in str(error.value)


def test_all_must_have_the_same_images(replicas: list[Replica], vectors: Vectors, client: MakeClient) -> None:
    replicas[2].state.rows = [{**row, "url": f"{row['url']}?other"} for row in replicas[2].state.rows]
    with pytest.raises(RetrievalError, match="answer the same query with other images: list under"):
        client(urls(replicas)).search(vectors, 3)


def test_one_that_comes_later_must_have_them_too(
    replicas: list[Replica], vectors: Vectors, client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "LEFT_OUT_S", 0.05)
    replicas[2].kill()
    replicas[2].state.rows = [{**row, "url": f"{row['url']}?other"} for row in replicas[2].state.rows]
    index = client(urls(replicas), connections=1)
    index.open()
    index.search(vectors, 3)
    replicas[2].start()
    deadline = time.monotonic() + 20
    with pytest.raises(RetrievalError, match="answer the same query with other images"):
        while time.monotonic() < deadline:
            index.search(vectors[:6], 3)


def test_nothing_but_failures_for_long_is_no_matter_of_queries(
    backend: Backend, vectors: Vectors, client: MakeClient
) -> None:
    index = client(backend.url, retries=0, connections=1)
    index.search(vectors[:1], 3)
    asked_before = len(backend.requests)

    def broken(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if body and len(backend.requests) > asked_before + 10:
            send(handler, 500, b"out of memory")
            return True
        return False

    backend.misbehave = broken
    assert "HTTP 500" in failure(asked(index, vectors[:11], 3)[10])
    with pytest.raises(RetrievalError, match=r"last 20 queries have all failed.*out of memory"):
        index.search(vectors, 3)
    assert len(backend.requests) == asked_before + 10 + pool.FAILED_IN_A_ROW
