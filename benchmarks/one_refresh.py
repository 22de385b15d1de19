"""`python -m benchmarks.one_refresh WARM_UP PARTITION`: what one refresh of a partition takes, and what the models see.

A process of its own for `benchmarks.refresh`. It first builds the partition WARM_UP, of one image, in a data folder that
it throws away, which imports all that a refresh needs and runs both models once; and then refreshes it. At last it builds
PARTITION, as `make build` does. Prints one JSON line last:

    seconds     of that build, all assets and checks: the start-up of the process, imports and warm-up do not count
    fixed       seconds of the refresh of one image that has not changed: what a run costs whatever the number of rows,
                most of it the events that Dagster stores
    assets      seconds of each step of the run, by its name
    models      of CLIP's and the captioner's vision tower: `calls`, `rows` and `padded_rows` that reached it

Rows are counted by hooks on the towers themselves. A batch is filled up with copies of its last row; so `rows` counts the
pictures of a batch that differ, by their pixels, and `padded_rows` all. A picture that comes in two batches is two rows.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import dagster as dg

from sd_assets.automation.launch import build_partition
from sd_assets.models.captioner import Captioner
from sd_assets.models.clip import ClipEncoder
from sd_assets.models.loading import LazyModel
from sd_assets.resources.storage import DATA_VARIABLE


class Seen:
    """What reached the vision tower of each model of a class that is loaded from now on.

    Attributes:
        counts: calls, rows, padded_rows; see the module.
    """

    def __init__(self, kind: type[LazyModel[Any]], tower: Callable[[Any], Any]) -> None:
        self.forget()
        load = kind._load

        def hooked(model: LazyModel[Any], device: str, precision: str) -> Any:
            parts = load(model, device, precision)
            tower(parts).register_forward_pre_hook(self._count, with_kwargs=True)
            return parts

        kind._load = hooked  # type: ignore[assignment,method-assign]

    def forget(self) -> None:
        self.counts = {"calls": 0, "rows": 0, "padded_rows": 0}

    def _count(self, _: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        pixels = arguments[0] if arguments else named["pixel_values"]
        different = {hashlib.sha256(row.tobytes()).digest() for row in pixels.float().cpu().numpy()}
        self.counts["calls"] += 1
        self.counts["rows"] += len(different)
        self.counts["padded_rows"] += len(pixels)


def main() -> None:
    """See the module."""
    warm_up, partition = sys.argv[1:]
    seen = {
        "clip": Seen(ClipEncoder, lambda parts: parts.clip._model.visual),
        "captioner": Seen(Captioner, lambda parts: parts.family.model.vision_model),
    }
    data = os.environ[DATA_VARIABLE]
    with tempfile.TemporaryDirectory() as thrown_away:
        os.environ[DATA_VARIABLE] = thrown_away
        build_partition(warm_up)
        fixed = timed(warm_up)
    if not all(each.counts["calls"] for each in seen.values()):
        raise RuntimeError("the image of the warm-up did not reach the models' hooks")
    for each in seen.values():
        each.forget()

    os.environ[DATA_VARIABLE] = data
    seconds = timed(partition)
    models = {name: each.counts for name, each in seen.items()}
    print(
        json.dumps({"seconds": seconds, "fixed": fixed, "assets": seconds_of_steps(), "models": models}),
        flush=True,
    )


def timed(partition: str) -> float:
    """Seconds that it takes to build a partition."""
    started = time.perf_counter()
    build_partition(partition)
    return round(time.perf_counter() - started, 3)


def seconds_of_steps() -> dict[str, float]:
    """Of the last run, by step, in the order in which they began."""
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs(limit=1)
        steps = sorted(instance.get_run_step_stats(run.run_id), key=lambda step: step.start_time or 0.0)
    return {step.step_key: round((step.end_time or 0.0) - (step.start_time or 0.0), 3) for step in steps}


if __name__ == "__main__":
    main()
