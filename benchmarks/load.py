"""`python -m benchmarks.load`: how long the definitions take to load, against Dagster alone.

Each sample is a fresh process that reads the clock right after the interpreter has started, and again at the end:

    dagster       import dagster
    definitions   import sd_assets.definitions, and Definitions.validate_loadable(defs)

The two take turns, so that a machine that is busy for a while slows down both, after a first pair that fills the caches of
the disk and does not count. Prints one JSON line last:

    ratio           median of `definitions` over median of `dagster`
    dagster_s, definitions_s    the medians, in seconds
    samples         of each

Goal: a ratio of at most 2.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
STATEMENTS = {
    "dagster": "import dagster",
    "definitions": (
        "import dagster; from sd_assets.definitions import defs; dagster.Definitions.validate_loadable(defs)"
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=10, help="of each")
    options = parser.parse_args(arguments)
    print(json.dumps(measure(options.samples)), flush=True)


def measure(samples: int) -> dict[str, Any]:
    """The figures: see the module."""
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for turn in range(samples + 1):
        for name, statement in STATEMENTS.items():
            taken = timed(statement)
            if turn:
                seconds[name].append(taken)
    dagster, definitions = (statistics.median(seconds[name]) for name in ("dagster", "definitions"))
    return {
        "ratio": round(definitions / dagster, 3),
        "dagster_s": round(dagster, 3),
        "definitions_s": round(definitions, 3),
        "samples": samples,
    }


def timed(statement: str) -> float:
    """Seconds that a statement takes in a fresh interpreter, whose own start does not count."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        # The project's own catalogue, whatever the caller's is.
        env={name: value for name, value in os.environ.items() if name != "SD_ASSETS_CATALOG"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
