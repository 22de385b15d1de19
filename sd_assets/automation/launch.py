"""Running a partition from a script, in this process, on the instance that `DAGSTER_HOME` names."""

import logging
import os
import socket
from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg

from sd_assets import catalog
from sd_assets.automation.jobs import BUILD_DATASET, BUILD_INDEX
from sd_assets.automation.reasons import is_of_check, line_of, own_message, stopped_the_run
from sd_assets.definitions import ASSETS, defs
from sd_assets.errors import SdAssetsError
from sd_assets.settings import PartitionCorpus

# Says which process works on a run, so that a later launch can tell a run that was killed from one that goes on.
PROCESS_TAG = "sd_assets/process"

ASSET_NAMES = [asset.key.path[0] for asset in ASSETS]


def build_partition(partition: str, last: str | None = None) -> list[str]:
    """Materialize every asset of a partition, and check it.

    Args:
        partition: an entry of the catalogue.
        last: an asset; only it and what it is made from. None: all.

    Returns:
        A line for each check that failed without stopping the run.

    Raises:
        SdAssetsError: an asset failed, or a check that stops the run, with its reason; or another run is unfinished: it
            may hold the slot of the pool `gpu`, and waiting for that may never end.
        DagsterHomeNotSetError: `DAGSTER_HOME` is not set.
    """
    catalog.load().entry(partition)
    job = defs.resolve_job_def(BUILD_DATASET)
    with dg.DagsterInstance.get() as instance:
        end_dead_runs(instance)
        wanted = None
        if last is not None:
            wanted = dg.AssetSelection.assets(last).upstream().resolve(job.asset_layer.asset_graph)
        result = _executed(job, partition, instance, wanted)
    failed = [found for found in result.get_asset_check_evaluations() if not found.passed]
    if not result.success:
        stops = [line_of(found) for found in failed if stopped_the_run(found)]
        raise SdAssetsError("\n".join([*stops, *_reasons(result)]))
    return [line_of(found) for found in failed]


def build_index(name: str) -> Mapping[str, Any]:
    """Materialize an index of the catalogue; one of an entry's embeddings after these.

    Returns:
        What the materialization says of it: its metadata.

    Raises:
        SdAssetsError: there is no such index, or it failed, with its reason; or as `build_partition`.
        DagsterHomeNotSetError: `DAGSTER_HOME` is not set.
    """
    corpus = catalog.load().folder_index(name).corpus
    if isinstance(corpus, PartitionCorpus):
        build_partition(corpus.partition, last="seed_embeddings")
    with dg.DagsterInstance.get() as instance:
        result = _executed(defs.resolve_job_def(BUILD_INDEX), name, instance)
    if not result.success:
        raise SdAssetsError("\n".join(_reasons(result)))
    (made,) = result.asset_materializations_for_node("knn_index")
    return {label: value.value for label, value in made.metadata.items()}


def _executed(
    job: dg.JobDefinition,
    partition: str,
    instance: dg.DagsterInstance,
    assets: Collection[dg.AssetKey] | None = None,
) -> dg.ExecuteInProcessResult:
    return job.with_logger_defs({"console": progress}).execute_in_process(
        run_config={"loggers": {"console": {}}},
        instance=instance,
        partition_key=partition,
        asset_selection=None if assets is None else list(assets),
        tags={PROCESS_TAG: _process()},
        raise_on_error=False,
    )


def _reasons(result: dg.ExecuteInProcessResult) -> list[str]:
    reasons = (_reason(event) for event in result.all_events if event.is_step_failure)
    return [reason for reason in reasons if reason]


def _reason(event: dg.DagsterEvent) -> str | None:
    """What a person needs to know of a failed step: the message of our own errors, the whole trace of others.

    None for checks that stopped the run: they have said why themselves.
    """
    error = event.step_failure_data.error
    if is_of_check(error):
        return None
    return f"{event.step_key}: {own_message(error) or (error.to_string() if error else 'failed')}"


@dg.logger
def progress(_: dg.InitLoggerContext) -> logging.Logger:
    """What stages say, a short line each, for a person at a terminal; errors are said once, when the run is over."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: record.levelno < logging.ERROR)
    handler.setFormatter(_Short())
    logger = logging.Logger("sd_assets.progress", logging.INFO)
    logger.addHandler(handler)
    return logger


class _Short(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = getattr(record, "dagster_meta", {})
        mark = "warning: " if record.levelno > logging.INFO else ""
        return (
            f"{self.formatTime(record, '%H:%M:%S')}  {mark}{said.get('orig_message') or record.getMessage()}"
        )


def end_dead_runs(instance: dg.DagsterInstance) -> None:
    """Runs that `build_partition` started and whose process was killed become failed and give their pool slots back.

    The daemon's run monitoring would do so; a script must not wait for a daemon that nobody started.

    Raises:
        SdAssetsError: an unfinished run is alive, or was not started here, so that we cannot tell.
    """
    unfinished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    )
    for run in instance.get_runs(filters=unfinished):
        host, _, pid = run.tags.get(PROCESS_TAG, "").partition(":")
        if host != socket.gethostname() or _alive(int(pid)):
            raise SdAssetsError(
                f"run {run.run_id} ({run.job_name}, {run.tags.get('dagster/partition', 'no partition')}) is not finished, "
                "and may hold the pool `gpu`: wait for it; if its process was killed, end it in the UI (`make dev`, Runs, "
                "Terminate), or leave `make dev` running for some minutes: its daemon ends dead runs"
            )
        instance.report_run_failed(run, message="Its process was killed; what it had finished is taken over.")
        storage: Any = instance.event_log_storage
        if storage.supports_global_concurrency_limits:
            storage.free_concurrency_slots_for_run(run.run_id)


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
