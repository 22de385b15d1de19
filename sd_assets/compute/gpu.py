"""What a stage uses of the GPUs of this process."""

import logging
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_log = logging.getLogger(__name__)

# Drivers of NVIDIA, AMD, and Windows below WSL: where there is none, nothing is watched.
_DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))
SAMPLE_SECONDS = 1.0


class GpuUse:
    """Watches the GPUs while this lasts, from a thread: nothing where this process uses none.

    torch is asked, and only once somebody else has imported it and given it a device: models are loaded late.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: list[float] = []

    def __enter__(self) -> Self:
        cuda = _cuda()
        if cuda is not None:
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)
        if any(driver.exists() for driver in _DRIVERS):
            self._thread = threading.Thread(target=self._watch, name="gpu-use", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def facts(self) -> dict[str, Any]:
        """Of the GPUs that this process sees, if it uses any.

        `gpu_peak_memory_mb`: the most that torch's tensors took of one of them, MB of 10^6 bytes. `gpu_utilization_percent`: of
        the time, how much a kernel was running (NVML's measure), the mean of all of them over the whole stage; nothing if that
        lasted less than a second, or could not be had.
        """
        cuda = _cuda()
        if cuda is None:
            return {}
        peak = max(cuda.max_memory_allocated(device) for device in range(cuda.device_count()))
        facts: dict[str, Any] = {"gpu_peak_memory_mb": round(peak / 1e6)}
        if self._samples:
            facts["gpu_utilization_percent"] = round(sum(self._samples) / len(self._samples), 1)
        return facts

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            cuda = _cuda()
            if cuda is None:
                continue
            devices = range(cuda.device_count())
            try:
                self._samples.append(sum(map(cuda.utilization, devices)) / len(devices))
            except Exception as error:  # NVML missing, a part of a GPU (MIG), ...: no reason to lose a stage
                _log.info("the use of the GPU is not measured: %s", error)
                return


def _cuda() -> Any:
    """`torch.cuda`, if this process uses it; else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
