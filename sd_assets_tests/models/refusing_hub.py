"""A Hugging Face hub on the loopback that only ever refuses."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class RefusingHub:
    url: str
    status: int = 404
    code: str = "RepoNotFound"

    def say(self, status: int, code: str) -> None:
        self.status, self.code = status, code


@contextmanager
def refusing_hub() -> Iterator[RefusingHub]:
    """Answers everything with one status and, as the real Hub does, an error code in a header."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(hub.status)
            self.send_header("X-Error-Code", hub.code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = RefusingHub(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
