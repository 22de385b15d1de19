"""What both trainings share: a learning rate that follows the clock, an optimiser step, files that change in one go."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def log(message: str) -> None:
    """A line of progress, to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


@dataclass
class Clock:
    """Counts the steps of a training that lasts a given time, so that a busy machine trains less, not longer."""

    seconds: float
    peak_rate: float
    steps: int = 0
    _started: float = field(default_factory=time.monotonic)
    _exported: float = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end."""
        return min(1.0, self.elapsed / self.seconds)

    @property
    def rate(self) -> float:
        """The learning rate now: a short rise, then half a cosine down to a hundredth."""
        return (
            self.peak_rate
            * min(1.0, (self.steps + 1) / 50)
            * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * self.progress)))
        )

    def running(self) -> Iterator[int]:
        """Step numbers until the time is up."""
        while self.progress < 1.0:
            yield self.steps
            self.steps += 1

    def export_due(self, every: float) -> bool:
        """Whether `every` seconds have passed since the last export."""
        due = self.elapsed - self._exported >= every
        if due:
            self._exported = self.elapsed
        return due


def precision(device: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where it pays: on GPUs, and on CPUs, where it measured 1.5 times as fast with AVX512."""
    import torch

    return torch.autocast(device, torch.bfloat16)


def optimiser(parameters: list[Any]) -> Any:
    """AdamW that decays matrices only."""
    import torch

    matrices = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )


def step(optimiser: Any, loss: Any, rate: float) -> None:
    """One update, with clipped gradients."""
    import torch

    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder's files beside it, then put them in its place, so that a reader never meets half a model."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write(beside)
    for file in beside.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
