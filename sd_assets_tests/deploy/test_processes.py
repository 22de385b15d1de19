"""deploy/processes: PostgreSQL, code server, daemon and webservers as separate processes, from the files as they are."""

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sd_assets.catalog import CATALOG_VARIABLE
from sd_assets.resources.storage import DATA_VARIABLE
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.automation import toy_definitions
from sd_assets_tests.deploy import postgres
from sd_assets_tests.deploy.supervisor import FOLDER, PROJECT, Service, unit
from sd_assets_tests.download.misbehaving import Server, answer
from sd_assets_tests.listening import addresses
from sd_assets_tests.optional import missing
from sd_assets_tests.pipeline.webserver import ENDED, Webserver, waited
from sd_assets_tests.sources.conftest import picture

HELD, QUICK = "held", "quick"
SERVICES = ("code-server", "daemon", "webserver", "viewer")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is of Linux")

RUN = (FOLDER / "run").read_text()
EXAMPLE = (FOLDER / "sd_assets.env.example").read_text()


class Held:
    """A picture that is not sent before it is released."""

    def __init__(self) -> None:
        self.is_released = False

    async def __call__(self, writer: asyncio.StreamWriter, headers: dict[str, str]) -> None:
        while not self.is_released:
            await asyncio.sleep(0.05)
        await answer(body=picture(0), Content_Type="image/jpeg")(writer, headers)


@dataclass(frozen=True)
class Deployment:
    """All processes of a deployment.

    Attributes:
        database: that it keeps everything in.
        services: by name.
        web: the webserver.
        viewer: the one that can change nothing.
        pictures: the web, with one picture at `/0.jpg`.
        held: that picture.
        ports: by the variable that names them.
        home: the folder of Dagster's instance.
        data: the folder of the tables.
    """

    database: postgres.Database
    services: dict[str, Service]
    web: Webserver
    viewer: Webserver
    pictures: Server
    held: Held
    ports: dict[str, int]
    home: Path
    data: Path


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def write_catalog(folder: Path, url: str) -> Path:
    """One partition whose only seed is at `url`, and one of a prompt."""
    (folder / "urls.txt").write_text(url)
    entries: dict[str, Any] = {
        HELD: {"source": {"kind": "urls", "path": "urls.txt"}},
        QUICK: {"prompts": {"texts": ["a lamp"]}},
    }
    catalog: dict[str, Any] = {
        "defaults": {
            "clip": {"model": "toy", "pretrained": "toy"},
            "captioner": {"model": "toy"},
            "retrieval": {"index": "toy"},
            "download": {"timeout_s": 60, "retries": 0, "allow_addresses": ["127.0.0.1"]},
        },
        "indices": {"toy": {"kind": "faiss", "path": "index"}},
        "seed_datasets": entries,
    }
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(catalog))
    return path


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    if postgres.programs() is None:
        missing("PostgreSQL", postgres.REMEDY)
    folder = tmp_path_factory.mktemp("deployment")
    names = ("DAGSTER_PG_PORT", "SD_ASSETS_CODE_PORT", "SD_ASSETS_WEB_PORT", "SD_ASSETS_VIEWER_PORT")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with Server() as pictures, postgres.serving(ports["DAGSTER_PG_PORT"]) as database:
        held = pictures.paths["/0.jpg"] = Held()
        environment = {
            **{name: str(port) for name, port in ports.items()},
            "DAGSTER_PG_PASSWORD": database.password,
            "DAGSTER_HOME": str(folder / "home"),
            "SD_ASSETS_BIN": str(Path(sys.executable).parent),
            "SD_ASSETS_DEFINITIONS": toy_definitions.__name__,
            CATALOG_VARIABLE: str(write_catalog(folder, pictures.url("/0.jpg"))),
            DATA_VARIABLE: str(folder / "data"),
        }
        services = {name: Service(name, environment, folder) for name in SERVICES}
        web, viewer = Webserver(ports["SD_ASSETS_WEB_PORT"]), Webserver(ports["SD_ASSETS_VIEWER_PORT"])
        try:
            waited(web.is_up, 60, "the webserver")
            waited(lambda: web.ask(_LOADED)["repositoriesOrError"].get("nodes"), 60, "the definitions")
            home, data = folder / "home", folder / "data"
            yield Deployment(database, services, web, viewer, pictures, held, ports, home, data)
        finally:
            for service in services.values():
                service.sweep()
                print(f"--- {service.name}\n{service.log.read_text()[-5000:]}")


_LOADED = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"


def rows(deployment: Deployment, asset: str, partition: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        TableStore(LocalFiles(deployment.data)).open(asset, partition).read().to_pylist()
    )
    return found


def launched(web: Webserver) -> str | None:
    """The id of a new run; None as long as the code server cannot say what to run."""
    try:
        return web.launch("__ASSET_JOB", QUICK, ["seed_prompts"])
    except AssertionError:
        return None


@pytest.mark.postgres
def test_killed_processes_are_started_again_and_runs_go_on(deployment: Deployment) -> None:
    web, services = deployment.web, deployment.services
    run = web.launch("__ASSET_JOB", HELD, ["seed_images"])
    in_the_middle = "a run that is in the middle of its work"
    waited(
        lambda: deployment.pictures.requests["/0.jpg"] or web.runs(runIds=[run])[0]["status"] in ENDED,
        90,
        in_the_middle,
    )
    assert deployment.pictures.requests["/0.jpg"] == 1

    services["code-server"].kill()
    services["daemon"].kill()
    waited(lambda: len(services["code-server"].pids) == len(services["daemon"].pids) == 2, 30, "the restarts")
    deployment.held.is_released = True
    # The run outlived the code server that had started it, and was not started a second time.
    assert web.ended(1, runIds=[run]) == {HELD: "SUCCESS"}
    assert deployment.pictures.requests["/0.jpg"] == 1
    (seed,) = rows(deployment, "seed_images", HELD)
    assert seed["image"] == picture(0)

    # The daemon takes what was launched from the queue, and the code server starts it.
    run = waited(lambda: launched(web), 60, "a code server that has loaded the definitions")
    assert web.ended(1, runIds=[run]) == {QUICK: "SUCCESS"}
    (prompt,) = rows(deployment, "seed_prompts", QUICK)
    assert prompt["prompt"] == "a lamp"

    # All of it is in PostgreSQL, and none in a file.
    stored = deployment.database.rows(
        "SELECT run_id, asset_key, partition FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
    )
    assert (run, '["seed_prompts"]', QUICK) in stored
    assert {partition for _, key, partition in stored if key == '["seed_images"]'} == {HELD}
    assert not [path for path in deployment.home.rglob("*") if "db" in path.suffix]


@pytest.mark.postgres
def test_nothing_listens_beyond_this_machine(deployment: Deployment) -> None:
    waited(deployment.viewer.is_up, 60, "the viewers' webserver")
    where = {name: addresses(port) for name, port in deployment.ports.items()}
    assert all(found == {"127.0.0.1"} for found in where.values()), where


@pytest.mark.postgres
def test_a_viewer_sees_all_and_changes_nothing(deployment: Deployment) -> None:
    waited(deployment.viewer.is_up, 60, "the viewers' webserver")
    assert {"path": ["seed_prompts"]} in deployment.viewer.assets()
    before = deployment.web.runs()
    with pytest.raises(AssertionError, match="UnauthorizedError"):
        deployment.viewer.launch("__ASSET_JOB", QUICK, ["seed_prompts"])
    assert deployment.web.runs() == before


@pytest.mark.postgres
def test_all_processes_end_when_told_to(deployment: Deployment) -> None:
    assert {name: service.stop() for name, service in reversed(deployment.services.items())} == dict.fromkeys(
        deployment.services, 0
    )
    assert not addresses(deployment.ports["SD_ASSETS_WEB_PORT"])


@pytest.mark.parametrize("what", [[], ["webserver"], ["nonsense"]], ids=" ".join)
def test_what_is_missing_is_said(what: list[str], tmp_path: Path) -> None:
    password = {} if what == ["webserver"] else {"DAGSTER_PG_PASSWORD": "x"}
    environment = {"PATH": "/usr/bin:/bin", "DAGSTER_HOME": str(tmp_path / "home"), **password}
    done = subprocess.run([FOLDER / "run", *what], env=environment, capture_output=True, text=True)
    assert done.returncode
    (line,) = done.stderr.splitlines()
    said = (
        "DAGSTER_PG_PASSWORD: is not set: the password of the PostgreSQL user dagster"
        if not password
        else "usage: "
    )
    assert said in line


def test_the_example_shows_every_default_and_no_secret() -> None:
    defaults = dict(re.findall(r"\$\{(\w+):-([^}$]+)\}", RUN))
    shown = dict(re.findall(r"^#?([A-Z_0-9]+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert len(defaults) > 8
    assert {name: shown.get(name) for name in defaults} == defaults
    secret = [name for name in shown if re.search("PASSWORD|SECRET|TOKEN|KEY", name)]
    assert "DAGSTER_PG_PASSWORD" in secret
    assert {shown[name] for name in secret} == {""}


def test_the_example_needs_no_more_than_the_password() -> None:
    given = dict(re.findall(r"^([A-Z_0-9]+)=(.*)$", EXAMPLE, re.MULTILINE))
    state = Path("/var/lib") / unit()["StateDirectory"]
    assert given.pop("DAGSTER_PG_PASSWORD") == ""
    # The service's user may write there, and there only.
    assert all(Path(path).is_relative_to(state) for path in given.values())
    assert set(given) == {"DAGSTER_HOME", DATA_VARIABLE}


def test_what_ends_the_code_server_ends_no_run() -> None:
    service = unit()
    assert service["KillMode"] == "process"
    # Of the control group one is killed for want of memory: by default systemd would stop all of it.
    assert service["OOMPolicy"] == "continue"
    # systemd deletes a private /tmp when the main process ends.
    assert not service.getboolean("PrivateTmp")


def test_the_instance_is_configured_as_the_project_s_but_for_its_storage() -> None:
    ours, shipped = (yaml.safe_load((folder / "dagster.yaml").read_text()) for folder in (FOLDER, PROJECT))
    assert set(ours.pop("storage")) == {"postgres"}
    assert ours == shipped
