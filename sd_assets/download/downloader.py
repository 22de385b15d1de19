"""Many URLs at once: attempts, back-off, the bound on what is in flight, and pixels made in threads."""

import asyncio
import concurrent.futures
import dataclasses
import datetime
import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import aiohttp

from sd_assets import images
from sd_assets.blocked import NOTHING, Blocked
from sd_assets.download.addresses import AddressPolicy
from sd_assets.download.codes import TRANSIENT
from sd_assets.download.fetch import Answer, FetchError, fetch, open_session
from sd_assets.download.resize import judge_size, resize
from sd_assets.errors import ErrorCode, RowError
from sd_assets.schemas import image_id
from sd_assets.settings import DownloadSettings

__all__ = ["TRANSIENT", "Download", "Downloader", "as_it_came", "resized"]

# Attempt n waits up to 0.5 * 2**(n - 1) seconds: half of it for certain, half by chance, so that what failed together
# does not come back together.
_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
# A server that wants to be left alone for longer is asked again by a later run, not by this one.
_LONGEST_WAIT_S = 30.0

# The detail of an image that came, and is blocked.
BLOCKED_IMAGE = "the image is on the list `blocked:` of the catalogue"

# Makes of an image's bytes what is kept: (bytes, header, settings) -> (bytes, width, height). Raises RowError.
Make = Callable[[bytes, images.ImageInfo, DownloadSettings], tuple[bytes, int, int]]


@dataclass(frozen=True)
class Download:
    """What became of one URL: the columns of `downloaded_images` besides `url_id` and `url`.

    On failure `image_id`, `image`, `width` and `height` are None; of the rest what is known is kept.

    Attributes:
        image_id: sha256 (hex) of the bytes as they came.
        image: resized and encoded as the settings say.
        width: pixels of `image`.
        height: pixels of `image`.
        original_width: pixels as they came, after the EXIF orientation is applied.
        original_height: likewise.
        original_bytes: bytes as they came.
        format: of the bytes as they came, judged by content: jpeg, png, webp, gif, tiff, bmp, avif.
        http_status: of the last answer.
        fetched_at: when the last attempt ended (aware, UTC).
        etag: for a conditional request another day.
        last_modified: likewise.
        attempts: made in this run; 1 for a URL that may not be asked for at all.
        retry_after: seconds, as the server asked for.
        redirected_to: the URL that the answer came from, if that is another one.
        error: why it failed; None if it did not.
        error_detail: one line for a person.
        blocked_by: of the error BLOCKED: the entry of the list.
    """

    fetched_at: datetime.datetime
    attempts: int
    image_id: str | None = None
    image: bytes | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    original_bytes: int | None = None
    format: str | None = None
    http_status: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    retry_after: float | None = None
    redirected_to: str | None = None
    error: ErrorCode | None = None
    error_detail: str | None = None
    blocked_by: list[str] | None = None


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


def finish(
    row: Download, answer: Answer, settings: DownloadSettings, make: Make, blocked: Blocked
) -> Download:
    """`row` with what an answer holds: the image made from its body, or the code of why there is none."""
    entry = blocked.image(image_id(answer.body)) if blocked else None
    if entry is not None:  # nothing is kept that would tell one image from another
        return dataclasses.replace(
            row,
            http_status=answer.status,
            error=ErrorCode.BLOCKED,
            error_detail=BLOCKED_IMAGE,
            blocked_by=[entry],
        )
    row = dataclasses.replace(
        row,
        http_status=answer.status,
        etag=answer.etag,
        last_modified=answer.last_modified,
        original_bytes=len(answer.body),
        redirected_to=answer.redirected_to,
    )
    try:
        info = images.inspect(answer.body)
        row = dataclasses.replace(
            row, format=info.format, original_width=info.width, original_height=info.height
        )
        image, width, height = make(answer.body, info, settings)
    except RowError as error:
        return dataclasses.replace(row, error=error.code, error_detail=error.detail)
    return dataclasses.replace(row, image_id=image_id(answer.body), image=image, width=width, height=height)


def resized(data: bytes, info: images.ImageInfo, settings: DownloadSettings) -> tuple[bytes, int, int]:
    """The image judged, resized and encoded as the settings say; its width and height."""
    judge_size(info.width, info.height, settings)
    image = images.decode_rgb(data, max_pixels=settings.max_pixels)
    image = resize(image, settings.image_size, settings.resize_mode, settings.resize_only_if_bigger)
    return images.encode(image, settings.image_format, settings.quality), image.width, image.height


def as_it_came(data: bytes, info: images.ImageInfo, settings: DownloadSettings) -> tuple[bytes, int, int]:
    """The bytes themselves, whatever size they have; its width and height."""
    return data, info.width, info.height


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
