"""A stage on a real cluster of two nodes: the same rows as here, whatever dies on the way."""

import asyncio
import importlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from PIL import Image

from sd_assets.compute import local
from sd_assets.compute.ray.cluster import RaySettings
from sd_assets.compute.ray.engine import RayEngine
from sd_assets.compute.run import run_stage
from sd_assets.errors import SdAssetsError, TableError
from sd_assets.resources.compute import ComputeResource
from sd_assets.resources.storage import StorageResource
from sd_assets.schemas import IMAGE_QUALITY, RETRIEVED_IMAGE_URLS, TEXT_IMAGE_PAIRS, text_id
from sd_assets.settings import DownloadSettings
from sd_assets.stages.download import DownloadStage
from sd_assets.stages.image_quality import ImageQualityStage
from sd_assets.storage import elsewhere
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore
from sd_assets_tests.compute.ray_cluster import TwoNodes, two_nodes
from sd_assets_tests.download.misbehaving import Server, answer
from sd_assets_tests.measures.photographs import encoded
from sd_assets_tests.sources.conftest import picture
from sd_assets_tests.tables import table_of
from sd_assets_tests.toy import TOY, ToyStage, toy_input

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(LocalFiles(tmp_path / "tables"))


# Shards of some size, as each costs the cluster a call.
LARGER = replace(TOY, shard_rows=64, row_group_rows=16)


class HereStage(ToyStage):
    schema = LARGER


class SpreadStage(ToyStage):
    """Says in a file of its folder what it computes."""

    is_spread = True
    schema = LARGER

    def __init__(self, folder: Path, *, seconds: float = 0.0) -> None:
        super().__init__()
        self.folder = folder
        self.seconds = seconds

    def open(self) -> None:
        super().open()
        elsewhere.FLUSH_SECONDS = 0.5  # in the worker

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        time.sleep(self.seconds)
        with (self.folder / f"{os.getpid()}.txt").open("a") as file:
            file.writelines(f"{number}\n" for number in rows.column("number").to_pylist())
        return super().process(rows, prepared)


class FailingStage(SpreadStage):
    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        if 150 in rows.column("number").to_pylist():
            raise TableError("150 is too much")
        return super().process(rows, prepared)


class PoisonedStage(SpreadStage):
    """Takes its process with it."""

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        if 150 in rows.column("number").to_pylist():
            os._exit(1)
        return super().process(rows, prepared)


def computed(folder: Path) -> Counter[int]:
    """How often each number was computed, by all processes."""
    return Counter(int(line) for file in folder.glob("*.txt") for line in file.read_text().split())


def run(
    store: TableStore, stage: ToyStage, numbers: range, engine: RayEngine | None, partition: str = "p"
) -> Table:
    run_id = f"run{time.monotonic_ns()}"
    area = store.area("toy", partition)
    run_stage(stage, toy_input(numbers), area, run_id, lambda line: None, engine=engine).commit()
    return store.open("toy", partition)


def same(one: Table, other: Table) -> bool:
    return [shard.sha256 for shard in one.manifest.shards] == [
        shard.sha256 for shard in other.manifest.shards
    ]


def test_the_same_files_as_here(cluster: TwoNodes, store: TableStore, tmp_path: Path) -> None:
    spread = run(store, SpreadStage(tmp_path), range(300), cluster.engine())
    here = run(store, HereStage(), range(300), None, "here")
    assert same(spread, here) and spread.num_rows == 300
    assert computed(tmp_path) == Counter(range(300))
    assert len(list(tmp_path.glob("*.txt"))) == 2  # both nodes
    # A refresh computes what is new, and only that, and takes over what neither of them computed.
    spread = run(store, SpreadStage(tmp_path), range(20, 330), cluster.engine())
    here = run(store, HereStage(), range(20, 330), None, "here")
    assert same(spread, here)
    assert computed(tmp_path) == Counter(range(330))
    assert not list(store.area("toy", "p").wip())


def test_images_are_read_by_the_workers(cluster: TwoNodes, store: TableStore, tmp_path: Path) -> None:
    rows = [
        {
            "image_id": f"{number:064d}",
            "image": encoded(Image.effect_noise((64 + number, 64), 50).convert("RGB")),
            "width": 64,
            "height": 64,
            "original_width": 100,
            "original_height": 80,
            "captions": ["a photograph"],
            "origin": "seed",
        }
        for number in range(120)
    ]
    pairs = table_of(tmp_path / "tables", TEXT_IMAGE_PAIRS, rows)
    tables = []
    for partition, engine in (("spread", cluster.engine()), ("here", None)):
        images = pairs.rows(["image_id", "image", "original_width", "original_height", "error"])
        area = store.area(IMAGE_QUALITY.name, partition)
        run_stage(ImageQualityStage(), images, area, partition, print, [pairs], engine).commit()
        tables.append(store.open(IMAGE_QUALITY.name, partition))
    assert same(*tables) and tables[0].manifest.report["rows_ok"] == 120


def test_a_node_that_dies_costs_what_it_had_not_finished(
    cluster: TwoNodes, store: TableStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def kill() -> None:
        while len(list(store.area("toy", "p").wip())) < 2:  # each worker has written something
            time.sleep(0.05)
        cluster.kill_other()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with caplog.at_level(logging.WARNING):
            spread = run(store, SpreadStage(tmp_path, seconds=0.1), range(400), cluster.engine())
    finally:
        killer.join()
        cluster.replace_other()
    assert same(spread, run(store, HereStage(), range(400), None, "here"))
    again = Counter(computed(tmp_path).values())
    # What a worker has in hand, and what it finishes in the moment between two writes; if it dies right after one, nothing.
    assert set(again) <= {1, 2} and again[2] < 150
    assert any("died" in line and "are computed again" in line for line in caplog.messages)


def test_an_error_of_the_stage_is_that_of_the_run_and_costs_nothing(
    cluster: TwoNodes, store: TableStore, tmp_path: Path
) -> None:
    with pytest.raises(TableError, match="150 is too much"):
        run(store, FailingStage(tmp_path), range(300), cluster.engine())
    before = computed(tmp_path)
    assert before
    spread = run(store, SpreadStage(tmp_path), range(300), cluster.engine())
    assert same(spread, run(store, HereStage(), range(300), None, "here"))
    again = Counter(computed(tmp_path).values())
    assert again[1] > 250 and set(again) <= {1, 2}  # of the batches that were computed as it failed


def test_rows_that_kill_workers_end_the_run(cluster: TwoNodes, store: TableStore, tmp_path: Path) -> None:
    with pytest.raises(SdAssetsError, match="3 workers died while they had the same rows"):
        run(store, PoisonedStage(tmp_path), range(300), cluster.engine())
    assert computed(tmp_path)  # of others, which are kept
    spread = run(store, SpreadStage(tmp_path), range(300), cluster.engine())
    assert spread.num_rows == 300


class FilesOfOneMachine(LocalFiles):
    """A disk that other machines do not have."""

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFiles, (Path("/nonexistent"),)


def test_storage_that_is_not_shared(cluster: TwoNodes, tmp_path: Path) -> None:
    store = TableStore(FilesOfOneMachine(tmp_path / "tables"))
    with pytest.raises(TableError, match=r"does not see .* as the driver does .*: a cluster needs a base"):
        run(store, SpreadStage(tmp_path), range(30), cluster.engine())


def test_workers_that_are_too_large(cluster: TwoNodes, store: TableStore, tmp_path: Path) -> None:
    engine = RayEngine(replace(cluster.settings, cpus_per_worker=3))
    with pytest.raises(SdAssetsError, match=r"3 cores .*, and no node of the cluster has so many"):
        run(store, SpreadStage(tmp_path), range(30), engine)
    engine = RayEngine(replace(cluster.settings, cpus_per_worker=3, workers=1, start_timeout_s=2))
    with pytest.raises(SdAssetsError, match="no worker has started for 2 s: each is to have 3 cores"):
        run(store, SpreadStage(tmp_path), range(30), engine)


def test_no_cluster(store: TableStore, tmp_path: Path) -> None:
    with pytest.raises(SdAssetsError, match=r"there is no Ray cluster at '127\.0\.0\.1:9'"):
        run(store, SpreadStage(tmp_path), range(30), RayEngine(RaySettings("127.0.0.1:9")))


def test_what_is_not_worth_spreading_needs_no_cluster(store: TableStore) -> None:
    assert run(store, ToyStage(), range(30), RayEngine(RaySettings("127.0.0.1:9"))).num_rows == 30


def test_an_asset_of_dagster(cluster: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = StorageResource(base=str(tmp_path / "tables"))

    @dg.asset
    def toy(context: dg.AssetExecutionContext, compute: ComputeResource) -> None:
        area = storage.store().area("toy", "p")
        stage = SpreadStage(tmp_path, seconds=0.05)
        run_stage(
            stage, toy_input(range(300)), area, context.run.run_id, context.log.info, engine=compute.engine()
        ).commit()

    monkeypatch.setenv("SD_ASSETS_COMPUTE", "ray")
    monkeypatch.setenv("RAY_ADDRESS", cluster.settings.address)
    compute = ComputeResource(storage=storage)
    with dg.instance_for_test() as instance:
        result = dg.materialize([toy], resources={"compute": compute}, instance=instance)
        lines = [event.user_message for event in instance.all_logs(result.run_id)]
    assert result.success
    # Of the driver; of a module, on a worker.
    assert any("2 workers of Ray, each with 1 cores and 0 GPUs" in line for line in lines)
    assert storage.table("toy", "p").num_rows == 300
    assert len(list(tmp_path.glob("*.txt"))) == 2


def test_a_kind_of_compute_that_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = StorageResource(base=str(tmp_path))
    monkeypatch.setenv("SD_ASSETS_COMPUTE", "spark")
    with pytest.raises(SdAssetsError, match="SD_ASSETS_COMPUTE is 'spark': it must be `local` or `ray`"):
        ComputeResource(storage=storage).engine()
    assert isinstance(ComputeResource(storage=storage, kind="ray").engine(), RayEngine)


# --- downloads ---------------------------------------------------------------------------------------------------

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")


class Web(Server):
    """Serves pictures from several hosts, and counts how many connections each has at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: dict[str, int] = {}
        self.busy: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def _start(self) -> None:
        for host in HOSTS:
            server = await asyncio.start_server(self._serve, host, 0)
            self.ports[host] = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    def serve(self, path: str, body: bytes) -> None:
        """A picture that takes a while, and does not change."""
        send = answer(body=body, ETag='"one"')
        unchanged = answer("304 Not Modified")

        async def behave(writer: asyncio.StreamWriter, asked: dict[str, str]) -> None:
            host = asked["host"].partition(":")[0]
            self.busy[host] += 1
            self.most[host] = max(self.most[host], self.busy[host])
            await asyncio.sleep(0.03)
            await (unchanged if "if-none-match" in asked else send)(writer, asked)
            self.busy[host] -= 1

        self.paths[path] = behave


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        yield web


def test_downloads_are_as_polite_as_one_process(cluster: TwoNodes, web: Web, tmp_path: Path) -> None:
    urls = []
    for number in range(150):
        host = HOSTS[number % len(HOSTS)]
        web.serve(f"/{number}", picture(number))
        urls.append(f"http://{host}:{web.ports[host]}/{number}")
    urls += [f"http://{HOSTS[0]}:{web.ports[HOSTS[0]]}/missing{number}" for number in range(5)]
    known = [{"url_id": text_id(url), "url": url, "hits": []} for url in sorted(urls, key=text_id)]
    table = table_of(tmp_path / "urls", RETRIEVED_IMAGE_URLS, known)
    area = TableStore(LocalFiles(tmp_path)).area("downloaded_images", "p")

    def download(run: str, workers: int | None = None, **how: Any) -> dict[str, Any]:
        settings = DownloadSettings(
            allow_addresses=("127.0.0.0/8",), connections_per_host=2, image_size=16, robots_txt=False, **how
        )
        stage = DownloadStage(settings)
        engine = RayEngine(replace(cluster.settings, workers=workers))
        staged = run_stage(stage, stage.url_rows(table), area, run, print, engine=engine)
        staged.commit()
        return staged.report

    report = download("first")
    assert (report["rows_ok"], report["failures"], report["workers"]) == (150, {"not_found": 5}, 2)
    assert set(web.most) == set(HOSTS) and max(web.most.values()) == 2
    assert web.requests.total() == 155
    # What is stored is found by the workers: its conditions, and what is to stay.
    before = Table(area, area.find()).read(["url_id", "image"])
    # Three workers for two cores: one has to wait for its turn.
    report = download("second", workers=3, refetch_after_d=0)
    assert (report["rows_refetched"], report["rows_not_modified"]) == (150, 150)
    assert (report["rows_ok"], report["failures"]) == (150, {"not_found": 5})
    assert Table(area, area.find()).read(["url_id", "image"]).equals(before)


def test_a_connection_that_is_there_is_used_and_left(
    cluster: TwoNodes, store: TableStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from dagster_ray import LocalRay

    area = store.area("toy", "p")

    @dg.asset
    def toy(context: dg.AssetExecutionContext, ray_cluster: LocalRay) -> None:
        stage = SpreadStage(tmp_path)
        engine = RayEngine(RaySettings("127.0.0.1:9"))
        run_stage(stage, toy_input(range(100)), area, "run", context.log.info, engine=engine).commit()
        assert ray.is_initialized()
        ray.shutdown()

    monkeypatch.setenv("RAY_ADDRESS", cluster.settings.address)
    assert dg.materialize([toy], resources={"ray_cluster": LocalRay()}).success
    assert store.open("toy", "p").num_rows == 100


def test_a_node_that_dies_when_all_is_dealt(cluster: TwoNodes, store: TableStore, tmp_path: Path) -> None:
    def kill() -> None:
        while len(computed(tmp_path)) < 30:  # all is dealt, and both have some left
            time.sleep(0.05)
        cluster.kill_other()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        spread = run(store, SpreadStage(tmp_path, seconds=0.7), range(64), cluster.engine())
    finally:
        killer.join()
        cluster.replace_other()
    assert same(spread, run(store, HereStage(), range(64), None, "here"))


class AbsentStage(SpreadStage):
    """Of a module that only the driver has."""

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, ("a_module_that_nodes_lack",)


def test_workers_that_cannot_start(cluster: TwoNodes, store: TableStore, tmp_path: Path) -> None:
    with pytest.raises(SdAssetsError, match=r"a worker cannot start: [\s\S]*a_module_that_nodes_lack"):
        run(store, AbsentStage(tmp_path), range(30), cluster.engine())


def test_a_run_that_is_interrupted_leaves_nobody_behind(
    cluster: TwoNodes, store: TableStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOG_SECONDS", 0.1)

    def interrupt(line: str) -> None:
        if "rows computed" in line:
            raise KeyboardInterrupt

    area = store.area("toy", "p")
    stage = SpreadStage(tmp_path, seconds=0.1)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, toy_input(range(1000)), area, "first", interrupt, engine=cluster.engine())
    assert not area.files.names(f"{area.hidden}/leases")
    done = computed(tmp_path)
    time.sleep(1)
    assert computed(tmp_path) == done and 0 < done.total() < 1000
    report = run_stage(HereStage(), toy_input(range(1000)), area, "second", print).report
    assert 0 < report["rows_reused"] <= done.total()
