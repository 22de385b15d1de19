"""A run that fails is told to a webhook, once and without secrets: real runs, real ticks, a real server."""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from sd_assets.automation.alerts import (
    WEBHOOK_VARIABLE,
    WEBSERVER_VARIABLE,
    FailedRun,
    Failure,
    message_for,
    run_failure_alert,
)
from sd_assets.automation.sensors import catalog_edits
from sd_assets.definitions import defs
from sd_assets.services import webhook as delivery
from sd_assets_tests.automation.project import PARTITIONS, Project
from sd_assets_tests.webhook import SECRET, Webhook, webhook

PARTITION = PARTITIONS[0]
SENSOR = run_failure_alert.name
RETRIEVED = ("seed_prompts", "seed_embeddings", "retrieval_hits", "retrieved_image_urls", "downloaded_images")

LAUNCH = """
mutation($assets: [AssetKeyInput!]!, $tags: [ExecutionTag!]!, $job: String!) {
  launchRun(executionParams: {
    selector: {
      repositoryLocationName: "sd_assets", repositoryName: "__repository__", jobName: $job, assetSelection: $assets
    }
    executionMetadata: {tags: $tags}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    monkeypatch.setattr(delivery, "backoff_s", lambda failed: 0.0)
    with webhook() as hook:
        monkeypatch.setenv(WEBHOOK_VARIABLE, hook.url)
        yield hook


@pytest.fixture
def project(project: Project) -> Project:
    """Its sensor has ticked once, so that it tells of what fails from now on; it is the only one."""
    project.stop(catalog_edits.name)
    project.sensor_tick(SENSOR)
    return project


def launched(project: Project, *assets: str) -> str:
    """A run of these assets, started as the UI does it; its id."""
    said = project.ask(
        LAUNCH,
        job=IMPLICIT_ASSET_JOB_NAME,
        assets=[{"path": [asset]} for asset in assets],
        tags=[{"key": "dagster/partition", "value": PARTITION}],
    )
    return str(said["launchRun"]["run"]["runId"])


def failed(project: Project, *assets: str) -> str:
    """The id of a run that fails: of an asset whose input was never made, unless said else."""
    run_id = launched(project, *(assets or ("seed_embeddings",)))
    assert project.run_queued(PARTITION) == {PARTITION: "FAILURE"}
    return run_id


def seen(project: Project, tick: InstigatorTick) -> str:
    """All that a tick shows and logs."""
    return f"{tick.error} {tick.skip_reason} {project.log_of(tick)}"


def test_it_is_loaded_and_running() -> None:
    sensor = defs.get_repository_def().get_sensor_def(SENSOR)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_a_failed_run_is_told_once(project: Project, hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBSERVER_VARIABLE, "https://user:pw@dagster.example/base/")
    project.catalog["indices"]["toy"]["path"] = "nowhere/?token=abcdefgh12345678"
    project.write()
    run_id = failed(project, "seed_images", *RETRIEVED[:3])
    tick = project.sensor_tick(SENSOR)
    assert tick.status is TickStatus.SUCCESS, tick.error
    (message,) = hook.messages
    page = f"https://dagster.example/base/runs/{run_id}"
    lines = message["text"].splitlines()
    assert lines[0] == f"Run failed: retrieval_hits, seed_embeddings, seed_images, and 1 more of {PARTITION}"
    assert lines[1].startswith("• seed_embeddings: index 'toy': there is no ") and "nowhere" in lines[1]
    assert lines[-1] == page
    (failure,) = message["run"].pop("failures")
    assert f"• {failure['step']}: {failure['error']}" in message["text"]
    assert message["run"] == {
        "id": run_id,
        "job": IMPLICIT_ASSET_JOB_NAME,
        "assets": ["retrieval_hits", "seed_embeddings", "seed_images", "seed_prompts"],
        "partition": PARTITION,
        "failed_checks": [],
        "will_be_retried": False,
        "url": page,
    }
    assert "abcdefgh12345678" not in json.dumps(message) and "Traceback" not in message["text"]
    assert SECRET not in seen(project, tick)
    # The run says that it was told, and the next tick does not tell it again.
    assert project.sensor_tick(SENSOR).status is TickStatus.SKIPPED
    assert len(hook.messages) == 1


def test_a_check_that_stops_a_run_is_named(project: Project, hook: Webhook) -> None:
    project.catalog["defaults"]["checks"] = {"max_failed": {"downloaded_images": 0.5}}
    project.write()
    failed(project, "seed_images", *RETRIEVED)
    assert project.sensor_tick(SENSOR).status is TickStatus.SUCCESS
    (message,) = hook.messages
    (check,) = message["run"]["failed_checks"]
    assert check.startswith("downloaded_images, failures_within_limits: 3 of 3 rows failed")
    assert message["run"]["failures"] == []
    lines = message["text"].splitlines()
    assert lines[0].endswith(f"retrieval_hits, retrieved_image_urls, and 3 more of {PARTITION}")
    assert f"• {check}".splitlines()[0] in lines


def test_nobody_is_told_unless_a_webhook_is_named(
    project: Project, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, " ")
    run_id = failed(project)
    tick = project.sensor_tick(SENSOR)
    assert tick.status is TickStatus.SKIPPED
    assert tick.skip_reason == f"run {run_id} failed; nobody was told, as {WEBHOOK_VARIABLE} is not set"
    # What failed before is not told later.
    monkeypatch.setenv(WEBHOOK_VARIABLE, hook.url)
    assert project.sensor_tick(SENSOR).status is TickStatus.SKIPPED
    assert hook.messages == []


def test_a_server_that_fails_for_a_moment_is_told_in_the_same_tick(project: Project, hook: Webhook) -> None:
    hook.answer(500)
    failed(project)
    assert project.sensor_tick(SENSOR).status is TickStatus.SUCCESS
    assert hook.messages == [hook.messages[0]] * 2
    assert project.sensor_tick(SENSOR).status is TickStatus.SKIPPED
    assert len(hook.messages) == 2


def test_what_cannot_be_told_is_logged_and_not_told_again(project: Project, hook: Webhook) -> None:
    first, second = failed(project), failed(project)
    hook.answer(404, b"no_service")
    tick = project.sensor_tick(SENSOR)
    why = f"the webhook of {WEBHOOK_VARIABLE} was not told that run {first} failed: HTTP 404 (no_service)"
    assert why in project.log_of(tick)
    assert f"told the webhook of {WEBHOOK_VARIABLE} that run {second} failed" in project.log_of(tick)
    assert SECRET not in seen(project, tick)
    assert [message["run"]["id"] for message in hook.messages] == [first, second]
    assert project.sensor_tick(SENSOR).status is TickStatus.SKIPPED
    assert len(hook.messages) == 2


@pytest.mark.parametrize(
    "url",
    [f"htp://hooks.example/{SECRET}", f"https://user:pw@[hooks.example/{SECRET}"],
    ids=["scheme", "host"],
)
def test_a_webhook_that_is_no_url_is_said_in_the_tick(
    url: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, url)
    run_id = failed(project)
    tick = project.sensor_tick(SENSOR)
    assert tick.status is TickStatus.FAILURE and tick.error is not None
    assert f"run {run_id} failed: the URL is not valid: it must be http or https" in tick.error.message
    assert SECRET not in seen(project, tick)
    assert project.sensor_tick(SENSOR).status is TickStatus.SKIPPED


def test_a_run_whose_process_died_says_what_dagster_knows(project: Project, hook: Webhook) -> None:
    run_id = launched(project, "seed_prompts")
    run = project.instance.get_run_by_id(run_id)
    assert run is not None
    project.instance.add_run_tags(run_id, {"dagster/will_retry": "true"})
    project.instance.report_run_failed(run, message="Its process was killed.")
    assert project.sensor_tick(SENSOR).status is TickStatus.SUCCESS
    (message,) = hook.messages
    assert message["run"]["failures"] == [{"step": None, "error": "Its process was killed."}]
    assert message["text"].splitlines() == [
        f"Run failed: seed_prompts of {PARTITION}",
        "• Its process was killed.",
        "Dagster runs it again.",
        f"run {run_id}",
    ]


FAILED = FailedRun("1", "build_dataset", [], None, [Failure("a", "x < y & <!channel>")], [], False, None)


@pytest.mark.parametrize("host", ["hooks.slack.com", "hooks.slack-gov.com", "HOOKS.slack.com:443"])
def test_slack_gets_text_alone_in_which_nothing_is_a_command(host: str) -> None:
    text = "Run failed: build_dataset\n• a: x &lt; y &amp; &lt;!channel&gt;\nrun 1"
    assert message_for(f"https://{host}/services/T/B/x", FAILED) == {"text": text}


def test_others_get_all_that_is_known() -> None:
    message: dict[str, Any] = message_for("https://hooks.slack.com.example/services", FAILED)
    assert message["text"] == FAILED.text and message["run"]["failures"][0]["error"] == "x < y & <!channel>"


def test_of_many_failures_some_are_told() -> None:
    failures = [Failure(f"step_{number}", "no") for number in range(7)]
    lines = FailedRun("1", "build_dataset", [], "p", failures, [], False, None).text.splitlines()
    assert lines[0] == "Run failed: build_dataset of p"
    assert lines[5:] == ["• step_4: no", "• and 2 more", "run 1"]
