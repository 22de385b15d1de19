"""What is pushed to the Hub is refreshed, and nothing else: real ticks, a real Hub's protocol, a real instance."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import TickStatus

from sd_assets.assets.catalog_entry import catalog_entry
from sd_assets.assets.hub_revision import hub_revision
from sd_assets.assets.seed_images import seed_images
from sd_assets.automation.sensors import hub_revisions
from sd_assets.resources.catalog import CatalogResource
from sd_assets_tests.automation.project import PARTITIONS, Project
from sd_assets_tests.automation.toy_definitions import defs
from sd_assets_tests.hub.repos import Repo
from sd_assets_tests.hub.server import READER, Hub
from sd_assets_tests.sources.hub_data import SHARD, pictures

FIRST, SECOND, THIRD, OF_PROMPTS = PARTITIONS[:4]
SEEDS_ONLY = [catalog_entry, hub_revision, seed_images]
SENSOR = hub_revisions.name


def of_hub(id: str, **fields: Any) -> dict[str, Any]:
    return {"source": {"kind": "hub", "id": id, **fields}}


@pytest.fixture
def repos(project: Project, hub: Hub) -> dict[str, Repo]:
    """A Hub dataset behind each of the first two partitions, which are built as far as their seeds."""
    repos = {name: hub.dataset(f"org/{name}", {SHARD: pictures(2)}) for name in (FIRST, SECOND)}
    project.write(**{name: of_hub(repo.id) for name, repo in repos.items()})
    project.build(FIRST, SECOND, only=SEEDS_ONLY)
    return repos


def tick(project: Project) -> list[str]:
    """The partitions that a tick starts."""
    return project.started_by(project.sensor_tick(SENSOR))


def test_it_waits_until_somebody_starts_it() -> None:
    assert defs.get_repository_def().get_sensor_def(SENSOR).default_status is dg.DefaultSensorStatus.STOPPED


STATUS = """
query($asset: AssetKeyInput!, $partition: String!) {
  assetNodeOrError(assetKey: $asset) {
    ... on AssetNode { staleStatus(partition: $partition) staleCauses(partition: $partition) { key { path } reason } }
  }
}
"""


def in_the_ui(project: Project, asset: str, partition: str) -> dict[str, Any]:
    found: dict[str, Any] = project.ask(STATUS, asset={"path": [asset]}, partition=partition)
    return dict(found["assetNodeOrError"])


def test_a_push_refreshes_its_partition_and_no_other(
    project: Project, hub: Hub, repos: dict[str, Repo]
) -> None:
    third = hub.dataset("org/third", {SHARD: pictures(2)})
    project.write(**{THIRD: of_hub(third.id)})
    missing = project.missing()
    assert missing >= {("seed_images", THIRD), ("image_captions", FIRST)}
    project.start(SENSOR)
    # Built of what the Hub has, or never built: nothing to do.
    assert tick(project) == []
    assert project.stale() == set()

    second = repos[FIRST].push({SHARD: pictures(3)})
    third.push({SHARD: pictures(4)})
    found = project.sensor_tick(SENSOR)
    assert (found.status, project.started_by(found)) == (TickStatus.SUCCESS, [FIRST])
    assert f"the Hub has {second} now" in project.log_of(found)
    # Before the run, and shown as such.
    assert project.stale() == {("seed_images", FIRST)}
    assert in_the_ui(project, "seed_images", FIRST) == {
        "staleStatus": "STALE",
        "staleCauses": [{"key": {"path": ["hub_revision"]}, "reason": "has a new data version"}],
    }
    assert in_the_ui(project, "seed_images", SECOND)["staleStatus"] == "FRESH"
    assert in_the_ui(project, "seed_images", THIRD)["staleStatus"] == "MISSING"
    # One commit, one run.
    assert tick(project) == []

    assert project.run_queued() == {FIRST: "SUCCESS"}
    assert project.column("seed_images", FIRST, "text") == ["text 0", "text 1", "text 2"]
    assert project.column("seed_images", FIRST, "source_revision")[-1] == second
    assert project.column("seed_images", SECOND, "text") == ["text 0", "text 1"]
    assert project.stale() == set()
    assert project.missing() == {it for it in missing if it[1] != FIRST}
    assert tick(project) == []


def test_what_was_not_pushed_to_is_not_read_again(project: Project, hub: Hub, repos: dict[str, Repo]) -> None:
    hub.requests.clear()
    project.build(FIRST, only=SEEDS_ONLY)
    # The commit, and not one file.
    assert {request.what for request in hub.requests} == {"info"}
    report = project.report("seed_images", FIRST)
    assert (report["rows_in"], report["rows_ok"], report["rows_reused"]) == (2, 2, 2)
    assert project.stale() == set()
    # Read in another way, it is read.
    project.write(**{FIRST: of_hub(repos[FIRST].id, text_column="")})
    project.build(FIRST, only=SEEDS_ONLY)
    assert project.column("seed_images", FIRST, "text") == [None, None]


def test_what_was_pushed_before_the_sensor_was_started(project: Project, repos: dict[str, Repo]) -> None:
    repos[SECOND].push({SHARD: pictures(3)})
    project.start(SENSOR)
    assert tick(project) == [SECOND]


def test_what_was_built_without_asking_for_the_commit_is_run_once(
    project: Project, hub: Hub, repos: dict[str, Repo]
) -> None:
    project.write(**{THIRD: of_hub(repos[FIRST].id)})
    # As it was before there was this asset: Dagster cannot tell what these seeds were made of.
    project.build(THIRD, only=[seed_images])
    project.start(SENSOR)
    assert tick(project) == [THIRD]
    assert tick(project) == []


def test_a_branch_that_is_moved_back_is_followed(project: Project, repos: dict[str, Repo]) -> None:
    repo = repos[FIRST]
    first = repo.refs["main"]
    second = repo.push({SHARD: pictures(3)})
    project.start(SENSOR)
    # The same change twice is two runs.
    for _ in range(2):
        repo.refs["main"] = second
        assert tick(project) == [FIRST]
        project.build(FIRST, only=SEEDS_ONLY)
        repo.refs["main"] = first
        assert tick(project) == [FIRST]
        project.build(FIRST, only=SEEDS_ONLY)
    assert project.column("seed_images", FIRST, "text") == ["text 0", "text 1"]


def test_a_tick_that_broke_off_is_made_good_for(project: Project, repos: dict[str, Repo]) -> None:
    """The daemon was killed when it had stored the commit, and before it launched the run."""
    project.start(SENSOR)
    assert tick(project) == []
    repos[FIRST].push({SHARD: pictures(3)})
    context = dg.build_sensor_context(
        instance=project.instance, definitions=defs, resources={"catalog": CatalogResource()}
    )
    for event in hub_revisions.evaluate_tick(context).asset_events:
        project.instance.report_runless_asset_event(event)
    assert project.stale() == {("seed_images", FIRST)}
    assert tick(project) == [FIRST]


def test_a_dataset_that_cannot_be_asked_stops_nobody(
    project: Project, hub: Hub, repos: dict[str, Repo], monkeypatch: pytest.MonkeyPatch
) -> None:
    private = hub.dataset("org/private", {SHARD: pictures(2)}, private=True)
    project.write(**{THIRD: of_hub(private.id), OF_PROMPTS: of_hub(repos[SECOND].id, revision="v9")})
    with monkeypatch.context() as somebody:
        somebody.setenv("HF_TOKEN", READER)
        project.build(THIRD, only=SEEDS_ONLY)
    private.push({SHARD: pictures(3)})
    repos[FIRST].push({SHARD: pictures(3)})
    project.start(SENSOR)
    found = project.sensor_tick(SENSOR)
    assert project.started_by(found) == [FIRST]
    said = project.log_of(found).splitlines()
    (line,) = [it for it in said if THIRD in it]
    assert "'org/private' does not exist, or is private" in line and "set HF_TOKEN" in line
    (line,) = [it for it in said if OF_PROMPTS in it]
    assert "has no revision 'v9'" in line
    # Said where nothing is started, too.
    found = project.sensor_tick(SENSOR)
    assert found.status is TickStatus.SKIPPED and not found.run_ids
    # Tried again.
    monkeypatch.setenv("HF_TOKEN", READER)
    assert tick(project) == [THIRD]
    repos[SECOND].tag("v9", repos[SECOND].refs["main"])
    found = project.sensor_tick(SENSOR)
    assert OF_PROMPTS not in project.log_of(found)


def test_a_hub_that_is_down_is_an_error_until_it_is_back(
    project: Project, repos: dict[str, Repo], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.start(SENSOR)
    repos[FIRST].push({SHARD: pictures(3)})
    with monkeypatch.context() as down:
        down.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        found = project.sensor_tick(SENSOR)
    assert found.status is TickStatus.FAILURE and found.error is not None
    said = found.error.to_string()
    assert f"'org/{FIRST}' cannot be reached" in said and f"'org/{SECOND}' cannot be reached" in said
    assert project.stale() == set()
    assert tick(project) == [FIRST]


def test_a_catalogue_without_the_hub_has_nothing_to_ask(project: Project, hub: Hub, tmp_path: Path) -> None:
    project.start(SENSOR)
    project.write(**{FIRST: of_hub(str(tmp_path))})  # `datasets` reads that as a folder here
    assert project.sensor_tick(SENSOR).status is TickStatus.SKIPPED
    project.write(**{FIRST: {"prompts": {"texts": ["a lamp"]}}})
    found = project.sensor_tick(SENSOR)
    assert (found.status, found.skip_reason) == (
        TickStatus.SKIPPED,
        "no entry of the catalogue has a source of the kind hub",
    )
    assert not hub.requests
