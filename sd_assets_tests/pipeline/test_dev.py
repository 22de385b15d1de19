"""`make dev`: a real webserver and daemon; a demo partition is materialized from the UI's own API."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.pipeline.conftest import PROJECT
from sd_assets_tests.pipeline.test_demo import NAMES

LAUNCH = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
RUNS = "{ runsOrError { ... on Runs { results { runId status } } } }"


class Ui:
    """The GraphQL API of a webserver."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            data: dict[str, Any] = json.loads(answer.read())["data"]
        return data

    def wait_until_up(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.ask("{ version }")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert time.monotonic() < deadline, "the webserver did not come up"
                time.sleep(0.5)


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[Ui]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", home)
    environment = {
        "DAGSTER_HOME": str(home),
        "SD_ASSETS_DATA": str(tmp_path / "data"),
        "SD_ASSETS_DEMO": str(tmp_path / "world"),
    }
    with (tmp_path / "dev.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sd_assets.demo", "dev", "--port", str(port)],
            cwd=PROJECT,
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        ui = Ui(port)
        ui.wait_until_up(240)
        yield ui
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        print((tmp_path / "dev.log").read_text())


@pytest.mark.timeout(900)
def test_a_demo_partition_is_materialized_from_the_ui(ui: Ui, tmp_path: Path) -> None:
    selection = [{"path": [name]} for name in NAMES]
    answer = ui.ask(LAUNCH, params={"assetSelection": selection, "partitionNames": ["demo_prompts"]})
    assert answer["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", answer
    deadline = time.monotonic() + 400
    statuses: list[str] = []
    while not statuses or set(statuses) - {"SUCCESS", "FAILURE", "CANCELED"}:
        assert time.monotonic() < deadline, statuses
        time.sleep(2)
        statuses = [run["status"] for run in ui.ask(RUNS)["runsOrError"]["results"]]
    assert statuses == ["SUCCESS"]
    store = TableStore(LocalFiles(tmp_path / "data"))
    assert store.open("text_image_pairs", "demo_prompts").num_rows > 50
