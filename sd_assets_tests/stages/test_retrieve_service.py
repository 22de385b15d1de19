"""Queries of a service that dies, and a run that is killed: the next run asks only what was not answered."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.compute.run import run_stage
from sd_assets.errors import RetrievalError
from sd_assets.retrieval import open_index
from sd_assets.schemas import SEED_EMBEDDINGS
from sd_assets.services import backoff
from sd_assets.settings import RetrievalSettings, ServiceIndexSettings
from sd_assets.stages.retrieve import RetrieveStage, embedding_batches
from sd_assets.stages.stage import Work
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import TableStore
from sd_assets_tests.retrieval.conftest import Backend, normalised, send, serving
from sd_assets_tests.tables import table_of

QUERIES = 60
CONNECTIONS = 4
DIM = 8

# A run in a process of its own, which keeps at once what is finished.
RUN = """
import sys
from pathlib import Path
from sd_assets.storage import staging
from sd_assets_tests.stages.test_retrieve_service import run

staging.FLUSH_SECONDS = 0.0
run(sys.argv[1], Path(sys.argv[2]), "killed")
"""


def stage(url: str) -> RetrieveStage:
    given = {"kind": "clip-retrieval", "url": url, "connections": CONNECTIONS, "retries": 1, "timeout_s": 60}
    settings = RetrievalSettings(index="laion", images_per_query=3)
    return RetrieveStage(open_index("laion", ServiceIndexSettings.model_validate(given), settings), settings)


def run(url: str, base: Path, run_id: str) -> Staged:
    """Ask for the hits of the embeddings that lie under `base`, and commit them."""
    store = TableStore(LocalFiles(base))
    embeddings = store.open("seed_embeddings", "p")
    staged = run_stage(
        stage(url),
        embedding_batches(embeddings),
        store.area("retrieval_hits", "p"),
        run_id,
        print,
        [embeddings],
    )
    staged.commit()
    return staged


def best_urls(base: Path) -> list[str]:
    rows = TableStore(LocalFiles(base)).open("retrieval_hits", "p").read().to_pylist()
    assert not [row for row in rows if row["error"] is not None or len(row["hits"]) != 3]
    return [row["hits"][0]["url"] for row in rows]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Where the embeddings of the queries lie: those of the service's images."""
    table_of(
        tmp_path,
        SEED_EMBEDDINGS,
        [
            {"query_id": f"q{place:02}", "kind": "text", "embedding": vector}
            for place, vector in enumerate(VECTORS)
        ],
    )
    return tmp_path


VECTORS = normalised(np.random.default_rng(7).standard_normal((QUERIES, DIM)))
URLS = [f"http://h/{place}.jpg" for place in range(QUERIES)]


class Service(Backend):
    """Counts which queries it has answered, and does what it is told with the others."""

    def __init__(self) -> None:
        super().__init__(VECTORS, [{"url": url} for url in URLS])
        self.answered: list[int] = []

    def answers_first(
        self, number: int, then: Callable[[BaseHTTPRequestHandler], None], *, lives: bool = True
    ) -> None:
        """After so many queries `then` answers; also what asks whether it lives, unless it does."""

        def misbehave(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
            with self.lock:
                if not body and (lives or len(self.answered) < number):
                    return False
                if body and body["num_images"] != 3:
                    return False  # the one that tries it
                if body and len(self.answered) < number:
                    self.answered.append(_place(body))
                    return False
            then(handler)
            return True

        self.misbehave = misbehave


def _place(body: dict[str, Any]) -> int:
    """Which query a request asks."""
    return int(np.argmax(VECTORS @ np.array(body["embedding_input"], np.float32)))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(backoff, "BACKOFF_S", 0.01)
    state = Service()
    with serving(state):
        yield state


def closes(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def hangs_until(over: threading.Event) -> Callable[[BaseHTTPRequestHandler], None]:
    def hangs(handler: BaseHTTPRequestHandler) -> None:
        over.wait(60)
        closes(handler)

    return hangs


def refuses(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 401, b"the key has expired")


@pytest.mark.parametrize(("then", "message"), [(closes, "does not answer"), (refuses, "wants a key")])
def test_what_a_service_answered_before_it_died_is_not_asked_again(
    base: Path, service: Service, then: Callable[[BaseHTTPRequestHandler], None], message: str
) -> None:
    service.answers_first(25, then, lives=False)
    with pytest.raises(RetrievalError, match=message):
        run(service.url, base, "run1")
    assert len(service.answered) == 25

    before = len(service.requests)
    service.misbehave = None
    staged = run(service.url, base, "run2")
    again = [_place(body) for body in service.requests[before:] if body["num_images"] == 3]
    assert sorted([*service.answered, *again]) == list(range(QUERIES))
    assert staged.report["rows_ok"] == QUERIES
    assert best_urls(base) == URLS

    before = len(service.requests)
    run(service.url, base, "run3")
    assert len(service.requests) == before


def test_a_slow_query_holds_up_no_other_one(base: Path, service: Service) -> None:
    """All others are answered while the first one of them waits."""
    others_done = threading.Event()
    slow: list[int] = []

    def misbehave(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if not body or body["num_images"] != 3:
            return False
        with service.lock:
            if not slow:
                slow.append(_place(body))
                waits = True
            else:
                service.answered.append(_place(body))
                waits = False
                if len(service.answered) == QUERIES - 1:
                    others_done.set()
        if waits:
            assert others_done.wait(60)
        return False

    service.misbehave = misbehave
    run(service.url, base, "run1")
    assert others_done.is_set()
    assert best_urls(base) == URLS
    assert 2 <= service.most_at_once <= CONNECTIONS


def test_whoever_stops_does_not_wait_for_the_service(base: Path, service: Service) -> None:
    over = threading.Event()
    service.answers_first(10, hangs_until(over))
    before = set(threading.enumerate())
    asking = stage(service.url)
    asking.open()
    rows = next(iter(embedding_batches(TableStore(LocalFiles(base)).open("seed_embeddings", "p"))))
    digests = [bytes([place]) for place in range(len(rows))]
    results = asking.run(iter([Work(rows, digests, digests)]), lambda works, columns: {})
    answered = 0
    while answered < 10:
        answered += len(next(results).keys)
    results.close()
    asking.close()  # each would take a minute here
    assert not over.is_set()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith(("sd-assets", "ThreadPoolExecutor")):
            thread.join(10)
            assert not thread.is_alive()
    over.set()


def test_a_run_that_is_killed_is_gone_on_with(base: Path, service: Service, tmp_path: Path) -> None:
    over = threading.Event()
    service.answers_first(40, hangs_until(over))
    log = (tmp_path / "killed.log").open("w")
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, service.url, str(base)], env=environment, stdout=log, stderr=log
    )
    try:
        deadline = time.monotonic() + 100
        while _rows_kept(base) < 40:
            assert process.poll() is None and time.monotonic() < deadline, (
                tmp_path / "killed.log"
            ).read_text()
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        over.set()
        log.close()

    before = len(service.requests)
    service.misbehave = None
    run(service.url, base, "run2")
    again = [_place(body) for body in service.requests[before:] if body["num_images"] == 3]
    assert sorted([*service.answered, *again]) == list(range(QUERIES))
    assert best_urls(base) == URLS


def _rows_kept(base: Path) -> int:
    """Queries whose rows lie in any file of the table, finished or not."""
    kept: set[str] = set()
    for file in base.rglob("*.parquet"):
        with suppress(FileNotFoundError, pa.ArrowException):  # it is gone, or is being written
            if "retrieval_hits" in file.parts and "query_id" in pq.read_schema(file).names:
                kept.update(pq.read_table(file, columns=["query_id"]).column(0).to_pylist())
    return len(kept)
