"""Launching from a script beside runs that somebody else left behind."""

import os
import socket
import subprocess

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from sd_assets.automation.launch import PROCESS_TAG, end_dead_runs
from sd_assets.errors import SdAssetsError


def started_run(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    run = create_run_for_test(
        instance, job_name="build_dataset", status=dg.DagsterRunStatus.STARTED, tags=tags
    )
    return str(run.run_id)


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_a_run_whose_process_was_killed_becomes_failed() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with dg.instance_for_test() as instance:
        run_id = started_run(instance, {PROCESS_TAG: f"{socket.gethostname()}:{process.pid}"})
        end_dead_runs(instance)
        assert status(instance, run_id) == dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(
    "tags", [{}, {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}, {PROCESS_TAG: "elsewhere:1"}]
)
def test_a_run_that_may_be_alive_is_left_alone_and_said(tags: dict[str, str]) -> None:
    with dg.instance_for_test() as instance:
        run_id = started_run(instance, tags)
        with pytest.raises(SdAssetsError, match=f"run {run_id} .* is not finished.*end it in the UI"):
            end_dead_runs(instance)
        assert status(instance, run_id) == dg.DagsterRunStatus.STARTED
