"""A message arrives once, or it is said why not; what is said holds nothing of the URL's path."""

import socket
import traceback
from collections.abc import Iterator

import pytest

from sd_assets.services import webhook as module
from sd_assets.services.webhook import WebhookError, post
from sd_assets_tests.webhook import SECRET, Webhook, webhook

MESSAGE = {"text": "a run failed: naïve"}


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    monkeypatch.setattr(module, "backoff_s", lambda failed: 0.0)
    with webhook() as hook:
        yield hook


def refused(url: str, within_s: float = 10) -> str:
    """Why a message was not taken."""
    with pytest.raises(WebhookError) as caught:
        post(url, MESSAGE, within_s)
    shown = "".join(traceback.format_exception(caught.value))
    assert not any(part in shown for part in (SECRET, "s3cr3tPath", "password", "query"))
    return str(caught.value)


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_message_that_is_taken_is_sent_once(hook: Webhook, status: int) -> None:
    hook.answer(status)
    post(hook.url, MESSAGE, 10)
    assert hook.messages == [MESSAGE]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(hook: Webhook, status: int) -> None:
    hook.answer(status)
    hook.answer(status, Retry_After="0")
    post(hook.url, MESSAGE, 10)
    assert hook.messages == [MESSAGE] * 3


def test_a_connection_that_breaks_is_tried_again(hook: Webhook) -> None:
    hook.answer(500, b"less than it says", Content_Length="99")
    post(hook.url, MESSAGE, 10)
    assert hook.messages == [MESSAGE] * 2


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"no_service", "HTTP 404 (no_service)"),
        (400, b"invalid_payload\n", "HTTP 400 (invalid_payload)"),
        (404, f"Cannot POST /services/{SECRET}".encode(), "HTTP 404"),
        (403, b"services", "HTTP 403"),  # of the path
        (401, b"\xff\xfe", "HTTP 401"),
    ],
)
def test_what_will_not_pass_is_said_at_once(hook: Webhook, status: int, body: bytes, said: str) -> None:
    hook.answer(status, body)
    assert refused(hook.url) == said
    assert len(hook.messages) == 1


def test_redirects_are_not_followed(hook: Webhook) -> None:
    hook.answer(302, Location=hook.url)
    assert refused(hook.url) == "HTTP 302, a redirect, which is not followed"
    assert len(hook.messages) == 1


def test_whoever_asks_for_too_much_time_is_left_alone(hook: Webhook) -> None:
    hook.answer(429, b"rate_limited", Retry_After="3600")
    said = "not taken within 10 s; the last attempt: HTTP 429 (rate_limited), to wait 3600 s"
    assert refused(hook.url) == said
    assert len(hook.messages) == 1


def test_a_server_that_only_fails_is_given_up(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "backoff_s", lambda failed: 0.1 * failed)
    for _ in range(50):
        hook.answer(503, b"<html>")
    assert refused(hook.url, within_s=0.5) == "not taken within 0.5 s; the last attempt: HTTP 503"
    assert 2 < len(hook.messages) < 50


def test_nobody_there(hook: Webhook) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        said = refused(f"http://127.0.0.1:{port}/services/{SECRET}", within_s=0.2)
    assert said.startswith(
        f"not taken within 0.2 s; the last attempt: Cannot connect to host 127.0.0.1:{port}"
    )


def test_an_answer_that_never_comes_is_not_waited_for_too_long(hook: Webhook) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        said = refused(f"http://127.0.0.1:{port}/services/{SECRET}", within_s=0.2)
    assert said == "not taken within 0.2 s"


@pytest.mark.parametrize(
    "url",
    [
        f"/services/{SECRET}",
        f"127.0.0.1/services/{SECRET}",
        f"ftp://127.0.0.1/services/{SECRET}",
        f"file:///services/{SECRET}",
        f"http:///services/{SECRET}",
        f"http://127.0.0.1:99999999/services/{SECRET}",
        f"http://[::1/services/{SECRET}?query",
        f"https://user:password@/services/{SECRET}",
    ],
)
def test_what_is_no_url_is_said(url: str) -> None:
    assert refused(url) == "the URL is not valid: it must be http or https, with a host"


def test_user_and_password_are_sent_and_not_shown(hook: Webhook) -> None:
    url = hook.url.replace("://", "://user:password@")
    post(url, MESSAGE, 10)
    hook.answer(401, b"Unauthorized")
    assert refused(url) == "HTTP 401"
