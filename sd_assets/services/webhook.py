"""A message to a webhook: JSON that is posted to a URL, tried again for some seconds.

The URL is a secret, as whoever has it may post: nothing said here shows more of it than the host.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import re
from typing import Any

import aiohttp

from sd_assets.errors import SdAssetsError
from sd_assets.services.backoff import backoff_s
from sd_assets.services.exchange import retry_after_s
from sd_assets.services.loop_thread import LoopThread
from sd_assets.views.text import public, shortened

# What Slack and others say of a message that they do not take: `no_service`, `invalid_payload`.
_CODE = re.compile(r"[a-z]+(_[a-z]+)*")
# What aiohttp says of a URL, before anything is sent.
_NO_URL = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)
_SHOWN = 80  # characters of an answer


class WebhookError(SdAssetsError):
    """A message was not taken, or the URL is none; says why."""


class _MayPassError(Exception):
    """An attempt failed in a way that may pass.

    Attributes:
        wait_s: how long the server asks to wait.
    """

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def post(url: str, message: Any, within_s: float) -> None:
    """Post a message, again after 408, 425, 429, 5xx and a broken connection, but not longer than `within_s` seconds.

    An answer that never comes is waited for, as the message may have arrived. Redirects are not followed.

    Args:
        url: http or https; with the user and password of basic authentication, if it has any.
        message: sent as JSON.
        within_s: seconds for all attempts.

    Raises:
        WebhookError: see there.
    """
    _loop().run(_posted(url, message, within_s))


@functools.cache
def _loop() -> LoopThread:
    # Never closed: that would wait for the name of a host to be resolved, past any deadline.
    return LoopThread("webhook")


async def _posted(url: str, message: Any, within_s: float) -> None:
    last = ""
    try:
        async with (
            asyncio.timeout(within_s) as limit,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=True) as session,
        ):
            for failed in itertools.count():
                try:
                    return await _attempt(session, url, message)
                except _MayPassError as error:
                    last = f"; the last attempt: {error}"
                    wait_s = max(error.wait_s, backoff_s(failed))
                # Who asks for more time than there is will not be asked again.
                if asyncio.get_running_loop().time() + wait_s > (limit.when() or 0.0):
                    raise TimeoutError
                await asyncio.sleep(wait_s)
    except TimeoutError:
        raise WebhookError(f"not taken within {within_s:g} s{last}") from None
    except _NO_URL:  # whose message has all of it; nor is it to be seen as the cause
        raise WebhookError("the URL is not valid: it must be http or https, with a host") from None


async def _attempt(session: aiohttp.ClientSession, url: str, message: Any) -> None:
    try:
        async with session.post(url, json=message, allow_redirects=False) as response:
            status = response.status
            if 200 <= status < 300:
                return
            asked_s = retry_after_s(response.headers.get("Retry-After"))
            answer = (await response.content.read(_SHOWN)).decode("utf-8", "replace").strip()
    except _NO_URL:
        raise
    except aiohttp.ClientConnectorError as error:
        raise _MayPassError(shortened(public(str(error)), 200)) from None
    except (aiohttp.ClientError, OSError) as error:  # these may name the whole URL
        raise _MayPassError(type(error).__name__) from None
    # A code is quoted, but not a page, which often repeats the path that was asked for.
    why = f"HTTP {status}" + (f" ({answer})" if _CODE.fullmatch(answer) and answer not in url else "")
    if status in (408, 425, 429) or status >= 500:
        raise _MayPassError(why if asked_s is None else f"{why}, to wait {asked_s:g} s", asked_s or 0.0)
    if 300 <= status < 400:
        why += ", a redirect, which is not followed"
    raise WebhookError(why)
