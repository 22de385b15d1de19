"""How a stage went: what is said of runs that compute all, some or nothing; and the GPU, of which there is a stand-in."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pynvml
import pytest
import torch

from sd_assets.compute import gpu
from sd_assets.compute.gpu import GpuUse
from sd_assets.compute.metrics import Computing, complete, peak_memory_mb
from sd_assets.compute.run import run_stage, write_rows
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.toy import TOY, ToyStage, toy_input

OF_COMPUTING = {"compute_seconds", "rows_per_s"}


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(LocalFiles(tmp_path))


def report_of(store: TableStore, numbers: list[int], run_id: str, *made_from: str) -> dict[str, Any]:
    rows = toy_input(numbers)
    area = store.area("toy", "p")
    staged = run_stage(ToyStage(), rows, area, run_id, lambda line: None, made_from)
    staged.commit()
    return area.last_run()


def rate(rows: int, report: dict[str, float]) -> float:
    return round(rows / max(report["compute_seconds"], 0.001), 2)


def test_rows_per_second_are_those_that_were_computed(store: TableStore) -> None:
    first = report_of(store, list(range(1, 101)), "first")
    assert first["rows_per_s"] == rate(100, first)
    assert 0 < first["compute_seconds"] <= first["seconds"]
    assert first["failure_share"] == 0.1
    more = report_of(store, list(range(1, 103)), "more")
    assert more["rows_per_s"] == rate(2, more)
    assert more["failure_share"] == round(10 / 102, 6)


@pytest.mark.parametrize("made_from", [(), ("the same",)], ids=["read", "not read"])
def test_a_refresh_that_computes_nothing_says_no_rate(store: TableStore, made_from: tuple[str, ...]) -> None:
    assert report_of(store, list(range(1, 31)), "first", *made_from).keys() >= OF_COMPUTING
    again = report_of(store, list(range(1, 31)), "again", *made_from)
    assert not again.keys() & OF_COMPUTING
    assert again["failure_share"] == 0.1 and again["seconds"] > 0


def test_a_reduction_says_its_rate(store: TableStore) -> None:
    none = pa.nulls(3)
    rows = pa.RecordBatch.from_arrays(
        [pa.array(["a", "b", "c"]), pa.array([1, 2, 3]), none, none, none], TOY.arrow.names
    )
    reports = []
    for run_id in ("first", "again"):
        staged = write_rows(TOY, [rows.cast(TOY.arrow)], store.area("toy", "p"), run_id)
        staged.commit()
        reports.append(staged.report)
    assert ["rows_per_s" in report for report in reports] == [True, False]
    assert [report["failure_share"] for report in reports] == [0.0, 0.0]


def test_types_do_not_change_from_run_to_run(store: TableStore) -> None:
    reports = [report_of(store, list(range(1, rows)), f"of {rows}") for rows in (1, 2, 102)]
    for name in set().union(*reports):
        types = {type(report[name]) for report in reports if name in report}
        assert len(types) == 1, (name, types)
    assert type(reports[0]["failure_share"]) is type(reports[2]["rows_per_s"]) is float


def test_a_table_without_rows_has_no_failures() -> None:
    report: dict[str, Any] = {"rows_ok": 0, "rows_failed": 0, "rows_computed": 0}
    complete(report, 1.5)
    assert (report["failure_share"], report["seconds"]) == (0.0, 1.5)


@pytest.mark.skipif(sys.platform != "linux", reason="the system is asked in Linux's way")
def test_the_peak_of_memory_is_of_this_process(tmp_path: Path) -> None:
    before = peak_memory_mb()
    assert before is not None
    taken = bytearray(100_000_000)
    grown = peak_memory_mb()
    assert grown is not None and grown >= before
    status = tmp_path / "status"
    status.write_text("VmPeak:\t  9 kB\nVmHWM:\t  1000000 kB\n")
    assert peak_memory_mb(status) == 1024 and len(taken)
    assert peak_memory_mb(tmp_path / "nothing") is None


# --- the GPU ---------------------------------------------------------------------------------------------------------


def test_without_a_gpu_nothing_is_watched_or_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, which other tests may use")
    with Computing() as computing:
        pass
    assert computing.facts().keys() == {"compute_seconds"}


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """NVML of a machine with two GPUs, and the memory that torch says it took of them. A stand-in: there is none here.

    Returns:
        what NVML answered, in order: how busy, percent.
    """
    answered: list[int] = []
    resets: list[int] = []
    busy = {0: 90, 1: 50}

    def rates(handle: int) -> Any:
        answered.append(busy[handle])
        return SimpleNamespace(gpu=busy[handle], memory=0)

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {0: 3_000_000_000, 1: 2_000_000_000}.__getitem__)
    monkeypatch.setattr(torch.cuda, "_get_nvml_device_index", lambda device: device)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", rates)
    monkeypatch.setattr(gpu, "_DRIVERS", (Path("/dev/null"),))
    monkeypatch.setattr(gpu, "SAMPLE_SECONDS", 0.001)
    return answered


def wait_for(answered: list[int], answers: int) -> None:
    while len(answered) < answers:
        pass


@pytest.mark.timeout(60)
def test_the_use_of_all_gpus_is_their_mean_and_memory_that_of_the_fullest(two_gpus: list[int]) -> None:
    with GpuUse() as use:
        wait_for(two_gpus, 4)
    assert use.facts() == {"gpu_peak_memory_mb": 3000, "gpu_utilization_percent": 70.0}


@pytest.mark.timeout(60)
def test_a_gpu_that_cannot_be_asked_costs_no_stage(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(handle: int) -> Any:
        two_gpus.append(handle)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", unsupported)
    caplog.set_level("INFO", logger=gpu.__name__)
    with GpuUse() as use:
        wait_for(two_gpus, 1)
    assert use.facts() == {"gpu_peak_memory_mb": 3000}
    assert "the use of the GPU is not measured: Not Supported" in caplog.text


@pytest.mark.timeout(60)
def test_what_the_gpu_did_is_in_the_report_and_gone_from_that_of_a_refresh(
    store: TableStore, two_gpus: list[int]
) -> None:
    class Slow(ToyStage):
        def prepare(self, rows: pa.RecordBatch) -> list[Any]:
            wait_for(two_gpus, 2)
            return super().prepare(rows)

    reports = []
    for run_id in ("first", "again"):
        staged = run_stage(
            Slow(), toy_input([1, 2]), store.area("toy", "p"), run_id, lambda _: None, ["same"]
        )
        staged.commit()
        reports.append(staged.report)
    assert reports[0]["gpu_utilization_percent"] == 70.0 and reports[0]["gpu_peak_memory_mb"] == 3000
    assert not [name for name in reports[1] if name.startswith("gpu_")]
