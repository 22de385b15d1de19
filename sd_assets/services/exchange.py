"""One HTTP exchange: a request, and the JSON of its answer or why there is none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from sd_assets.errors import SdAssetsError
from sd_assets.settings import ServiceSettings

# What may pass. A back end also answers 500 to what never passes (it has no better code), which costs the few retries.
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})
# What a proxy says when the service behind it is not there.
_NOBODY_BEHIND = frozenset({502, 503, 504})
_UNAUTHORISED = frozenset({401, 403, 407})
_CHUNK_BYTES = 65_536
_SHOWN = 120  # characters of an answer that a message quotes


class NoAnswerError(Exception):
    """No HTTP answer came: refused, reset, or too late; or one of a proxy that has nobody behind it.

    Attributes:
        refused: there was not even a connection.
        late: it did not come in time.
        status: of the proxy's answer.
        wait_s: how long the server asks to wait.
    """

    def __init__(
        self,
        detail: str,
        *,
        refused: bool = False,
        late: bool = False,
        status: int | None = None,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.refused = refused
        self.late = late
        self.status = status
        self.wait_s = wait_s


class BadAnswerError(Exception):
    """An HTTP answer that is not what was asked for.

    Attributes:
        status: of the answer.
        may_pass: trying again may help.
        wait_s: how long the server asks to wait.
        unauthorised: the service wants a key, or another one.
    """

    def __init__(
        self, detail: str, status: int, *, may_pass: bool = False, wait_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.may_pass = may_pass
        self.wait_s = wait_s
        self.unauthorised = status in _UNAUTHORISED


class Exchange:
    """Requests over connections that are kept; made inside the loop that uses it, and closed there.

    Args:
        settings: how the services are asked.
        unusable: the exception that says of the settings what is wrong with them.

    Raises:
        SdAssetsError: what `unusable` made: the key can stand in no header.
    """

    def __init__(self, settings: ServiceSettings, unusable: Callable[[str], SdAssetsError]) -> None:
        self._unusable = unusable
        self._key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
        self._timeout_s = settings.timeout_s
        self._max_bytes = settings.max_bytes
        self._session = aiohttp.ClientSession(
            # How many there are at once is decided by who asks.
            connector=aiohttp.TCPConnector(limit=0),
            headers=self._key_header(settings.api_key_header),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=True,
        )

    def _key_header(self, header: str) -> dict[str, str]:
        key = self._key
        if not key:
            return {}
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise self._unusable(
                "`api_key:` holds characters that no HTTP header may (a line break at its end?): look at the environment variable "
                "that it comes from"
            )
        return {header: f"Bearer {key}" if header.lower() == "authorization" and " " not in key else key}

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def ask(self, method: str, url: str, body: Any = None, timeout_s: float | None = None) -> Any:
        """The JSON of the answer; what JSON has no number for (NaN, Infinity) is null.

        Args:
            method: GET or POST.
            url: of what is asked.
            body: sent as JSON.
            timeout_s: seconds until the last byte, if fewer than those of the settings.

        Raises:
            NoAnswerError: see there.
            BadAnswerError: see there.
            SdAssetsError: what `unusable` made: the request cannot be sent at all.
        """
        timeout = min(self._timeout_s, timeout_s or self._timeout_s)
        try:
            try:
                return await self._asked(method, url, body, timeout)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(error, aiohttp.ClientConnectorError):
                    raise
                # Servers close connections that were kept, also just when they are used again. A query may be repeated.
                return await self._asked(method, url, body, timeout)
        except TimeoutError as error:
            raise NoAnswerError(f"no answer in time ({timeout:g} s)", late=True) from error
        except aiohttp.InvalidURL as error:  # whose message has all of it
            raise NoAnswerError("the URL is not valid", refused=True) from error
        except (aiohttp.ClientError, OSError) as error:
            refused = isinstance(error, aiohttp.ClientConnectorError)
            raise NoAnswerError(self.quoted(f"{type(error).__name__}: {error}"), refused=refused) from error
        except ValueError as error:  # of aiohttp, before anything is sent
            raise self._unusable(
                f"the request cannot be sent ({self.quoted(error)}). If the URL or ~/.netrc has a password for this host, it and "
                "`api_key:` exclude each other"
            ) from error

    async def _asked(self, method: str, url: str, body: Any, timeout_s: float) -> Any:
        request = self._session.request(
            method,
            url,
            json=body,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            # Elsewhere nobody is to get the key, and a POST would become a GET.
            allow_redirects=False,
        )
        async with request as response:
            content = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                content += chunk
                if len(content) > self._max_bytes:
                    raise BadAnswerError(
                        f"the answer has more than {self._max_bytes} bytes (`max_bytes:`)", response.status
                    )
        return self._judged(response, bytes(content))

    def _judged(self, response: aiohttp.ClientResponse, content: bytes) -> Any:
        status, kind = response.status, response.headers.get("Content-Type", "no content type")
        wait_s = retry_after_s(response.headers.get("Retry-After"))
        text = self.quoted(content[:_CHUNK_BYTES].decode("utf-8", "replace"))
        if status in _NOBODY_BEHIND:
            raise NoAnswerError(f"HTTP {status}: {text!r}", status=status, wait_s=wait_s)
        if 300 <= status < 400:
            place = self.quoted(response.headers.get("Location", "nowhere"))
            raise BadAnswerError(f"HTTP {status}, a redirect to {place}: give that URL instead", status)
        if status != 200:
            raise BadAnswerError(
                f"HTTP {status}: {text!r}", status, may_pass=status in _MAY_PASS, wait_s=wait_s
            )
        try:
            # The server writes missing numbers as a bare NaN, which JSON does not have.
            return json.loads(content, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            raise BadAnswerError(f"HTTP 200, but no JSON ({kind}): {text!r}", status) from error

    def without_key(self, text: str) -> str:
        """A text without the key, which a server may have repeated."""
        return text.replace(self._key, "***") if self._key else text

    def quoted(self, what: object) -> str:
        """One line, not too long, without the key."""
        return " ".join(self.without_key(str(what)).split())[:_SHOWN]


def retry_after_s(value: str | None) -> float | None:
    """Of a header Retry-After, which names seconds or a date, the seconds from now; None if it is neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
