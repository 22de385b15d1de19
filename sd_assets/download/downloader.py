"""Many URLs at once: attempts and back-off, pixels made in threads, and results for consumers in other threads."""

import asyncio
import concurrent.futures
import datetime
import logging
import os
import random
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import closing
from types import TracebackType
from typing import Any, TypeVar

from yarl import URL

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.download.addresses import AddressPolicy
from sd_assets.download.answer import NOT_MODIFIED, Answer
from sd_assets.download.codes import FetchError
from sd_assets.download.fetch import Fetcher
from sd_assets.download.finish import Download, Make, finish, resized
from sd_assets.download.hosts import LONGEST_WAIT_S, Flight, Hosts
from sd_assets.download.limits import allow_open_files, new_event_loop
from sd_assets.download.request import Request
from sd_assets.download.robots import Robots, product_token
from sd_assets.download.room import Room
from sd_assets.download.session import PolicyResolver, open_session
from sd_assets.download.stream import Stream
from sd_assets.settings import DownloadSettings

logger = logging.getLogger(__name__)

# Attempt n waits up to 0.5 * 2**(n - 1) seconds: half of it for certain, half by chance, so that what failed together
# does not come back together.
_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
# Bytes of images, from the wire to the consumer, beyond what each may have uncounted.
_ROOM_BYTES = 256_000_000

T = TypeVar("T")


class Downloader:
    """Downloads images. Open for long: connections, resolved names, robots.txt and what hosts did are shared.

    Its event loop runs in a thread of its own, so any number of threads may use it at once; together they have at most
    `settings.connections` images in flight, from connecting until their pixels are encoded. Waiting for a host, or before
    another attempt, does not count. Images take up to `_ROOM_BYTES`, and a megabyte more for each in flight; what `stream`
    has not handed out yet is among them, so a consumer that stops for long stops everybody.

    Args:
        settings: how to fetch, and what `make` needs to know.
        make: what becomes of an image's bytes: `resized` (the default) or `as_it_came`.
        blocked: URLs and hosts that are not asked, images that are not kept.
        cores: that resizing may use; None: all.
        seat: the number of this downloader, and how many work at the same: see `Hosts`.
    """

    def __init__(
        self,
        settings: DownloadSettings,
        make: Make | None = None,
        blocked: Blocked = NOTHING,
        *,
        cores: int | None = None,
        seat: tuple[int, int] = (0, 1),
    ) -> None:
        self._settings = settings
        self._make = make or resized
        self._blocked = blocked
        allow_open_files(settings.connections)
        self._room = Room(max(_ROOM_BYTES, settings.max_bytes))
        self._hosts = Hosts(settings, self._room, seat)
        # What makes images gives up the interpreter's lock while it decodes, resizes and encodes.
        self._codec = concurrent.futures.ThreadPoolExecutor(cores or os.cpu_count(), "sd-assets-codec")
        self._loop = new_event_loop()
        # What goes wrong in a connection that nobody uses any more is nobody's concern.
        self._loop.set_exception_handler(lambda _, context: logger.debug("%s", context))
        self._thread = threading.Thread(target=self._loop.run_forever, name="sd-assets-download", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        self._streams: set[Stream[Any, Request]] = set()  # of the loop's thread
        # A stream that nobody holds any more may be collected, and so closed, while its thread has the lock.
        self._closing = threading.RLock()
        self._closed = False

    async def _open(self) -> None:
        settings = self._settings
        policy = AddressPolicy(settings.allow_addresses, settings.ports)
        self._resolver = PolicyResolver(policy)
        self._session = open_session(settings, policy, self._resolver)
        robots = Robots(product_token(settings.user_agent), self._robots_txt) if settings.robots_txt else None
        self._fetcher = Fetcher(self._session, settings, policy, self._blocked, robots)

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, request: Request) -> "concurrent.futures.Future[Download]":
        """What will have become of one request; returns at once.

        Raises:
            RuntimeError: the downloader is closed.
        """
        with self._closing:
            self._refuse_if_closed()
            return asyncio.run_coroutine_threadsafe(self._one(request), self._loop)

    def stream(self, requests: Iterable[tuple[T, Request]]) -> Generator[tuple[T, Download], None, None]:
        """What became of each request, with what stands beside it: as they are done, in any order.

        Of `requests` no more is taken than some thousands ahead of what was handed out, so that a slow host, or one
        that wants to be left alone for a while, holds up nobody else. `requests` is read in the caller's thread, between
        one result and the next. To close the generator is to cancel what is under way.

        Raises:
            RuntimeError: the downloader is, or was meanwhile, closed.
        """
        with closing(self.bunches(requests, None)) as bunches:
            for bunch in bunches:
                yield from bunch

    def bunches(
        self, requests: Iterable[tuple[T, Request | Download]], idle_s: float | None
    ) -> Generator[list[tuple[T, Download]], None, None]:
        """`stream`, some at a time: those that were done together; none where nothing was for `idle_s` seconds.

        Where there is a Download instead of a request, that is handed out as it is.
        """
        stream = Stream[T, Request](self._one_held, self._room, self._call)
        self._call(self._streams.add, stream)
        try:
            yield from stream.results(requests, idle_s)
        finally:
            self._call_if_open(self._streams.discard, stream)
            self._call_if_open(stream.cancel)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have the loop's thread call a function; raises RuntimeError if the downloader is closed."""
        with self._closing:
            self._refuse_if_closed()
            self._loop.call_soon_threadsafe(function, *arguments)

    def _call_if_open(self, function: Callable[..., object], *arguments: Any) -> None:
        with self._closing:
            if not self._closed:
                self._loop.call_soon_threadsafe(function, *arguments)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the downloader is closed")

    def close(self) -> None:
        """Cancel what is in flight, close the connections and end the threads. Closing twice is closing once."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._codec.shutdown()

    async def _shut(self) -> None:
        for stream in self._streams:
            stream.fail(RuntimeError("the downloader was closed"))
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._session.close()
        await self._resolver.close()
        await self._loop.shutdown_default_executor()

    # --- on the loop ---------------------------------------------------------------------------------------------

    async def _one_held(self, request: Request) -> Download:
        """Like `_one`; the image keeps its room."""
        return await self._one(request, hold=True)

    async def _one(self, request: Request, *, hold: bool = False) -> Download:
        """What becomes of a request, after as many attempts as there are to be."""

        async def attempt(number: int) -> Download:
            flight = Flight(self._hosts)
            try:
                answer = await self._fetcher.image(request, flight)
                download = await self._finished(answer, request, number)
                if hold:
                    self._room.add(len(download.image or b""))
                return download
            finally:
                flight.end()

        result, attempts, ended = await self._attempts(attempt)
        if isinstance(result, Download):
            return result
        return Download(
            ended,
            attempts,
            http_status=result.status,
            retry_after=result.retry_after,
            error=result.code,
            error_detail=result.detail,
            blocked_by=[result.blocked_by] if result.blocked_by else None,
        )

    async def _finished(self, answer: Answer, request: Request, attempts: int) -> Download:
        if answer.status == NOT_MODIFIED:
            return Download(
                _now(),
                attempts,
                http_status=answer.status,
                etag=answer.etag,
                last_modified=answer.last_modified,
                redirected_to=answer.redirected_to,
                not_modified=True,
            )
        return await self._loop.run_in_executor(
            self._codec,
            finish,
            Download(_now(), attempts),
            answer,
            self._settings,
            self._make,
            self._blocked,
            request.sha256,
        )

    async def _robots_txt(self, url: URL) -> str:
        """The text of a robots.txt, after as many attempts as there are to be; see `Robots`."""

        async def attempt(_: int) -> str:
            flight = Flight(self._hosts)
            try:
                return await self._fetcher.robots_txt(url, flight)
            finally:
                flight.end()

        result, attempts, _ = await self._attempts(attempt)
        if isinstance(result, FetchError):
            result.attempts = attempts
            raise result
        return result

    async def _attempts(
        self, attempt: Callable[[int], Awaitable[T]]
    ) -> tuple[T | FetchError, int, datetime.datetime]:
        """What came of the last attempt in which something was asked, how many there were, and when it ended."""
        failure, made, ended = None, 0, _now()
        for number in range(1, self._settings.retries + 2):
            try:
                return await attempt(number), made + 1, _now()
            except FetchError as error:
                if not error.asked and failure is not None:
                    return failure, made, ended
                if not error.asked:
                    return error, 0, _now()
                failure, made, ended = error, made + error.attempts, _now()
            wait = wait_before_next(failure, number)
            if wait is None or number > self._settings.retries:
                break
            await asyncio.sleep(wait)
        assert failure is not None
        return failure, made, ended


def wait_before_next(failure: FetchError, attempt: int) -> float | None:
    """Seconds to wait after attempt number `attempt` (from 1) failed; None if there is to be no other in this run.

    What the server asked for by Retry-After is obeyed, and makes any failure that may pass worth another attempt.
    """
    if not failure.again:
        return None
    backoff = min(_BACKOFF_S * 2.0 ** (attempt - 1), _LONGEST_BACKOFF_S) * random.uniform(0.5, 1)
    if failure.retry_after is None:
        return backoff
    return None if failure.retry_after > LONGEST_WAIT_S else failure.retry_after + backoff


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
