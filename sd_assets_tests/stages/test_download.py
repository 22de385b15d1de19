"""Downloads over several runs: what is tried again, what is given up, and what was taken down."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sd_assets.blocked import Blocked
from sd_assets.compute.local import run_stage
from sd_assets.download import downloader
from sd_assets.schemas import RETRIEVED_IMAGE_URLS, image_id, text_id
from sd_assets.settings import DownloadSettings
from sd_assets.stages import download
from sd_assets.stages.download import DownloadStage
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table
from sd_assets_tests.download.misbehaving import Server, answer
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
        self._runs = 0

    def run(self, blocked: Blocked | None = None, **settings: Any) -> dict[str, dict[str, Any]]:
        """A run over `urls`; what the table says, by the path of the URL."""
        self.server.requests.clear()
        self._runs += 1
        known = [{"url_id": text_id(url), "url": url, "hits": []} for url in sorted(self.urls, key=text_id)]
        retrieved = table_of(self._base / f"urls{self._runs}", RETRIEVED_IMAGE_URLS, known)
        options = {"allow_addresses": ("127.0.0.1",), "retries": 0, "image_size": 16, **settings}
        stage = DownloadStage(DownloadSettings(**options), blocked or Blocked())
        digest = blocked.digest if blocked else ""
        staged = run_stage(
            stage,
            stage.url_rows(retrieved),
            self.area,
            f"run{self._runs}",
            print,
            [",".join(self.urls), digest],
        )
        table = Table(self.area, staged.commit())
        return {"/" + row["url"].rpartition("/")[2]: row for row in table.read().to_pylist()}

    @property
    def report(self) -> dict[str, Any]:
        return self.area.last_run()


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

    clock.later(days=400)
    downloads.server.paths["/a"] = answer(body=picture(0))
    assert downloads.run()["/a"] == last
    assert not downloads.server.requests
    assert (downloads.report["rows_retried"], downloads.report["rows_given_up"]) == (0, 1)

    # With more patience it is tried again, and is good.
    good = downloads.run(give_up_after_d=1_000)["/a"]
    assert (good["error"], good["failing_since"]) == (None, None)
    assert (downloads.report["rows_retried"], downloads.report["rows_given_up"]) == (1, 0)


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
