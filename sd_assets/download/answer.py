"""What a server answers: its status and headers judged, its body read whole, within bounds."""

import datetime
import email.utils
import re
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.http_exceptions import ContentLengthError, HttpProcessingError

from sd_assets.download import robots
from sd_assets.download.codes import FetchError, in_words, storable
from sd_assets.download.room import FREE_BYTES
from sd_assets.errors import ErrorCode
from sd_assets.settings import DownloadSettings

NOT_MODIFIED = 304
_SUCCESS = frozenset({200, 203})
_STATUS_CODES = {
    404: ErrorCode.NOT_FOUND,
    410: ErrorCode.NOT_FOUND,
    401: ErrorCode.ACCESS_DENIED,
    402: ErrorCode.ACCESS_DENIED,
    403: ErrorCode.ACCESS_DENIED,
    407: ErrorCode.ACCESS_DENIED,
    451: ErrorCode.ACCESS_DENIED,
    429: ErrorCode.RATE_LIMITED,
}
# `none` is short for `noindex, nofollow`.
_OPT_OUT = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# Directives with a value; what else stands before a colon is the name of an agent.
_VALUED_DIRECTIVES = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
_LONGEST_RETRY_AFTER_S = 366 * 86_400.0
_PIECE = 65_536  # bytes that compressed data unfolds to at a time
_SLICE = 4_096  # bytes that are unfolded at a time: of what is left the decoder makes a copy, after each piece and member

# Waits until there is room for so many bytes, beyond those of `FREE_BYTES`.
Reserve = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Answer:
    """What a server answered, in full.

    Attributes:
        body: decoded; not empty but for the status 304.
        status: 200, 203, or 304 to a conditional request.
        etag: as sent, for a conditional request another day.
        last_modified: as sent, likewise.
        redirected_to: the URL that sent it, if that is another one.
    """

    body: bytes
    status: int
    etag: str | None
    last_modified: str | None
    redirected_to: str | None = None


async def read_image(
    response: aiohttp.ClientResponse, settings: DownloadSettings, reserve: Reserve, *, conditional: bool
) -> Answer:
    """The answer to a request for an image, which may have been conditional.

    Raises:
        FetchError: with one of the codes of answers, or EMPTY.
    """
    status, headers = response.status, response.headers
    not_modified = conditional and status == NOT_MODIFIED
    if status not in _SUCCESS and not not_modified:
        raise _status_error(response)
    if settings.x_robots_tag:
        directive = opted_out(headers.getall("X-Robots-Tag", []), settings.user_agent)
        if directive is not None:
            raise FetchError(ErrorCode.OPTED_OUT, f"X-Robots-Tag: {directive}", status=status)
    body = b"" if not_modified else await _whole(response, settings.max_bytes, reserve)
    if not body and not not_modified:
        raise FetchError(ErrorCode.EMPTY, "the answer has no body", status=status)
    etag, last_modified = (headers.get(name) for name in ("ETag", "Last-Modified"))
    return Answer(body, status, etag and storable(etag), last_modified and storable(last_modified))


async def read_robots(response: aiohttp.ClientResponse) -> str:
    """The text of a robots.txt, as far as it is to be read.

    Raises:
        FetchError: with one of the codes of answers.
    """
    if not 200 <= response.status < 300:
        raise _status_error(response)
    body = bytearray()
    async with aclosing(_pieces(response)) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) >= robots.MAX_BYTES:
                break
    return body[: robots.MAX_BYTES].decode("utf-8", "replace")


def _status_error(response: aiohttp.ClientResponse) -> FetchError:
    status = response.status
    return FetchError(
        _status_code(status),
        f"status {status} {response.reason or ''}".rstrip(),
        status=status,
        retry_after=retry_after(response.headers.get("Retry-After"), datetime.datetime.now(datetime.UTC)),
    )


def _status_code(status: int) -> ErrorCode:
    if status in _STATUS_CODES:
        return _STATUS_CODES[status]
    if 400 <= status < 500:
        return ErrorCode.CLIENT_ERROR
    return ErrorCode.SERVER_ERROR if 500 <= status < 600 else ErrorCode.UNEXPECTED_STATUS


def retry_after(value: str | None, now: datetime.datetime) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: seconds or a date); None if it says nothing."""
    value = (value or "").strip()
    if re.fullmatch(r"[0-9]+", value):
        return min(float(value), _LONGEST_RETRY_AFTER_S)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=datetime.UTC)
    return min(max(0.0, (until - now).total_seconds()), _LONGEST_RETRY_AFTER_S)


def opted_out(values: Iterable[str], user_agent: str) -> str | None:
    """The directive of X-Robots-Tag headers by which the owner opted out; None if there is none.

    A directive counts when it names no agent, every agent (`*`), or ours: the product token of `user_agent` (what
    stands before the `/`). An agent's name holds for the rest of its header.
    """
    ours = robots.product_token(user_agent).lower()
    for value in values:
        agent = "*"
        for part in value.split(","):
            name, colon, rest = (text.strip().lower() for text in part.partition(":"))
            # A date after `unavailable_after` has colons, too, but no agent's name has blanks.
            if colon and name not in _VALUED_DIRECTIVES and not re.search(r"\s", name):
                agent, name = name, rest
            if agent in ("*", ours) and name in _OPT_OUT:
                return name if agent == "*" else f"{agent}: {name}"
    return None


async def _whole(response: aiohttp.ClientResponse, max_bytes: int, reserve: Reserve) -> bytes:
    """The decoded body; no more than `max_bytes` and a piece of it are ever held."""
    status, announced = response.status, response.content_length
    if announced is not None and announced > max_bytes:
        raise _too_large(f"{announced} bytes announced", max_bytes, status)
    reserved = announced is not None and not response.headers.get("Content-Encoding")
    if reserved:
        await reserve((announced or 0) - FREE_BYTES)
    body: list[bytes] = []
    size = 0
    async with aclosing(_pieces(response, max_bytes)) as pieces:
        async for piece in pieces:
            size += len(piece)
            if size > max_bytes:
                raise _too_large(f"{size} bytes and more", max_bytes, status)
            if size > FREE_BYTES and not reserved:  # nobody said how large it will be
                await reserve(max_bytes - FREE_BYTES)
                reserved = True
            body.append(piece)
    return b"".join(body)


async def _pieces(
    response: aiohttp.ClientResponse, max_bytes: int | None = None
) -> AsyncGenerator[bytes, None]:
    """The body as it comes, decoded. Of what comes, decoded or not, there may be `max_bytes`, if that is given."""
    status = response.status
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        detail = f"Content-Encoding {coding!r}, though none was asked for"
        raise FetchError(ErrorCode.INVALID_RESPONSE, detail, status=status)
    inflater = _Inflater() if coding not in ("", "identity") else None
    taken = size = 0
    try:
        async for chunk in response.content.iter_any():
            # What comes counts too, not only what it unfolds to: there may be no end to what unfolds to nothing.
            taken += len(chunk)
            if max_bytes is not None and taken > max_bytes:
                raise _too_large(f"{taken} bytes and more", max_bytes, status)
            for piece in inflater.pieces(chunk) if inflater else (chunk,):
                size += len(piece)
                yield piece
    except zlib.error as error:
        raise FetchError(ErrorCode.INVALID_RESPONSE, f"broken {coding}: {error}", status=status) from error
    except (aiohttp.ClientError, HttpProcessingError) as error:
        code = ErrorCode.INVALID_RESPONSE if _broken_framing(error) else ErrorCode.INCOMPLETE
        raise FetchError(code, f"after {size} bytes: {in_words(error)}", status=status) from error
    if inflater and not inflater.complete:
        raise FetchError(ErrorCode.INCOMPLETE, f"the {coding} stream ends early", status=status)


class _Inflater:
    """Takes gzip or deflate off a stream, in bounded pieces, however much a chunk unfolds to."""

    def __init__(self) -> None:
        self._decoder: Any = None
        self._members = False  # whether another one may follow

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        for start in range(0, len(chunk), _SLICE):
            yield from self._unfolded(chunk[start : start + _SLICE])

    def _unfolded(self, data: bytes) -> Iterator[bytes]:
        full = False  # the last piece: the decoder may hold more of it, and need no more data
        while data or full:
            if self._decoder is None:
                # "deflate" comes with zlib's header or, from some servers, without: its first byte tells.
                self._members = data[0] == 0x1F
                headed = self._members or data[0] & 0x0F == 8
                self._decoder = zlib.decompressobj(32 + zlib.MAX_WBITS if headed else -zlib.MAX_WBITS)
            elif self._decoder.eof:
                # gzip is one member after the other (RFC 1952, 2.2). What else comes after the end means nothing.
                self._members = self._members and data[0] == 0x1F
                if not self._members:
                    return
                self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
            piece = self._decoder.decompress(data, _PIECE)
            yield piece
            full = len(piece) == _PIECE and not self._decoder.eof
            data = self._decoder.unused_data or self._decoder.unconsumed_tail

    @property
    def complete(self) -> bool:
        return self._decoder is None or bool(self._decoder.eof)


def _too_large(size: str, max_bytes: int, status: int) -> FetchError:
    return FetchError(ErrorCode.TOO_LARGE, f"{size}, over the limit of {max_bytes} bytes", status=status)


def _broken_framing(error: BaseException) -> bool:
    """Whether a body's chunks were malformed, rather than fewer than promised."""
    cause = error if isinstance(error, HttpProcessingError) else error.__cause__
    if not isinstance(cause, HttpProcessingError) or isinstance(cause, ContentLengthError):
        return False
    return "Not enough data" not in cause.message
