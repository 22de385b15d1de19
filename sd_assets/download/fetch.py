"""One attempt to fetch one URL, over a shared session: the whole body, or a `FetchError` with a code.

Everything that may go wrong between the URL and the last byte has a code. What is not known here propagates: it is a
bug of ours, and no error of the row.
"""

import asyncio
import datetime
import email.utils
import re
import socket
import ssl
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import aiohttp.abc
from aiohttp.http_exceptions import ContentLengthError, HttpProcessingError
from yarl import URL

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.download.addresses import AddressPolicy, literal_address
from sd_assets.download.codes import TRANSIENT
from sd_assets.errors import ErrorCode, RowError
from sd_assets.settings import DownloadSettings

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
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
_MAX_HEADER_LINE = 32_768  # bytes; real sites send policies of more than aiohttp's 8 KiB


class FetchError(RowError):
    """The attempt failed.

    Attributes:
        status: of the last HTTP answer, if there was one.
        retry_after: seconds, as the server asked for.
        again: whether another attempt, soon, may succeed.
        blocked_by: of the code BLOCKED: the entry of the list.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        again: bool | None = None,
        blocked_by: str | None = None,
    ) -> None:
        super().__init__(code, " ".join(_text(detail).split())[:300])  # aiohttp's messages have several lines
        self.status = status
        self.retry_after = retry_after
        self.again = code in TRANSIENT if again is None else again
        self.blocked_by = blocked_by


@dataclass(frozen=True)
class Answer:
    """What a server answered, in full.

    Attributes:
        body: decoded, not empty.
        status: 200 or 203.
        etag: as sent, for a conditional request another day.
        last_modified: as sent, likewise.
        redirected_to: the URL that sent it, if that is another one.
    """

    body: bytes
    status: int
    etag: str | None
    last_modified: str | None
    redirected_to: str | None = None


class AddressForbiddenError(OSError):
    """A name resolves to addresses that may not be connected to, only."""


class PolicyResolver(aiohttp.abc.AbstractResolver):
    """Resolves names to the addresses that the policy permits: aiohttp connects to these, and asks nobody again.

    Raises (from `resolve`):
        AddressForbiddenError: every address of the name is refused.
        socket.gaierror: there is no address.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        # RFC 6761, 6.4: names under `invalid` never exist, and nobody needs to be asked.
        if host.rstrip(".").lower().rpartition(".")[2] == "invalid":
            raise socket.gaierror(socket.EAI_NONAME, "the name is reserved never to exist (RFC 6761)")
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # a label that is empty or too long
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
        permitted: list[aiohttp.abc.ResolveResult] = []
        refusals: list[str] = []
        for found_family, _, protocol, _, address in found:
            refusal = self._policy.refusal(str(address[0]), port)
            if refusal is not None:
                refusals.append(refusal)
                continue
            permitted.append(
                {
                    "hostname": host,
                    "host": str(address[0]),
                    "port": port,
                    "family": found_family,
                    "proto": protocol,
                    "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                }
            )
        if not permitted:
            raise AddressForbiddenError(f"{host}: {'; '.join(refusals)}")
        return permitted

    async def close(self) -> None:
        """Nothing is held."""


def open_session(settings: DownloadSettings, policy: AddressPolicy) -> aiohttp.ClientSession:
    """The session that all fetches share. Call it within the event loop, and close it there.

    TLS is verified; no cookie is kept, no proxy taken from the environment. The caller bounds the connections.
    """
    connector = aiohttp.TCPConnector(resolver=PolicyResolver(policy), limit=0, ttl_dns_cache=300)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        # Bodies are decoded here, where their size is bounded while they grow.
        auto_decompress=False,
        # `fetch` has one deadline of its own for everything.
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        headers={
            "User-Agent": settings.user_agent,
            "Accept": "image/*,*/*;q=0.8",
            "Accept-Encoding": "identity",
        },
        trust_env=False,
        max_line_size=_MAX_HEADER_LINE,
        max_field_size=_MAX_HEADER_LINE,
    )


async def fetch(
    session: aiohttp.ClientSession,
    url: str,
    settings: DownloadSettings,
    policy: AddressPolicy,
    blocked: Blocked = NOTHING,
) -> Answer:
    """GET `url`, following redirects, within one deadline of `settings.timeout_s`. What is blocked is not asked.

    Raises:
        FetchError: with any of the download codes, or EMPTY.
    """
    progress = _Progress()
    try:
        async with asyncio.timeout(settings.timeout_s):
            return await _follow(session, url, settings, policy, blocked, progress)
    except TimeoutError as error:
        # aiohttp tells the connection, but not whoever waits for the body, that chunks in its middle are malformed.
        if isinstance(progress.broken, HttpProcessingError):
            raise FetchError(
                ErrorCode.INVALID_RESPONSE, _line(progress.broken), status=progress.status
            ) from error
        detail = f"not done within {settings.timeout_s:g} s"
        raise FetchError(ErrorCode.TIMEOUT, detail, status=progress.status) from error


@dataclass
class _Progress:
    """How far an attempt came, which a passed deadline would forget."""

    status: int | None = None  # of the last answer
    broken: BaseException | None = None  # what ended its connection


async def _follow(
    session: aiohttp.ClientSession,
    text: str,
    settings: DownloadSettings,
    policy: AddressPolicy,
    blocked: Blocked,
    progress: _Progress,
) -> Answer:
    url = checked_url(text, policy)
    seen = {url}
    while True:
        entry = blocked.url(str(url))
        if entry is not None:
            what = "a redirect leads to what" if len(seen) > 1 else "the URL or its host"
            detail = f"{what} is on the list `blocked:` of the catalogue"
            raise FetchError(ErrorCode.BLOCKED, detail, status=progress.status, blocked_by=entry)
        response = await _request(session, url, progress.status)
        async with response:
            progress.status = response.status
            if response.status not in _REDIRECTS:
                connection = response.connection  # None if the whole answer has come
                try:
                    answer = await _answer(response, settings)
                    return replace(answer, redirected_to=str(url)) if len(seen) > 1 else answer
                finally:
                    if connection is not None and connection.protocol is not None:
                        progress.broken = connection.protocol.exception()
            url = _redirect(url, response, policy)
        if url in seen:
            detail = f"in a loop, at {url}"
            raise FetchError(ErrorCode.TOO_MANY_REDIRECTS, detail, status=progress.status)
        if len(seen) > settings.max_redirects:
            detail = f"more than {settings.max_redirects}"
            raise FetchError(ErrorCode.TOO_MANY_REDIRECTS, detail, status=progress.status)
        seen.add(url)


# --- addresses ---------------------------------------------------------------------------------------------------


def checked_url(text: str, policy: AddressPolicy) -> URL:
    """`text` as a URL that may be asked for, as far as that can be told before its name is resolved.

    A host that spells an address is rewritten to the usual spelling, so that it is the checked one that is used.

    Raises:
        FetchError: INVALID_URL, UNSUPPORTED_SCHEME, ADDRESS_FORBIDDEN.
    """
    try:
        # Names and passwords that somebody left in a link are not ours to send.
        url = URL(text.strip())
        url = url.with_user(None) if url.raw_user is not None else url
    except ValueError as error:
        raise FetchError(ErrorCode.INVALID_URL, str(error)) from error
    if not url.scheme:
        raise FetchError(ErrorCode.INVALID_URL, "it has no scheme")
    if url.scheme not in ("http", "https"):
        raise FetchError(ErrorCode.UNSUPPORTED_SCHEME, f"{url.scheme}: is neither http nor https")
    host, port = url.raw_host, url.port
    if not host or port is None:
        raise FetchError(ErrorCode.INVALID_URL, "it has no host")
    try:
        address = literal_address(host)
    except ValueError as error:
        raise FetchError(ErrorCode.INVALID_URL, str(error)) from error
    if address is not None:
        refusal = policy.refusal(address, port)
        if refusal is not None:
            raise FetchError(ErrorCode.ADDRESS_FORBIDDEN, refusal)
        return url.with_host(str(address))
    if re.search(r"[\x00-\x20\x7f%:<>^|]", host):
        raise FetchError(ErrorCode.INVALID_URL, f"{host!r} is no name of a host")
    return url


def _redirect(url: URL, response: aiohttp.ClientResponse, policy: AddressPolicy) -> URL:
    status = response.status
    location = response.headers.get("Location", "").strip()
    if not location:
        raise FetchError(ErrorCode.INVALID_REDIRECT, f"status {status} without a Location", status=status)
    try:
        named = URL(location)
        if named.scheme in ("http", "https") and not named.raw_host:
            raise ValueError("it has no host")
        target = url.join(named)
    except ValueError as error:
        raise FetchError(
            ErrorCode.INVALID_REDIRECT, f"to {location[:200]!r}: {error}", status=status
        ) from error
    try:
        return checked_url(str(target), policy)
    except FetchError as error:
        code = ErrorCode.INVALID_REDIRECT if error.code == ErrorCode.INVALID_URL else error.code
        raise FetchError(code, f"redirect to {location[:200]!r}: {error.detail}", status=status) from error


# --- the connection ----------------------------------------------------------------------------------------------


async def _request(session: aiohttp.ClientSession, url: URL, status: int | None) -> aiohttp.ClientResponse:
    """The answer's head. `status` is that of the redirect that led here."""
    try:
        return await session.get(url, allow_redirects=False)
    except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as error:
        raise FetchError(ErrorCode.TLS_ERROR, _line(error), status=status) from error
    except aiohttp.ClientConnectorDNSError as error:
        cause = error.os_error
        if isinstance(cause, AddressForbiddenError):
            raise FetchError(ErrorCode.ADDRESS_FORBIDDEN, str(cause), status=status) from error
        # "Try again" of the resolver is worth another attempt; "there is no such name" is not, today.
        again = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        detail = f"{url.raw_host}: {cause.strerror or cause}"
        raise FetchError(ErrorCode.DNS_ERROR, detail, status=status, again=again) from error
    except (aiohttp.InvalidURL, ValueError) as error:
        code = ErrorCode.INVALID_URL if status is None else ErrorCode.INVALID_REDIRECT
        raise FetchError(code, _line(error), status=status) from error
    except aiohttp.ClientConnectionError as error:
        tls = isinstance(error.__cause__, ssl.SSLError)
        code = ErrorCode.TLS_ERROR if tls else ErrorCode.CONNECTION_FAILED
        raise FetchError(code, _line(error), status=status) from error
    except aiohttp.ClientResponseError as error:
        raise FetchError(ErrorCode.INVALID_RESPONSE, error.message or _line(error), status=status) from error
    except aiohttp.ClientPayloadError as error:
        raise FetchError(ErrorCode.INVALID_RESPONSE, _line(error), status=status) from error


# --- the answer --------------------------------------------------------------------------------------------------


async def _answer(response: aiohttp.ClientResponse, settings: DownloadSettings) -> Answer:
    status, headers = response.status, response.headers
    if status not in _SUCCESS:
        raise FetchError(
            _status_code(status),
            f"status {status} {response.reason or ''}".rstrip(),
            status=status,
            retry_after=retry_after(headers.get("Retry-After"), datetime.datetime.now(datetime.UTC)),
        )
    directive = opted_out(headers.getall("X-Robots-Tag", []), settings.user_agent)
    if directive is not None:
        raise FetchError(ErrorCode.OPTED_OUT, f"X-Robots-Tag: {directive}", status=status)
    body = await _body(response, settings.max_bytes)
    if not body:
        raise FetchError(ErrorCode.EMPTY, "the answer has no body", status=status)
    etag, last_modified = (headers.get(name) for name in ("ETag", "Last-Modified"))
    return Answer(body, status, etag and _text(etag), last_modified and _text(last_modified))


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
    ours = re.split(r"[/\s]", user_agent.strip(), maxsplit=1)[0].lower()
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


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The decoded body; no more than `max_bytes` and a chunk of it are ever held."""
    status = response.status
    announced = response.content_length
    if announced is not None and announced > max_bytes:
        raise _too_large(f"{announced} bytes announced", max_bytes, status)
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        detail = f"Content-Encoding {coding!r}, though none was asked for"
        raise FetchError(ErrorCode.INVALID_RESPONSE, detail, status=status)
    inflater = _Inflater() if coding not in ("", "identity") else None
    body = bytearray()
    taken = 0
    try:
        async for chunk in response.content.iter_any():
            # What comes counts too, not only what it unfolds to: there may be no end to what unfolds to nothing.
            taken += len(chunk)
            if taken > max_bytes:
                raise _too_large(f"{taken} bytes and more", max_bytes, status)
            for piece in inflater.pieces(chunk) if inflater else (chunk,):
                body += piece
                if len(body) > max_bytes:
                    raise _too_large(f"{len(body)} bytes and more", max_bytes, status)
    except zlib.error as error:
        raise FetchError(ErrorCode.INVALID_RESPONSE, f"broken {coding}: {error}", status=status) from error
    except (aiohttp.ClientError, HttpProcessingError) as error:
        code = ErrorCode.INVALID_RESPONSE if _broken_framing(error) else ErrorCode.INCOMPLETE
        raise FetchError(code, f"after {len(body)} bytes: {_line(error)}", status=status) from error
    if inflater and not inflater.complete:
        raise FetchError(ErrorCode.INCOMPLETE, f"the {coding} stream ends early", status=status)
    return bytes(body)


class _Inflater:
    """Takes gzip or deflate off a stream, in bounded pieces, however much a chunk unfolds to."""

    def __init__(self) -> None:
        self._decoder: Any = None

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        if self._decoder is None and chunk:
            # "deflate" comes with zlib's header or, from some servers, without: its first byte tells.
            headed = chunk[0] == 0x1F or chunk[0] & 0x0F == 8
            self._decoder = zlib.decompressobj(32 + zlib.MAX_WBITS if headed else -zlib.MAX_WBITS)
        while chunk and not self._decoder.eof:
            yield self._decoder.decompress(chunk, _PIECE)
            chunk = self._decoder.unconsumed_tail

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


def _text(value: str) -> str:
    """Bytes that were not UTF-8 arrive as lone surrogates, which nothing can store."""
    return value.encode("utf-8", "replace").decode()


def _line(error: BaseException) -> str:
    """An exception in words; some have none."""
    return str(error) or type(error).__name__
