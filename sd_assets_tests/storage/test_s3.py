"""The same storage on a real S3 protocol server."""

from collections.abc import Iterator

import pytest

from sd_assets.compute.run import run_stage
from sd_assets.errors import TableError
from sd_assets.storage.housekeeping import find_areas, inventory
from sd_assets.storage.table import TableStore
from sd_assets.storage.verify import verify
from sd_assets_tests.s3 import S3Server, s3_server
from sd_assets_tests.toy import ToyStage, toy_input

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as s3:
        yield s3


def refresh(store: TableStore, numbers: range, run_id: str) -> ToyStage:
    stage = ToyStage()
    run_stage(stage, toy_input(numbers), store.area("toy", "p"), run_id, lambda line: None).commit()
    return stage


def test_write_refresh_and_read(s3: S3Server) -> None:
    store = TableStore(s3.files("s3://data/tables"))
    refresh(store, range(100), "first")
    old = store.open("toy", "p")
    assert refresh(store, range(50, 120), "second").computed.total() == 20
    rows = store.open("toy", "p").read(["name"]).column("name").to_pylist()
    assert rows == [f"n{number}" for number in range(50, 120)]
    assert old.num_rows == old.read().num_rows == 100


def test_the_folder_holds_the_current_shards_and_nothing_else(s3: S3Server) -> None:
    files = s3.files("s3://data/lined-up/")
    store = TableStore(files)
    refresh(store, range(100), "first")
    refresh(store, range(200), "second")
    shards = store.open("toy", "p").manifest.shards
    assert files.names("toy/p") == sorted(shard.file for shard in shards)


def test_exclusive_creation(s3: S3Server) -> None:
    files = s3.files("s3://data/exclusive")
    assert files.create("a", b"1")
    assert not files.create("a", b"2")
    assert files.get("a") == b"1"
    with pytest.raises(FileNotFoundError):
        files.get("b")


def test_of_two_runs_at_once_one_wins(s3: S3Server) -> None:
    store = TableStore(s3.files("s3://data/two"))
    slow = run_stage(ToyStage(), toy_input(range(40)), store.area("toy", "p"), "slow", lambda line: None)
    refresh(store, range(50), "quick")
    with pytest.raises(TableError, match="run quick committed version 1"):
        slow.commit()
    assert store.open("toy", "p").num_rows == 50


def test_listing_and_verifying(s3: S3Server) -> None:
    files = s3.files("s3://data/listed")
    store = TableStore(files)
    refresh(store, range(100), "first")
    refresh(store, range(120), "second")
    (area,) = find_areas(store)
    found = inventory(area)
    assert [(version.number, version.rows) for version in found.versions] == [(2, 120), (1, 100)]
    objects = s3.client.list_objects_v2(Bucket="data", Prefix="listed/")["Contents"]
    assert found.bytes == sum(item["Size"] for item in objects)
    assert verify(area).faults == []
    # Here the folder holds copies.
    shard = area.manifest(2).shards[-1]
    s3.client.delete_object(Bucket="data", Key=f"listed/{area.hidden}/shards/{shard.file}")
    (fault,) = verify(area).faults
    assert (
        fault.what == "is missing" and fault.remedy == f"Copy toy/p/{shard.file} to there: that one is whole"
    )
