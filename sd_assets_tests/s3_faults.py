"""A proxy between boto3 and a real S3 protocol server that spoils what a test chooses, and counts."""

import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from sd_assets.storage.files import S3Connection
from sd_assets_tests.quiet_server import QuietServer
from sd_assets_tests.s3 import S3Server

_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
)


class Fault(Enum):
    """What becomes of a request on its way."""

    CUT_UPLOAD = auto()  # the connection is closed in the middle of the request's body
    LOST_ANSWER = auto()  # the server does as it is told, and nobody hears of it
    CUT_DOWNLOAD = auto()  # the connection is closed in the middle of the answer's body
    SLOW = auto()  # the answer comes late, and in two halves
    GARBLED = auto()  # in the middle of the answer's body comes what is no TLS


@dataclass(frozen=True)
class Answer:
    """What a client hears instead of the server, which never sees the request."""

    status: int
    code: str
    message: str = "made up"
    page: str = ""  # the body instead, if it is not S3 that answers


INTERNAL_ERROR = Answer(500, "InternalError")
SLOW_DOWN = Answer(503, "SlowDown")
CONFLICT = Answer(409, "ConditionalRequestConflict")


@dataclass(frozen=True)
class Request:
    """What was asked.

    Attributes:
        method: `GET` ...
        path: with the bucket, and the query of a list.
        range: of a GET, as it stands in the header; empty: none.
        conditional: whether it is a PUT of what must not be there.
    """

    method: str
    path: str
    range: str
    conditional: bool

    @property
    def kind(self) -> str:
        """`LIST`, `COPY`, or the method."""
        return "LIST" if "list-type" in self.path else self.method


Plan = Callable[[Request], Fault | Answer | None]


def always(fault: Fault | Answer | None) -> Plan:
    """The same for every request."""
    return lambda request: fault


def in_turn(*faults: Fault | Answer | None) -> Plan:
    """One for each request; after the last all is well."""
    left = iter(faults)
    return lambda request: next(left, None)


class FaultProxy(QuietServer):
    """Stands on loopback before a server.

    Args:
        server: the real one.
        tls: makes it an https server, of the name `localhost`.

    Attributes:
        connection: to the proxy.
        plan: says of each request, in the order in which they come, what is to become of it. May be exchanged.
        requests: all that came.
        done: is told of each request after the server did it, before the client hears of it.
    """

    def __init__(self, server: S3Server, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        host = "https://localhost" if tls else "http://127.0.0.1"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.connection: S3Connection = replace(server.connection, endpoint_url=f"{host}:{self.server_port}")
        self.behind = urlsplit(str(server.connection.endpoint_url)).netloc
        self.requests: list[Request] = []
        self.plan: Plan = lambda request: None
        self.done: Callable[[Request], None] = lambda request: None
        self._lock = threading.Lock()

    def asked(self, request: Request) -> Fault | Answer | None:
        with self._lock:
            self.requests.append(request)
            return self.plan(request)


class _Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    disable_nagle_algorithm = True  # or halves of answers wait for each other
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._pass_on()

    def do_PUT(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        copy = self.headers["x-amz-copy-source"]
        request = Request(
            "COPY" if copy else self.command,
            self.path,
            self.headers["Range"] or "",
            self.headers["If-None-Match"] == "*",
        )
        fault = self.server.asked(request)
        if fault is Fault.CUT_UPLOAD:
            chunked = "Transfer-Encoding" in self.headers
            self.rfile.read(100_000 if chunked else int(self.headers["Content-Length"] or 0) // 2)
            self.close_connection = True
            return
        body = self._body()
        if isinstance(fault, Answer):
            body = (fault.page or _ERROR.format(code=fault.code, message=fault.message)).encode()
            self._send(fault.status, {}, b"" if self.command == "HEAD" else body)
            return
        behind = http.client.HTTPConnection(self.server.behind, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name != "Transfer-Encoding"}
            behind.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
            answer = behind.getresponse()
            data = answer.read()
        finally:
            behind.close()
        self.server.done(request)
        if fault is Fault.LOST_ANSWER:
            self.close_connection = True
            return
        if fault is Fault.SLOW:
            time.sleep(0.2)
        hop = {"connection", "content-length", "transfer-encoding", "date", "server"}
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in hop}
        if self.command == "HEAD":
            headers["Content-Length"] = answer.getheader("Content-Length") or "0"
        self._send(answer.status, headers, data, fault)

    def _body(self) -> bytes:
        """Of a known length, or in chunks, as boto3 sends over TLS."""
        if "Transfer-Encoding" not in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, status: int, headers: dict[str, str], data: bytes, fault: Fault | None = None) -> None:
        self.send_response_only(status)
        if "Content-Length" not in headers:
            headers["Content-Length"] = str(len(data))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        half = len(data) // 2
        self.wfile.write(data[:half])
        if fault is Fault.CUT_DOWNLOAD:
            self.close_connection = True
            return
        if fault is Fault.GARBLED:
            os.write(self.connection.fileno(), b"no record of TLS")
            self.close_connection = True
            return
        if fault is Fault.SLOW:
            time.sleep(0.2)
        self.wfile.write(data[half:])


@contextmanager
def fault_proxy(
    server: S3Server, tls: ssl.SSLContext | None = None, *, patient: bool = False
) -> Iterator[FaultProxy]:
    """A proxy before the server; see `FaultProxy`. Clients try again at once, unless they are to be patient."""
    hurried = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    proxy = FaultProxy(server, tls)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        with (
            mock.patch("sd_assets.storage.files.s3_attempts.time", time if patient else hurried),
        ):
            yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
