"""Each behaviour of a server, the code it leads to, and how often it was asked."""

import asyncio
import dataclasses
import datetime
import gzip
import io
import itertools
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd_assets.download import codec, stream
from sd_assets.download import downloader as module
from sd_assets.download.addresses import AddressPolicy
from sd_assets.download.answer import _Inflater, opted_out, retry_after
from sd_assets.download.codes import TRANSIENT, FetchError
from sd_assets.download.downloader import Downloader
from sd_assets.download.finish import Download, as_it_came
from sd_assets.download.limits import new_event_loop
from sd_assets.download.request import Request
from sd_assets.download.session import PolicyResolver
from sd_assets.errors import ErrorCode
from sd_assets.images import inspect
from sd_assets.schemas import DOWNLOADED_IMAGES, image_id
from sd_assets.settings import DownloadSettings
from sd_assets.stages.stage import rows_of
from sd_assets_tests.download.misbehaving import Server, answer, in_turn, raw

E = ErrorCode


def get(server: Server, *paths: str, **settings: Any) -> list[Download]:
    """Download `paths` (or whole URLs); no retries unless asked for, and the server allowed."""
    options = {"allow_addresses": (f"127.0.0.1:{server.port}",), "retries": 0, "timeout_s": 5, **settings}
    with Downloader(DownloadSettings(**options)) as downloader:
        return all_of(downloader, *(server.url(path) if re.match("/(?!/)", path) else path for path in paths))


def all_of(downloader: Downloader, *urls: str) -> list[Download]:
    """What became of URLs, in their order."""
    came = dict(downloader.stream((number, Request(url)) for number, url in enumerate(urls)))
    return [came[number] for number in range(len(urls))]


def saved(image: Image.Image, format: str) -> bytes:
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


# --- what goes well ----------------------------------------------------------------------------------------------


def test_an_image_arrives_resized_and_described(server: Server, jpeg: bytes) -> None:
    server.paths["/a.jpg"] = answer(body=jpeg, ETag='"x"', Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")
    before = datetime.datetime.now(datetime.UTC)
    (row,) = get(
        server, "/a.jpg", image_size=32, resize_mode="keep_ratio", user_agent="ours/1 (+mailto:us@x.org)"
    )
    assert row.error is None and row.error_detail is None
    assert (row.width, row.height, row.original_width, row.original_height) == (48, 32, 96, 64)
    assert (row.format, row.original_bytes, row.image_id) == ("jpeg", len(jpeg), image_id(jpeg))
    assert (row.http_status, row.attempts, row.retry_after) == (200, 1, None)
    assert (row.etag, row.last_modified) == ('"x"', "Mon, 01 Jan 2024 00:00:00 GMT")
    assert before <= row.fetched_at <= datetime.datetime.now(datetime.UTC)
    assert row.fetched_at.utcoffset() == datetime.timedelta(0)
    assert row.image is not None and inspect(row.image).format == "jpeg"
    sent = server.headers["/a.jpg"]
    assert sent["user-agent"] == "ours/1 (+mailto:us@x.org)"
    assert sent["accept-encoding"] == "identity"
    assert "cookie" not in sent


@pytest.mark.parametrize(
    ("contact", "sent"),
    [
        (None, "ours/1"),
        ("us@example.org", "ours/1 (+mailto:us@example.org)"),
        ("mailto:us@example.org", "ours/1 (+mailto:us@example.org)"),
        ("https://example.org/bot", "ours/1 (+https://example.org/bot)"),
    ],
)
def test_the_contact_goes_with_the_user_agent(
    server: Server, jpeg: bytes, contact: str | None, sent: str
) -> None:
    server.paths["/a"] = answer(body=jpeg)
    assert get(server, "/a", user_agent="ours/1", contact=contact)[0].error is None
    assert server.headers["/a"]["user-agent"] == server.headers["/robots.txt"]["user-agent"] == sent


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("contact", "us", "is no contact: write a mail address"),
        ("contact", "us@example.org\r\nX: y", "is no contact"),
        ("contact", "", "is no contact"),
        ("user_agent", "ours/1\r\nX: y", "can be no User-Agent"),
        ("user_agent", " ", "can be no User-Agent"),
        ("user_agent", "ünser/1", "can be no User-Agent"),
    ],
)
def test_who_asks_must_fit_a_header(field: str, value: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DownloadSettings(**{field: value})


def test_an_image_may_be_kept_as_it_came(server: Server, jpeg: bytes) -> None:
    server.paths |= {
        "/a.jpg": answer(body=jpeg),
        "/b.jpg": answer(body=jpeg[:600]),
        "/c.jpg": answer(body=b"text"),
    }
    settings = DownloadSettings(
        allow_addresses=("127.0.0.1",), retries=0, image_size=8, min_image_size=200, max_pixels=10
    )
    with Downloader(settings, as_it_came) as downloader:
        futures = [
            downloader.submit(Request(server.url(path))) for path in ("/a.jpg", "/b.jpg", "/c.jpg", "/d.jpg")
        ]
        rows = [future.result() for future in futures]
    assert rows[0].image == jpeg
    assert (rows[0].width, rows[0].height, rows[0].image_id) == (96, 64, image_id(jpeg))
    assert [row.error for row in rows[1:]] == [E.CORRUPT_IMAGE, E.NOT_AN_IMAGE, E.NOT_FOUND]
    assert [row.image for row in rows[1:]] == [None] * 3
    with pytest.raises(RuntimeError, match="closed"):
        downloader.submit(Request(server.url("/a.jpg")))


def test_judging_needs_no_http_client() -> None:
    """Addresses, codes and resizing are used where nothing is fetched; heavy modules are imported nowhere."""
    script = (
        "import sys, sd_assets.images, sd_assets.download.addresses, sd_assets.download.codes, sd_assets.download.resize\n"
        "assert 'aiohttp' not in sys.modules\n"
        "import sd_assets.download.downloader\n"
        "assert not {'dagster', 'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_fields_are_the_columns_of_the_table() -> None:
    columns = set(DOWNLOADED_IMAGES.arrow.names) - {"url_id", "url", "failing_since"}
    assert {field.name for field in dataclasses.fields(Download)} - {"not_modified"} == columns


def test_order_and_length_are_kept(server: Server, jpeg: bytes) -> None:
    server.paths["/slow.jpg"] = raw(0.3, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    server.paths["/fast.jpg"] = answer(body=jpeg)
    rows = get(server, "/slow.jpg", "/fast.jpg", "nonsense", "/fast.jpg")
    assert [row.error for row in rows] == [E.NOT_FOUND, None, E.INVALID_URL, None]
    assert get(server) == []


@pytest.mark.parametrize(
    "encode", [gzip.compress, zlib.compress, lambda data: zlib.compress(data, wbits=-15)]
)
def test_a_compressed_answer_is_unpacked_though_none_was_asked_for(
    server: Server, jpeg: bytes, encode: Any
) -> None:
    coding = "gzip" if encode is gzip.compress else "deflate"
    server.paths["/a"] = answer(body=encode(jpeg), Content_Encoding=coding)
    (row,) = get(server, "/a")
    assert (row.error, row.original_bytes) == (None, len(jpeg))


# A time would be in the test's name, and processes that share the tests would not agree on it.
@pytest.mark.parametrize("behind", [b"", bytes(1_000), b"\0" + gzip.compress(b"more", mtime=0)])
def test_gzip_may_have_several_members(server: Server, jpeg: bytes, behind: bytes) -> None:
    half = len(jpeg) // 2
    members = [gzip.compress(part) for part in (jpeg[:half], b"", jpeg[half:])]
    body = b"".join(members)
    server.paths["/a"] = answer(body=body + behind, Content_Encoding="gzip")
    # However the bytes come, the first one of a member on its own included.
    pieces = (body[: len(members[0])], 0.05, body[len(members[0]) :][:1], 0.05, body[len(members[0]) + 1 :])
    server.paths["/b"] = raw(HEAD + b"Content-Encoding: gzip\r\n\r\n", *pieces, behind)
    server.paths["/short"] = answer(body=body[:-9], Content_Encoding="gzip")
    *rows, short = get(server, "/a", "/b", "/short")
    assert [(row.error, row.image_id) for row in rows] == [(None, image_id(jpeg))] * 2
    assert short.error == E.INCOMPLETE
    size = len(jpeg)
    (row,) = get(server, "/a", max_bytes=max(len(body), size) - 1)
    assert row.error == E.TOO_LARGE


def test_what_unfolds_to_just_a_piece_and_a_little_is_whole() -> None:
    """The decoder has taken all of it, and holds some of what it unfolds to."""
    for size in range(65_536, 65_536 + 300):
        inflater = _Inflater()
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(bytes(size)) + packer.flush()
        assert sum(map(len, inflater.pieces(packed))) == size
        assert inflater.complete


def test_cookies_are_not_kept_and_the_environments_proxy_is_not_used(
    server: Server, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.paths["/a"] = server.paths["/b"] = answer(body=jpeg, Set_Cookie="tracked=1; Path=/")
    with Downloader(DownloadSettings(allow_addresses=("127.0.0.1",))) as downloader:
        assert all_of(downloader, server.url("/a"))[0].error is None
        assert all_of(downloader, server.url("/b"))[0].error is None
    assert "cookie" not in server.headers["/b"]


def test_a_redirect_is_followed(server: Server, jpeg: bytes) -> None:
    server.paths["/a"] = answer("301 Moved Permanently", Location="b?x=1")
    server.paths["/b?x=1"] = answer("307 Temporary Redirect", Location=server.url("/c"))
    server.paths["/c"] = answer(body=jpeg)
    (row,) = get(server, "/a")
    assert (row.error, row.http_status, row.attempts) == (None, 200, 1)


# --- statuses and retries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "asked"),
    [
        ("404 Not Found", E.NOT_FOUND, 1),
        ("410 Gone", E.NOT_FOUND, 1),
        ("401 Unauthorized", E.ACCESS_DENIED, 1),
        ("403 Forbidden", E.ACCESS_DENIED, 1),
        ("451 Unavailable", E.ACCESS_DENIED, 1),
        ("418 Teapot", E.CLIENT_ERROR, 1),
        ("204 No Content", E.UNEXPECTED_STATUS, 1),
        ("206 Partial Content", E.UNEXPECTED_STATUS, 1),
        ("300 Multiple Choices", E.UNEXPECTED_STATUS, 1),
        ("304 Not Modified", E.UNEXPECTED_STATUS, 1),
        ("999 Denied", E.UNEXPECTED_STATUS, 1),
        ("429 Too Many Requests", E.RATE_LIMITED, 2),
        ("500 Oops", E.SERVER_ERROR, 2),
        ("503 Busy", E.SERVER_ERROR, 2),
    ],
)
def test_statuses_have_codes_and_only_some_are_tried_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: str, code: ErrorCode, asked: int
) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", 0.01)
    server.paths["/a"] = answer(status, b"" if status[:3] in ("204", "304") else b"<html>")
    (row,) = get(server, "/a", retries=1)
    assert (row.error, row.http_status, row.attempts) == (code, int(status[:3]), asked)
    assert server.requests["/a"] == asked
    assert (code in TRANSIENT) == (asked > 1)
    assert (row.image, row.image_id, row.width, row.height) == (None, None, None, None)


def test_a_failure_that_passes_is_forgotten(server: Server, jpeg: bytes) -> None:
    server.paths["/a"] = in_turn(answer("500 Oops"), answer("502 Bad Gateway"), answer(body=jpeg))
    started = time.monotonic()
    (row,) = get(server, "/a", retries=2)
    assert (row.error, row.http_status, row.attempts) == (None, 200, 3)
    assert 0.75 <= time.monotonic() - started < 3  # back-off of 0.25 to 0.5, then 0.5 to 1


def test_retry_after_is_obeyed(server: Server, jpeg: bytes) -> None:
    server.paths["/a"] = in_turn(answer("429 Slow down", Retry_After="1"), answer(body=jpeg))
    server.paths["/b"] = answer("429 Slow down", Retry_After="3600")
    started = time.monotonic()
    # Two names: a host that wants to be left alone is left alone as a whole.
    good, bad = get(server, "/a", server.url("/b", "localhost"), retries=2)
    assert time.monotonic() - started >= 1
    assert (good.error, good.attempts, good.retry_after) == (None, 2, None)
    # An hour is too long to wait for: it is not asked again, and the table says until when.
    assert (bad.error, bad.attempts, bad.retry_after) == (E.RATE_LIMITED, 1, 3600.0)


def test_retry_after_is_read_as_seconds_or_date() -> None:
    now = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    assert retry_after("120", now) == 120
    assert retry_after("Mon, 01 Jan 2024 00:01:00 GMT", now) == 60
    assert retry_after("Mon, 01 Jan 2023 00:01:00 GMT", now) == 0
    assert retry_after("9" * 400, now) == 366 * 86_400
    for nothing in (None, "", "soon", "-5", "1.5", "Mon, 99 Jan 2024"):
        assert retry_after(nothing, now) is None


def test_the_back_off_grows_with_jitter_and_has_bounds() -> None:
    failure = FetchError(E.TIMEOUT, "")
    waits = [module.wait_before_next(failure, attempt) for attempt in range(1, 21)]
    for attempt, wait in enumerate(waits):
        assert wait is not None
        longest = min(0.5 * 2**attempt, 30)
        assert longest / 2 <= wait <= longest
    assert module.wait_before_next(FetchError(E.NOT_FOUND, ""), 1) is None
    assert module.wait_before_next(FetchError(E.RATE_LIMITED, "", retry_after=31), 1) is None


# --- what is known already ---------------------------------------------------------------------------------------


def ask(request: Request, **settings: Any) -> Download:
    options = {"allow_addresses": ("127.0.0.1",), "retries": 0, **settings}
    with Downloader(DownloadSettings(**options)) as downloader:
        return downloader.submit(request).result()


def test_an_image_that_is_at_hand_is_asked_for_conditionally(server: Server, jpeg: bytes) -> None:
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    server.paths["/a"] = answer("304 Not Modified", length=None, ETag='"2"')
    server.paths["/moved"] = answer("302 Found", Location="/a")
    row = ask(Request(server.url("/a"), etag='"1"', last_modified=date))
    assert (row.not_modified, row.error, row.image, row.image_id, row.attempts) == (True, None, None, None, 1)
    assert (row.http_status, row.etag, row.original_bytes) == (304, '"2"', None)
    sent = server.headers["/a"]
    assert (sent["if-none-match"], sent["if-modified-since"]) == ('"1"', date)
    row = ask(Request(server.url("/moved"), etag='"1"', redirected_to=server.url("/a")))
    assert (row.not_modified, row.redirected_to) == (True, server.url("/a"))
    assert "if-none-match" not in server.headers["/moved"]
    assert "if-modified-since" not in server.headers["/a"]
    # Nobody asked whether it was modified, or could: what is in no header is no condition.
    for etag in (None, "", 'x"\r\nHost: y', "é"):
        row = ask(Request(server.url("/a"), etag=etag))
        assert (row.not_modified, row.error) == (False, E.UNEXPECTED_STATUS)
        assert "if-none-match" not in server.headers["/a"]


@pytest.mark.parametrize("redirected_to", [None, "/elsewhere", "http://[::1]@/"])
def test_only_the_url_that_gave_the_image_is_asked_whether_it_changed(
    server: Server, jpeg: bytes, redirected_to: str | None
) -> None:
    """Any other one may say of an older image that it has not changed since."""

    async def older(writer: asyncio.StreamWriter, headers: dict[str, str]) -> None:
        since = "if-modified-since" in headers or "if-none-match" in headers
        await (answer("304 Not Modified", length=None) if since else answer(body=jpeg))(writer, headers)

    server.paths |= {"/moved": answer("302 Found", Location="/a"), "/a": older}
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    if redirected_to == "/elsewhere":
        redirected_to = server.url(redirected_to)
    request = Request(server.url("/moved"), etag='"1"', last_modified=date, redirected_to=redirected_to)
    row = ask(request)
    assert (row.not_modified, row.error, row.image_id) == (False, None, image_id(jpeg))
    assert ("if-none-match" in server.headers["/moved"]) == (redirected_to is None)


def test_an_image_that_has_changed_comes_and_one_that_is_withdrawn_does_not(
    server: Server, jpeg: bytes
) -> None:
    server.paths["/a"] = answer(body=jpeg, ETag='"2"')
    row = ask(Request(server.url("/a"), etag='"1"'))
    assert (row.not_modified, row.error, row.image_id, row.etag) == (False, None, image_id(jpeg), '"2"')
    server.paths["/a"] = answer("304 Not Modified", length=None, X_Robots_Tag="noai")
    row = ask(Request(server.url("/a"), etag='"1"'))
    assert (row.not_modified, row.error) == (False, E.OPTED_OUT)


def test_the_hash_of_the_corpus_is_verified(server: Server, jpeg: bytes) -> None:
    server.paths |= {"/a": answer(body=jpeg), "/page": answer(body=b"<html>")}
    assert ask(Request(server.url("/a"), sha256=image_id(jpeg).upper())).error is None
    row = ask(Request(server.url("/a"), sha256="0" * 64), retries=1)
    assert (row.error, row.attempts, row.image, row.image_id) == (E.HASH_MISMATCH, 1, None, None)
    assert row.error_detail == f"the sha256 is {image_id(jpeg)[:12]}..., the corpus has 000000000000..."
    assert (row.format, row.original_width, row.original_bytes) == ("jpeg", 96, len(jpeg))
    assert E.HASH_MISMATCH not in TRANSIENT
    assert ask(Request(server.url("/page"), sha256="0" * 64)).error == E.NOT_AN_IMAGE


# --- slow, endless, broken ---------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"


def test_one_deadline_holds_for_everything(server: Server) -> None:
    """Headers that do not come, a header and a body that drip, and redirects that each take their time."""
    server.paths["/silent"] = raw(30.0)
    server.paths["/header"] = raw(
        b"HTTP/1.1 200 OK\r\nX: ", *(part for _ in range(200) for part in (b"x", 0.05))
    )
    server.paths["/body"] = raw(
        HEAD + b"Content-Length: 1000\r\n\r\n", *(part for _ in range(200) for part in (b"x", 0.05))
    )
    for number in range(5):
        head = f"HTTP/1.1 302 Found\r\nLocation: /hop{number + 1}\r\nContent-Length: 0\r\n\r\n"
        server.paths[f"/hop{number}"] = raw(0.25, head.encode())
    started = time.monotonic()
    rows = get(server, "/silent", "/header", "/body", "/hop0", timeout_s=0.6)
    assert time.monotonic() - started < 3
    assert [row.error for row in rows] == [E.TIMEOUT] * 4
    assert [row.http_status for row in rows] == [None, None, 200, 302]


def test_bytes_are_bounded_while_they_come(server: Server) -> None:
    async def endless(writer: asyncio.StreamWriter, _: dict[str, str]) -> None:
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    server.paths["/endless"] = endless
    server.paths["/announced"] = raw(HEAD + b"Content-Length: 10000000000\r\n\r\n", 30.0)
    server.paths["/chunked"] = raw(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"10000\r\n" + bytes(65_536) + b"\r\n"] * 9
    )
    server.paths["/bomb"] = answer(body=gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")
    rows = get(server, "/endless", "/announced", "/chunked", "/bomb", max_bytes=500_000)
    assert [(row.error, row.http_status) for row in rows] == [(E.TOO_LARGE, 200)] * 4


def test_max_bytes_itself_is_not_too_large(server: Server, jpeg: bytes) -> None:
    server.paths["/a"] = answer(body=jpeg)
    assert get(server, "/a", max_bytes=len(jpeg))[0].error is None
    assert get(server, "/a", max_bytes=len(jpeg) - 1)[0].error == E.TOO_LARGE


def test_incomplete_bodies(server: Server, jpeg: bytes) -> None:
    half = jpeg[: len(jpeg) // 2]
    server.paths["/short"] = answer(body=half, length=len(jpeg))
    server.paths["/chunks"] = raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    server.paths["/gzip"] = answer(body=gzip.compress(jpeg)[:-20], Content_Encoding="gzip")
    # Nothing tells that this one is incomplete, but its pixels do.
    server.paths["/whole"] = answer(body=half)
    rows = get(server, "/short", "/chunks", "/gzip", "/whole")
    assert [row.error for row in rows] == [E.INCOMPLETE] * 3 + [E.CORRUPT_IMAGE]


def test_connections_that_break(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", 0.01)

    def reset_after(first: bytes) -> Any:
        async def behave(writer: asyncio.StreamWriter, _: dict[str, str]) -> None:
            writer.write(first)
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()

        return behave

    server.paths["/reset"] = reset_after(b"")
    server.paths["/hang-up"] = raw(b"")
    server.paths["/half-head"] = raw(b"HTTP/1.1 200 OK\r\nContent-Le")
    server.paths["/reset-body"] = reset_after(HEAD + b"Content-Length: 1000\r\n\r\nabc")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    paths = ("/reset", "/hang-up", "/half-head", "/reset-body", refused)
    rows = get(server, *paths, retries=1, allow_addresses=("127.0.0.1",))
    assert [row.error for row in rows] == [E.CONNECTION_FAILED] * 3 + [E.INCOMPLETE, E.CONNECTION_FAILED]
    assert [row.attempts for row in rows] == [2] * 5
    assert [row.http_status for row in rows] == [None, None, None, 200, None]


@pytest.mark.parametrize(
    "parts",
    [
        [b"SSH-2.0-OpenSSH_9.6\r\n"],
        [b"<html>hello</html>"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: 1\r\n" % number for number in range(20_000)) + b"\r\n"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\nhello\r\n"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 0.1, b"ZZZ\r\nhello\r\n"],
        [HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"],
        [HEAD + b"Content-Encoding: br\r\nContent-Length: 5\r\n\r\nhello"],
    ],
)
def test_what_is_not_http_is_an_invalid_response(server: Server, parts: list[bytes | float]) -> None:
    server.paths["/a"] = raw(*parts)
    (row,) = get(server, "/a", retries=1, timeout_s=1)
    assert (row.error, row.attempts) == (E.INVALID_RESPONSE, 1)
    assert row.error_detail and "\n" not in row.error_detail


def endless(head: bytes, part: bytes) -> Any:
    async def behave(writer: asyncio.StreamWriter, _: dict[str, str]) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()

    return behave


@pytest.mark.parametrize(
    ("head", "part", "code"),
    [
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 1_000, E.INVALID_RESPONSE),
        (b"HTTP/1.1 200 OK\r\n", b"".join(b"X%d: y\r\n" % n for n in range(1_000)), E.INVALID_RESPONSE),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65_536, E.INVALID_RESPONSE),
        (b"HTTP/1.1 200 ", b"x" * 65_536, E.INVALID_RESPONSE),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 1_000, E.INVALID_RESPONSE),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;", b"x" * 65_536, E.TIMEOUT),
        (b"", b"\r\n" * 10_000, E.TIMEOUT),
    ],
    ids=["interim", "headers", "header", "reason", "trailers", "chunk-extension", "blank-lines"],
)
def test_what_is_around_the_body_is_bounded(
    server: Server, head: bytes, part: bytes, code: ErrorCode
) -> None:
    resource = pytest.importorskip("resource")
    server.paths["/a"] = endless(head, part)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (row,) = get(server, "/a", timeout_s=1)
    assert row.error == code
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


# --- redirects, addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("file:///etc/passwd", E.UNSUPPORTED_SCHEME),
        ("ftp://127.0.0.1/x", E.UNSUPPORTED_SCHEME),
        ("data:image/png;base64,AAAA", E.UNSUPPORTED_SCHEME),
        ("http://169.254.169.254/latest/meta-data/", E.ADDRESS_FORBIDDEN),
        ("http://127.0.0.2/", E.ADDRESS_FORBIDDEN),
        ("http://[::1]/", E.ADDRESS_FORBIDDEN),
        ("http://[::ffff:10.0.0.1]/", E.ADDRESS_FORBIDDEN),
        ("http://0x0a000001/", E.ADDRESS_FORBIDDEN),
        ("http://localhost:1/", E.ADDRESS_FORBIDDEN),
        ("http://nx.invalid/", E.DNS_ERROR),
        ("", E.INVALID_REDIRECT),
        ("http://", E.INVALID_REDIRECT),
        ("http://[::1", E.INVALID_REDIRECT),
        ("http://[::1]@/", E.INVALID_REDIRECT),
        ("http://999.1.1.1/", E.INVALID_REDIRECT),
        ("/a", E.TOO_MANY_REDIRECTS),
    ],
)
def test_every_redirect_is_checked(server: Server, location: str, code: ErrorCode) -> None:
    server.paths["/a"] = answer("302 Found", Location=location)
    (row,) = get(server, "/a")
    assert (row.error, row.http_status) == (code, 302)
    assert server.requests["/a"] == 1


def test_redirects_are_limited(server: Server, jpeg: bytes) -> None:
    for number in range(10):
        server.paths[f"/{number}"] = answer("302 Found", Location=f"/{number + 1}")
    server.paths["/3"] = answer(body=jpeg)
    assert get(server, "/0", max_redirects=3)[0].error is None
    assert get(server, "/0", max_redirects=2)[0].error == E.TOO_MANY_REDIRECTS
    assert get(server, "/5", max_redirects=3)[0].error == E.TOO_MANY_REDIRECTS
    assert get(server, "/0", max_redirects=0)[0].error == E.TOO_MANY_REDIRECTS


def test_loopback_is_forbidden_by_default_in_every_spelling(server: Server) -> None:
    hosts = [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "localhost",
        "127.0.0.1.",
        "[::1]",
    ]
    hosts += ["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "[::]", "１２７.0.0.1", "①②⑦.0.0.1", "0"]
    rows = get(server, *(server.url("/", host) for host in hosts), "http://2130706433/", allow_addresses=())
    assert [row.error for row in rows] == [E.ADDRESS_FORBIDDEN] * (len(hosts) + 1)
    assert not server.requests


def test_the_allow_list_holds_for_every_spelling_and_one_port(server: Server, jpeg: bytes) -> None:
    server.paths["/"] = answer(body=jpeg)
    hosts = ["127.0.0.1", "2130706433", "127.1", "localhost"]
    rows = get(server, *(server.url("/", host) for host in hosts), "http://127.0.0.1:1/")
    assert [row.error for row in rows] == [None] * 4 + [E.ADDRESS_FORBIDDEN]


def test_a_name_is_connected_to_at_the_address_that_was_checked(
    server: Server, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves to a permitted address first and to a private one later gets nowhere else."""
    lookups: list[str] = []

    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        lookups.append(host)
        address = {"good.test": "127.0.0.1", "mixed.test": "127.0.0.1", "bad.test": "10.0.0.1"}[host]
        found = [address] if host != "mixed.test" else ["192.168.0.1", address]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in found]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    server.paths["/"] = answer(body=jpeg)
    hosts = ("good.test", "mixed.test", "bad.test")
    rows = get(server, *(server.url("/", host) for host in hosts))
    assert [row.error for row in rows] == [None, None, E.ADDRESS_FORBIDDEN]
    assert sorted(lookups) == sorted(hosts)  # asked once each: nobody resolves a name behind the check
    assert rows[2].error_detail == "bad.test: 10.0.0.1 is private"


def test_the_address_is_judged_once_more_where_it_is_connected_to(
    server: Server, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the resolver says: here one that permits everything."""

    async def careless(self: Any, host: str, port: int = 0, **_: Any) -> list[Any]:
        found = {"hostname": host, "host": "127.0.0.1", "port": port, "proto": 6, "flags": 0}
        return [found | {"family": socket.AF_INET}]

    monkeypatch.setattr(PolicyResolver, "resolve", careless)
    server.paths["/"] = answer(body=jpeg)
    url = server.url("/", "rebinding.test")
    (row,) = get(server, url, allow_addresses=())
    assert (row.error, row.error_detail) == (E.ADDRESS_FORBIDDEN, "127.0.0.1 is loopback")
    assert not server.requests
    assert get(server, url)[0].error is None


def test_public_addresses_have_few_ports(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    server.paths["/moved"] = answer("302 Found", Location="http://93.184.216.34:6379/")
    rows = get(server, "http://93.184.216.34:22/", "http://name.test:8080/", "/moved")
    assert [row.error for row in rows] == [E.ADDRESS_FORBIDDEN] * 3
    assert rows[1].error_detail == "name.test: port 8080 of 93.184.216.34 is none of `ports` (80, 443)"
    policy = AddressPolicy(("10.0.0.1:8000", "10.0.0.2"), ports=(8080,))
    assert policy.refusal("93.184.216.34", 8080) is policy.refusal("10.0.0.1", 8000) is None
    assert policy.refusal("10.0.0.2", 1234) is None
    assert policy.refusal("93.184.216.34", 80) is not None
    assert policy.refusal("64:ff9b::93.184.216.34", 80) is not None


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", E.INVALID_URL),
        ("photo.jpg", E.INVALID_URL),
        ("//host/photo.jpg", E.INVALID_URL),
        ("http://", E.INVALID_URL),
        ("http:///photo.jpg", E.INVALID_URL),
        ("http://host:99999/", E.INVALID_URL),
        ("http://[::1/", E.INVALID_URL),
        ("http://[::1]@/", E.INVALID_URL),
        ("http://a b/", E.INVALID_URL),
        ("http://1.2.3.4%00/", E.INVALID_URL),
        ("http://1.2.3.4.5/", E.INVALID_URL),
        ("file:///etc/passwd", E.UNSUPPORTED_SCHEME),
        ("data:image/png;base64,AAAA", E.UNSUPPORTED_SCHEME),
        ("ftp://example.com/a.jpg", E.UNSUPPORTED_SCHEME),
        ("http://nx.invalid/a.jpg", E.DNS_ERROR),
        ("https://NX.INVALID./a.jpg", E.DNS_ERROR),
        ("http://a..b/", E.DNS_ERROR),
        (f"http://{'a' * 64}.com/", E.DNS_ERROR),
    ],
)
def test_what_cannot_be_asked_for(server: Server, url: str, code: ErrorCode) -> None:
    (row,) = get(server, url, retries=1)
    assert (row.error, row.attempts, row.http_status) == (code, 1, None)
    assert row.error_detail


def test_only_a_resolver_that_says_try_again_is_tried_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Any, host: str, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN if host == "later.test" else socket.EAI_NONAME, "no answer")

    monkeypatch.setattr(module, "_BACKOFF_S", 0.01)
    monkeypatch.setattr(PolicyResolver, "resolve", fail)
    rows = get(server, "http://later.test/", "http://never.test/", retries=2)
    assert [(row.error, row.attempts) for row in rows] == [(E.DNS_ERROR, 3), (E.DNS_ERROR, 1)]


def test_certificates_are_verified(jpeg: bytes, tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = serialization.PrivateFormat.PKCS8
    pem += key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (tmp_path / "both.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    with Server(context) as secure, Server() as plain:
        secure.paths["/"] = plain.paths["/"] = answer(body=jpeg)
        wrong = plain.url("/").replace("http:", "https:")
        rows = get(
            secure, "/", secure.url("/", "localhost"), wrong, retries=1, allow_addresses=("127.0.0.1",)
        )
        assert [(row.error, row.attempts) for row in rows] == [(E.TLS_ERROR, 1)] * 3
        assert not secure.requests


# --- what the body is --------------------------------------------------------------------------------------------


def test_contents_have_codes(server: Server, jpeg: bytes) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    bodies = {
        "/html.jpg": (b"<!DOCTYPE html><p>Not here any more", E.NOT_AN_IMAGE),
        "/empty.jpg": (b"", E.EMPTY),
        "/truncated.jpg": (jpeg[:-500], E.CORRUPT_IMAGE),
        "/bomb.png": (bomb, E.TOO_MANY_PIXELS),
        "/small.png": (saved(Image.new("RGB", (10, 40)), "PNG"), E.TOO_SMALL),
        "/long.png": (saved(Image.new("RGB", (40, 101)), "PNG"), E.ASPECT_RATIO),
        "/png.jpg": (saved(Image.new("RGB", (40, 100)), "PNG"), None),
    }
    for path, (body, _) in bodies.items():
        server.paths[path] = answer(body=body, Content_Type="image/jpeg", ETag='"e"')
    rows = dict(
        zip(bodies, get(server, *bodies, min_image_size=20, max_aspect_ratio=2.5, retries=1), strict=True)
    )
    assert {path: row.error for path, row in rows.items()} == {
        path: code for path, (_, code) in bodies.items()
    }
    assert all(row.http_status == 200 and row.attempts == 1 for row in rows.values())
    # What is known is kept, what is not is null.
    long = rows["/long.png"]
    assert (long.format, long.original_width, long.original_height, long.etag) == ("png", 40, 101, '"e"')
    assert long.original_bytes == len(bodies["/long.png"][0])
    assert (rows["/bomb.png"].original_width, rows["/html.jpg"].format) == (60_000, None)
    assert all(row.image is None and row.image_id is None for path, row in rows.items() if bodies[path][1])
    assert rows["/png.jpg"].format == "png"


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow, noindex"], "noindex"),
        (["nofollow", "noimageindex"], "noimageindex"),
        (["none"], "none"),
        (["*: noai"], "noai"),
        (["sd_assets: noai"], "sd_assets: noai"),
        (["googlebot: nofollow, SD_Assets: noindex"], "sd_assets: noindex"),
        (["max-snippet: 5, noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        ([], None),
        (["all, nofollow, noarchive"], None),
        (["googlebot: noindex"], None),
        (["googlebot: nofollow, noindex"], None),
        (["otherbot: noai", "max-image-preview: none"], None),
    ],
)
def test_opt_out_directives(values: list[str], directive: str | None) -> None:
    assert opted_out(values, "sd_assets/0.1 (+https://example.org)") == directive


def test_who_opted_out_is_left_alone(server: Server, jpeg: bytes) -> None:
    server.paths["/all"] = answer(body=jpeg, X_Robots_Tag="noai")
    server.paths["/us"] = answer(body=jpeg, X_Robots_Tag="sd_assets: noimageindex")
    server.paths["/others"] = answer(body=jpeg, X_Robots_Tag="googlebot: noindex")
    rows = get(server, "/all", "/us", "/others")
    assert [row.error for row in rows] == [E.OPTED_OUT, E.OPTED_OUT, None]
    assert [row.original_bytes for row in rows] == [None, None, len(jpeg)]


# --- many at once ------------------------------------------------------------------------------------------------


def test_what_is_in_flight_is_bounded_over_all_threads(server: Server, jpeg: bytes) -> None:
    send = answer(body=jpeg)
    busy = [0]  # requests in hand, over time

    async def behave(writer: asyncio.StreamWriter, headers: dict[str, str]) -> None:
        busy.append(busy[-1] + 1)
        await asyncio.sleep(0.05)
        busy.append(busy[-1] - 1)
        await send(writer, headers)

    paths = [f"/{number}" for number in range(30)]
    server.paths = dict.fromkeys(paths, behave)
    results: dict[int, list[Download]] = {}
    with Downloader(DownloadSettings(allow_addresses=("127.0.0.1",), connections=5)) as downloader:

        def work(number: int) -> None:
            results[number] = all_of(downloader, *(server.url(path) for path in paths[number::3]))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(row.error is None for rows in results.values() for row in rows)
    assert sum(map(len, results.values())) == 30
    assert 3 <= max(busy) <= 5


def test_waiting_before_another_attempt_holds_nobody_up(server: Server, jpeg: bytes) -> None:
    server.paths["/busy"] = in_turn(answer("503 Busy", Retry_After="1"), answer(body=jpeg))
    server.paths["/good"] = answer(body=jpeg)
    with Downloader(DownloadSettings(allow_addresses=("127.0.0.1",), connections=1, retries=1)) as downloader:
        rows = all_of(downloader, server.url("/busy"), *[server.url("/good", "localhost")] * 3)
    assert [row.error for row in rows] == [None] * 4
    assert all(row.fetched_at < rows[0].fetched_at for row in rows[1:])


def test_a_bug_is_no_error_of_a_row(server: Server, jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(codec, "resized", broken)
    server.paths["/a"] = answer(body=jpeg)
    server.paths["/slow"] = raw(30.0)
    with Downloader(DownloadSettings(allow_addresses=("127.0.0.1",), timeout_s=20)) as downloader:
        started = time.monotonic()
        with pytest.raises(ZeroDivisionError, match="ours"):
            all_of(downloader, server.url("/a"), server.url("/slow"))
        assert time.monotonic() - started < 5
        monkeypatch.undo()
        assert all_of(downloader, server.url("/a"))[0].error is None


def test_closing_ends_what_is_in_flight_and_every_thread(server: Server) -> None:
    server.paths["/slow"] = raw(30.0)
    before = threading.active_count()
    downloader = Downloader(DownloadSettings(allow_addresses=("127.0.0.1",), timeout_s=30))
    ended: list[BaseException] = []

    def work() -> None:
        try:
            all_of(downloader, server.url("/slow"))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    future = downloader.submit(Request(server.url("/slow")))
    while server.requests["/slow"] < 2:
        time.sleep(0.01)
    downloader.close()
    downloader.close()
    thread.join(5)
    assert [str(error) for error in ended] == ["the downloader was closed"]
    assert future.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        all_of(downloader)
    assert threading.active_count() <= before


@pytest.mark.parametrize("make_loop", [new_event_loop, asyncio.new_event_loop])
def test_every_event_loop_will_do(
    server: Server, jpeg: bytes, monkeypatch: pytest.MonkeyPatch, make_loop: Any
) -> None:
    monkeypatch.setattr(module, "new_event_loop", make_loop)
    server.paths = {f"/{number}": answer(body=jpeg) for number in range(300)}
    rows = get(server, *server.paths, server.url("/0", "localhost"), "http://nx.invalid/")
    assert [row.error for row in rows] == [None] * 301 + [E.DNS_ERROR]


def test_no_more_is_taken_than_the_window_holds(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_WINDOW", 100)
    server.paths["/slow"] = raw(30.0)
    taken = itertools.count()
    requests = ((number, Request(server.url("/slow"))) for number in taken)  # without end
    settings = DownloadSettings(
        allow_addresses=("127.0.0.1",), timeout_s=0.3, retries=0, connections=4, host_failures=None
    )
    with Downloader(settings) as downloader:
        results = downloader.stream(requests)
        for number in range(1, 20):
            assert next(results)[1].error == E.TIMEOUT
            assert next(taken) <= 100 + 2 * number
        results.close()
        assert list(downloader.stream([])) == []


def test_to_close_a_stream_is_to_cancel_its_rest_only(server: Server, jpeg: bytes) -> None:
    server.paths |= {"/fast": answer(body=jpeg), "/slow": raw(30.0)}
    slow = (("slow", Request(server.url("/slow"))) for _ in range(50))
    settings = DownloadSettings(allow_addresses=("127.0.0.1",), timeout_s=30, connections_per_host=4)
    with Downloader(settings) as downloader:
        results = downloader.stream(itertools.chain([("fast", Request(server.url("/fast")))], slow))
        assert next(results)[0] == "fast"
        other = downloader.submit(Request(server.url("/fast")))
        results.close()
        assert other.result(5).error is None
        # Whatever the slow ones had is free again.
        assert {row.error for row in all_of(downloader, *[server.url("/fast")] * 50)} == {None}


def test_a_stream_may_be_collected_while_its_thread_hands_something_over() -> None:
    """Which any allocation may bring about; in a process of its own, as it would hang for ever."""
    script = """
import gc
from sd_assets.download.downloader import Downloader
from sd_assets.download.request import Request
from sd_assets.settings import DownloadSettings

class Loop:
    def __init__(self, loop):
        self._loop = loop
    def __getattr__(self, name):
        return getattr(self._loop, name)
    def call_soon_threadsafe(self, *arguments):
        gc.collect()
        return self._loop.call_soon_threadsafe(*arguments)

gc.disable()
downloader = Downloader(DownloadSettings(robots_txt=False))
stream = downloader.stream((number, Request("nonsense")) for number in range(3))
next(stream)
cycle = [stream]
cycle.append(cycle)
del stream, cycle
downloader._loop = Loop(downloader._loop)
downloader.submit(Request("nonsense"))
downloader.close()
print("closed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert done.stdout == "closed\n", done.stderr


def test_an_error_of_the_input_is_the_consumers(server: Server) -> None:
    def requests() -> Iterator[tuple[int, Request]]:
        yield 0, Request("nonsense")
        raise OSError("the list ended early")

    with Downloader(DownloadSettings()) as downloader:
        with pytest.raises(OSError, match="the list ended early"):
            list(downloader.stream(requests()))
        assert all_of(downloader, "nonsense")[0].error == E.INVALID_URL


# --- one odd row must not stop the others ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b'ETag: "caf\xe9"\r\n',
        HEAD + b"Last-Modified: Fr, 1. M\xe4rz\r\n",
        b"HTTP/1.1 404 Nicht gefunden \xfcber\r\nConnection: close\r\n",
        b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: http://\xff\xfe/\r\n",
    ],
)
def test_bytes_that_are_no_text_can_be_stored(server: Server, jpeg: bytes, head: bytes) -> None:
    server.paths["/a"] = raw(head + b"Content-Length: %d\r\n\r\n" % len(jpeg) + jpeg)
    (row,) = get(server, "/a")
    assert row.error in (None, E.NOT_FOUND, E.INVALID_REDIRECT, E.DNS_ERROR)
    # As the stage does: lone surrogates would stop the whole partition here.
    rows_of(DOWNLOADED_IMAGES, [dataclasses.asdict(row)])


@pytest.mark.parametrize("user", ["a%3Ab:c@", "日:x@", "me:secret@", ":secret@"])
def test_credentials_in_a_url_are_not_sent(server: Server, jpeg: bytes, user: str) -> None:
    server.paths["/a"] = answer(body=jpeg)
    (row,) = get(server, f"http://{user}127.0.0.1:{server.port}/a")
    assert row.error is None
    assert "authorization" not in server.headers["/a"]


@pytest.mark.parametrize("mode", ["center_crop", "keep_ratio"])
def test_a_strip_is_not_enlarged_beyond_the_limit(server: Server, mode: str) -> None:
    server.paths["/a"] = answer(body=saved(Image.new("RGB", (1, 20_000)), "PNG"))
    (row,) = get(server, "/a", resize_mode=mode)
    assert row.error == E.TOO_MANY_PIXELS
    assert row.error_detail and "would be scaled to 512 x 10240000" in row.error_detail


def test_bytes_after_the_end_of_gzip_count(server: Server, jpeg: bytes) -> None:
    body = gzip.compress(jpeg)
    server.paths["/short"] = raw(HEAD + b"Content-Encoding: gzip\r\n\r\n" + body + b"\0" * 1_000)
    server.paths["/long"] = raw(HEAD + b"Content-Encoding: gzip\r\n\r\n" + body, *[b"\0" * 100_000] * 200)
    short, long = get(server, "/short", "/long", max_bytes=1_000_000)
    assert (short.error, long.error) == (None, E.TOO_LARGE)
