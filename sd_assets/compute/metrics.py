"""How a stage went, in numbers that Dagster plots over time: each is a float in every run that has it, or an int in every one."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Self

from sd_assets.compute.gpu import GpuUse

# Of a run that computes nothing these say nothing, and the report that it takes over may have them of an earlier one.
_OF_COMPUTING = (
    "compute_seconds",
    "rows_per_s",
    "workers",
    "gpu_utilization_percent",
    "gpu_peak_memory_mb",
)
_LEAST_SECONDS = 0.001


class Computing:
    """Measures while a stage that is open computes its rows: `with Computing() as computing`."""

    def __init__(self) -> None:
        self._gpu = GpuUse()
        self._started = 0.0
        self._seconds = 0.0

    def __enter__(self) -> Self:
        self._gpu.__enter__()
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seconds = time.monotonic() - self._started
        self._gpu.__exit__(kind, error, trace)

    def facts(self) -> dict[str, Any]:
        """Once it is over: `compute_seconds`, and of a GPU that this process uses `gpu_utilization_percent` and
        `gpu_peak_memory_mb` (see `GpuUse`).
        """
        return {"compute_seconds": round(self._seconds, 3), **self._gpu.facts()}


def of_all(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of several workers as one: of `GpuUse` the fullest memory, and the mean of how busy they were."""
    merged = {name: value for of_one in facts for name, value in of_one.items()}
    memory, busy = ("gpu_peak_memory_mb", "gpu_utilization_percent")
    if memory in merged:
        merged[memory] = max(of_one[memory] for of_one in facts if memory in of_one)
    if busy in merged:
        merged[busy] = round(fmean(of_one[busy] for of_one in facts if busy in of_one), 1)
    return merged


def complete(report: dict[str, Any], seconds: float) -> None:
    """Add to the report of a version what follows from it.

    `seconds`; `failure_share`, of the table's rows those with an error, 0 to 1; `peak_memory_mb`, see there. If rows were
    computed, `rows_per_s`: of these, while they were computed (`compute_seconds`, or all seconds if the report has none).

    Args:
        report: see `Staged`; changed.
        seconds: that all of it took.
    """
    report["seconds"] = round(seconds, 3)
    report["failure_share"] = _failure_share(report)
    peak = peak_memory_mb()
    if peak is not None:
        report["peak_memory_mb"] = peak
    if report["rows_computed"]:
        spent = max(report.get("compute_seconds", seconds), _LEAST_SECONDS)
        report["rows_per_s"] = round(report["rows_computed"] / spent, 2)
    else:
        for name in _OF_COMPUTING:
            report.pop(name, None)


def _failure_share(report: Mapping[str, Any]) -> float:
    failed, ok = report["rows_failed"], report["rows_ok"]
    return round(failed / (ok + failed), 6) if failed else 0.0


def peak_memory_mb(status: Path = Path("/proc/self/status")) -> int | None:
    """The most that was resident of this process since it began, mapped files included: MB of 10^6 bytes.

    With Dagster's executor a step is a process of its own. None where the system is not Linux.
    """
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if kib is None else round(int(kib) * 1024 / 1e6)
