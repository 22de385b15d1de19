"""A small index on disk, and a server that speaks clip-retrieval's protocol as its `back` was seen to."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from sd_assets.retrieval.layout import write_index
from sd_assets_tests.quiet_server import QuietServer

DIM = 8
ROWS = 60

Behaviour = Callable[[BaseHTTPRequestHandler, dict[str, Any]], bool]


def normalised(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture
def vectors() -> npt.NDArray[np.float32]:
    return normalised(np.random.default_rng(5).standard_normal((ROWS, DIM)))


@pytest.fixture
def metadata() -> pa.Table:
    return pa.table(
        {
            "URL": [f"http://h/{i}.jpg" for i in range(ROWS)],
            "TEXT": [None if i % 7 == 0 else f"text {i}" for i in range(ROWS)],
            "WIDTH": pa.array([float("nan") if i == 3 else 100.0 + i for i in range(ROWS)]),
            "HEIGHT": pa.array([200 + i for i in range(ROWS)], pa.int64()),
            "LICENSE": ["cc-by"] * ROWS,
            "punsafe": [0.25] * ROWS,
            "sha256": [f"{i:064x}" for i in range(ROWS)],
        }
    )


@pytest.fixture
def folder(tmp_path: Path, vectors: npt.NDArray[np.float32], metadata: pa.Table) -> Path:
    write_index(tmp_path / "index", vectors, metadata)
    return tmp_path / "index"


@dataclass
class Backend:
    """`clip-retrieval back`, as far as we use it. `misbehave` may answer instead (and says whether it did)."""

    vectors: npt.NDArray[np.float32]
    rows: list[dict[str, Any]]
    misbehave: Behaviour | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    url: str = ""
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        query = np.array(body["embedding_input"], dtype=np.float32)
        if query.shape != self.vectors.shape[1:] or body["indice_name"] not in (None, "rooms"):
            raise ValueError("the real one answers these with 500")
        scores = self.vectors @ query
        order = np.argsort(-scores)[: body["num_result_ids"]].tolist()
        found = [
            {**self.rows[i], "id": i, "similarity": float(scores[i])} for i in order[: body["num_images"]]
        ]
        return found + [{"id": i, "similarity": float(scores[i])} for i in order[body["num_images"] :]]


def send(
    handler: BaseHTTPRequestHandler, status: int, content: bytes, kind: str = "application/json"
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def rows(metadata: pa.Table) -> list[dict[str, Any]]:
    """What the service says of each image."""
    names = ["url", "caption", "WIDTH", "HEIGHT", "license", "NSFW", "sha256"]
    listed: list[dict[str, Any]] = metadata.rename_columns(names).to_pylist()
    return listed


@pytest.fixture
def backend(
    vectors: npt.NDArray[np.float32], rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Backend]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Backend(vectors, rows)) as state:
        yield state


@contextmanager
def serving(state: Backend, port: int = 0) -> Iterator[Backend]:
    """The backend behind a URL of its own, which it then knows; afterwards nobody listens there, and no connection is left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with state.lock:
                state.connections.append(self.connection)

        def do_GET(self) -> None:
            self.answered({})
            if state.misbehave is None or not state.misbehave(self, {}):
                send(self, 200, b'["rooms"]')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answered(body)
            with state.lock:
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            try:
                if state.misbehave is not None and state.misbehave(self, body):
                    return
                try:
                    send(
                        self, 200, json.dumps(state.answer(body)).encode()
                    )  # NaN comes out bare, as upstream
                except (ValueError, KeyError):
                    send(self, 500, b'{"message": "Internal Server Error"}')
            finally:
                with state.lock:
                    state.at_once -= 1

        def answered(self, body: dict[str, Any]) -> None:
            with state.lock:
                state.headers.append(dict(self.headers))
                if body:
                    state.requests.append(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = QuietServer(("127.0.0.1", port), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        for connection in state.connections:
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
