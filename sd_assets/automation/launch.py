"""Running a partition from a script, in this process, on the instance that `DAGSTER_HOME` names."""

import logging
import os
import socket
from typing import Any

import dagster as dg

from sd_assets.definitions import build_dataset, defs

# Says which process works on a run, so that a later launch can tell a run that was killed from one that goes on.
PROCESS_TAG = "sd_assets/process"


def build_partition(partition: str) -> bool:
    """Materialize every asset of a partition; returns whether all of them succeeded.

    Raises:
        DagsterHomeNotSetError: `DAGSTER_HOME` is not set.
    """
    with dg.DagsterInstance.get() as instance:
        end_dead_runs(instance)
        job = defs.resolve_job_def(build_dataset.name).with_logger_defs({"console": progress})
        result = job.execute_in_process(
            run_config={"loggers": {"console": {}}},
            instance=instance,
            partition_key=partition,
            tags={PROCESS_TAG: _process()},
            raise_on_error=False,
        )
        return result.success


@dg.logger
def progress(_: dg.InitLoggerContext) -> logging.Logger:
    """What stages say, a short line each, and errors whole: for a person at a terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Short())
    logger = logging.Logger("sd_assets.progress", logging.INFO)
    logger.addHandler(handler)
    return logger


class _Short(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = getattr(record, "dagster_meta", {})
        if record.levelno > logging.INFO or not said.get("orig_message"):
            return super().format(record)
        return f"{self.formatTime(record, '%H:%M:%S')}  {said['orig_message']}"


def end_dead_runs(instance: dg.DagsterInstance) -> None:
    """Runs that `build_partition` started and whose process was killed become failed and give their pool slots back.

    The daemon's run monitoring would do so; a script must not wait for a daemon that nobody started.
    """
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    for run in instance.get_runs(filters=unfinished):
        host, _, pid = run.tags.get(PROCESS_TAG, "").partition(":")
        if host == socket.gethostname() and not _alive(int(pid)):
            instance.report_run_failed(
                run, message="Its process was killed; what it had finished is taken over."
            )
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
