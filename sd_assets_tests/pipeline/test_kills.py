"""Real runs that are killed at random moments end in the tables of a run that nobody disturbed, and do nothing twice."""

import asyncio
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
import yaml

from sd_assets import catalog
from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.demo import server
from sd_assets.demo.server import WorldServer
from sd_assets.demo.world import World, WorldSpec, build_world
from sd_assets.models.clip import ClipEncoder
from sd_assets.schemas import DOWNLOADED_IMAGES, TABLES
from sd_assets.settings import ClipSettings
from sd_assets.storage.area import Manifest
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.shards import sha256
from sd_assets.storage.table import Table, TableStore
from sd_assets_tests.pipeline.conftest import CLIP, PROJECT
from sd_assets_tests.pipeline.test_demo import NAMES
from sd_assets_tests.pipeline.webserver import ENDED, waited

pytestmark = pytest.mark.timeout(900)

PARTITION = "rooms"
KILLS = 14
MODULE = "sd_assets.definitions"
EXECUTABLES = Path(sys.executable).parent
SECONDS_PER_ANSWER = 0.1

# Everything that a run imports is imported once; each run is a process forked from this one. Finished downloads are
# recorded five times a second: with as few as here, a kill would otherwise always come before the first record.
NURSERY = """
import json, os, sys
import aiohttp, faiss, open_clip, pandas, torch, torchvision, transformers
from transformers import BlipForConditionalGeneration, BlipProcessor
import sd_assets.automation.launch, sd_assets.automation.summary, sd_assets.download.downloader, sd_assets.models.captioner
from sd_assets.__main__ import main
from sd_assets.storage import staging

staging.FLUSH_SECONDS = 0.2
print("ready", flush=True)
for line in sys.stdin:
    changes, log = json.loads(line)
    os.environ.update(changes)
    process = os.fork()
    if process == 0:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.argv = ["sd_assets", "build", "rooms"]
        os._exit(main())
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


class Web(WorldServer):
    """The world's server, somewhat slow, without the faults that take long or may pass; counts requests by path."""

    _LASTING = ("access_denied", "not_found", "not_an_image", "corrupt_image", "too_large", "opted_out")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._faults = {path: kind for path, kind in self._faults.items() if kind in self._LASTING}
        self.asked: Counter[str] = Counter()
        self.is_held = False

    async def _answer(self, writer: asyncio.StreamWriter, *asked: Any) -> None:
        await asyncio.sleep(SECONDS_PER_ANSWER)
        while self.is_held:
            await asyncio.sleep(SECONDS_PER_ANSWER)
        await super()._answer(writer, *asked)

    def _file(self, path: str) -> tuple[bytes, dict[str, str]] | None:
        self.asked[f"{self.world.base_url}{path}"] += 1
        return super()._file(path)


class Source:
    """The entry of the catalogue, and what it is made from; edited between runs."""

    def __init__(self, folder: Path, world: World) -> None:
        self.catalog = folder / "catalogue.yaml"
        self._world = world
        self._seeds = folder / "seeds"
        shutil.copytree(world.seeds_folder, self._seeds)
        (self._seeds / "broken.jpg").write_bytes(b"no image")
        self._removed: list[Path] = []
        self._prompts = [f"a {colour} {it}" for colour in ("red", "blue") for it in ("sofa", "lamp")]
        self._tokens = 20
        self._write()

    def edit(self, rng: random.Random) -> None:
        """A prompt more and a seed less or back, or, every now and then, other captions."""
        if rng.random() < 0.3:
            self._tokens = 50 - self._tokens
        else:
            self._prompts.insert(
                rng.randrange(len(self._prompts)), f"a room of {rng.randrange(1_000)} chairs"
            )
            if len(self._removed) > 2 or (self._removed and rng.random() < 0.5):
                path = self._removed.pop()
                path.rename(self._seeds / path.name)
            else:
                path = rng.choice([it for it in sorted(self._seeds.iterdir()) if it.suffix != ".jsonl"])
                self._removed.append(path.rename(self.catalog.with_name(path.name)))
        self._write()

    def more_prompts(self, count: int) -> None:
        self._prompts += [f"a green shelf with {number} mirrors" for number in range(count)]
        self._write()

    def _write(self) -> None:
        texts = (self._world.seeds_folder / "metadata.jsonl").read_text().splitlines(keepends=True)
        there = [line for line in texts if (self._seeds / json.loads(line)["file_name"]).exists()]
        (self._seeds / "metadata.jsonl").write_text("".join(there))
        entry = {
            "source": {"kind": "folder", "path": str(self._seeds)},
            "prompts": {"texts": self._prompts},
            "clip": {"model": f"local-dir:{CLIP}"},
            "captioner": {"model": f"{CLIP.parent / 'blip'}", "max_new_tokens": self._tokens},
            "retrieval": {"index": "demo", "images_per_query": 12},
            "download": {
                "image_size": 128,
                "timeout_s": 120,
                "retries": 0,
                "connections": 6,
                "allow_addresses": ["127.0.0.1"],
            },
        }
        indices = {"demo": {"kind": "faiss", "path": str(self._world.index_folder)}}
        written = yaml.safe_dump({"indices": indices, "seed_datasets": {PARTITION: entry}})
        self.catalog.write_text(written)


class Runs:
    """Runs of the partition, one at a time, each the process of a `python -m sd_assets build`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._log = folder / "runs.log"
        self._nursery = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            cwd=PROJECT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def start(self, data: Path, **environment: str) -> int:
        """Start a run; the id of its process. What it says is in `output` when it has ended."""
        self._log.unlink(missing_ok=True)
        assert self._nursery.stdin is not None
        request = [{"SD_ASSETS_DATA": str(data), **environment}, str(self._log)]
        print(json.dumps(request), file=self._nursery.stdin, flush=True)
        return int(self._answer())

    def ended(self) -> int:
        """The exit status of the run, once it has ended."""
        return int(self._answer())

    @property
    def output(self) -> str:
        return self._log.read_text()

    def killed(self, data: Path, after_s: float) -> bool:
        """Start a run and kill it; False if it had succeeded by then."""
        process = self.start(data)
        assert self._nursery.stdout is not None
        ended, _, _ = select.select([self._nursery.stdout], [], [], after_s)
        if not ended:
            os.kill(process, signal.SIGKILL)
        status = self.ended()
        assert status in (0, -signal.SIGKILL), self.output
        return status != 0

    def finished(self, data: Path) -> float:
        """A run that nobody disturbs; the seconds that it took."""
        started = time.monotonic()
        self.start(data)
        assert self.ended() == 0, self.output
        return time.monotonic() - started

    def end(self) -> None:
        self._nursery.communicate(timeout=60)

    def _answer(self) -> str:
        assert self._nursery.stdout is not None
        return self._nursery.stdout.readline().strip()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("web") / "world"
    encoder = ClipEncoder(ClipSettings(model=f"local-dir:{CLIP}"))
    spec = WorldSpec(seeds=6, images=90, faults_per_kind=1, flaws_per_kind=1, images_per_query=12)
    build_world(folder, 2511, encoder, progress=lambda line: None, spec=spec)
    web = Web(folder)
    with web:
        yield web


@pytest.fixture
def source(tmp_path: Path, web: Web) -> Source:
    return Source(tmp_path, web.world)


def new_home(folder: Path) -> str:
    """A folder of an instance as the project configures it, but that the slot of a dead run is free at once."""
    folder.mkdir()
    written = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    written["run_monitoring"] |= {"free_slots_after_run_end_seconds": 1, "poll_interval_seconds": 1}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(written))
    return str(folder)


@pytest.fixture
def environment(tmp_path: Path, source: Source) -> dict[str, str]:
    return {
        "DAGSTER_HOME": new_home(tmp_path / "home"),
        "SD_ASSETS_DATA": str(tmp_path / "killed"),
        catalog.CATALOG_VARIABLE: str(source.catalog),
    }


@pytest.fixture
def runs(tmp_path: Path, environment: dict[str, str]) -> Iterator[Runs]:
    runs = Runs(tmp_path, environment)
    yield runs
    runs.end()


def kept_versions(data: Path) -> dict[tuple[str, int], Manifest]:
    """By asset and number every version that is kept, after a look at each of its bytes and rows."""
    found = {}
    for name in NAMES:
        area = TableStore(LocalFiles(data)).area(name, PARTITION)
        for manifest in area.kept():
            for shard in manifest.shards:
                with area.open_shard(shard) as file:
                    assert sha256(file.read()) == shard.sha256
            rows = Table(area, manifest).read()
            assert len(rows) == sum(shard.rows for shard in manifest.shards)
            found[name, manifest.version] = manifest
    return found


def still_there(before: dict[tuple[str, int], Manifest], data: Path) -> dict[tuple[str, int], Manifest]:
    """The kept versions: what was current before is kept as it was, and what came after it is whole."""
    after = kept_versions(data)
    for name in NAMES:
        numbers = [number for asset, number in before if asset == name]
        if numbers:
            current = (name, max(numbers))
            assert after[current] == before[current]
    for name, number in after:
        if (name, number + 1) not in after:
            assert_no_row_twice(data, name, after[name, number])
    return after


def assert_no_row_twice(data: Path, name: str, manifest: Manifest) -> None:
    """Through the eyes of who reads the folder, once the current version was opened."""
    table = TableStore(LocalFiles(data)).open(name, PARTITION)
    assert table.manifest == manifest
    rows = pq.read_table(data / name / PARTITION)
    assert len(rows) == table.num_rows
    (schema,) = (schema for schema in TABLES if schema.name == name)
    keys = [tuple(row.values()) for row in rows.select(schema.key).to_pylist()]
    present = [row for row in keys if None not in row]
    assert len(set(present)) == len(present)


def finished_downloads(data: Path) -> set[str]:
    """The URLs whose download is kept, in a version or as work in progress."""
    area = TableStore(LocalFiles(data)).area("downloaded_images", PARTITION)
    urls: set[str] = set()
    for shard in (*(shard for manifest in area.kept() for shard in manifest.shards), *area.wip()):
        with area.open_shard(shard) as file:
            urls.update(pq.read_table(file, columns=["url"]).column("url").to_pylist())
    return urls


# Columns that say of a row when it was computed, and where it stood in the source then.
OF_ITS_TIME = {"seed_images": {"source_row"}, "downloaded_images": DOWNLOADED_IMAGES.bookkeeping}


def contents(data: Path) -> dict[str, Any]:
    """Of each table the files of its folder, byte for byte; of two the rows, without what is of its time."""
    found: dict[str, Any] = {}
    for name in NAMES:
        if name in OF_ITS_TIME:
            table = TableStore(LocalFiles(data)).open(name, PARTITION)
            found[name] = table.read(
                [it for it in table.schema.names if it not in OF_ITS_TIME[name]]
            ).to_pylist()
        else:
            found[name] = {path.name: path.read_bytes() for path in (data / name / PARTITION).iterdir()}
    return found


def assert_same(data: Path, clean: Path) -> None:
    """What a run left that was killed again and again is what an undisturbed one makes of the same source."""
    found, wanted = contents(data), contents(clean)
    for name in NAMES:
        assert found[name] == wanted[name], name


def test_a_run_that_is_killed_at_any_moment(
    runs: Runs, source: Source, web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(4)
    seconds = runs.finished(tmp_path / "first")
    once = dict(web.asked)
    assert set(once.values()) == {1} and len(once) > 40
    data = tmp_path / "killed"
    halfway = tmp_path / "halfway"
    kills = completed = spared = 0
    before = kept_versions(data)
    while kills < KILLS:
        web.asked.clear()
        finished = finished_downloads(data)
        if runs.killed(data, rng.uniform(0, seconds)):
            kills += 1
        else:
            completed += 1
        assert not finished & set(web.asked), "a download that was kept was asked for again"
        assert not [url for url, times in web.asked.items() if times > 1]
        spared += len(finished)
        before = still_there(before, data)
        if kills == KILLS // 2 and not halfway.exists():
            runs.finished(data)
            runs.finished(halfway)
            assert_same(data, halfway)
            before = still_there(before, data)
            source.edit(rng)
        elif rng.random() < 0.3:
            source.edit(rng)
    runs.finished(data)
    runs.finished(tmp_path / "clean")
    assert_same(data, tmp_path / "clean")
    # Nothing is left to do.
    web.asked.clear()
    runs.finished(data)
    assert not web.asked
    for name in NAMES:
        report = TableStore(LocalFiles(data)).area(name, PARTITION).last_run()
        assert report["rows_reused"] == report["rows_ok"] + report["rows_failed"], name
    with capsys.disabled():
        print(
            f"\n{kills} kills of runs of {seconds:.1f} s, {completed} ended before, {spared} downloads spared"
        )
    assert spared


def test_two_runs_of_a_partition_at_once(
    runs: Runs,
    source: Source,
    web: Web,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "LONGEST_ANSWER_S", 120.0)
    data = tmp_path / "data"
    leases = data / "_sd_assets" / "downloaded_images" / PARTITION / "leases"
    (tmp_path / "late").mkdir()
    late = Runs(tmp_path / "late", environment)
    web.is_held = True
    try:
        runs.start(data)
        waited(lambda: len(list(leases.glob("*.json"))) == 1, 60, "the downloads of the first run")
        # Of one instance the second run does not even begin.
        late.start(data)
        assert late.ended() == 1
        assert "is not finished" in late.output and "Traceback" not in late.output
        # Of another one it does, on a source that has changed meanwhile.
        source.more_prompts(4)
        late.start(data, DAGSTER_HOME=new_home(tmp_path / "other"))
        waited(lambda: len(list(leases.glob("*.json"))) == 2, 60, "the downloads of both")
    finally:
        web.is_held = False
    statuses = {runs.ended(): runs.output, late.ended(): late.output}
    assert set(statuses) == {0, 1}, statuses
    errors = [line for line in statuses[1].splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "Traceback" not in statuses[1]
    assert errors[0].startswith("error: downloaded_images: ")
    assert "committed version 1 at" in errors[0] and "run again" in errors[0]
    # What either had downloaded is there for the next.
    web.asked.clear()
    late.finished(data)
    assert not web.asked
    late.finished(tmp_path / "clean")
    assert_same(data, tmp_path / "clean")
    late.end()


class Daemon:
    """A `dagster-daemon run`, which launches runs, and what these do on its instance."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.log = folder / "daemon.log"
        self._environment = {**os.environ, **environment}
        self.instance = dg.DagsterInstance.from_config(environment["DAGSTER_HOME"])
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [EXECUTABLES / "dagster-daemon", "run", "-m", MODULE],
                cwd=PROJECT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)

    def kill(self) -> None:
        """The daemon alone, not the runs that it launched."""
        self._processes[-1].kill()
        self._processes[-1].wait()

    def launch(self) -> str:
        """Ask the daemon for a run of the partition, which it is not to try again; its id."""
        run_id = str(uuid.uuid4())
        tags = json.dumps({"dagster/partition": PARTITION, "dagster/max_retries": "0"})
        target = ["-m", MODULE, "-j", BUILD_DATASET, "--tags", tags, "--run-id", run_id]
        subprocess.run(
            [EXECUTABLES / "dagster", "job", "launch", *target],
            cwd=PROJECT,
            env=self._environment,
            check=True,
            capture_output=True,
        )
        return run_id

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def ended(self, run_id: str) -> dg.DagsterRunStatus:
        waited(lambda: self.status(run_id).value in ENDED, 240, f"the end of run {run_id}")
        return self.status(run_id)

    def worker(self, run_id: str) -> int:
        """The id of the process of a run, once it works."""
        return self._pid(run_id, dg.DagsterEventType.ENGINE_EVENT, lambda pid: True)

    def step(self, run_id: str) -> int:
        """The id of the process of a step that is being worked on."""
        return self._pid(run_id, dg.DagsterEventType.STEP_WORKER_STARTED, is_alive)

    def end(self) -> None:
        self.instance.dispose()
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _pid(self, run_id: str, event_type: dg.DagsterEventType, wanted: Callable[[int], bool]) -> int:
        def found() -> int | None:
            for entry in reversed(self.instance.all_logs(run_id, of_type=event_type)):
                assert entry.dagster_event is not None
                data: Any = entry.dagster_event.event_specific_data
                pid = data.metadata.get("pid")
                if pid is not None and wanted(int(pid.value)):
                    return int(pid.value)
            return None

        pid: int = waited(found, 120, f"a process of run {run_id}")
        return pid

    def __repr__(self) -> str:
        return self.log.read_text()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def daemon(tmp_path: Path, environment: dict[str, str]) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, environment)
    yield daemon
    daemon.end()


def test_a_step_a_run_and_the_daemon_are_killed(daemon: Daemon, runs: Runs, tmp_path: Path) -> None:
    rng = random.Random(5)
    data = tmp_path / "killed"
    before = kept_versions(data)

    first = daemon.launch()
    daemon.worker(first)
    time.sleep(rng.uniform(0, 10))
    os.kill(daemon.step(first), signal.SIGKILL)
    assert daemon.ended(first) is dg.DagsterRunStatus.FAILURE
    before = still_there(before, data)

    second = daemon.launch()
    worker = daemon.worker(second)
    time.sleep(rng.uniform(0, 10))
    os.kill(worker, signal.SIGKILL)
    assert daemon.ended(second) is dg.DagsterRunStatus.FAILURE
    before = still_there(before, data)

    third = daemon.launch()
    daemon.worker(third)
    time.sleep(rng.uniform(0, 10))
    daemon.kill()
    daemon.start()
    assert daemon.ended(third) is dg.DagsterRunStatus.SUCCESS
    still_there(before, data)
    runs.finished(tmp_path / "clean")
    assert_same(data, tmp_path / "clean")
