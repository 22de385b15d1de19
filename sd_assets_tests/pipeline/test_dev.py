"""`make dev`: a real webserver and daemon over a small world, used as its UI uses them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.scheduler.instigation import ScheduleInstigatorData

from sd_assets import catalog
from sd_assets.assets.hub_revision import hub_revision
from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.automation.schedules import weekly_refresh
from sd_assets.automation.sensors import hub_revisions
from sd_assets.quality.rows import FAILURES
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore
from sd_assets_tests.hub.repos import Repo
from sd_assets_tests.hub.server import Hub
from sd_assets_tests.listening import addresses
from sd_assets_tests.pipeline.browser import opened_page, seen
from sd_assets_tests.pipeline.conftest import PROJECT
from sd_assets_tests.pipeline.test_demo import NAMES
from sd_assets_tests.pipeline.webserver import LOCATION, Webserver, waited
from sd_assets_tests.sources.hub_data import SHARD, pictures

pytestmark = pytest.mark.timeout(900)

PARTITIONS = ["demo_rooms", "demo_prompts"]
OF_HUB = "photos_of_the_hub"
ARTIFACTS = PROJECT / "test-artifacts"

# `make dev`, but for the size of its world.
DEV = """
import functools, sys
from sd_assets.demo import __main__ as demo
from sd_assets.demo.world import WorldSpec

spec = WorldSpec(seeds=16, images=360, faults_per_kind=1, flaws_per_kind=2)
demo.build_world = functools.partial(demo.build_world, spec=spec)
sys.exit(demo.main())
"""


@dataclass(frozen=True)
class Dev:
    """What `make dev` runs, and where it keeps what.

    Attributes:
        web: its webserver.
        home: the folder of its instance.
        data: the folder of the tables.
        catalog: the file of its catalogue: the two demo partitions, and one of a Hub dataset.
        photos: that dataset.
    """

    web: Webserver
    home: Path
    data: Path
    catalog: Path
    photos: Repo

    def table(self, asset: str, partition: str) -> Table:
        return TableStore(LocalFiles(self.data)).open(asset, partition)

    def reports(self, partition: str) -> dict[str, dict[str, Any]]:
        """What the last run of each asset said."""
        store = TableStore(LocalFiles(self.data))
        return {name: store.area(name, partition).last_run() for name in NAMES}


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory, _hub: Hub) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("dev")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    photos = _hub.dataset("org/photos", {SHARD: pictures(2)})
    dev = Dev(Webserver(port), folder / "home", folder / "data", folder / "catalog.yaml", photos)
    dev.home.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", dev.home)
    # As it is shipped, without the entries that need a network.
    shipped = (PROJECT / "seed_datasets.yaml").read_text()
    written = yaml.safe_load(shipped.replace("sd_assets/demo/models", f"{PROJECT}/sd_assets/demo/models"))
    demo = {name: written["seed_datasets"][name] for name in PARTITIONS}
    source = {"kind": "hub", "id": photos.id}
    of_hub = {**demo["demo_rooms"], "prompts": {"texts": ["a red sofa"]}, "source": source}
    written["seed_datasets"] = {**demo, OF_HUB: of_hub}
    dev.catalog.write_text(yaml.safe_dump(written))
    environment = {
        "DAGSTER_HOME": str(dev.home),
        "SD_ASSETS_DATA": str(dev.data),
        "SD_ASSETS_DEMO": str(folder / "world"),
        catalog.CATALOG_VARIABLE: str(dev.catalog),
    }
    log = folder / "dev.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", DEV, "dev", "--seed", "11", "--port", str(port)],
            cwd=PROJECT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        waited(lambda: dev.web.is_up() or process.poll() is not None, 240, "the webserver")
        assert process.poll() is None, log.read_text()
        yield dev
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        print(log.read_text())


@pytest.fixture(scope="module")
def backfill(dev: Dev) -> str:
    """The id of a backfill of both partitions, which has succeeded."""
    backfill = dev.web.backfill(PARTITIONS)
    tags = [{"key": "dagster/backfill", "value": backfill}]
    assert dev.web.ended(2, tags=tags) == dict.fromkeys(PARTITIONS, "SUCCESS")
    return backfill


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells who listens where")
def test_it_has_no_login_and_listens_on_this_machine_only(dev: Dev) -> None:
    assert addresses(int(dev.web.url.rpartition(":")[2])) == {"127.0.0.1"}


def test_a_partition_is_materialized(dev: Dev) -> None:
    run_id = dev.web.launch(BUILD_DATASET, "demo_prompts")
    assert dev.web.ended(1, runIds=[run_id]) == {"demo_prompts": "SUCCESS"}
    assert dev.table("text_image_pairs", "demo_prompts").num_rows > 50


BACKFILL = "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"


def test_both_partitions_are_backfilled(dev: Dev, backfill: str) -> None:
    def status() -> str | None:
        found: str = dev.web.ask(BACKFILL, id=backfill)["partitionBackfillOrError"]["status"]
        return None if found == "REQUESTED" else found

    assert waited(status, 120, "the end of the backfill") == "COMPLETED_SUCCESS"
    for partition in PARTITIONS:
        assert dev.table("text_image_pairs", partition).num_rows > 50


@pytest.mark.browser
def test_the_page_of_an_asset_shows_its_contact_sheet(dev: Dev, backfill: str) -> None:
    with opened_page() as page:
        for asset in ("downloaded_images", "image_captions"):
            page.goto(f"{dev.web.url}/assets/{asset}?view=partitions&partition=demo_rooms")
            row = page.get_by_role("row").filter(has_text="contact_sheet")
            row.get_by_text("Show Markdown").click()
            sheet = page.get_by_role("dialog").locator("img")
            width, height, colours = seen(sheet)
            assert width >= 400 and height >= 200
            assert colours > 10_000, "the thumbnails on the sheet were not decoded"
            ARTIFACTS.mkdir(exist_ok=True)
            page.screenshot(path=ARTIFACTS / f"contact_sheet_{asset}.png")


def test_a_failing_check_stops_what_follows(dev: Dev, backfill: str) -> None:
    lenient = dev.catalog.read_text()
    strict = yaml.safe_load(lenient)
    # The world holds pages that cannot be downloaded.
    strict["seed_datasets"]["demo_rooms"]["checks"] = {"max_failed": {"downloaded_images": 0.001}}
    dev.catalog.write_text(yaml.safe_dump(strict))
    try:
        assets = ["downloaded_images", "image_captions", "text_image_pairs"]
        run_id = dev.web.launch("__ASSET_JOB", "demo_rooms", assets)
        assert dev.web.ended(1, runIds=[run_id]) == {"demo_rooms": "FAILURE"}
    finally:
        dev.catalog.write_text(lenient)
    steps = dev.web.steps(run_id)
    assert steps == {"downloaded_images": "SUCCESS", "downloaded_images_checks": "FAILURE"}
    found = dev.web.last_check("downloaded_images", FAILURES.name)
    assert (found["runId"], found["partition"], found["status"]) == (run_id, "demo_rooms", "FAILED")
    assert found["evaluation"]["severity"] == "ERROR"


START_SENSOR = """
mutation($sensor: SensorSelector!) {
  startSensor(sensorSelector: $sensor) { __typename ... on PythonError { message } }
}
"""
SENSOR_TICKS = """
query($sensor: SensorSelector!) {
  sensorOrError(sensorSelector: $sensor) {
    ... on Sensor { sensorState { status ticks { status runIds error { message } } } }
  }
}
"""


def test_a_push_to_the_hub_is_refreshed(dev: Dev, backfill: str) -> None:
    sensor = {**LOCATION, "sensorName": hub_revisions.name}

    def state() -> dict[str, Any]:
        found: dict[str, Any] = dev.web.ask(SENSOR_TICKS, sensor=sensor)["sensorOrError"]["sensorState"]
        return found

    assert state()["status"] == "STOPPED"
    assert dev.web.stale_status("seed_images", OF_HUB) == "MISSING"
    run_id = dev.web.launch("__ASSET_JOB", OF_HUB, [hub_revision.key.path[0], "seed_images"])
    assert dev.web.ended(1, runIds=[run_id]) == {OF_HUB: "SUCCESS"}
    assert dev.web.stale_status("seed_images", OF_HUB) == "FRESH"
    assert dev.web.stale_status("text_image_pairs", OF_HUB) == "MISSING"

    dev.photos.push({SHARD: pictures(3)})
    started = dev.web.ask(START_SENSOR, sensor=sensor)["startSensor"]
    assert started["__typename"] == "Sensor", started
    ticks = waited(
        lambda: [tick for tick in state()["ticks"] if tick["status"] != "STARTED"], 150, "the daemon's tick"
    )
    assert [tick["status"] for tick in ticks] == ["SUCCESS"], ticks
    assert dev.web.ended(1, runIds=ticks[0]["runIds"]) == {OF_HUB: "SUCCESS"}
    assert dev.table("seed_images", OF_HUB).num_rows == 3
    for asset in NAMES:
        assert dev.web.stale_status(asset, OF_HUB) == "FRESH"


START = """
mutation($schedule: ScheduleSelector!) {
  startSchedule(scheduleSelector: $schedule) { __typename ... on PythonError { message } }
}
"""
TICKS = """
query($schedule: ScheduleSelector!) {
  scheduleOrError(scheduleSelector: $schedule) {
    ... on Schedule { scheduleState { status ticks { status runIds error { message } } } }
  }
}
"""


def test_a_tick_of_the_weekly_refresh_runs_every_partition(dev: Dev, backfill: str) -> None:
    schedule = {**LOCATION, "scheduleName": weekly_refresh.name}

    def state() -> dict[str, Any]:
        found: dict[str, Any] = dev.web.ask(TICKS, schedule=schedule)["scheduleOrError"]["scheduleState"]
        return found

    assert state()["status"] == "STOPPED"
    # The daemon looks at schedules at each full minute: not before this one was put back by a week, please.
    waited(lambda: 5 < time.time() % 60 < 50, 60, "the middle of a minute")
    started = dev.web.ask(START, schedule=schedule)["startSchedule"]
    assert started["__typename"] == "ScheduleStateResult", started
    with dg.DagsterInstance.from_config(str(dev.home)) as instance:
        (kept,) = [it for it in instance.all_instigator_state() if it.instigator_name == weekly_refresh.name]
        week_ago = ScheduleInstigatorData(weekly_refresh.cron_schedule, time.time() - 7 * 86_400)
        instance.update_instigator_state(kept.with_data(week_ago))
    ticks = waited(
        lambda: [tick for tick in state()["ticks"] if tick["status"] != "STARTED"], 150, "the daemon's tick"
    )
    assert [tick["status"] for tick in ticks] == ["SUCCESS"], ticks
    every = [*PARTITIONS, OF_HUB]
    assert len(ticks[0]["runIds"]) == len(every)
    assert dev.web.ended(len(every), runIds=ticks[0]["runIds"]) == dict.fromkeys(every, "SUCCESS")
    for partition in PARTITIONS:
        for name, report in dev.reports(partition).items():
            assert report["rows_reused"] == report["rows_ok"] + report["rows_failed"], name
