"""A stage in this process."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from sd_assets.compute.metrics import Computing
from sd_assets.compute.reading import Part, batches
from sd_assets.stages.stage import Stage
from sd_assets.storage.staging import Staging

# Between two lines of progress; more often would freeze the page of a run.
LOG_SECONDS = 10.0


class Local:
    """The engine that needs nothing: reads ahead and writes behind, so that the stage never waits."""

    def compute(
        self, stage: Stage, parts: Iterator[Part], staging: Staging, log: Callable[[str], None]
    ) -> dict[str, Any]:
        progress = Progress(staging.name, log)
        stage.open()
        try:
            with (
                Computing() as computing,
                closing(stage.run(batches(parts, stage), staging.refused)) as results,
            ):
                for done in results:
                    staging.add(*done)
                    progress.add(len(done.keys))
        finally:
            stage.close()
        return {**stage.facts(), **computing.facts()}

    def close(self) -> None:
        """Nothing is left open."""


class Progress:
    """Says now and then how many rows are computed.

    Args:
        name: of the partition.
        log: takes the lines.
    """

    def __init__(self, name: str, log: Callable[[str], None]) -> None:
        self._name = name
        self._log = log
        self._rows = 0
        self._started = self._logged = time.monotonic()

    def add(self, rows: int, where: str = "") -> None:
        """So many rows more; `where` is said behind the line."""
        self._rows += rows
        now = time.monotonic()
        if now - self._logged > LOG_SECONDS:
            self._logged = now
            speed = self._rows / (now - self._started)
            self._log(f"{self._name}: {self._rows} rows computed, {speed:.1f} rows/s{where}")
