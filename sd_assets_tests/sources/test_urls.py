"""Lists of URLs, their images from a real server, and what a later run takes from storage instead."""

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.blocked import Blocked
from sd_assets.compute.run import run_stage
from sd_assets.errors import CatalogError, ErrorCode, SourceError
from sd_assets.schemas import image_id, text_id
from sd_assets.settings import DownloadSettings, UrlsSource
from sd_assets.sources import urls as module
from sd_assets.sources.images import read_images
from sd_assets.sources.rows import SourceRow
from sd_assets.stages.seeds import SeedImagesStage, source_batches
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table
from sd_assets_tests.download.misbehaving import Server, answer, in_turn, raw
from sd_assets_tests.sources.conftest import picture

E = ErrorCode
ALLOWED: dict[str, Any] = {
    "allow_addresses": ("127.0.0.1",),
    "retries": 0,
    "timeout_s": 5,
    "robots_txt": False,
}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def serve(server: Server, count: int) -> list[str]:
    """URLs of so many pictures."""
    for number in range(count):
        server.paths[f"/{number}.jpg"] = answer(body=picture(number))
    return [server.url(f"/{number}.jpg") for number in range(count)]


def rows_of(
    path: Path, *, area: Area | None = None, download: dict[str, Any] = ALLOWED, **fields: Any
) -> list[SourceRow]:
    source = UrlsSource(kind="urls", path=str(path), **fields)
    rows = list(read_images(source, DownloadSettings(**download), area))
    assert [row.row for row in rows] == list(range(len(rows)))
    return rows


def listed(path: Path, urls: Iterable[str | None], texts: Iterable[str | None] | None = None) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        columns = [list(urls), *([] if texts is None else [list(texts)])]
        writer.writerows([["url", "text"][: len(columns)], *zip(*columns, strict=True)])
    return path


def told(rows: list[SourceRow]) -> list[tuple[str, str | None, str | None]]:
    return [(row.source, row.text, row.error.code if row.error else None) for row in rows]


# --- lists -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.CSV", "a.parquet"])
def test_a_list_with_texts(tmp_path: Path, server: Server, name: str) -> None:
    urls = serve(server, 3)
    texts = [' a "red" sofa, new\nand clean ', None, "caf\u00e9 \u2603"]
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts, "n": [1, 2, 3], "URL": urls}), path)
    else:
        listed(path, urls, texts)
    rows = rows_of(path)
    assert told(rows) == [
        (urls[0], 'a "red" sofa, new\nand clean', None),
        (urls[1], None, None),
        (urls[2], "caf\u00e9 \u2603", None),
    ]
    assert [row.data for row in rows] == [picture(number) for number in range(3)]
    assert all(row.revision and row.revision.endswith("+00:00") for row in rows)


def test_a_plain_list(tmp_path: Path, server: Server) -> None:
    urls = serve(server, 2)
    (tmp_path / "a.txt").write_text(f"\ufeff{urls[0]}\r\n\n  {urls[1]}  \nno address\n", "utf-8")
    assert told(rows_of(tmp_path / "a.txt")) == [
        (urls[0], None, None),
        (urls[1], None, None),
        ("no address", None, E.INVALID_URL),
    ]
    with pytest.raises(SourceError, match="has no columns, only a URL a line: take `url_column:` away"):
        rows_of(tmp_path / "a.txt", url_column="x")
    with pytest.raises(SourceError, match="has no columns, only a URL a line: take `text_column:` away"):
        rows_of(tmp_path / "a.txt", text_column="x")


def test_odd_lines_are_rows(tmp_path: Path, server: Server) -> None:
    urls = serve(server, 3)
    (tmp_path / "a.csv").write_text(
        "\ufeffurl , text\r\n"
        f"{urls[0]},fine\r\n"
        ",no URL\r\n"
        "\r\n"
        f"{urls[1]}\r\n"
        f"{urls[1]},a red sofa, new\r\n"
        f'{urls[1]},"closed" too early\r\n'
        f'  {urls[2]}  ,"two\nlines"\r\n',
        "utf-8",
    )
    rows = rows_of(tmp_path / "a.csv")
    assert told(rows) == [
        (urls[0], "fine", None),
        ("a.csv", "no URL", E.MISSING_IMAGE),
        (urls[1], None, None),
        ("a.csv", None, E.UNREADABLE),
        ("a.csv", None, E.UNREADABLE),
        (urls[2], "two\nlines", None),
    ]
    assert [row.error.detail for row in rows if row.error] == [
        "line 3 has no URL",
        "line 6 has 3 cells, its header 2: quote what holds a separator",
        "line 7 cannot be read: ',' expected after '\"'",
    ]


def test_null_cells_of_parquet(tmp_path: Path, server: Server) -> None:
    (url,) = serve(server, 1)
    table = pa.table({"url": pa.array([None, "  ", url]), "text": pa.array([None, "t", None], pa.string())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert told(rows_of(tmp_path / "a.parquet")) == [
        ("a.parquet", None, E.MISSING_IMAGE),
        ("a.parquet", "t", E.MISSING_IMAGE),
        (url, None, None),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: its first line must name the columns"),
        (b"\xef\xbb\xbf\r\n", "is empty: its first line must name the columns"),
        (
            b"link,caption\nx,y\n",
            r"several columns, and none is called url \(`url_column:`\); there are: link, capt",
        ),
        (b"http://x.org/a.jpg,a\nhttp://x.org/b.jpg,b\n", "the first line must name the columns"),
        (b"http://x.org/a.jpg\n", "the first line must name the columns"),
        (b"url,url\nx,y\n", "has several columns 'url'"),
        (b'url,text\nx,y\nx,"never closed\nx,y\n', "line 3 opens a quote that is not closed"),
        (
            b'url,text\nx,y\nx,"closed\n" too late\nx,y\n',
            "line 3 opens a quote that is not closed where a cell",
        ),
        (b"url,text\nx,caf\xe9\n", r"a.csv: somewhere after line \d it is not UTF-8 .*: save it as UTF-8"),
        ("url\nx\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        rows_of(tmp_path / "a.csv")


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    path = listed(tmp_path / "a.csv", ["x"], ["y"])
    with pytest.raises(SourceError, match=r"no column 'link' \(`url_column:`\); there are: url, text"):
        rows_of(path, url_column="link")
    with pytest.raises(SourceError, match=r"no column 'caption' \(`text_column:`\); there are: text"):
        rows_of(path, text_column="caption")
    with pytest.raises(SourceError, match=r"does not exist: give a .csv, .tsv, .parquet or .txt file"):
        rows_of(tmp_path / "none.csv")
    with pytest.raises(SourceError, match="is not a file"):
        rows_of(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(SourceError, match=r"a.json: a list of URLs is a .csv, .tsv, .parquet or .txt file"):
        rows_of(tmp_path / "a.json")
    (tmp_path / "bad.parquet").write_text("x")
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        rows_of(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"url": [1]}), tmp_path / "numbers.parquet")
    with pytest.raises(
        SourceError, match="the column 'url' holds int, not URLs: name another in `url_column:`"
    ):
        rows_of(tmp_path / "numbers.parquet")
    with pytest.raises(CatalogError, match="MY_LIST is not set"):
        rows_of(Path("${MY_LIST}"))


def test_no_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n")
    pq.write_table(pa.table({"url": pa.array([], pa.string())}), tmp_path / "a.parquet")
    for path in (listed(tmp_path / "a.csv", []), tmp_path / "a.txt", tmp_path / "a.parquet"):
        assert rows_of(path) == []


# --- images ------------------------------------------------------------------------------------------------------


def test_images_are_kept_as_they_came_and_failures_are_rows(tmp_path: Path, server: Server) -> None:
    large = picture(1) + bytes(100_000)
    server.paths |= {
        "/as.it.came": answer(body=large, Content_Type="text/plain"),
        "/page.jpg": answer(body=b"<html>"),
        "/down.jpg": answer("503 Service Unavailable"),
        "/opted.jpg": answer(body=picture(2), X_Robots_Tag="noai"),
        "/huge.jpg": answer(body=bytes(300_000)),
    }
    paths = ["/as.it.came", "/page.jpg", "/gone.jpg", "/down.jpg", "/opted.jpg", "/huge.jpg"]
    urls = [*map(server.url, paths), "http://10.0.0.1/a.jpg", "ftp://x.org/a.jpg"]
    download = {
        **ALLOWED,
        "max_bytes": 200_000,
        "min_image_size": 64,
        "max_aspect_ratio": 1.0,
        "max_pixels": 5,
    }
    rows = rows_of(listed(tmp_path / "a.csv", urls), download=download)
    assert [row.error.code if row.error else None for row in rows] == [
        None,  # however small: sizes are judged of what is retrieved
        E.NOT_AN_IMAGE,
        E.NOT_FOUND,
        E.SERVER_ERROR,
        E.OPTED_OUT,
        E.TOO_LARGE,
        E.ADDRESS_FORBIDDEN,
        E.UNSUPPORTED_SCHEME,
    ]
    assert [row.data for row in rows] == [large, *[None] * 7]
    assert [row.source for row in rows] == urls


def test_a_url_that_is_listed_again_is_asked_for_once(tmp_path: Path, server: Server) -> None:
    good, other = serve(server, 2)
    urls = [good, good, server.url("/gone.jpg"), other, server.url("/gone.jpg"), good]
    rows = rows_of(listed(tmp_path / "a.csv", urls, "abcdef"))
    assert told(rows) == [
        (url, text, E.NOT_FOUND if "gone" in url else None) for url, text in zip(urls, "abcdef", strict=True)
    ]
    assert set(server.requests.values()) == {1}
    table = committed(tmp_path, listed(tmp_path / "a.csv", urls, "abcdef"))
    report = table.manifest.report
    # The texts of duplicates are not kept, as with any source; a URL that fails twice is two failures.
    assert (report["rows_in"], report["rows_ok"], report["rows_failed"], report["rows_duplicate"]) == (
        6,
        2,
        2,
        2,
    )


def test_no_more_is_asked_for_than_wanted(tmp_path: Path, server: Server) -> None:
    urls = serve(server, 40)
    path = listed(tmp_path / "a.csv", urls)
    assert len(rows_of(path, max_rows=3)) == 3
    assert server.requests.total() == 3
    source = UrlsSource(kind="urls", path=str(path))
    with closing(read_images(source, DownloadSettings(**ALLOWED, connections=2))) as rows:
        next(rows)
    assert server.requests.total() <= 3 + 2 * 2 + 1


def test_rows_keep_their_order_whoever_is_slow(tmp_path: Path, server: Server) -> None:
    urls = serve(server, 30)
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    for number in (0, 7, 29):
        server.paths[f"/{number}.jpg"] = raw(0.3, head + picture(number))
    rows = rows_of(listed(tmp_path / "a.csv", urls), download={**ALLOWED, "connections": 4})
    assert [row.data for row in rows] == [picture(number) for number in range(30)]


def test_what_waits_for_a_slow_one_is_bounded(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING_BYTES", 10_000)
    for number in range(60):
        server.paths[f"/{number}.jpg"] = answer(body=picture(number) + bytes(5_000))
    asked: list[int] = []

    async def slow(writer: Any, headers: Any) -> None:
        await asyncio.sleep(1.0)
        asked.append(server.requests.total())
        await answer(body=picture(0))(writer, headers)

    server.paths["/0.jpg"] = slow
    urls = [server.url(f"/{number}.jpg") for number in range(60)]
    rows = rows_of(listed(tmp_path / "a.csv", urls), download={**ALLOWED, "connections": 16})
    assert all(row.error is None for row in rows)
    # Two that have come do not fill the bound, a third does; with it 32 may be waited for.
    assert asked[0] <= 35


def test_it_stops_when_nobody_wants_more(tmp_path: Path, server: Server) -> None:
    urls = serve(server, 3)
    server.paths["/1.jpg"] = raw(30.0)
    rows = read_images(
        UrlsSource(kind="urls", path=str(listed(tmp_path / "a.csv", urls))), DownloadSettings(**ALLOWED)
    )
    assert next(rows).data == picture(0)
    rows.close()  # and does not wait for what hangs


# --- later runs --------------------------------------------------------------------------------------------------


def area_at(base: Path) -> Area:
    return Area(LocalFiles(base / "data"), "seed_images", "p")


def committed(base: Path, path: Path, **options: Any) -> Table:
    """What the asset does: a run of the stage over the list, committed."""
    area = area_at(base)
    source = UrlsSource(kind="urls", path=str(path), **options.pop("fields", {}))
    with closing(read_images(source, DownloadSettings(**{**ALLOWED, **options}), area)) as rows:
        staged = run_stage(SeedImagesStage(), source_batches(rows), area, f"run-{time.monotonic_ns()}", print)
    return Table(area, staged.commit())


def contents(table: Table) -> list[tuple[str, str | None, bytes | None]]:
    columns = ["source", "error", "image"]
    return [(row["source"], row["error"], row["image"]) for row in table.read(columns).to_pylist()]


def test_a_refresh_asks_for_nothing(tmp_path: Path, server: Server) -> None:
    urls = serve(server, 100)
    # The same image behind other URLs, which are duplicates and have no row; a permanent failure.
    server.paths["/copy.jpg"] = server.paths["/again.jpg"] = answer(body=picture(5))
    extra = [server.url("/copy.jpg"), server.url("/gone.jpg"), server.url("/again.jpg"), urls[3]]
    path = listed(tmp_path / "a.csv", [*urls, *extra])
    first = committed(tmp_path, path)
    assert server.requests.total() == 103
    assert len(contents(first)) == 101
    second = committed(tmp_path, path)
    assert server.requests.total() == 103
    assert second.manifest == first.manifest
    report = area_at(tmp_path).last_run()
    assert (report["rows_in"], report["rows_reused"], report["rows_computed"]) == (104, 101, 0)
    # In another order, with other texts, without some and with a new one: only that is asked for.
    server.paths["/new.jpg"] = answer(body=picture(200))
    changed = [server.url("/new.jpg"), *extra[::-1], *urls[::-2]]
    third = committed(tmp_path, listed(path, changed, map(str, range(len(changed)))))
    assert server.requests.total() == 104
    by_url = {source: (error, image) for source, error, image in contents(third)}
    assert by_url[server.url("/again.jpg")] == (None, picture(5))
    assert server.url("/copy.jpg") not in by_url and urls[5] not in by_url
    assert by_url[server.url("/new.jpg")] == (None, picture(200))
    # The one that had the row before is gone from the list, and the others still need no request.
    committed(tmp_path, listed(path, [extra[0], urls[1]]))
    committed(tmp_path, listed(path, [extra[2], extra[0], urls[1]]))
    assert server.requests.total() == 105  # /again.jpg was not listed for a run


def test_failures_that_may_pass_are_tried_again_when_old(tmp_path: Path, server: Server) -> None:
    (good,) = serve(server, 1)
    down = answer("503 Service Unavailable")
    server.paths["/flaky.jpg"] = in_turn(down, down, answer(body=picture(9)))
    path = listed(tmp_path / "a.csv", [good, server.url("/flaky.jpg"), server.url("/gone.jpg")])

    def errors(**options: Any) -> list[str | None]:
        return [error for _, error, _ in contents(committed(tmp_path, path, **options))]

    assert errors() == errors() == [None, E.SERVER_ERROR, E.NOT_FOUND]
    assert set(server.requests.values()) == {1}
    assert errors(retry_failed_after_h=0) == [None, E.SERVER_ERROR, E.NOT_FOUND]
    assert errors(retry_failed_after_h=0) == [None, None, E.NOT_FOUND]
    assert errors(retry_failed_after_h=0) == [None, None, E.NOT_FOUND]
    assert dict(server.requests) == {"/0.jpg": 1, "/flaky.jpg": 3, "/gone.jpg": 1}


def test_what_fails_for_long_is_given_up(tmp_path: Path, server: Server) -> None:
    flaky = server.url("/flaky.jpg")
    server.paths["/flaky.jpg"] = answer("503 Service Unavailable")
    path = listed(tmp_path / "a.csv", [flaky])

    def failing() -> dict[str, str]:
        found: dict[str, str] = json.loads(area_at(tmp_path).note("fetched.json") or b"{}")["failing"]
        return found

    committed(tmp_path, path)
    (first,) = failing().values()
    committed(tmp_path, path)
    committed(tmp_path, path, retry_failed_after_h=0)
    assert failing() == {text_id(flaky): first}
    assert server.requests == {"/flaky.jpg": 2}
    # It began to fail long ago: the last time was the last one but for those that are seldom.
    note = json.loads(area_at(tmp_path).note("fetched.json") or b"{}")
    note["failing"][text_id(flaky)] = "2020-01-01T00:00:00+00:00"
    area_at(tmp_path).put_note("fetched.json", json.dumps(note).encode())
    committed(tmp_path, path, retry_failed_after_h=0)
    assert server.requests == {"/flaky.jpg": 2}
    committed(tmp_path, path, retry_failed_after_h=0, give_up_after_d=10_000)
    committed(tmp_path, path, retry_failed_after_h=0, retry_permanent_after_d=0)
    assert server.requests == {"/flaky.jpg": 4}
    # It is well again, and the note says no more of it.
    server.paths["/flaky.jpg"] = answer(body=picture(9))
    committed(tmp_path, path, retry_permanent_after_d=0)
    assert failing() == {}


def test_other_failures_are_tried_again_when_old_or_when_the_settings_changed(
    tmp_path: Path, server: Server
) -> None:
    server.paths["/large.jpg"] = answer(body=picture(1) + bytes(5_000))
    server.paths["/late.jpg"] = in_turn(
        answer("404 Not Found"), answer("404 Not Found"), answer(body=picture(2))
    )
    path = listed(tmp_path / "a.csv", [server.url("/large.jpg"), server.url("/late.jpg")])

    def errors(**options: Any) -> list[str | None]:
        return [error for _, error, _ in contents(committed(tmp_path, path, **options))]

    assert errors(max_bytes=1_000) == errors(max_bytes=1_000) == [E.TOO_LARGE, E.NOT_FOUND]
    assert server.requests.total() == 2
    assert errors(max_bytes=9_000) == errors(max_bytes=9_000) == [None, E.NOT_FOUND]
    assert dict(server.requests) == {"/large.jpg": 2, "/late.jpg": 2}
    assert errors(max_bytes=9_000, retry_failed_after_h=0) == [None, E.NOT_FOUND]
    assert errors(max_bytes=9_000, retry_permanent_after_d=0) == [None, None]
    assert dict(server.requests) == {"/large.jpg": 2, "/late.jpg": 3}


def test_a_limit_of_rows_changes_nothing_of_that(tmp_path: Path, server: Server) -> None:
    server.paths["/large.jpg"] = answer(body=picture(1) + bytes(5_000))
    path = listed(tmp_path / "a.csv", [server.url("/large.jpg"), server.url("/beyond.jpg")])

    def errors(max_bytes: int) -> list[str | None]:
        table = committed(tmp_path, path, max_bytes=max_bytes, fields={"max_rows": 1})
        return [error for _, error, _ in contents(table)]

    assert errors(1_000) == [E.TOO_LARGE]
    assert errors(9_000) == [None]
    assert errors(9_000) == [None]
    assert dict(server.requests) == {"/large.jpg": 2}


@pytest.mark.parametrize("note", [b'{"same": {"http:', b"[]", b'{"same": 3}', b"\xff"])
def test_a_damaged_note_costs_requests_and_no_more(tmp_path: Path, server: Server, note: bytes) -> None:
    urls = serve(server, 2)
    server.paths["/copy.jpg"] = answer(body=picture(0))
    path = listed(tmp_path / "a.csv", [*urls, server.url("/copy.jpg")])
    first = committed(tmp_path, path)
    area_at(tmp_path).put_note("fetched.json", note)
    assert contents(committed(tmp_path, path)) == contents(first)
    assert dict(server.requests) == {"/0.jpg": 1, "/1.jpg": 1, "/copy.jpg": 2}


def test_an_image_that_lay_under_another_kind_of_source_is_no_answer(tmp_path: Path, server: Server) -> None:
    (url,) = serve(server, 1)
    area = area_at(tmp_path)
    row = SourceRow(picture(7), None, "0.jpg", None, 0)
    run_stage(SeedImagesStage(), source_batches([row]), area, "folder", print).commit()
    assert contents(committed(tmp_path, listed(tmp_path / "a.csv", [url, "0.jpg"])))[0] == (
        url,
        None,
        picture(0),
    )
    assert server.requests.total() == 1


def test_a_shard_that_is_gone_is_asked_for_again(tmp_path: Path, server: Server) -> None:
    """Swept by another run, between the look at what is at hand and the image itself."""
    new, *urls = serve(server, 4)
    committed(tmp_path, listed(tmp_path / "a.csv", urls))
    path = listed(tmp_path / "a.csv", [new, *urls])
    source = UrlsSource(kind="urls", path=str(path))
    with closing(read_images(source, DownloadSettings(**ALLOWED), area_at(tmp_path))) as rows:
        assert next(rows).data == picture(0)
        for shard in (tmp_path / "data" / "_sd_assets" / "seed_images" / "p" / "shards").iterdir():
            shard.unlink()
        assert [row.data for row in rows] == [picture(number) for number in (1, 2, 3)]
    assert server.requests.total() == 3 + 1 + 3


ASSET = """
import dagster as dg
from sd_assets.definitions import defs

with dg.DagsterInstance.ephemeral() as instance:
    for _ in range(2):
        job = defs.resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(
            partition_key="p", asset_selection=[dg.AssetKey("seed_images")], instance=instance, raise_on_error=False
        )
        assert done.success
"""


def test_the_asset_hands_in_the_settings_and_what_is_at_hand(tmp_path: Path, server: Server) -> None:
    listed(tmp_path / "list.csv", [*serve(server, 3), server.url("/gone.jpg")], "abcd")
    entry = (
        "source: {kind: urls, path: list.csv}, clip: {model: ViT-L-14, pretrained: openai}, "
        "download: {allow_addresses: [127.0.0.1], user_agent: ours/1}, retrieval: {index: i}"
    )
    (tmp_path / "c.yaml").write_text(
        f"indices: {{i: {{kind: faiss, path: x}}}}\nseed_datasets: {{p: {{{entry}}}}}\n"
    )
    environment = {"SD_ASSETS_CATALOG": str(tmp_path / "c.yaml"), "SD_ASSETS_DATA": str(tmp_path / "data")}
    run = subprocess.run(
        [sys.executable, "-c", ASSET], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert server.headers["/0.jpg"]["user-agent"] == "ours/1"
    assert set(server.requests.values()) == {1}
    manifest = area_at(tmp_path).latest()
    assert manifest is not None and manifest.report["rows_ok"] == 3
    assert [row["text"] for row in Table(area_at(tmp_path), manifest).read().to_pylist()] == list("abcd")


KILLED = """
import sys
from pathlib import Path
from sd_assets.compute.run import run_stage
from sd_assets.settings import DownloadSettings, UrlsSource
from sd_assets.sources.images import read_images
from sd_assets.stages.seeds import SeedImagesStage, source_batches
from sd_assets.storage import staging
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles

staging.FLUSH_SECONDS = 0
area = Area(LocalFiles(Path(sys.argv[2])), "seed_images", "p")
settings = DownloadSettings(
    allow_addresses=("127.0.0.1",), retries=0, timeout_s=60, connections=8, robots_txt=False
)
rows = read_images(UrlsSource(kind="urls", path=sys.argv[1]), settings, area)
run_stage(SeedImagesStage(), source_batches(rows), area, "killed", print)
"""


def test_what_a_killed_run_had_downloaded_is_taken_over(tmp_path: Path, server: Server) -> None:
    urls = serve(server, 200)
    server.paths["/199.jpg"] = in_turn(raw(60.0), answer(body=picture(199)))  # the run does not get past it
    path = listed(tmp_path / "a.csv", urls)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(tmp_path / "data")])
    wip = tmp_path / "data" / "_sd_assets" / "seed_images" / "p" / "wip"
    deadline = time.monotonic() + 60
    while server.requests.total() < 200 or not wip.is_dir() or len(list(wip.iterdir())) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {
        row["source"]
        for shard in area_at(tmp_path).wip()
        for row in pq.read_table(
            tmp_path / "data" / "_sd_assets" / "seed_images" / "p" / "shards" / shard.file
        )
        .select(["source"])
        .to_pylist()
    }
    assert len(finished) >= 48
    server.requests.clear()
    assert contents(committed(tmp_path, path)) == [(url, None, picture(n)) for n, url in enumerate(urls)]
    asked = {server.url(name) for name in server.requests}
    assert asked == set(urls) - finished
    assert set(server.requests.values()) == {1}
    assert area_at(tmp_path).last_run()["rows_reused"] >= len(finished)
    server.requests.clear()
    committed(tmp_path, path)
    assert not server.requests


# --- what was taken down -----------------------------------------------------------------------------------------


def taken_down(base: Path, path: Path, blocked: Blocked) -> list[str]:
    """The sources that are left after a run with this list, committed."""
    area, stage = area_at(base), SeedImagesStage(blocked)
    source = UrlsSource(kind="urls", path=str(path))
    with closing(read_images(source, DownloadSettings(**ALLOWED), area, blocked)) as rows:
        seeds = stage.without_blocked(source_batches(rows))
        staged = run_stage(stage, seeds, area, f"run-{time.monotonic_ns()}", print)
    return [row[0] for row in contents(Table(area, staged.commit()))]


def test_blocked_seeds_are_skipped_and_not_asked_for(tmp_path: Path, server: Server) -> None:
    urls = serve(server, 4)
    server.paths["/to"] = answer("302 Found", Location="http://evil.example/x.jpg")
    path = listed(tmp_path / "a.csv", [*urls, server.url("/to"), server.url("/gone")])
    blocked = Blocked(urls=[urls[0]], hosts=["evil.example"], images=[image_id(picture(1))])
    left = [*urls[2:], server.url("/gone")]
    assert taken_down(tmp_path, path, blocked) == left
    # What is only seen once it has come, or redirects, is asked for once, and never again.
    assert server.requests == {"/1.jpg": 1, "/2.jpg": 1, "/3.jpg": 1, "/to": 1, "/gone": 1}
    report = area_at(tmp_path).last_run()
    assert (report["rows_in"], report["rows_skipped"], report["rows_blocked"]) == (6, 3, 3)
    server.requests.clear()
    assert taken_down(tmp_path, path, blocked) == left
    assert not server.requests
    # Off the list they come back, and only they are asked for.
    assert taken_down(tmp_path, path, Blocked(hosts=["evil.example"]))[:4] == urls
    assert server.requests == {"/0.jpg": 1, "/1.jpg": 1}


def test_seeds_that_are_there_go_without_being_asked_for_again(tmp_path: Path, server: Server) -> None:
    urls = serve(server, 3)
    server.paths["/copy.jpg"] = answer(body=picture(0))
    path = listed(tmp_path / "a.csv", [*urls, server.url("/copy.jpg")])
    assert taken_down(tmp_path, path, Blocked()) == urls
    server.requests.clear()
    blocked = Blocked(images=[image_id(picture(1))])
    for _ in range(2):
        assert taken_down(tmp_path, path, blocked) == [urls[0], urls[2]]
    assert not server.requests
    # The note names no URL that is blocked: neither a copy, nor what it is a copy of.
    for gone in (urls[0], server.url("/copy.jpg")):
        taken_down(tmp_path, path, Blocked())
        assert gone.encode() in (area_at(tmp_path).note("fetched.json") or b"")
        known = module.Known(area_at(tmp_path), DownloadSettings(**ALLOWED), Blocked(urls=[gone]))
        known.close()
        assert gone.encode() not in (area_at(tmp_path).note("fetched.json") or b"")


def test_what_an_error_of_a_seed_quotes_goes_too(tmp_path: Path, server: Server) -> None:
    server.paths["/to"] = answer("302 Found", Location="http://10.0.0.1/x.jpg")
    path = listed(tmp_path / "a.csv", [server.url("/to")])
    details = []
    for blocked in (Blocked(), Blocked(hosts=["10.0.0.1"])):
        taken_down(tmp_path, path, blocked)
        latest = area_at(tmp_path).latest()
        assert latest is not None
        rows = Table(area_at(tmp_path), latest).read(["error", "error_detail"]).to_pylist()
        assert [row["error"] for row in rows] == ["address_forbidden"]
        details.append(rows[0]["error_detail"])
    assert "10.0.0.1" in details[0] and "10.0.0.1" not in details[1]
