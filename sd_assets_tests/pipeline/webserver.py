"""The GraphQL API of a Dagster webserver, as far as its UI needs it: launching runs, and seeing what became of them."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

LOCATION = {"repositoryLocationName": "sd_assets", "repositoryName": "__repository__"}
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}

_ASSETS = "{ assetNodes { assetKey { path } isMaterializable } }"
_LAUNCH = """
mutation($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
_BACKFILL = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
_RUNS = """
query($filter: RunsFilter!) {
  runsOrError(filter: $filter) { ... on Runs { results { runId status tags { key value } } } }
}
"""
_CHECK = """
query($asset: AssetKeyInput!, $check: String!) {
  assetCheckExecutions(assetKey: $asset, checkName: $check, limit: 1) {
    runId status partition evaluation { severity description }
  }
}
"""
_STALE = """
query($asset: AssetKeyInput!, $partition: String!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode { staleStatus(partition: $partition) } }
}
"""
_STEPS = """
query($run: ID!) { runOrError(runId: $run) { ... on Run { stepStats { stepKey status } } } }
"""


class Webserver:
    """A running webserver on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data that a query or mutation answers; an answer without data fails the test."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.loads(response.read())
        data: dict[str, Any] | None = answer.get("data")
        assert data is not None and not answer.get("errors"), answer
        return data

    def is_up(self) -> bool:
        try:
            self.ask("{ version }")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    def assets(self) -> list[dict[str, Any]]:
        """The keys of all assets that can be materialized, as the API takes and gives them."""
        nodes = self.ask(_ASSETS)["assetNodes"]
        return [{"path": node["assetKey"]["path"]} for node in nodes if node["isMaterializable"]]

    def launch(self, job: str, partition: str, assets: Sequence[str] | None = None) -> str:
        """Launch a run of a job for a partition, as *Materialize* does; returns its id.

        Args:
            job: its name.
            partition: the key.
            assets: of the job, with their checks; None for all.
        """
        selection = None if assets is None else [{"path": [name]} for name in assets]
        params = {
            "selector": {**LOCATION, "jobName": job, "assetSelection": selection},
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        }
        answer = self.ask(_LAUNCH, params=params)["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        run_id: str = answer["run"]["runId"]
        return run_id

    def backfill(self, partitions: Sequence[str]) -> str:
        """Launch a backfill of all assets; returns its id."""
        params = {"assetSelection": self.assets(), "partitionNames": list(partitions)}
        answer = self.ask(_BACKFILL, params=params)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        backfill_id: str = answer["backfillId"]
        return backfill_id

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        """Runs with their `runId`, `status` and `tags`. `wanted`: a RunsFilter of the API."""
        runs: list[dict[str, Any]] = self.ask(_RUNS, filter=wanted)["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in runs]

    def ended(self, count: int, **wanted: Any) -> dict[str, str]:
        """Wait until there are `count` such runs and all have ended; returns their status by partition."""

        def all_ended() -> list[dict[str, Any]] | None:
            runs = self.runs(**wanted)
            return runs if len(runs) == count and all(run["status"] in ENDED for run in runs) else None

        runs = waited(all_ended, 400, f"the end of {count} runs of {wanted}")
        return {run["tags"]["dagster/partition"]: run["status"] for run in runs}

    def steps(self, run_id: str) -> dict[str, str]:
        """The status of each step that a run began, by its key."""
        stats = self.ask(_STEPS, run=run_id)["runOrError"]["stepStats"]
        return {step["stepKey"]: step["status"] for step in stats}

    def stale_status(self, asset: str, partition: str) -> str:
        """FRESH, STALE or MISSING, as the UI shows it."""
        found = self.ask(_STALE, asset={"path": [asset]}, partition=partition)["assetNodeOrError"]
        status: str = found["staleStatus"]
        return status

    def last_check(self, asset: str, check: str) -> dict[str, Any]:
        """What a check of an asset last said: `runId`, `status`, `partition` and `evaluation`."""
        found = self.ask(_CHECK, asset={"path": [asset]}, check=check)["assetCheckExecutions"]
        assert found, f"{check} of {asset} never ran"
        last: dict[str, Any] = found[0]
        return last


def waited(probe: Callable[[], T | None], seconds: float, what: str) -> T:
    """What `probe` gives as soon as it gives something; failing the test if that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.5)
    return found
