"""Files of a bucket that go, are replaced, or cannot be read while somebody reads them: others wait for nobody there."""

from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from sd_assets.blocked import Blocked, normal_url
from sd_assets.compute.run import run_stage, write_rows
from sd_assets.schemas import DOWNLOADED_IMAGES
from sd_assets.stages.stage import rows_of
from sd_assets.storage.files import S3Files
from sd_assets.storage.staging import Judge, Staging
from sd_assets.storage.table import TableStore
from sd_assets.storage.verify import verify
from sd_assets.takedown import take_down
from sd_assets_tests.s3 import S3Server
from sd_assets_tests.s3_faults import Answer, FaultProxy, Request, fault_proxy
from sd_assets_tests.toy import TOY, ToyStage, toy_input

pytestmark = pytest.mark.s3

URL = "https://example.com/a.jpg"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    """Before the server; files are opened by so few bytes that their rows take further requests."""
    with fault_proxy(s3) as proxy, mock.patch("sd_assets.storage.files.s3.TAIL_BYTES", 100):
        yield proxy


def refresh(store: TableStore, numbers: range, run_id: str) -> None:
    run_stage(ToyStage(), toy_input(numbers), store.area("toy", "p"), run_id, lambda line: None).commit()


def once_opened(proxy: FaultProxy, path: str, act: Callable[[], object]) -> list[Request]:
    """Act as soon as the file has been opened, for the first time; returns the requests after which that was done."""
    opened: list[Request] = []

    def done(request: Request) -> None:
        if not opened and request.path.endswith(path) and request.range.startswith("bytes=-"):
            opened.append(request)
            act()

    proxy.done = done
    return opened


def test_a_run_computes_again_what_was_swept_while_it_read(s3: S3Server, proxy: FaultProxy) -> None:
    store = TableStore(S3Files(proxy.connection, "s3://data/swept"))
    refresh(store, range(30), "first")
    refresh(store, range(30, 60), "second")
    area = store.area("toy", "p")
    path = f"swept/{area.hidden}/shards/{area.manifest(1).shards[0].file}"
    opened = once_opened(proxy, path, lambda: s3.client.delete_object(Bucket="data", Key=path))
    judge = Judge(("name",), lambda rows: [True] * len(rows))
    Staging(area, TOY, "third", judge).abandon()
    assert len(opened) == 1


def test_verifying_looks_again_at_what_was_replaced(s3: S3Server, proxy: FaultProxy) -> None:
    """Its bytes are those that were written, though it is another object: under SSE-KMS each has an ETag of its own."""
    store = TableStore(S3Files(proxy.connection, "s3://data/replaced"))
    refresh(store, range(30), "first")
    area = store.area("toy", "p")
    path = f"replaced/{area.hidden}/shards/{area.manifest(1).shards[0].file}"
    whole = s3.client.get_object(Bucket="data", Key=path)["Body"].read()
    s3.client.put_object(Bucket="data", Key=path, Body=b"other" * 1000)
    opened = once_opened(proxy, path, lambda: s3.client.put_object(Bucket="data", Key=path, Body=whole))
    assert verify(area).faults == []
    assert len(opened) == 1


@pytest.mark.parametrize("folder", ["shards", "index", "versions", "wip", ""])
def test_verifying_goes_on_after_a_file_that_cannot_be_read(proxy: FaultProxy, folder: str) -> None:
    store = TableStore(S3Files(proxy.connection, f"s3://data/denied-{folder}"))
    refresh(store, range(30), "first")
    area = store.area("toy", "p")
    denied, other = area.manifest(1).shards
    area.record_wip("killed", denied)
    where = f"{area.hidden}/{folder}/" if folder else f"{area.folder}/"
    name = {"index": denied.index, "versions": "000001", "wip": "killed"}.get(folder, denied.name)
    # Damaged, and to be found whatever else cannot be read.
    store.files.put(f"{area.hidden}/shards/{other.file}", b"damaged")

    def deny(request: Request) -> Answer | None:
        asked = request.kind == "GET" and f"{where}{name}" in request.path
        return Answer(403, "AccessDenied") if asked else None

    proxy.plan = deny
    faults = verify(area).faults
    unread = [fault for fault in faults if "cannot be verified" in fault.what]
    assert unread and all("access is denied" in str(fault) for fault in unread)
    assert all(fault.remedy.startswith("Nothing says that it is damaged") for fault in unread)
    if folder != "versions":
        assert any(other.file in fault.where and "7 bytes" in fault.what for fault in faults)
    assert not any("No version is whole" in fault.remedy for fault in faults)


@pytest.mark.parametrize("is_deleted", [True, False])
def test_what_is_blocked_is_found_in_a_file_that_was_replaced(
    s3: S3Server, proxy: FaultProxy, is_deleted: bool
) -> None:
    store = TableStore(S3Files(proxy.connection, f"s3://data/blocked-{is_deleted}"))
    area = store.area(DOWNLOADED_IMAGES.name, "p")
    image = {"url_id": "u", "url": URL, "image_id": "i", "image": b"x"}
    for run_id, rows in (("first", [image]), ("second", [])):
        write_rows(DOWNLOADED_IMAGES, [rows_of(DOWNLOADED_IMAGES, rows)], area, run_id).commit()
    path = f"blocked-{is_deleted}/{area.hidden}/shards/{area.manifest(1).shards[0].file}"
    whole = s3.client.get_object(Bucket="data", Key=path)["Body"].read()
    s3.client.put_object(Bucket="data", Key=path, Body=b"other" * 1000)

    def replace() -> None:
        if is_deleted:
            s3.client.delete_object(Bucket="data", Key=path)
        else:
            s3.client.put_object(Bucket="data", Key=path, Body=whole)

    opened = once_opened(proxy, path, replace)
    blocked = Blocked(urls=filter(None, [normal_url(URL)]))
    taken = take_down(store, area, blocked, lambda: None, older_versions=True)
    assert len(opened) == 1
    assert taken.versions == ([] if is_deleted else [1])


def test_a_marker_of_a_folder_is_no_file(s3: S3Server, proxy: FaultProxy) -> None:
    files = S3Files(proxy.connection, "s3://data/marked")
    files.put("a/b", b"1")
    s3.client.put_object(Bucket="data", Key="marked/a/", Body=b"")
    assert files.names("a") == ["b"]
    assert files.sizes("a") == {"b": 1}
    assert list(files.ages("a")) == ["b"]
    assert files.folders("a") == []


def test_a_listing_of_several_pages(s3: S3Server) -> None:
    files = s3.files("s3://data/pages")
    for number in range(5):
        files.put(f"a/{number}", b"1")
    whole = s3.client.list_objects_v2
    with mock.patch.object(s3.client, "list_objects_v2", lambda **wanted: whole(MaxKeys=2, **wanted)):
        assert files.names("a") == list("01234")
