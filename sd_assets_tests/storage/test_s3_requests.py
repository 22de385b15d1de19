"""What runs cost in requests, as docs/s3.md says."""

from collections.abc import Iterator

import pytest

from sd_assets.compute.run import run_stage
from sd_assets.storage.area import AT_ONCE, Manifest
from sd_assets.storage.files import S3Files
from sd_assets.storage.table import TableStore
from sd_assets_tests.s3 import s3_server
from sd_assets_tests.s3_faults import FaultProxy, fault_proxy
from sd_assets_tests.toy import ToyStage, toy_input

pytestmark = pytest.mark.s3

OF_A_RUN, OF_A_LATER_RUN, OF_A_SHARD, OF_OPENING = 26, 35, 5, 4


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with s3_server() as s3, fault_proxy(s3) as proxy:
        yield proxy


def refresh(store: TableStore, rows: int, run_id: str) -> Manifest:
    made_from = [f"{rows} rows"]
    stage, area = ToyStage(), store.area("toy", "p")
    staged = run_stage(stage, toy_input(range(rows)), area, run_id, lambda line: None, made_from=made_from)
    return staged.commit()


def test_requests_under_way_at_once_keep_their_connections(proxy: FaultProxy) -> None:
    assert proxy.connection.client().meta.config.max_pool_connections >= 2 * AT_ONCE


def test_what_runs_cost(proxy: FaultProxy) -> None:
    store = TableStore(S3Files(proxy.connection, "s3://data/runs"))

    first = refresh(store, 160, "first")
    shards = len(first.shards)
    assert shards > 5
    assert len(proxy.requests) <= OF_A_RUN + OF_A_SHARD * shards

    proxy.requests.clear()
    refresh(store, 160, "unchanged")
    assert len(proxy.requests) <= OF_A_RUN

    proxy.requests.clear()
    more = refresh(store, 161, "one more")
    written = len(set(more.shards) - set(first.shards))
    assert 1 <= written <= 2
    assert len(proxy.requests) <= OF_A_LATER_RUN + OF_A_SHARD * written + shards

    proxy.requests.clear()
    store.open("toy", "p")
    assert len(proxy.requests) <= OF_OPENING
