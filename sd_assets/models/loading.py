"""Loading a model when it is first used, once for each device, and lending it to the threads that use it."""

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from sd_assets.errors import ModelError
from sd_assets.models.devices import PRECISIONS, pick_devices, pick_precision

Parts = TypeVar("Parts")


@dataclass(frozen=True)
class Lane(Generic[Parts]):
    """A model on its device, for one thread at a time.

    Attributes:
        parts: the model and what belongs to it.
        device: where it is: `cuda:1`, `mps`, `cpu`.
        stream: of CUDA, in which this thread's work is done.
    """

    parts: Parts
    device: str
    stream: Any = None


class LazyModel(ABC, Generic[Parts]):
    """A model that is loaded at its first use, whichever thread comes first: once for each device.

    Attributes:
        device: before `load()` what was asked for, after it what is used: `cuda:0`, `cuda:0, cuda:1`, `mps`, `cpu`.
        precision: likewise: `float32`, `float16` or `bfloat16`.
        LANES_PER_GPU: threads that use the model of one GPU at a time: with two, the GPU works for one of them while the other
            prepares a batch. One where the model remembers something between its steps.
    """

    LANES_PER_GPU: ClassVar[int] = 1

    def __init__(self, device: str, precision: str) -> None:
        if precision not in ("auto", *PRECISIONS):
            raise ModelError(f"precision {precision!r} is unknown; there are: auto, {', '.join(PRECISIONS)}")
        self.device = device
        self.precision = precision
        self._asked = (device, precision)
        self._start()

    def _start(self) -> None:
        self._devices: dict[str, Parts] = {}
        self._free: queue.LifoQueue[Lane[Parts]] = queue.LifoQueue()
        self._lock = threading.Lock()

    @property
    def _precision_asked(self) -> dict[str, str]:
        """For what changes results: the precision, if one was asked for; that of a device is none."""
        return {} if self._asked[1] == "auto" else {"precision": self._asked[1]}

    @property
    @abstractmethod
    def identity(self) -> str:
        """Names the model and its weights."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The model as the catalogue names it."""

    @property
    def lanes(self) -> int:
        """Threads that may use the model at once; 1 before it is loaded."""
        return sum(self.LANES_PER_GPU if device.startswith("cuda") else 1 for device in self._devices) or 1

    def facts(self) -> dict[str, Any]:
        """What is used, for metadata: the model; where and how it runs, once it is loaded."""
        running = {} if not self._devices else {"device": self.device, "precision": self.precision}
        # The identity of a folder is a digest, which tells nobody which model that is.
        model = self.identity if self.name in self.identity else f"{self.name} ({self.identity})"
        return {"model": model, **running}

    def load(self) -> None:
        """Loads the model; does nothing if it is there.

        Raises:
            ModelError: what is wrong with the model and what to do.
        """
        self._loaded()

    def _loaded(self) -> Parts:
        """The model of the first device: for what does not run there."""
        if not self._devices:
            with self._lock:
                if not self._devices:
                    devices = pick_devices(self._asked[0])
                    precision = pick_precision(devices[0], self._asked[1])
                    loaded = {device: self._load(device, precision) for device in devices}
                    for device, parts in loaded.items():
                        for _ in range(self.LANES_PER_GPU if device.startswith("cuda") else 1):
                            self._free.put(Lane(parts, device, _stream(device)))
                    self.device, self.precision = ", ".join(devices), precision
                    self._devices = loaded
        return next(iter(self._devices.values()))

    @contextmanager
    def _lane(self) -> Iterator[Lane[Parts]]:
        """The model on a device that is free now; waits until there is one. What runs on a GPU runs in a stream of its own."""
        self._loaded()
        lane = self._free.get()
        try:
            if lane.device.startswith("cuda"):
                import torch

                with torch.cuda.device(lane.device), torch.cuda.stream(lane.stream):
                    yield lane
            else:
                yield lane
        finally:
            self._free.put(lane)

    @property
    def on_cpu(self) -> bool:
        """Whether it keeps all cores of this machine busy; known once it is loaded."""
        return "cpu" in self._devices

    @abstractmethod
    def _load(self, device: str, precision: str) -> Parts:
        """The model and what it needs, on the device."""

    def __getstate__(self) -> dict[str, Any]:
        # A worker on another machine has its own device and loads the weights itself.
        kept = {
            name: value for name, value in self.__dict__.items() if name not in ("_devices", "_free", "_lock")
        }
        kept["device"], kept["precision"] = self._asked
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def _stream(device: str) -> Any:
    """A stream of a GPU, in which the model that was loaded there may be used."""
    if not device.startswith("cuda"):
        return None
    import torch

    torch.cuda.synchronize(device)  # what was loaded was in another stream
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
