"""A message when a run failed, to Slack or any other webhook."""

import html
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import dagster as dg
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    WILL_RETRY_TAG,
)
from dagster_shared.error import SerializableErrorInfo

from sd_assets.automation.reasons import is_of_check, line_of, own_message, stopped_the_run
from sd_assets.errors import SdAssetsError
from sd_assets.views.text import HIDDEN, public, shortened

WEBHOOK_VARIABLE: Final = "SD_ASSETS_ALERT_WEBHOOK"
WEBSERVER_VARIABLE: Final = "SD_ASSETS_WEBSERVER_URL"

# All attempts at one message. A tick tells of up to 5 runs (DAGSTER_RUN_STATUS_SENSOR_PROCESS_LIMIT) and has a minute
# (DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS): one that took longer would be repeated, with all that it has sent.
_WITHIN_S = 10.0
# Slack documents `text` and a few fields more for its incoming webhooks, and not what becomes of others: it gets none. In its
# texts &, < and > are escaped as in HTML. (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks)
_SLACK = ("hooks.slack.com", "hooks.slack-gov.com")

# Of an error, and of a run with many: what is read on a telephone.
_LINES = 3
_LINE_LENGTH = 300
_REASONS = 5
_ASSETS = 3


@dataclass(frozen=True)
class Failure:
    """A failed step.

    Attributes:
        step: its key, which is mostly the name of an asset; None: the run failed as a whole.
        error: the first lines of what it said.
    """

    step: str | None
    error: str


@dataclass(frozen=True)
class FailedRun:
    """What a person needs to know of a run that failed; no text in it shows a secret.

    Attributes:
        id: of the run.
        job: its name.
        assets: that were to be made, if the job is the one that Dagster makes of what is selected in the UI.
        partition: key, or first and last key; None: it has none.
        failures: of its steps.
        failed_checks: that stopped it.
        will_be_retried: Dagster runs it again.
        url: of its page, if it is known where the webserver is.
    """

    id: str
    job: str
    assets: list[str]
    partition: str | None
    failures: list[Failure]
    failed_checks: list[str]
    will_be_retried: bool
    url: str | None

    @property
    def text(self) -> str:
        """A few lines for a person."""
        what = self.job if self.job != IMPLICIT_ASSET_JOB_NAME else ", ".join(_some(self.assets, _ASSETS))
        of = f" of {self.partition}" if self.partition else ""
        failures = (f"{it.step}: {it.error}" if it.step else it.error for it in self.failures)
        reasons = _some([*self.failed_checks, *failures], _REASONS)
        return "\n".join(
            [
                f"Run failed: {what}{of}",
                *(f"• {reason}" for reason in reasons),
                *(["Dagster runs it again."] if self.will_be_retried else []),
                self.url or f"run {self.id}",
            ]
        )


# It tells of nothing unless somebody has named a webhook, and who did that will not look for a switch.
@dg.run_failure_sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"Posts why a run failed to {WEBHOOK_VARIABLE}: an incoming webhook of Slack, or any that takes JSON.",
)
def run_failure_alert(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Tells the webhook, if there is one, why a run failed: once, whether it is taken or not."""
    run = context.dagster_run
    url = os.environ.get(WEBHOOK_VARIABLE, "").strip()
    if not url:
        return dg.SkipReason(f"run {run.run_id} failed; nobody was told, as {WEBHOOK_VARIABLE} is not set")
    from sd_assets.services.webhook import WebhookError, post

    try:
        post(url, message_for(url, failed_run(context)), _WITHIN_S)
    except WebhookError as error:
        # Dagster goes on to the next run then, and does not come back to this one.
        why = f"the webhook of {WEBHOOK_VARIABLE} was not told that run {run.run_id} failed: {error}"
        context.log.error(why)
        raise SdAssetsError(why) from None
    context.log.info(f"told the webhook of {WEBHOOK_VARIABLE} that run {run.run_id} failed")
    return None


def message_for(url: str, failed: FailedRun) -> dict[str, Any]:
    """What a webhook is sent: `text`, and to all but Slack's all that is known, under `run`."""
    try:
        host = urlsplit(url).hostname
    except ValueError:  # whose message may have all of the URL; that it is none is said when it is posted to
        host = None
    if host in _SLACK:
        return {"text": html.escape(failed.text, quote=False)}
    return {"text": failed.text, "run": asdict(failed)}


def failed_run(context: dg.RunFailureSensorContext) -> FailedRun:
    """What Dagster's log says of a run that failed."""
    run, instance = context.dagster_run, context.instance
    steps = [
        Failure(event.step_key, _first_lines(event.step_failure_data.error))
        for event in context.get_step_failure_events()
        if not is_of_check(event.step_failure_data.error)
    ]
    checked = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    events = (record.event_log_entry.dagster_event for record in checked.records)
    found = [event.asset_check_evaluation_data for event in events if event is not None]
    checks = [_readable(line_of(it)) for it in found if stopped_the_run(it)]
    if not steps and not checks:
        # No step has failed: a process was killed, or never started.
        ended = context.failure_event
        error = ended.job_failure_data.error if ended.event_specific_data else None
        steps = [Failure(None, _readable(own_message(error) or ended.message or "failed"))]
    return FailedRun(
        id=run.run_id,
        job=run.job_name,
        assets=sorted(key.to_user_string() for key in run.asset_selection or ()),
        partition=_partition(run.tags),
        failures=steps,
        failed_checks=checks,
        will_be_retried=run.tags.get(WILL_RETRY_TAG) == "true",
        url=_page(run.run_id),
    )


def _first_lines(error: SerializableErrorInfo | None) -> str:
    """What a step raised: our own error's message, or the last line of the trace that another one would print."""
    if error is None:
        return "failed"
    # Dagster's own wraps what the step raised.
    raised = error.cause if error.cls_name and error.cls_name.startswith("Dagster") and error.cause else error
    return _readable(own_message(error) or raised.message)


def _readable(text: str) -> str:
    """The first lines of a text, without secrets."""
    lines = [shortened(line, _LINE_LENGTH) for line in public(text).splitlines() if line.strip()]
    return "\n".join(lines[:_LINES] + [HIDDEN] * (len(lines) > _LINES))


def _some(items: Iterable[str], most: int) -> list[str]:
    items = list(items)
    return items if len(items) <= most else [*items[:most], f"and {len(items) - most} more"]


def _partition(tags: Mapping[str, str]) -> str | None:
    if ASSET_PARTITION_RANGE_START_TAG in tags:
        return f"{tags[ASSET_PARTITION_RANGE_START_TAG]} to {tags[ASSET_PARTITION_RANGE_END_TAG]}"
    return tags.get(PARTITION_NAME_TAG)


def _page(run_id: str) -> str | None:
    """The page of a run, without what a URL may hold of secrets; None if it is not said where the webserver is."""
    base = os.environ.get(WEBSERVER_VARIABLE, "").strip()
    return public(f"{base.rstrip('/')}/runs/{run_id}") if base else None
