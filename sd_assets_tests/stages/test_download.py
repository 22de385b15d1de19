"""Downloads over several runs: what is asked for again, what is given up, and what was taken down."""

import asyncio
import datetime
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sd_assets.blocked import Blocked
from sd_assets.compute.run import run_stage
from sd_assets.download import downloader
from sd_assets.schemas import DOWNLOADED_IMAGES, RETRIEVED_IMAGE_URLS, image_id, text_id
from sd_assets.settings import DownloadSettings
from sd_assets.stages import download
from sd_assets.stages.download import DownloadStage
from sd_assets.stages.stage import Work, rows_of
from sd_assets.storage import staging
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table
from sd_assets_tests.download.misbehaving import Behaviour, Server, answer
from sd_assets_tests.sources.conftest import picture
from sd_assets_tests.tables import table_of

UNAVAILABLE = answer("503 Service Unavailable")


class Clock:
    """A time that tests set, for both who writes rows and who judges them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
        clock = self

        class Frozen(datetime.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime.datetime:  # type: ignore[override]
                return clock.now

        patch.setattr(download, "datetime", Frozen)
        patch.setattr(downloader, "_now", lambda: clock.now)

    def later(self, **time: float) -> None:
        self.now += datetime.timedelta(**time)


class Downloads:
    """A table of downloads from a server, made in several runs."""

    def __init__(self, base: Path, server: Server) -> None:
        self._base = base
        self.server = server
        self.area = Area(LocalFiles(base / "data"), "downloaded_images", "p")
        self.urls: list[str] = []
        self.hashes: dict[str, str] = {}  # by URL, what the corpus says
        self._runs = 0

    def run(self, blocked: Blocked | None = None, **settings: Any) -> dict[str, dict[str, Any]]:
        """A run over `urls`; what the table says, by the path of the URL."""
        self.server.requests.clear()
        self._runs += 1
        known: list[dict[str, Any]] = [
            {"url_id": text_id(url), "url": url, "hits": [], "sha256": self.hashes.get(url)}
            for url in sorted(self.urls, key=text_id)
        ]
        retrieved = table_of(self._base / f"urls{self._runs}", RETRIEVED_IMAGE_URLS, known)
        own = {"allow_addresses": ("127.0.0.1",), "retries": 0, "image_size": 16, "robots_txt": False}
        options: dict[str, Any] = {**own, **settings}
        stage = DownloadStage(DownloadSettings(**options), blocked or Blocked())
        digest = blocked.digest if blocked else ""
        staged = run_stage(
            stage,
            stage.url_rows(retrieved),
            self.area,
            f"run{self._runs}",
            print,
            [repr((self.urls, self.hashes)), digest],
        )
        table = Table(self.area, staged.commit())
        return {"/" + row["url"].rpartition("/")[2]: row for row in table.read().to_pylist()}

    @property
    def report(self) -> dict[str, Any]:
        return self.area.last_run()

    @property
    def version(self) -> tuple[int, str]:
        """The current version's number and data version."""
        manifest = self.area.latest()
        assert manifest is not None
        return manifest.version, manifest.data_version


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    with Server() as server:
        yield Downloads(tmp_path, server)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def serve(downloads: Downloads, *paths: str) -> None:
    for number, path in enumerate(paths):
        downloads.server.paths[path] = answer(body=picture(number))
    downloads.urls = [downloads.server.url(path) for path in paths]


# --- ageing ------------------------------------------------------------------------------------------------------


def test_what_may_pass_is_tried_again_until_it_is_given_up(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a", "/b")
    downloads.server.paths["/a"] = UNAVAILABLE
    first = downloads.run()["/a"]
    assert (first["error"], first["failing_since"], first["fetched_at"]) == (
        "server_error",
        clock.now,
        clock.now,
    )
    assert (downloads.report["rows_retried"], downloads.report["rows_given_up"]) == (0, 0)
    since = clock.now

    clock.later(hours=23)
    assert downloads.run()["/a"] == first
    assert not downloads.server.requests

    clock.later(days=30)
    again = downloads.run()["/a"]
    assert downloads.server.requests == {"/a": 1}
    assert (again["failing_since"], again["fetched_at"]) == (since, clock.now)
    assert (downloads.report["rows_retried"], downloads.report["rows_given_up"]) == (1, 0)

    # Too late for a row that failed 31 days after it first did? Not yet: it is the attempt that must be so late.
    clock.later(days=60)
    last = downloads.run()["/a"]
    assert downloads.server.requests == {"/a": 1}
    assert (downloads.report["rows_retried"], downloads.report["rows_given_up"]) == (1, 0)

    clock.later(days=89)
    downloads.server.paths["/a"] = answer(body=picture(0))
    assert downloads.run()["/a"] == last
    assert not downloads.server.requests
    assert (downloads.report["rows_retried"], downloads.report["rows_given_up"]) == (0, 1)

    # With more patience it is tried again, and is good.
    good = downloads.run(give_up_after_d=1_000)["/a"]
    assert (good["error"], good["failing_since"]) == (None, None)
    assert (downloads.report["rows_retried"], downloads.report["rows_given_up"]) == (1, 0)


def test_what_was_given_up_is_asked_for_seldom(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a")
    downloads.server.paths["/a"] = UNAVAILABLE
    since = clock.now
    downloads.run(give_up_after_d=0)
    for _ in range(2):
        clock.later(days=89)
        downloads.run(give_up_after_d=0)
        assert not downloads.server.requests
        clock.later(days=1)
        assert downloads.run(give_up_after_d=0)["/a"]["failing_since"] == since
        assert downloads.server.requests == {"/a": 1}
        assert (downloads.report["rows_retried"], downloads.report["rows_given_up"]) == (1, 1)


def test_permanent_failures_are_asked_for_again_after_a_set_age(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a", "/b", "/gone")
    downloads.server.paths["/gone"] = answer("404 Not Found")
    downloads.server.paths["/b"] = answer(body=b"<html>")
    # What the URL itself is to blame for is never looked at again.
    downloads.urls += ["http://example.org:x/c", "http://user@:80/d"]
    first = downloads.run()
    assert sorted(row["error"] for row in first.values() if row["error"]) == [
        "invalid_url",
        "invalid_url",
        "not_an_image",
        "not_found",
    ]
    clock.later(days=89)
    assert downloads.run() == first
    assert not downloads.server.requests
    clock.later(days=1)
    downloads.server.paths["/gone"] = answer(body=picture(5))
    rows = downloads.run()
    assert downloads.server.requests == {"/gone": 1, "/b": 1}
    assert (rows["/gone"]["error"], rows["/b"]["error"]) == (None, "not_an_image")
    assert (downloads.report["rows_retried"], downloads.report["rows_computed"]) == (2, 2)
    clock.later(days=1)
    assert downloads.run() == rows
    assert not downloads.server.requests


def test_a_success_ends_the_count(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a")
    downloads.server.paths["/a"] = UNAVAILABLE
    downloads.run()
    clock.later(days=59)
    downloads.server.paths["/a"] = answer(body=picture(0))
    assert downloads.run()["/a"]["failing_since"] is None
    # Another size: it is asked for anew, and fails for the first time since.
    downloads.server.paths["/a"] = UNAVAILABLE
    clock.later(days=100)
    assert downloads.run(image_size=8)["/a"]["error"] == "server_error"
    clock.later(days=2)
    downloads.run(image_size=8)
    assert downloads.server.requests == {"/a": 1}


def test_another_kind_of_failure_is_no_longer_counted(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a")
    downloads.server.paths["/a"] = UNAVAILABLE
    downloads.run()
    clock.later(days=2)
    downloads.server.paths["/a"] = answer("404 Not Found")
    row = downloads.run()["/a"]
    assert (row["error"], row["failing_since"]) == ("not_found", None)
    clock.later(days=2)
    downloads.run()
    assert not downloads.server.requests


def test_without_patience_nothing_is_tried_again(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a")
    downloads.server.paths["/a"] = UNAVAILABLE
    downloads.run(give_up_after_d=0)
    clock.later(days=2)
    downloads.run(give_up_after_d=0)
    assert not downloads.server.requests
    assert downloads.report["rows_given_up"] == 1


def test_what_was_given_up_is_asked_for_with_other_settings(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a")
    downloads.server.paths["/a"] = UNAVAILABLE
    since = clock.now
    downloads.run(give_up_after_d=0)
    clock.later(days=1)
    # It fails as before, so it is given up as before ...
    assert downloads.run(give_up_after_d=0, image_size=8)["/a"]["failing_since"] == since
    assert downloads.server.requests == {"/a": 1}
    assert downloads.report["rows_given_up"] == 1
    # ... or it does not.
    downloads.server.paths["/a"] = answer(body=picture(0))
    assert downloads.run(give_up_after_d=0, image_size=9)["/a"]["error"] is None
    assert downloads.report["rows_given_up"] == 0


def test_only_rows_that_are_still_asked_for_are_counted_as_given_up(
    downloads: Downloads, clock: Clock
) -> None:
    serve(downloads, "/a", "/b")
    downloads.server.paths["/a"] = downloads.server.paths["/b"] = UNAVAILABLE
    downloads.run(give_up_after_d=0)
    downloads.urls.pop()
    downloads.run(give_up_after_d=0)
    assert downloads.report["rows_given_up"] == 1


# --- images that are asked for again -----------------------------------------------------------------------------

FRESH: dict[str, Any] = {"refetch_after_d": 30}


def tagged(body: bytes, tag: str) -> Behaviour:
    """An image with an ETag, which is not sent again to who has it."""

    async def behave(writer: Any, headers: dict[str, str]) -> None:
        has_it = headers.get("if-none-match") == tag
        whole = answer("304 Not Modified", length=None, ETag=tag) if has_it else answer(body=body, ETag=tag)
        await whole(writer, headers)

    return behave


def counted(downloads: Downloads) -> tuple[int, int, int]:
    report = downloads.report
    return report["rows_refetched"], report["rows_not_modified"], report["rows_retried"]


def test_an_image_that_has_not_changed_stays(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a", "/b")
    downloads.server.paths["/a"] = tagged(picture(0), '"one"')
    dated = "Mon, 01 Jan 2024 00:00:00 GMT"
    downloads.server.paths["/b"] = answer(body=picture(1), Last_Modified=dated)
    first = downloads.run(**FRESH)
    clock.later(days=29)
    assert downloads.run(**FRESH) == first
    assert not downloads.server.requests
    before = downloads.version
    clock.later(days=1)
    second = downloads.run(**FRESH)
    assert downloads.server.requests == {"/a": 1, "/b": 1}
    assert downloads.server.headers["/a"]["if-none-match"] == '"one"'
    assert downloads.server.headers["/b"]["if-modified-since"] == dated
    assert counted(downloads) == (2, 1, 0)
    for path, row in second.items():
        assert row == {**first[path], "fetched_at": clock.now}
    assert downloads.version == (before[0] + 1, before[1])
    # Without the setting never; with it, only after as long again.
    clock.later(days=29)
    downloads.run(**FRESH)
    clock.later(days=1_000)
    downloads.run()
    assert not downloads.server.requests
    assert downloads.version == (before[0] + 1, before[1])


def test_an_image_that_has_changed_is_another_row(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a")
    downloads.server.paths["/a"] = tagged(picture(0), '"one"')
    downloads.run(**FRESH)
    clock.later(days=30)
    downloads.server.paths["/a"] = tagged(picture(7), '"two"')
    row = downloads.run(**FRESH)["/a"]
    assert (row["image_id"], row["etag"], row["fetched_at"]) == (image_id(picture(7)), '"two"', clock.now)
    assert counted(downloads) == (1, 0, 0)


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests"])
def test_an_image_is_not_lost_to_a_failure_that_may_pass(
    downloads: Downloads, clock: Clock, status: str
) -> None:
    serve(downloads, "/a")
    downloads.server.paths["/a"] = tagged(picture(0), '"one"')
    first = downloads.run(**FRESH)["/a"]
    before = downloads.version[1]
    clock.later(days=30)
    downloads.server.paths["/a"] = answer(status)
    since = clock.now
    kept = downloads.run(**FRESH)["/a"]
    assert kept == {**first, "fetched_at": since, "failing_since": since}
    assert downloads.version[1] == before
    # Asked again when such failures are, not at every run, ...
    clock.later(hours=23)
    assert downloads.run(**FRESH)["/a"] == kept
    assert not downloads.server.requests
    clock.later(hours=1)
    assert downloads.run(**FRESH)["/a"] == {**kept, "fetched_at": clock.now}
    assert downloads.server.requests == {"/a": 1}
    # ... seldom after so long, and as before when it is well again.
    clock.later(days=60)
    downloads.run(**FRESH)
    assert downloads.server.requests == {"/a": 1}
    clock.later(days=89)
    downloads.run(**FRESH)
    assert not downloads.server.requests
    assert downloads.report["rows_given_up"] == 0
    clock.later(days=1)
    downloads.server.paths["/a"] = tagged(picture(0), '"one"')
    assert downloads.run(**FRESH)["/a"] == {**first, "fetched_at": clock.now}
    assert downloads.version[1] == before
    # Nobody wants to know any more.
    clock.later(days=1_000)
    downloads.run()
    assert not downloads.server.requests


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (answer("404 Not Found"), "not_found"),
        (answer("410 Gone"), "not_found"),
        (answer("451 Unavailable For Legal Reasons"), "access_denied"),
        (answer(body=picture(0), X_Robots_Tag="noai"), "opted_out"),
    ],
)
def test_an_image_that_was_taken_away_goes(
    downloads: Downloads, clock: Clock, behaviour: Behaviour, error: str
) -> None:
    serve(downloads, "/a")
    downloads.run(**FRESH)
    clock.later(days=30)
    downloads.server.paths["/a"] = behaviour
    row = downloads.run(**FRESH)["/a"]
    assert (row["error"], row["image"], row["image_id"], row["width"]) == (error, None, None, None)
    # It does not come back from an older version, though nobody asks for images again any more.
    for days, asked in ((1, {}), (89, {"/a": 1}), (1, {})):
        clock.later(days=days)
        assert downloads.run()["/a"]["error"] == error
        assert downloads.server.requests == asked


def test_an_image_whose_place_gives_something_else_stays(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a")
    first = downloads.run(**FRESH)["/a"]
    clock.later(days=30)
    downloads.server.paths["/a"] = answer(body=b"<html>our new site")
    assert downloads.run(**FRESH)["/a"] == {**first, "fetched_at": clock.now}
    clock.later(days=29)
    downloads.run(**FRESH)
    assert not downloads.server.requests


@pytest.mark.parametrize("what", ["another format", "another hash"])
def test_the_conditions_of_what_was_refused_are_not_those_of_the_image_that_stays(
    downloads: Downloads, clock: Clock, what: str
) -> None:
    serve(downloads, "/a")
    dated = "Mon, 01 Jan 2024 00:00:00 GMT"
    downloads.server.paths["/a"] = answer(body=picture(0), ETag='"photo"', Last_Modified=dated)
    if what == "another hash":
        downloads.hashes[downloads.urls[0]] = image_id(picture(0))
    first = downloads.run(**FRESH)["/a"]
    clock.later(days=30)
    body = picture(1) if what == "another hash" else b"<html>this domain is for sale"
    later = "Mon, 01 Jan 2027 00:00:00 GMT"
    downloads.server.paths["/a"] = answer(body=body, ETag='"other"', Last_Modified=later)
    assert downloads.run(**FRESH)["/a"] == {**first, "fetched_at": clock.now}
    # So it is asked for by its own, and what has not changed since may have others.
    clock.later(days=30)
    downloads.server.paths["/a"] = answer("304 Not Modified", length=None, ETag='"new"', Last_Modified=later)
    row = downloads.run(**FRESH)["/a"]
    headers = downloads.server.headers["/a"]
    assert (headers["if-none-match"], headers["if-modified-since"]) == ('"photo"', dated)
    assert row == {**first, "fetched_at": clock.now, "etag": '"new"', "last_modified": later}


def test_conditions_are_those_of_the_place_that_gave_the_image(downloads: Downloads, clock: Clock) -> None:
    server = downloads.server
    server.paths["/a"] = answer("302 Found", Location="/photo")
    server.paths["/photo"] = tagged(picture(0), '"one"')
    downloads.urls = [server.url("/a")]
    first = downloads.run(**FRESH)["/a"]
    assert first["redirected_to"] == server.url("/photo")
    clock.later(days=30)
    kept = downloads.run(**FRESH)["/a"]
    assert kept == {**first, "fetched_at": clock.now}
    assert "if-none-match" not in server.headers["/a"]
    assert server.headers["/photo"]["if-none-match"] == '"one"'
    # Another place, with a picture of its own under the same tag.
    clock.later(days=30)
    server.paths["/a"] = answer("302 Found", Location="/other")
    server.paths["/other"] = tagged(picture(7), '"one"')
    row = downloads.run(**FRESH)["/a"]
    assert (row["image_id"], row["redirected_to"]) == (image_id(picture(7)), server.url("/other"))


def test_an_image_of_another_size_is_no_answer(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a")
    downloads.server.paths["/a"] = tagged(picture(0), '"one"')
    downloads.run(**FRESH)
    clock.later(days=30)
    row = downloads.run(**FRESH, image_size=8)["/a"]
    assert (row["error"], row["width"], row["http_status"]) == (None, 8, 200)
    assert "if-none-match" not in downloads.server.headers["/a"]
    assert counted(downloads) == (0, 0, 0)


def test_what_an_unfinished_run_has_asked_again_is_taken_over(
    downloads: Downloads, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(downloads, "/a", "/b")
    downloads.server.paths["/a"] = tagged(picture(0), '"one"')
    first = downloads.run(**FRESH)
    clock.later(days=30)
    downloads.server.paths["/b"] = answer("404 Not Found")
    whole = DownloadStage.run

    def dying(stage: DownloadStage, *arguments: Any) -> Iterator[Work]:
        yield from whole(stage, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DownloadStage, "run", dying)
        downloads.run(**FRESH)
    assert downloads.server.requests == {"/a": 1, "/b": 1}
    at = clock.now
    clock.later(hours=1)
    rows = downloads.run(**FRESH)
    assert not downloads.server.requests
    assert rows["/a"] == {**first["/a"], "fetched_at": at}
    assert (rows["/b"]["error"], rows["/b"]["image"]) == ("not_found", None)
    assert counted(downloads) == (0, 0, 0)


def test_an_older_failure_is_no_answer_for_an_image_that_is_due(downloads: Downloads, clock: Clock) -> None:
    serve(downloads, "/a")
    downloads.server.paths["/a"] = answer("404 Not Found")
    downloads.run()
    clock.later(days=90)
    downloads.server.paths["/a"] = tagged(picture(0), '"one"')
    good = downloads.run()["/a"]
    clock.later(days=30)
    # By now the older version's row would be young enough.
    assert downloads.run(**FRESH, retry_permanent_after_d=1_000)["/a"] == {**good, "fetched_at": clock.now}
    assert downloads.server.requests == {"/a": 1}


# --- the corpus's hash -------------------------------------------------------------------------------------------


def test_the_hash_of_the_corpus_is_verified(downloads: Downloads) -> None:
    serve(downloads, "/right", "/large", "/wrong", "/md5", "/none")
    url = dict(zip(("right", "large", "wrong", "md5", "none"), downloads.urls, strict=True))
    downloads.hashes = {
        url["right"]: image_id(picture(0)),
        url["large"]: f" {image_id(picture(1)).upper()}\n",
        url["wrong"]: image_id(picture(0)),
        url["md5"]: hashlib.md5(picture(3)).hexdigest(),
    }
    rows = downloads.run()
    assert {path: row["error"] for path, row in rows.items() if row["error"]} == {"/wrong": "hash_mismatch"}
    assert (rows["/wrong"]["image"], rows["/wrong"]["image_id"]) == (None, None)
    assert downloads.report["hashes_unusable"] == 1
    # A spelling is no other hash, and what is none does not matter; another hash does.
    downloads.hashes[url["right"]] = image_id(picture(0)).upper()
    downloads.hashes[url["md5"]] = "unknown"
    downloads.hashes[url["wrong"]] = image_id(picture(2))
    rows = downloads.run()
    assert downloads.server.requests == {"/wrong": 1}
    assert not any(row["error"] for row in rows.values())
    assert downloads.report["hashes_unusable"] == 1


# --- while it runs -----------------------------------------------------------------------------------------------


def test_what_came_is_kept_while_another_host_is_slow(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "FLUSH_SECONDS", 0.1)
    server = downloads.server
    serve(downloads, *(f"/{number}" for number in range(200)))
    slow = [f"/slow{number}" for number in range(100)]
    held = threading.Event()

    async def behave(writer: Any, headers: dict[str, str]) -> None:
        while not held.is_set():
            await asyncio.sleep(0.02)
        await answer(body=picture(0))(writer, headers)

    for path in slow:
        server.paths[path] = behave
        downloads.urls.append(server.url(path, host="localhost"))
    found: list[int] = []

    def watch() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and sum(found[-1:]) < 200:
            time.sleep(0.05)
            found.append(sum(shard.rows for shard in downloads.area.wip()))
        held.set()

    watching = threading.Thread(target=watch)
    watching.start()
    rows = downloads.run(connections=16, connections_per_host=4, timeout_s=60)
    watching.join()
    assert found[-1] == 200
    assert len(rows) == 300 and not any(row["error"] for row in rows.values())


# --- what was taken down -----------------------------------------------------------------------------------------


def test_blocked_images_lose_all_that_tells_them_and_are_not_asked_again(downloads: Downloads) -> None:
    serve(downloads, "/a", "/b")
    downloads.run()
    blocked = Blocked(images=[image_id(picture(1))])
    row = downloads.run(blocked)["/b"]
    assert not downloads.server.requests
    assert {name: value for name, value in row.items() if value is not None and name != "fetched_at"} == {
        "url_id": text_id(downloads.urls[1]),
        "url": downloads.urls[1],
        "attempts": 0,
        "error": "blocked",
        "error_detail": row["error_detail"],
        "blocked_by": [blocked.image(image_id(picture(1)))],
    }
    assert downloads.run(blocked)["/b"] == row
    assert downloads.run(blocked, image_size=8)["/b"]["error"] == "blocked"
    assert downloads.server.requests == {"/a": 1}
    assert downloads.run(image_size=8)["/b"]["error"] is None
    assert downloads.server.requests == {"/b": 1}


def test_a_blocked_image_that_comes_is_not_kept(downloads: Downloads) -> None:
    serve(downloads, "/a", "/b")
    row = downloads.run(Blocked(images=[image_id(picture(1))]))["/b"]
    assert downloads.server.requests == {"/a": 1, "/b": 1}
    assert (row["error"], row["http_status"], row["attempts"]) == ("blocked", 200, 1)
    told = ("image", "image_id", "width", "original_width", "original_bytes", "etag", "format")
    assert not any(row[name] for name in told)


def test_redirects_to_what_is_blocked_are_not_followed(downloads: Downloads) -> None:
    server = downloads.server
    serve(downloads, "/a", "/b")
    server.paths["/to-host"] = answer("302 Found", Location=server.url("/a", host="localhost"))
    server.paths["/to-url"] = answer("302 Found", Location="/a#fragment")
    downloads.urls = [server.url("/to-host"), server.url("/to-url")]
    rows = downloads.run(Blocked(urls=[server.url("/a")], hosts=["localhost"]))
    assert server.requests == {"/to-host": 1, "/to-url": 1}
    assert {row["error"] for row in rows.values()} == {"blocked"}
    assert "localhost" not in str(rows) and server.url("/a") not in str(rows)
    # One comes off the list, and only that is asked for.
    rows = downloads.run(Blocked(urls=[server.url("/a")]))
    assert server.requests == {"/to-host": 1, "/a": 1}
    assert {path: row["error"] for path, row in rows.items()} == {"/to-host": None, "/to-url": "blocked"}
    # Where it came from is remembered, and counts when it is blocked again.
    rows = downloads.run(Blocked(hosts=["localhost"], urls=[server.url("/a")]))
    assert not server.requests
    assert {row["error"] for row in rows.values()} == {"blocked"}


def test_a_blocked_url_that_is_still_in_the_input_is_skipped(downloads: Downloads) -> None:
    serve(downloads, "/a", "/b")
    blocked = Blocked(urls=[downloads.urls[0]])
    for _ in range(2):
        assert set(downloads.run(blocked)) == {"/b"}
        report = downloads.report
        assert (report["rows_in"], report["rows_skipped"], report["rows_blocked"]) == (2, 1, 1)
    assert set(downloads.run()) == {"/a", "/b"}
    assert downloads.server.requests == {"/a": 1}


def test_what_a_detail_quotes_goes_too(downloads: Downloads) -> None:
    server = downloads.server
    server.paths["/a"] = answer("302 Found", Location="http://evil.example/x")
    server.paths["/b"] = answer("302 Found", Location="http://10.0.0.1/x")
    downloads.urls = [server.url("/a"), server.url("/b")]
    assert "10.0.0.1" in downloads.run()["/b"]["error_detail"]
    rows = downloads.run(Blocked(hosts=["10.0.0.1", "evil.example"]))
    assert {path: row["error"] for path, row in rows.items()} == {"/a": "blocked", "/b": "address_forbidden"}
    assert "10.0.0.1" not in str(rows) and "evil" not in str(rows)
    downloads.run(Blocked(hosts=["10.0.0.1", "evil.example"]))
    assert not server.requests


def test_rows_that_were_blocked_before_are_handed_on_as_they_are_met() -> None:
    stage = DownloadStage(DownloadSettings(), Blocked(hosts=["blocked.example"]))
    ids = [f"{number:05d}" for number in range(1_000)]
    stored = [
        {"url_id": it, "url": f"http://a.example/{it}", "redirected_to": "http://blocked.example/"}
        for it in ids
    ]
    assert stage.judge is not None
    assert not any(stage.judge.may_reuse(rows_of(DOWNLOADED_IMAGES, stored)))
    taken = 0

    def missing() -> Iterator[Work]:
        nonlocal taken
        for start in range(0, len(ids), 50):
            some = ids[start : start + 50]
            taken += len(some)
            keys = [it.encode() for it in some]
            yield Work(rows_of(RETRIEVED_IMAGE_URLS, stored[start : start + 50]), keys, keys)

    come: list[bytes] = []
    stage.open()
    try:
        for work in stage.run(missing(), lambda works, columns: {}):
            assert set(work.rows.column("error").to_pylist()) <= {"blocked"}
            come += work.keys
            assert len(work.keys) < 200
            assert taken - len(come) < 200
    finally:
        stage.close()
    assert come == [it.encode() for it in ids]
