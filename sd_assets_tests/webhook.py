"""A webhook on loopback that keeps what it is sent, and answers as told."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from sd_assets_tests.quiet_server import QuietServer

# Whoever knows it may post, as with those of Slack.
SECRET = "T0AAAA/B0BBBB/s3cr3tPath"


class Webhook:
    """What is told to `url`.

    Attributes:
        url: with a secret in its path.
        messages: that came, in order; also those that were not taken.
        answers: (status, body, headers) of the next requests; then 200.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/services/{SECRET}"
        self.messages: list[Any] = []
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """How the next request is answered, after those that were said before."""
        self.answers.append((status, body, {name.replace("_", "-"): it for name, it in headers.items()}))


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A webhook while this lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            hook.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, body, headers = hook.answers.pop(0) if hook.answers else (200, b"ok", {})
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    with QuietServer(("127.0.0.1", 0), Handler) as server:
        hook = Webhook(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hook
        server.shutdown()
        thread.join()
