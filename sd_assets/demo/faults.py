"""What goes wrong on the world's web: the kinds of planted fault, how each answers, and the code that a downloader must give it.

Every answer is bounded in bytes and in seconds, so that no client can keep the server busy for good.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from sd_assets.errors import ErrorCode

LONGEST_ANSWER_S = 20.0
LARGEST_ANSWER_BYTES = 6_000_000
"""Of an endless or oversized answer: more than the demo entry's `max_bytes` of 2 MB."""


@dataclass(frozen=True)
class Exchange:
    """One request and the way back.

    Attributes:
        reader: what else the client sends.
        writer: what the client gets.
        path: that was asked for, with its leading slash and without a query.
        query: what stood after the question mark, or nothing.
        content: the file that stands behind the path.
        headers: that describe the file: its type, ETag and date.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    path: str
    query: str
    content: bytes
    headers: Mapping[str, str]

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and headers; the connection will close after the answer."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in {**headers, "Connection": "close"}.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def send(self, data: bytes) -> None:
        """Send bytes as fast as the client takes them."""
        self.writer.write(data)
        await self.writer.drain()

    async def respond(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        """A whole answer with its right length."""
        await self.head(status, {**headers, "Content-Length": str(len(content))})
        await self.send(content)

    def variant(self, count: int) -> int:
        """One of `count` variants, fixed per path."""
        return zlib.crc32(self.path.encode()) % count


Answer = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A kind of planted fault.

    Attributes:
        expected: the error code that a downloader must give it.
        answer: how the server answers; None if it serves the file as it is, or is never reached.
        url: the address, from a port and an opaque name.
        extension: of the file behind it.
    """

    expected: ErrorCode
    answer: Answer | None
    url: str = "http://127.0.0.1:{port}/{name}"
    extension: str = "jpg"


def _status(status: int, extra: Mapping[str, str] | None = None) -> Answer:
    async def answer(exchange: Exchange) -> None:
        page = f"<html><body><h1>{HTTPStatus(status).phrase}</h1></body></html>".encode()
        await exchange.respond(status, page, {"Content-Type": "text/html", **(extra or {})})

    return answer


async def _never(exchange: Exchange) -> None:
    await exchange.reader.read(1)  # until the client gives up


async def _drip(exchange: Exchange) -> None:
    await exchange.head(200, {**exchange.headers, "Content-Length": str(len(exchange.content))})
    for byte in exchange.content:
        await exchange.send(bytes([byte]))
        await asyncio.sleep(0.1)


async def _oversized(exchange: Exchange) -> None:
    await exchange.head(200, {**exchange.headers, "Content-Length": str(LARGEST_ANSWER_BYTES)})
    await _pour(exchange)


async def _endless(exchange: Exchange) -> None:
    await exchange.head(200, exchange.headers)  # no length: it ends when the connection does
    await _pour(exchange)


async def _pour(exchange: Exchange) -> None:
    await exchange.send(exchange.content)
    left = LARGEST_ANSWER_BYTES - len(exchange.content)
    while left > 0:
        await exchange.send(bytes(min(left, 65_536)))
        left -= 65_536


async def _redirect_loop(exchange: Exchange) -> None:
    turn = int(exchange.query) if exchange.query.isdigit() else 0
    await exchange.respond(302, b"", {"Location": f"{exchange.path}?{turn + 1}"})


async def _redirect_private(exchange: Exchange) -> None:
    places = ("169.254.169.254/latest/meta-data/", "127.0.0.2/", "10.0.0.1/admin", "[::1]/", "192.168.0.1/")
    await exchange.respond(302, b"", {"Location": f"http://{places[exchange.variant(len(places))]}"})


async def _redirect_file(exchange: Exchange) -> None:
    await exchange.respond(302, b"", {"Location": "file:///etc/hostname"})


async def _redirect_nowhere(exchange: Exchange) -> None:
    await exchange.respond(302, b"", {})


async def _html(exchange: Exchange) -> None:
    page = b"<!DOCTYPE html><html><head><title>Image host</title></head><body>This image has moved.</body></html>"
    await exchange.respond(200, page, exchange.headers)  # with the image's own Content-Type


async def _cut(exchange: Exchange) -> None:
    await exchange.head(200, {**exchange.headers, "Content-Length": str(len(exchange.content))})
    await exchange.send(exchange.content[: len(exchange.content) * 6 // 10])


async def _truncated(exchange: Exchange) -> None:
    await exchange.respond(200, exchange.content[: len(exchange.content) * 6 // 10], exchange.headers)


async def _bomb(exchange: Exchange) -> None:
    await exchange.respond(200, _pixel_bomb(), exchange.headers)


async def _empty(exchange: Exchange) -> None:
    await exchange.respond(200, b"", exchange.headers)


async def _opted_out(exchange: Exchange) -> None:
    tag = ("noai", "noai, noimageai", "noimageindex", "noindex")[exchange.variant(4)]
    await exchange.respond(200, exchange.content, {**exchange.headers, "X-Robots-Tag": tag})


async def _reset(exchange: Exchange) -> None:
    # Closing with a linger time of nought sends a reset instead of a normal end.
    sock: socket.socket = exchange.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.writer.transport.abort()


async def _not_http(exchange: Exchange) -> None:
    await exchange.send(b"\x00\x17 220 ready when you are\r\n\r\n")


def _pixel_bomb() -> bytes:
    """A PNG of a few hundred bytes whose header promises 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


FAULTS: dict[str, Fault] = {
    "missing": Fault(ErrorCode.NOT_FOUND, _status(404)),
    "gone": Fault(ErrorCode.NOT_FOUND, _status(410)),
    "forbidden": Fault(ErrorCode.ACCESS_DENIED, _status(403)),
    "too_many_requests": Fault(ErrorCode.RATE_LIMITED, _status(429, {"Retry-After": "1"})),
    "bad_request": Fault(ErrorCode.CLIENT_ERROR, _status(400)),
    "broken_server": Fault(ErrorCode.SERVER_ERROR, _status(500)),
    "never_answers": Fault(ErrorCode.TIMEOUT, _never),
    "drip_feed": Fault(ErrorCode.TIMEOUT, _drip),
    "oversized": Fault(ErrorCode.TOO_LARGE, _oversized),
    "endless": Fault(ErrorCode.TOO_LARGE, _endless),
    "redirect_loop": Fault(ErrorCode.TOO_MANY_REDIRECTS, _redirect_loop),
    "redirect_private": Fault(ErrorCode.ADDRESS_FORBIDDEN, _redirect_private),
    "redirect_file": Fault(ErrorCode.UNSUPPORTED_SCHEME, _redirect_file),
    "redirect_nowhere": Fault(ErrorCode.INVALID_REDIRECT, _redirect_nowhere),
    "html_page": Fault(ErrorCode.NOT_AN_IMAGE, _html),
    "cut_short": Fault(ErrorCode.INCOMPLETE, _cut),
    "truncated_jpeg": Fault(ErrorCode.CORRUPT_IMAGE, _truncated),
    "pixel_bomb": Fault(ErrorCode.TOO_MANY_PIXELS, _bomb, extension="png"),
    "empty_body": Fault(ErrorCode.EMPTY, _empty),
    "opted_out": Fault(ErrorCode.OPTED_OUT, _opted_out),
    "elongated": Fault(ErrorCode.ASPECT_RATIO, None),  # the file itself is
    "reset": Fault(ErrorCode.CONNECTION_FAILED, _reset),
    "not_http": Fault(ErrorCode.INVALID_RESPONSE, _not_http),
    # The server speaks no TLS, and says so in plain text.
    "no_tls": Fault(ErrorCode.TLS_ERROR, None, url="https://127.0.0.1:{port}/{name}"),
    # `.invalid` never resolves (RFC 2606).
    "unresolvable": Fault(ErrorCode.DNS_ERROR, None, url="http://gone-{stem}.invalid/{name}"),
}
"""Every kind of planted fault, by its name in the world's truth."""


def fault_url(kind: str, stem: str, port: int) -> str:
    """The address of a fault of this kind: the same scheme as a healthy image's wherever the fault allows it."""
    fault = FAULTS[kind]
    return fault.url.format(port=port, stem=stem, name=f"{stem}.{fault.extension}")
