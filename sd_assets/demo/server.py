"""The world's web: a loopback server of its images, with the faults planted in it.

`WorldServer` runs it in a background thread for as long as a `with` block; `python -m sd_assets.demo.server FOLDER` until it is
stopped or nobody has asked for anything for an hour. A second server of the same world stands by and takes over when the first ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import hashlib
import http.client
import json
import signal
import sys
import threading
import time
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from types import TracebackType

from sd_assets.demo.faults import FAULTS, LONGEST_ANSWER_S, Exchange
from sd_assets.demo.world import HOST, World
from sd_assets.errors import SdAssetsError

IDENTITY_PATH = "/.well-known/sd-assets-world"
"""Answers with the world's id, so that its own server can be told from a stranger on the same port."""

_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_IDLE_CONNECTION_S = 15.0
_STANDBY_POLL_S = 0.2
_TLS_HANDSHAKE = 0x16


class WorldServer:
    """Serves a world while the `with` block runs.

    Args:
        folder: of a complete world.

    Attributes:
        world: that is served.
    """

    def __init__(self, folder: Path) -> None:
        self.world = World.open(folder)
        self._faults: dict[str, str] = json.loads((folder / "faults.json").read_text("utf-8"))
        self._stop = threading.Event()
        self._started = threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finish: asyncio.Event | None = None
        self._last_request = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last request."""
        return time.monotonic() - self._last_request

    def __enter__(self) -> WorldServer:
        self._stop.clear()
        self._started.clear()
        self._error = None
        self._last_request = time.monotonic()
        self._thread = threading.Thread(target=self._serve_or_stand_by, name="world-server", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        loop, finish = self._loop, self._finish
        if loop is not None and finish is not None:
            with contextlib.suppress(RuntimeError):  # the loop ended by itself
                loop.call_soon_threadsafe(finish.set)
        if self._thread is not None:
            self._thread.join()

    def _serve_or_stand_by(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    asyncio.run(self._serve())
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    self._judge_occupant()
                    self._started.set()
                    self._stop.wait(_STANDBY_POLL_S)
        except Exception as error:
            self._error = error
        finally:
            self._started.set()

    def _judge_occupant(self) -> None:
        """Raises `SdAssetsError` unless the port is held by a server of this world, or just became free."""
        port = self.world.port
        connection = http.client.HTTPConnection(HOST, port, timeout=3)
        try:
            connection.request("GET", IDENTITY_PATH)
            found = connection.getresponse().read(4096)
        except ConnectionError:
            return
        except (OSError, http.client.HTTPException):
            found = b""
        finally:
            connection.close()
        if found != self.world.id.encode():
            raise SdAssetsError(
                f"the port {HOST}:{port} of the demo world in {self.world.folder} is taken by another program. End that program, or "
                f"delete the folder {self.world.folder}: the world is then built again with a free port"
            )

    async def _serve(self) -> None:
        self._loop, self._finish = asyncio.get_running_loop(), asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                # A client that leaves, or dawdles, concerns nobody else.
                with contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                    await self._converse(reader, writer)
            except asyncio.CancelledError:
                writer.transport.abort()
            finally:
                connections.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, HOST, self.world.port, backlog=512)
        self._started.set()
        if not self._stop.is_set():
            await self._finish.wait()
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it closes."""
        while True:
            first = await asyncio.wait_for(reader.readexactly(1), _IDLE_CONNECTION_S)
            self._last_request = time.monotonic()
            if first[0] == _TLS_HANDSHAKE:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            head = first + await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _IDLE_CONNECTION_S)
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ", 2)
            sent = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
            }
            path, _, query = target.partition("?")
            kind = self._faults.get(path)
            async with asyncio.timeout(LONGEST_ANSWER_S):
                if kind is not None and (answer := FAULTS[kind].answer) is not None:
                    content, headers = self._file(path) or (b"", {})
                    await answer(Exchange(reader, writer, path, query, content, headers))
                    return
                await self._answer(writer, method, path, sent)
            if sent.get("connection", "").lower() == "close":
                return

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, sent: dict[str, str]
    ) -> None:
        """A healthy answer; the connection stays open."""
        status, content, headers = 404, b"Not Found", {"Content-Type": "text/plain"}
        if method not in ("GET", "HEAD"):
            status, content = 405, b"Method Not Allowed"
        elif path == IDENTITY_PATH:
            status, content = 200, self.world.id.encode()
        elif (found := self._file(path)) is not None:
            status, (content, headers) = 200, found
            if sent.get("if-none-match") == headers["ETag"]:
                status, content = 304, b""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if status != 304:
            lines.append(f"Content-Length: {len(content)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + (content if method == "GET" else b""))
        await writer.drain()

    def _file(self, path: str) -> tuple[bytes, dict[str, str]] | None:
        """The file that a path names, and the headers that describe it."""
        name = path.removeprefix("/")
        stem, _, extension = name.partition(".")
        if not stem.isalnum() or extension not in _TYPES:  # nothing but names that the world gives
            return None
        try:
            content = (self.world.web_folder / name).read_bytes()
        except FileNotFoundError:
            return None
        # As if it had been there for years: the date is made from the name.
        age = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % (8 * 365 * 86_400)
        return content, {
            "Content-Type": _TYPES[extension],
            "ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"',
            "Last-Modified": formatdate(1_420_070_400 + age, usegmt=True),
        }


def main() -> None:
    """Serve a world until interrupted, or idle for too long."""
    parser = argparse.ArgumentParser(description="Serve a demo world on loopback.")
    parser.add_argument("folder", type=Path, help="of the world")
    parser.add_argument(
        "--idle", type=float, default=3600, help="stop after so many seconds without a request"
    )
    options = parser.parse_args()
    # Started in the background of a script we inherit an ignored interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt), WorldServer(options.folder) as server:
            print(f"{server.world.base_url} serves {options.folder}", flush=True)
            while server.idle_s < options.idle:
                time.sleep(min(0.5, options.idle))
    except SdAssetsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
