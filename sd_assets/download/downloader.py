"""Many URLs at once: attempts, back-off, the bound on what is in flight, and pixels made in threads."""

import asyncio
import concurrent.futures
import datetime
import os
import random
import threading
from collections.abc import Sequence
from types import TracebackType

import aiohttp

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.download.addresses import AddressPolicy
from sd_assets.download.fetch import FetchError, fetch, open_session
from sd_assets.download.finish import Download, Make, finish, resized
from sd_assets.settings import DownloadSettings

# Attempt n waits up to 0.5 * 2**(n - 1) seconds: half of it for certain, half by chance, so that what failed together
# does not come back together.
_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
# A server that wants to be left alone for longer is asked again by a later run, not by this one.
_LONGEST_WAIT_S = 30.0


class Downloader:
    """Downloads images. Open for long: the session, the connections and the resolved names are shared.

    Its event loop runs in a thread of its own, so any number of threads may call `download` at once; together they
    have at most `settings.connections` images in flight, from connecting until their pixels are encoded, which also
    bounds the memory. Waiting before another attempt does not count.

    Args:
        settings: how to fetch, and what `make` needs to know.
        make: what becomes of an image's bytes: `resized` (the default) or `as_it_came`.
        blocked: URLs and hosts that are not asked, images that are not kept.
    """

    def __init__(
        self, settings: DownloadSettings, make: Make | None = None, blocked: Blocked = NOTHING
    ) -> None:
        self._settings = settings
        self._make = make or resized
        self._blocked = blocked
        self._policy = AddressPolicy(settings.allow_addresses)
        self._slots = asyncio.Semaphore(settings.connections)
        # Pillow gives up the interpreter's lock while it decodes, resizes and encodes.
        self._codec = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), "sd-assets-codec")
        self._loop = asyncio.new_event_loop()
        # Names are resolved in threads of the loop's own pool; one that takes long must not hold the others up.
        self._loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(64, "sd-assets-resolver"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="sd-assets-download", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        self._closing = threading.Lock()
        self._closed = False

    async def _open(self) -> aiohttp.ClientSession:
        return open_session(self._settings, self._policy)

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def download(self, urls: Sequence[str]) -> list[Download]:
        """What became of each URL, in the order of `urls`. Blocks until the last one is done.

        Raises:
            RuntimeError: the downloader is closed.
        """
        with self._closing:
            if self._closed:
                raise RuntimeError("the downloader is closed")
            future = asyncio.run_coroutine_threadsafe(self._all(urls), self._loop)
        try:
            return future.result()
        except BaseException:  # an interrupt of the caller must not leave its requests running
            future.cancel()
            raise

    def submit(self, url: str) -> "concurrent.futures.Future[Download]":
        """What will have become of one URL; returns at once.

        Raises:
            RuntimeError: the downloader is closed.
        """
        with self._closing:
            if self._closed:
                raise RuntimeError("the downloader is closed")
            return asyncio.run_coroutine_threadsafe(self._one(url), self._loop)

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
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._session.close()

    async def _all(self, urls: Sequence[str]) -> list[Download]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(url)) for url in urls]
        except BaseExceptionGroup as errors:  # a bug of ours: the first is as good as all
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _one(self, url: str) -> Download:
        for attempt in range(1, self._settings.retries + 2):
            async with self._slots:
                try:
                    answer = await fetch(self._session, url, self._settings, self._policy, self._blocked)
                except FetchError as error:
                    failure = error
                else:
                    loop = asyncio.get_running_loop()
                    row = Download(_now(), attempt)
                    return await loop.run_in_executor(
                        self._codec, finish, row, answer, self._settings, self._make, self._blocked
                    )
            ended = _now()
            wait = wait_before_next(failure, attempt)
            if wait is None or attempt > self._settings.retries:
                break
            await asyncio.sleep(wait)
        return Download(
            ended,
            attempt,
            http_status=failure.status,
            retry_after=failure.retry_after,
            error=failure.code,
            error_detail=failure.detail,
            blocked_by=[failure.blocked_by] if failure.blocked_by else None,
        )


def wait_before_next(failure: FetchError, attempt: int) -> float | None:
    """Seconds to wait after attempt number `attempt` (from 1) failed; None if there is to be no other in this run.

    What the server asked for by Retry-After is obeyed, and makes any failure that may pass worth another attempt.
    """
    if not failure.again:
        return None
    backoff = min(_BACKOFF_S * 2.0 ** (attempt - 1), _LONGEST_BACKOFF_S) * random.uniform(0.5, 1)
    if failure.retry_after is None:
        return backoff
    return None if failure.retry_after > _LONGEST_WAIT_S else failure.retry_after + backoff


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
