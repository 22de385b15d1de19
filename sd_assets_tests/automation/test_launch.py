"""Launching from a script: beside runs that somebody else left behind, and what a person is told of checks."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from sd_assets import __main__ as command
from sd_assets.automation import launch
from sd_assets.automation.launch import PROCESS_TAG, build_partition, end_dead_runs
from sd_assets.errors import SdAssetsError
from sd_assets.resources.storage import DATA_VARIABLE
from sd_assets_tests.checks.world import GOOD, PARTITION, Rows, definitions


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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["sd_assets", "build", PARTITION])
    return tmp_path


DEAD: Rows = [{**row, "error": "timeout"} for row in GOOD["downloaded_images"]]
SHORT: Rows = [{**row, "caption": f"thing {n}"} for n, row in enumerate(GOOD["image_captions"])]


def test_a_check_that_stops_the_run_is_said_in_a_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "defs", definitions(home, {"downloaded_images": DEAD}))
    assert command.main() == 1
    out, err = capfd.readouterr()
    (said,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said.startswith(
        "error: downloaded_images, failures_within_limits: 12 of 12 rows failed (timeout 12)"
    )
    assert "checks.max_failed.downloaded_images.total is 90 %" in said and "raise the limit" in said
    assert "Traceback" not in out + err and "DagsterAssetCheckFailedError" not in out + err
    # Nothing that follows was made.
    assert not (home / "data" / "image_captions").exists()


def test_a_check_that_warns_is_said_while_the_run_goes_on_and_when_it_is_over(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "defs", definitions(home, {"image_captions": SHORT}))
    assert command.main() == 0
    out, err = capfd.readouterr()
    line = "image_captions, caption_lengths_within_limits: of 12 captions 12 have fewer than 3 words"
    assert f"warning: {line}" in err
    assert f"\nchecks that failed: 1\n  {line}" in out


def test_nothing_is_said_of_checks_that_passed(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "defs", definitions(home))
    assert command.main() == 0
    out, err = capfd.readouterr()
    assert "checks that failed" not in out and "warning" not in err


def test_a_failed_asset_and_a_failed_check_are_both_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dg.asset_check(asset="seed_prompts", blocking=True)
    def of_one_s_own() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    @dg.asset_check(asset="seed_prompts")
    def broken() -> dg.AssetCheckResult:
        raise SdAssetsError("what was wrong, where, and what to do")

    monkeypatch.setattr(launch, "defs", definitions(home, asset_checks=[of_one_s_own, broken]))
    with pytest.raises(SdAssetsError) as caught:
        build_partition(PARTITION)
    assert str(caught.value).splitlines() == [
        "seed_prompts, of_one_s_own: failed",
        "seed_prompts_broken: what was wrong, where, and what to do",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dmo", "there is no index 'dmo'; did you mean 'demo'?; of `kind: faiss` there are: demo"),
        ("demo", "error: knn_index: index 'demo': there is no "),
    ],
)
def test_why_an_index_was_not_built_is_said_in_a_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    monkeypatch.setenv("SD_ASSETS_DEMO", str(home / "no world"))
    assert command.main(["index", name]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line


def test_a_partition_is_built_up_to_an_asset(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "defs", definitions(home))
    assert build_partition(PARTITION, last="seed_embeddings") == []
    made = {path.name for path in (home / "data").iterdir()} - {"_sd_assets"}
    assert made == {"seed_images", "seed_prompts", "seed_embeddings"}
