"""A project on a real instance: its sensors and schedules tick as the daemon makes them tick, and its runs run here."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.remote_representation.external import RemoteRepository
from dagster._core.scheduler.instigation import InstigatorTick
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

from sd_assets.assets.catalog_entry import catalog_entry
from sd_assets.assets.common import SEEDS
from sd_assets.assets.hub_revision import hub_revision
from sd_assets.definitions import ASSETS
from sd_assets.retrieval.layout import write_index
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.automation import toy_definitions

# Partitions are those of the catalogue that ships.
PARTITIONS = SEEDS.get_partition_keys()
BUILT = (catalog_entry, hub_revision, *ASSETS)
# What is launched waits until `Project.run_queued`, and then runs in this process.
_INSTANCE: dict[str, Any] = {
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
}
_LOGGER = logging.getLogger("daemon")


def entries_of_prompts() -> dict[str, Any]:
    """Entries that need nothing."""
    return {name: {"prompts": {"texts": [f"a {name}", "a lamp"]}} for name in PARTITIONS}


class Project:
    """A catalogue, tables and an instance.

    Attributes:
        instance: of Dagster.
        catalog: what its file will say once `write` is called.
        now: the daemon's time.
    """

    def __init__(self, folder: Path, workspace: WorkspaceProcessContext) -> None:
        self.instance = workspace.instance
        self.catalog: dict[str, Any] = {
            "defaults": {
                "clip": {"model": "toy", "pretrained": "toy"},
                "captioner": {"model": "toy"},
                "retrieval": {"index": "toy"},
                "download": {"timeout_s": 1, "retries": 0, "image_size": 32},
                "checks": {"max_failed": {"downloaded_images": 1}, "max_same_caption": 1},
            },
            "indices": {"toy": {"kind": "faiss", "path": "index"}},
            "seed_datasets": entries_of_prompts(),
        }
        self.now = datetime.fromisoformat("2027-01-04T12:00:00+00:00")  # a Monday
        self._folder = folder
        self._workspace = workspace
        # Forbidden, unless an entry says else: nothing is fetched.
        self.index([f"http://127.0.0.1:9/{i}.jpg" for i in range(3)])
        self.write()

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator["Project"]:
        """A project in a folder, on an instance of its own. `CATALOG` and `DATA` in it are for the environment to name."""
        code = LoadableTargetOrigin(module_name=toy_definitions.__name__, attribute="defs")
        target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(code, location_name="sd_assets"))
        with (
            dg.instance_for_test(overrides=_INSTANCE) as instance,
            WorkspaceProcessContext(instance, target) as workspace,
        ):
            yield cls(folder, workspace)

    def index(self, urls: list[str]) -> None:
        """What retrieval finds: all of these, for every query."""
        write_index(
            self._folder / "index", np.eye(len(urls), 2, dtype=np.float32) + 0.1, pa.table({"url": urls})
        )

    def write(self, **entries: Mapping[str, Any]) -> None:
        """The catalogue as it is to be, with these entries in place of those of the same name."""
        self.catalog["seed_datasets"].update(deepcopy(entries))
        (self._folder / "catalog.yaml").write_text(yaml.safe_dump(self.catalog))

    def build(self, *partitions: str, only: Sequence[dg.AssetsDefinition] = BUILT) -> None:
        """Materialize these partitions: all assets unless said else, without their checks."""
        resources = toy_definitions.defs.resources
        for partition in partitions:
            made = dg.materialize(only, instance=self.instance, partition_key=partition, resources=resources)
            assert made.success

    def run_queued(self, *partitions: str) -> dict[str, str]:
        """Run what was launched, of these partitions if any are named; what became of it, by partition."""
        queued = [
            run
            for run in self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
            if not partitions or run.tags["dagster/partition"] in partitions
        ]
        for run in queued:
            self.instance.launch_run(run.run_id, self._workspace.create_request_context())
        return self._outcomes([run.run_id for run in queued])

    def column(self, asset: str, partition: str, name: str) -> list[Any]:
        """A column of a table."""
        table = TableStore(LocalFiles(self._folder / "data")).open(asset, partition)
        return [row for batch in table.batches([name]) for row in batch.column(name).to_pylist()]

    def report(self, asset: str, partition: str) -> dict[str, Any]:
        """What the last run of an asset said."""
        return TableStore(LocalFiles(self._folder / "data")).area(asset, partition).last_run()

    def ask(self, query: str, **variables: Any) -> Any:
        """What the webserver's GraphQL API, and so the UI, answers."""
        from dagster_graphql.test.utils import execute_dagster_graphql

        return execute_dagster_graphql(self._workspace.create_request_context(), query, variables).data

    # --- automation ----------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a sensor or a schedule, as its switch in the UI does."""
        with freeze_time(self.now):
            if self._repository.has_sensor(name):
                self.instance.start_sensor(self._repository.get_sensor(name))
            else:
                self.instance.start_schedule(self._repository.get_schedule(name))

    def stop(self, name: str) -> None:
        """Stop a sensor that starts by itself."""
        sensor = self._repository.get_sensor(name)
        self.instance.stop_sensor(sensor.get_remote_origin_id(), sensor.selector_id, sensor)

    def sensor_tick(self, name: str, **later: float) -> InstigatorTick:
        """Let the daemon look at the sensors, an hour and a minute later unless said else; the last tick of this one."""
        self._pass(**later)
        with freeze_time(self.now):
            list(execute_sensor_iteration(self._workspace, _LOGGER, None, None))
        return self._ticks(self._repository.get_sensor(name))[0]

    def schedule_ticks(self, name: str, **later: float) -> list[InstigatorTick]:
        """The same for the schedules; all ticks of this one, the latest first."""
        self._pass(**later)
        with freeze_time(self.now):
            list(launch_scheduled_runs(self._workspace, _LOGGER, self.now, {}))
        return self._ticks(self._repository.get_schedule(name))

    def started_by(self, tick: InstigatorTick) -> list[str]:
        """The partitions of the runs that a tick started."""
        return list(self._outcomes(tick.run_ids))

    def log_of(self, tick: InstigatorTick) -> str:
        """What a tick logged, as the UI shows it."""
        from dagster._core.definitions.instigation_logger import get_instigation_log_records

        assert tick.log_key is not None
        return "\n".join(
            str(record["msg"]) for record in get_instigation_log_records(self.instance, tick.log_key)
        )

    def _outcomes(self, run_ids: Sequence[str]) -> dict[str, str]:
        runs = filter(None, map(self.instance.get_run_by_id, run_ids))
        return {run.tags["dagster/partition"]: run.status.value for run in runs}

    def _pass(self, **later: float) -> None:
        self.now += timedelta(**(later or {"minutes": 61}))

    def _ticks(self, automation: Any) -> list[InstigatorTick]:
        return list(self.instance.get_ticks(automation.get_remote_origin_id(), automation.selector_id))

    @property
    def _repository(self) -> RemoteRepository:
        (entry,) = self._workspace.create_request_context().get_code_location_entries().values()
        assert entry.code_location is not None, entry.load_error
        return entry.code_location.get_repository("__repository__")

    # --- what is stale -------------------------------------------------------------------------------------------

    def stale(self) -> set[tuple[str, str]]:
        """(asset, partition) of what is there and out of date."""
        return self._with_status(StaleStatus.STALE)

    def missing(self) -> set[tuple[str, str]]:
        """(asset, partition) of what is not there."""
        return self._with_status(StaleStatus.MISSING)

    def _with_status(self, wanted: StaleStatus) -> set[tuple[str, str]]:
        resolver = CachingStaleStatusResolver(
            self.instance,
            toy_definitions.defs.get_repository_def().asset_graph,
            LoadingContextForTest(self.instance),
        )
        return {
            (key.to_user_string(), partition)
            for asset in ASSETS
            for key in asset.keys
            for partition in PARTITIONS
            if resolver.get_status(key, partition) == wanted
        }
