"""`python -m benchmarks.load` runs, and says what it measured in its last line."""

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_the_last_line_has_the_ratio() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", "--samples", "1"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["samples"] == 1
    assert 1 < last["ratio"] < 20
