"""The HTTP session that all fetches share: which addresses it may connect to, and how it introduces itself."""

import asyncio
import functools
import re
import socket
from typing import Any

import aiohttp
import aiohttp.abc
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import RawResponseMessage

from sd_assets.download.addresses import AddressPolicy
from sd_assets.download.lookups import Lookups
from sd_assets.settings import DownloadSettings

_MAX_HEADER_LINE = 32_768  # bytes; real sites send policies of more than aiohttp's 8 KiB
_MAX_HEADERS = 256
_MAX_INTERIM = 16
# A name whose servers do not answer occupies a thread long after its deadline.
_RESOLVERS = 256
_READ_BUFFER = 65_536  # bytes; a connection holds twice as much, at most, of what is not read yet


class AddressForbiddenError(OSError):
    """An address may not be connected to, or none of those that a name resolves to."""


class PolicyResolver(aiohttp.abc.AbstractResolver):
    """Resolves names to the addresses that the policy permits: aiohttp connects to these, and asks nobody again.

    Args:
        policy: what is permitted.

    Raises (from `resolve`):
        AddressForbiddenError: every address of the name is refused.
        socket.gaierror: there is no address.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        # Not the event loop's own way: uvloop's has four threads, which few dead name servers would occupy.
        self._lookups = Lookups(_RESOLVERS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        # RFC 6761, 6.4: names under `invalid` never exist, and nobody needs to be asked.
        if host.rstrip(".").lower().rpartition(".")[2] == "invalid":
            raise socket.gaierror(socket.EAI_NONAME, "the name is reserved never to exist (RFC 6761)")
        try:
            found = await asyncio.wrap_future(self._lookups.find(host, port, family))
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
        """End the threads. A name that is being resolved cannot be given up, but nobody waits for it."""
        self._lookups.close()


class StaleConnectionError(aiohttp.ServerDisconnectedError):
    """A connection that was kept from an earlier request broke before it answered: the server may have closed it before
    it had the request, so another one should be tried."""


class _Connection(ResponseHandler):
    """Takes a few interim answers (1xx) before the answer itself (aiohttp would queue as many as come), and tells an old
    connection that breaks from a new one."""

    answered = False
    _interim = 0

    async def read(self) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
        try:
            message, payload = await super().read()
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if self.answered:
                raise StaleConnectionError from error
            raise
        if not 100 <= message.code < 200:
            self._interim, self.answered = 0, True
            return message, payload
        self._interim += 1
        if self._interim > _MAX_INTERIM:
            raise BadHttpMessage(
                f"more than {_MAX_INTERIM} interim answers, the last of status {message.code}"
            )
        return message, payload


class _Connector(aiohttp.TCPConnector):
    """Closes the connections that a request says are to be closed, whatever the server does; and those on which something
    came that nobody had asked for: it would be taken for the answer to the next request."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(_Connection, loop=self._loop)  # type: ignore[assignment]

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if not (isinstance(protocol, _Connection) and protocol.answered and protocol.should_close):
                break
            connection.close()
        if protocol is not None and req.headers.get("Connection") == "close":
            protocol.force_close()
        return connection


class _NoCookies(aiohttp.DummyCookieJar):
    """Does not even read them, and so does not complain of any."""

    def update_cookies_from_headers(self, headers: Any, response_url: Any) -> None:
        pass


def open_session(
    settings: DownloadSettings, policy: AddressPolicy, resolver: aiohttp.abc.AbstractResolver
) -> aiohttp.ClientSession:
    """The session. Call it within the event loop, and close it there.

    TLS is verified; no cookie is kept, no proxy taken from the environment. The caller bounds the connections.
    """

    def checked_socket(info: Any) -> socket.socket:
        # The last word, on the very address that is connected to, wherever it came from.
        family, kind, protocol, _, address = info
        refusal = policy.refusal(str(address[0]), int(address[1]))
        if refusal is not None:
            raise AddressForbiddenError(refusal)
        return socket.socket(family, kind, protocol)

    connector = _Connector(
        resolver=resolver,
        socket_factory=checked_socket,
        limit=0,
        ttl_dns_cache=300,
        dns_cache_max_size=10_000,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=_NoCookies(),
        # Bodies are decoded by `answer`, where their size is bounded while they grow.
        auto_decompress=False,
        # `fetch` has one deadline of its own for everything.
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        headers={
            "User-Agent": user_agent(settings),
            "Accept": "image/*,*/*;q=0.8",
            "Accept-Encoding": "identity",
        },
        trust_env=False,
        read_bufsize=_READ_BUFFER,
        max_line_size=_MAX_HEADER_LINE,
        max_field_size=_MAX_HEADER_LINE,
        max_headers=_MAX_HEADERS,
    )
    # It would send any request once more whose connection broke; `fetch` does where that is right.
    session._retry_connection = False
    return session


def user_agent(settings: DownloadSettings) -> str:
    """`sd_assets/0.1 (+mailto:who@example.org)`: who asks, and whom to write to."""
    contact = settings.contact
    if contact is None:
        return settings.user_agent
    scheme = "" if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", contact) else "mailto:"
    return f"{settings.user_agent} (+{scheme}{contact})"
