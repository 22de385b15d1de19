"""A small index on disk, and a server that speaks clip-retrieval's protocol as its `back` was seen to."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from sd_assets.retrieval.layout import write_index

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
    url: str = ""
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        query = np.array(body["embedding_input"], dtype=np.float32)
        if query.shape != (DIM,) or body["indice_name"] not in (None, "rooms"):
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
def backend(
    vectors: npt.NDArray[np.float32], metadata: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Backend]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    rows = metadata.rename_columns(
        ["url", "caption", "WIDTH", "HEIGHT", "license", "NSFW", "sha256"]
    ).to_pylist()
    state = Backend(vectors, rows)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if state.misbehave is None or not state.misbehave(self, {}):
                send(self, 200, b'["rooms"]')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.requests.append(body)
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

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
