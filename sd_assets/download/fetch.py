"""One attempt to fetch one URL, over a shared session: the whole body, or a `FetchError` with a code.

Everything that may go wrong between the URL and the last byte has a code. What is not known here propagates: it is a
bug of ours, and no error of the row.
"""

import asyncio
import contextlib
import errno
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.download import robots
from sd_assets.download.addresses import AddressPolicy, literal_address
from sd_assets.download.answer import Answer, Reserve, read_image, read_robots
from sd_assets.download.codes import FetchError, in_words
from sd_assets.download.hosts import Flight
from sd_assets.download.request import Request
from sd_assets.download.robots import Robots
from sd_assets.download.session import AddressForbiddenError, StaleConnectionError
from sd_assets.errors import ErrorCode, SdAssetsError
from sd_assets.settings import DownloadSettings

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Of an attempt's time: a host that had less of it left, after slow redirects, is not to blame if it was too little.
_FAIR_SHARE = 0.5
_TOO_MANY_FILES = "too many files are open: every connection is one; raise the limit (`ulimit -n`) or lower `download.connections`"

T = TypeVar("T")
# Reads what is no redirect.
_Read = Callable[[aiohttp.ClientResponse, Reserve], Awaitable[T]]


@dataclass
class _Attempt:
    """How far an attempt came.

    Attributes:
        flight: its turn, and its room in memory.
        left_s: seconds until its deadline; waiting for a turn or for room is none of them.
        conditions: headers for `source`.
        source: the URL that gave the image that is at hand; another one would be asked whether it still has what it never
            had, and may say that it has.
        conditional: whether the last request had the conditions.
        status: of the last answer.
        broken: what ended its connection.
        seen: the URLs that were asked for.
    """

    flight: Flight
    left_s: float
    conditions: dict[str, str] = field(default_factory=dict)
    source: URL | None = None
    conditional: bool = False
    status: int | None = None
    broken: BaseException | None = None
    seen: set[URL] = field(default_factory=set)


class Fetcher:
    """Asks for URLs, following redirects, each attempt within one deadline of `settings.timeout_s`.

    What is blocked is not asked, nor what robots.txt forbids.

    Args:
        session: that all share.
        settings: how to fetch.
        policy: which addresses may be connected to.
        blocked: URLs and hosts that are not asked.
        robots_txt: what the hosts forbid; None: nobody asks them.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        settings: DownloadSettings,
        policy: AddressPolicy,
        blocked: Blocked = NOTHING,
        robots_txt: Robots | None = None,
    ) -> None:
        self._session = session
        self._settings = settings
        self._policy = policy
        self._blocked = blocked
        self._robots = robots_txt

    async def image(self, request: Request, flight: Flight) -> Answer:
        """The answer to one attempt; the turn at its host is over then, the flight is not.

        Raises:
            FetchError: with any of the download codes, or EMPTY.
        """
        url = checked_url(request.url, self._policy)
        source = url if request.redirected_to is None else _parsed_or_none(request.redirected_to)
        attempt = _Attempt(flight, self._settings.timeout_s, _conditions(request), source)

        async def read(response: aiohttp.ClientResponse, reserve: Reserve) -> Answer:
            return await read_image(response, self._settings, reserve, conditional=attempt.conditional)

        answer, last = await self._follow(url, attempt, read, self._settings.max_redirects, self._robots)
        return replace(answer, redirected_to=str(last)) if len(attempt.seen) > 1 else answer

    async def robots_txt(self, url: URL, flight: Flight) -> str:
        """The text of a robots.txt, after one attempt; which needs no leave from any robots.txt.

        Raises:
            FetchError: with any of the download codes.
        """

        async def read(response: aiohttp.ClientResponse, _: Reserve) -> str:
            return await read_robots(response)

        attempt = _Attempt(flight, self._settings.timeout_s)
        text, _ = await self._follow(
            checked_url(str(url), self._policy), attempt, read, robots.MAX_REDIRECTS, None
        )
        return text

    async def _follow(
        self, url: URL, attempt: _Attempt, read: _Read[T], max_redirects: int, rules: Robots | None
    ) -> tuple[T, URL]:
        """What was read at the end of the redirects, and where that is."""
        flight = attempt.flight
        while True:
            attempt.seen.add(url)
            self._refuse_blocked(url, attempt)
            try:
                if rules is not None:
                    await rules.check(url)
                await flight.turn(_host(url), url.port or 0)
            except FetchError as error:
                if attempt.status is not None:  # it was asked for, and led to a place that is not
                    error.status, error.asked = attempt.status, True
                raise
            in_a_hurry = attempt.left_s < self._settings.timeout_s * _FAIR_SHARE
            try:
                done, found = await self._ask(url, attempt, read)
            except FetchError as error:
                if not (in_a_hurry and error.code == ErrorCode.TIMEOUT):
                    flight.leave(error)
                raise
            if found is None:
                assert done is not None
                flight.leave()
                return done, url
            # To send us on to itself is no answer yet: a host that then gave none would never be left alone.
            if (_host(found), found.port) != (_host(url), url.port):
                flight.leave()
            flight.end()
            url = found
            if url in attempt.seen:
                detail = f"in a loop, at {url}"
                raise FetchError(ErrorCode.TOO_MANY_REDIRECTS, detail, status=attempt.status)
            if len(attempt.seen) > max_redirects:
                detail = f"more than {max_redirects}"
                raise FetchError(ErrorCode.TOO_MANY_REDIRECTS, detail, status=attempt.status)

    def _refuse_blocked(self, url: URL, attempt: _Attempt) -> None:
        entry = self._blocked.url(str(url))
        if entry is not None:
            what = "a redirect leads to what" if len(attempt.seen) > 1 else "the URL or its host"
            detail = f"{what} is on the list `blocked:` of the catalogue"
            raise FetchError(ErrorCode.BLOCKED, detail, status=attempt.status, blocked_by=entry)

    async def _ask(self, url: URL, attempt: _Attempt, read: _Read[T]) -> tuple[T | None, URL | None]:
        """What was read, or where else it is to be had."""
        try:
            async with asyncio.timeout(attempt.left_s) as deadline:
                try:
                    return await self._ask_in_time(url, attempt, read, deadline)
                finally:
                    attempt.left_s = (deadline.when() or 0.0) - asyncio.get_running_loop().time()
        except TimeoutError as error:
            # aiohttp tells the connection, but not whoever waits for the body, that chunks in its middle are malformed.
            if isinstance(attempt.broken, HttpProcessingError):
                detail = in_words(attempt.broken)
                raise FetchError(ErrorCode.INVALID_RESPONSE, detail, status=attempt.status) from error
            detail = f"not done within {self._settings.timeout_s:g} s"
            raise FetchError(ErrorCode.TIMEOUT, detail, status=attempt.status) from error

    async def _ask_in_time(
        self, url: URL, attempt: _Attempt, read: _Read[T], deadline: asyncio.Timeout
    ) -> tuple[T | None, URL | None]:
        attempt.conditional = bool(attempt.conditions) and url == attempt.source
        headers = dict(attempt.conditions) if attempt.conditional else {}
        if not attempt.flight.keep:
            headers["Connection"] = "close"
        response = await _request(self._session, url, headers, attempt.status)
        async with response:
            attempt.status = response.status
            if response.status in _REDIRECTS:
                return None, _redirect(url, response, self._policy)
            connection = response.connection  # None if the whole answer has come
            try:
                return await read(response, lambda size: attempt.flight.reserve(size, deadline)), None
            finally:
                if connection is not None and connection.protocol is not None:
                    attempt.broken = connection.protocol.exception()


def _host(url: URL) -> str:
    """By which hosts are told apart."""
    return (url.raw_host or "").rstrip(".").lower()


def _conditions(request: Request) -> dict[str, str]:
    """The headers of a conditional request; what no header can hold is no condition."""
    conditions = {"If-None-Match": request.etag, "If-Modified-Since": request.last_modified}
    return {
        name: value for name, value in conditions.items() if value and value.isprintable() and value.isascii()
    }


# --- addresses ---------------------------------------------------------------------------------------------------


def checked_url(text: str, policy: AddressPolicy) -> URL:
    """`text` as a URL that may be asked for, as far as that can be told before its name is resolved.

    A host that spells an address is rewritten to the usual spelling, so that it is the checked one that is used.

    Raises:
        FetchError: INVALID_URL, UNSUPPORTED_SCHEME, ADDRESS_FORBIDDEN.
    """
    try:
        url = _parsed(text)
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
        return url if host == str(address) else url.with_host(str(address))
    if re.search(r"[\x00-\x20\x7f%:<>^|]", host):
        raise FetchError(ErrorCode.INVALID_URL, f"{host!r} is no name of a host")
    return url


def _parsed(text: str) -> URL:
    """`text` as a URL, without the name and the password that somebody left in it: they are not ours to send.

    Raises:
        ValueError: it is none.
    """
    try:
        url = URL(text.strip())
    except IndexError as error:  # yarl's, at `http://[::1]@/`
        raise ValueError("it has no host") from error
    return url if url.raw_user is None and url.raw_password is None else url.with_user(None)


def _parsed_or_none(text: str) -> URL | None:
    try:
        return _parsed(text)
    except ValueError:
        return None


def _redirect(url: URL, response: aiohttp.ClientResponse, policy: AddressPolicy) -> URL:
    status = response.status
    location = response.headers.get("Location", "").strip()
    if not location:
        raise FetchError(ErrorCode.INVALID_REDIRECT, f"status {status} without a Location", status=status)
    try:
        named = _parsed(location)
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


async def _request(
    session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], status: int | None
) -> aiohttp.ClientResponse:
    """The answer's head. `status` is that of the redirect that led here."""
    try:
        # Once more for a connection that was too old; who hangs up on this very request would do so every time.
        with contextlib.suppress(StaleConnectionError):
            return await session.get(url, allow_redirects=False, headers=headers)
        return await session.get(url, allow_redirects=False, headers=headers)
    except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as error:
        raise FetchError(ErrorCode.TLS_ERROR, in_words(error), status=status) from error
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
        raise FetchError(code, in_words(error), status=status) from error
    except aiohttp.ClientConnectionError as error:
        reason = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if isinstance(reason, AddressForbiddenError):
            raise FetchError(ErrorCode.ADDRESS_FORBIDDEN, str(reason), status=status) from error
        if isinstance(reason, OSError) and reason.errno in (errno.EMFILE, errno.ENFILE):
            raise SdAssetsError(_TOO_MANY_FILES) from error
        tls = isinstance(error.__cause__, ssl.SSLError)
        code = ErrorCode.TLS_ERROR if tls else ErrorCode.CONNECTION_FAILED
        raise FetchError(code, in_words(error), status=status) from error
    except aiohttp.ClientResponseError as error:
        raise FetchError(
            ErrorCode.INVALID_RESPONSE, error.message or in_words(error), status=status
        ) from error
    except aiohttp.ClientPayloadError as error:
        raise FetchError(ErrorCode.INVALID_RESPONSE, in_words(error), status=status) from error
