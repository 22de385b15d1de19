"""A server on loopback that misbehaves as told: every path is a coroutine that has the raw socket."""

import asyncio
import collections
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

Behaviour = Callable[[asyncio.StreamWriter, dict[str, str]], Awaitable[None]]


def answer(status: str = "200 OK", body: bytes = b"", length: int | None = -1, **headers: str) -> Behaviour:
    """An answer that is sent at once. `length` is the Content-Length: -1 the true one, None no such header."""

    async def behave(writer: asyncio.StreamWriter, _: dict[str, str]) -> None:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if length is not None:
            fields["Content-Length"] = str(len(body) if length == -1 else length)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\n{lines}\r\n".encode() + body)
        await writer.drain()

    return behave


def raw(*parts: bytes | float) -> Behaviour:
    """Bytes as they are, and pauses in seconds between them."""

    async def behave(writer: asyncio.StreamWriter, _: dict[str, str]) -> None:
        for part in parts:
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            else:
                await asyncio.sleep(part)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """One after the other at each request; the last one from then on."""
    left = list(behaviours)

    async def behave(writer: asyncio.StreamWriter, headers: dict[str, str]) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(writer, headers)

    return behave


class LoopThread:
    """Servers on an event loop in a thread of its own: begun by `with`, and ended with all that they do."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Server(LoopThread):
    """Serves `paths` on 127.0.0.1 and counts the requests.

    Attributes:
        paths: path -> behaviour; may be changed while it runs.
        requests: path -> how often it was asked for.
        headers: path -> the headers of the last request for it.
    """

    def __init__(self, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        super().__init__()
        self.paths: dict[str, Behaviour] = {}
        self.requests: collections.Counter[str] = collections.Counter()
        self.headers: dict[str, dict[str, str]] = {}
        self.port = 0
        self._context = context
        self._host = host

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{'https' if self._context else 'http'}://{host}:{self.port}{path}"

    def __enter__(self) -> Self:
        super().__enter__()
        self._run(self._start())
        return self

    async def _start(self) -> None:
        server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(1)
            if first == b"\x16":  # TLS, to a server that speaks none
                return await answer("400 Bad Request")(writer, {})
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split(" ")[1]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
            self.requests[path] += 1
            self.headers[path] = headers
            await self.paths.get(path, answer("404 Not Found"))(writer, headers)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away, as it should
        finally:
            writer.close()
