"""robots.txt: what its groups say, how it is had, and what follows from not having it."""

import asyncio
import collections
from collections.abc import Iterator
from typing import Any

import pytest
from yarl import URL

from sd_assets.download import downloader, robots
from sd_assets.download.codes import TRANSIENT, FetchError
from sd_assets.download.downloader import Downloader
from sd_assets.download.finish import Download
from sd_assets.download.request import Request
from sd_assets.download.robots import Robots, rules_for
from sd_assets.errors import ErrorCode
from sd_assets.settings import DownloadSettings
from sd_assets_tests.download.misbehaving import Behaviour, Server, answer, in_turn, raw

E = ErrorCode


@pytest.fixture
def other() -> Iterator[Server]:
    """A server at another address, hence another host."""
    with Server(host="127.0.0.2") as running:
        yield running


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloader, "_BACKOFF_S", 0.01)


def get(*urls: str, **options: Any) -> list[Download]:
    chosen = {
        "allow_addresses": ("127.0.0.0/8",),
        "retries": 1,
        "timeout_s": 5,
        "image_size": 16,
        "user_agent": "sd_assets/0.1",
        **options,
    }
    with Downloader(DownloadSettings(**chosen)) as running:
        came = dict(running.stream((number, Request(url)) for number, url in enumerate(urls)))
    return [came[number] for number in range(len(urls))]


def serve(server: Server, jpeg: bytes, file: Behaviour | str) -> None:
    server.paths["/robots.txt"] = answer(body=file.encode()) if isinstance(file, str) else file
    for path in ("/a.jpg", "/b.jpg", "/private/c.jpg"):
        server.paths[path] = answer(body=jpeg)


# --- what it says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("", []),
        ("User-agent: *\nDisallow: /", ["disallow: /"]),
        (
            "\ufeffUSER-AGENT : *\r\n  DISALLOW : /a # not for you\r\nAllow:/a/b",
            ["disallow: /a", "allow: /a/b"],
        ),
        ("User-agent: sd_assets\nDisallow: /x\n\nUser-agent: *\nDisallow: /", ["disallow: /x"]),
        ("User-agent: *\nDisallow: /\n\nUser-agent: SD_Assets/0.1 (any)\nDisallow: /x", ["disallow: /x"]),
        ("User-agent: sd_assets\nDisallow:\n\nUser-agent: *\nDisallow: /", []),
        (
            "User-agent: bot\nUser-agent: sd_assets\nDisallow: /x\nUser-agent: *\nDisallow: /",
            ["disallow: /x"],
        ),
        ("User-agent: *\nDisallow: /x\nUser-agent: bot\nDisallow: /", ["disallow: /x"]),
        (
            "User-agent: *\nDisallow: /x\n\nSitemap: https://a/b\nUser-agent: *\nDisallow: /y",
            ["disallow: /x", "disallow: /y"],
        ),
        ("User-agent: sd\nUser-agent: sd_assets_other\nDisallow: /", []),
        ("Disallow: /", []),
        ("<html><p>User-agent: *<br>Disallow: /</html>", []),
    ],
)
def test_the_groups_for_us_are_found(text: str, rules: list[str]) -> None:
    assert rules_for(text, "sd_assets") == rules


def test_a_file_of_the_most_rules_for_the_most_agents_takes_no_more_than_its_size() -> None:
    """By the square of its size it would take hours, and the downloader would stand still."""
    agents = "".join(f"User-agent: {number}\n" for number in range(15_000))
    rules = "".join(f"Disallow: /{number}\n" for number in range(15_000))
    assert len(agents + rules) < robots.MAX_BYTES * 1.2
    assert rules_for(f"{agents}User-agent: *\n{rules}", "sd_assets") == rules.lower().splitlines()
    wild = rules_for("User-agent: *\n" + "Disallow: /*a*b*c$\n" * 20_000 + "Disallow: /end", "sd_assets")
    assert len(wild) == robots._MOST_WILDCARDS + 1
    assert wild[-1] == "disallow: /end"


def test_what_is_disallowed_is_not_asked_for(server: Server, jpeg: bytes) -> None:
    serve(server, jpeg, "User-agent: *\nDisallow: /private\nDisallow: /*.png$\nAllow: /private/open")
    server.paths |= {"/private/open.jpg": answer(body=jpeg), "/x/y.png": answer(body=jpeg)}
    paths = ("/a.jpg", "/private/c.jpg", "/private/open.jpg", "/x/y.png", "/b.jpg")
    rows = get(*map(server.url, paths))
    assert [row.error for row in rows] == [None, E.OPTED_OUT, None, E.OPTED_OUT, None]
    assert rows[1].error_detail == "robots.txt disallows it for sd_assets"
    assert (rows[1].attempts, rows[1].http_status) == (1, None)
    counts = {"/robots.txt": 1, "/a.jpg": 1, "/private/open.jpg": 1, "/b.jpg": 1}
    assert server.requests == counts
    rows = get(*map(server.url, paths), robots_txt=False)
    assert [row.error for row in rows] == [None] * 5
    assert server.requests["/robots.txt"] == 1


def test_it_is_ours_by_the_product_token(server: Server, jpeg: bytes) -> None:
    serve(server, jpeg, "User-agent: Ours\nDisallow: /\n\nUser-agent: *\nAllow: /")
    assert get(server.url("/a.jpg"), user_agent="ours/7 (+https://example.org)")[0].error == E.OPTED_OUT
    assert get(server.url("/a.jpg"), user_agent="other/7 ours/7")[0].error is None


def test_redirects_are_asked_about_too(server: Server, other: Server, jpeg: bytes) -> None:
    serve(server, jpeg, "User-agent: *\nDisallow: /private")
    serve(other, jpeg, "User-agent: *\nDisallow: /")
    server.paths["/here"] = answer("302 Found", Location="/private/c.jpg")
    server.paths["/there"] = answer("302 Found", Location=other.url("/a.jpg", "127.0.0.2"))
    rows = get(server.url("/here"), server.url("/there"))
    assert [(row.error, row.http_status, row.attempts) for row in rows] == [(E.OPTED_OUT, 302, 1)] * 2
    assert server.requests["/private/c.jpg"] == 0
    assert other.requests == {"/robots.txt": 1}


# --- how it is had -----------------------------------------------------------------------------------------------


def test_many_urls_of_a_host_wait_for_one_request(server: Server, other: Server, jpeg: bytes) -> None:
    slowly = raw(0.3, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    serve(server, jpeg, slowly)
    serve(other, jpeg, slowly)
    urls = [where.url("/a.jpg", host) for where, host in ((server, "127.0.0.1"), (other, "127.0.0.2"))] * 50
    assert {row.error for row in get(*urls)} == {None}
    assert server.requests == other.requests == {"/robots.txt": 1, "/a.jpg": 50}


@pytest.mark.parametrize(
    "file",
    [
        answer("404 Not Found"),
        answer("410 Gone"),
        answer("403 Forbidden"),
        answer("401 Unauthorized"),
        answer(body=b""),
        answer("204 No Content"),
        answer(body=b"<html>" + bytes(range(256)) * 100),
        answer("301 Moved", Location="/robots.txt"),
        answer("301 Moved", Location="file:///etc/passwd"),
        answer("301 Moved", Location="http://10.0.0.1/robots.txt"),
        answer("301 Moved"),
    ],
)
def test_without_one_all_is_allowed(server: Server, jpeg: bytes, file: Behaviour) -> None:
    serve(server, jpeg, file)
    assert get(server.url("/a.jpg"))[0].error is None
    assert server.requests["/robots.txt"] == 1


def test_it_may_be_elsewhere(server: Server, other: Server, jpeg: bytes) -> None:
    serve(server, jpeg, answer("301 Moved", Location=other.url("/4", "127.0.0.2")))
    for number in range(1, 5):
        other.paths[f"/{number}"] = answer("302 Found", Location=f"/{number - 1}")
    other.paths["/0"] = answer(body=b"User-agent: *\nDisallow: /")
    assert get(server.url("/a.jpg"))[0].error == E.OPTED_OUT
    # One redirect more, and it is as if there were none.
    serve(server, jpeg, answer("301 Moved", Location=other.url("/5", "127.0.0.2")))
    other.paths["/5"] = answer("302 Found", Location="/4")
    assert get(server.url("/a.jpg"))[0].error is None


@pytest.mark.parametrize(
    ("file", "code", "asked"),
    [
        (answer("500 Oops"), E.SERVER_ERROR, 2),
        (answer("503 Busy"), E.SERVER_ERROR, 2),
        (answer("503 Busy", Retry_After="3600"), E.SERVER_ERROR, 1),
        (answer("429 Slow down"), E.RATE_LIMITED, 2),
        (raw(30.0), E.TIMEOUT, 2),
        (answer(body=b"User-agent: *", length=100), E.INCOMPLETE, 2),
        (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), E.INVALID_RESPONSE, 1),
    ],
)
def test_while_it_cannot_be_had_nothing_is_asked_for(
    server: Server, jpeg: bytes, file: Behaviour, code: ErrorCode, asked: int
) -> None:
    serve(server, jpeg, file)
    rows = get(server.url("/a.jpg"), server.url("/b.jpg"), timeout_s=0.5)
    assert server.requests == {"/robots.txt": asked}
    assert [row.error for row in rows] == [code] * 2
    assert all(row.error_detail and row.error_detail.startswith("robots.txt: ") for row in rows)
    assert {(row.attempts, row.http_status, row.image) for row in rows} == {(asked, None, None)}
    assert code in TRANSIENT or code == E.INVALID_RESPONSE


def test_a_failure_that_passes_is_forgotten(server: Server, jpeg: bytes) -> None:
    serve(server, jpeg, in_turn(answer("500 Oops"), answer(body=b"User-agent: *\nDisallow: /private")))
    rows = get(server.url("/a.jpg"), server.url("/private/c.jpg"))
    assert [(row.error, row.attempts) for row in rows] == [(None, 1), (E.OPTED_OUT, 1)]


def test_it_is_read_as_far_as_it_must_be(server: Server, jpeg: bytes) -> None:
    comment = b"# " + b"x" * 97 + b"\n"

    async def endless(writer: asyncio.StreamWriter, _: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nUser-agent: *\nDisallow: /private\n")
        while True:
            writer.write(comment * 100)
            await writer.drain()

    serve(server, jpeg, endless)
    rows = get(server.url("/a.jpg"), server.url("/private/c.jpg"))
    assert [row.error for row in rows] == [None, E.OPTED_OUT]
    late = comment * (robots.MAX_BYTES // 100 + 1) + b"User-agent: *\nDisallow: /"
    serve(server, jpeg, answer(body=late))
    assert get(server.url("/a.jpg"))[0].error is None


# --- what is remembered ------------------------------------------------------------------------------------------


def test_what_is_remembered_is_bounded_in_number_and_age(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: collections.Counter[str] = collections.Counter()

    async def load(url: URL) -> str:
        asked[str(url.origin())] += 1
        if url.host == "dead.test":
            raise FetchError(E.TIMEOUT, "no answer")
        return "User-agent: *\nDisallow: /1\nDisallow: /2"

    async def run() -> None:
        known = Robots("sd_assets", load)
        for number in range(100):
            for _ in range(2):
                await known.check(URL(f"http://h{number}.test/0"))
        assert set(asked.values()) == {1}
        assert len(known._known) == 30 // 3
        await known.check(URL("http://h99.test/0"))
        assert asked["http://h99.test"] == 1
        await known.check(URL("http://h0.test/0"))
        assert asked["http://h0.test"] == 2
        for _ in range(2):
            with pytest.raises(FetchError) as caught:
                await known.check(URL("http://dead.test/"))
            assert not caught.value.again
        assert asked["http://dead.test"] == 1
        # What is too old already when it comes is asked for every time.
        monkeypatch.setattr(robots, "_KEPT_S", -1.0)
        for _ in range(2):
            await known.check(URL("http://h1.test/0"))
        assert asked["http://h1.test"] == 3

    monkeypatch.setattr(robots, "_MOST_RULES", 30)
    asyncio.run(run())


def test_each_port_and_scheme_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def load(url: URL) -> str:
        asked.append(str(url))
        return ""

    async def run() -> None:
        known = Robots("sd_assets", load)
        for url in ("http://a.test/x?y#z", "https://a.test/x", "http://a.test:8000/x", "http://a.test:80/z"):
            await known.check(URL(url))

    asyncio.run(run())
    assert asked == [
        f"{origin}/robots.txt" for origin in ("http://a.test", "https://a.test", "http://a.test:8000")
    ]
