"""A loopback web server of photographs, in a process of its own: `with serving(folder) as url:`."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_START_OF_IMAGE = b"\xff\xd8"
_COMMENT = b"\xff\xfe"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the JPEGs of a folder while the block runs; yields the address that their names follow."""
    command = [sys.executable, "-m", "benchmarks.web", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # Leaving closes its standard input, which ends it; so does our own end, whatever that is.
        yield process.stdout.readline().strip()


def commented(jpeg: bytes, comment: str) -> bytes:
    """The same picture as other bytes, so that what is retrieved is not what it was found by."""
    text = comment.encode()
    return _START_OF_IMAGE + _COMMENT + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    folder: Path

    def do_GET(self) -> None:
        name = Path(self.path).name
        try:
            body = commented((self.folder / name).read_bytes(), self.path)
        except FileNotFoundError:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: twenty thousand lines would say nothing."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    block_on_close = False  # connections that a client keeps open end with the process


def main() -> None:
    """Serve the folder that the command line names, until standard input ends."""
    _Handler.folder = Path(sys.argv[1])
    with _Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
