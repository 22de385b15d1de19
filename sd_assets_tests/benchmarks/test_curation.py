"""`python -m benchmarks.curation` runs, and says in its last line what it measured."""

import json
import subprocess
import sys
from pathlib import Path

from sd_assets.demo.flaws import REASONS

PROJECT = Path(__file__).parents[2]


def test_what_is_planted_in_a_small_world_is_found(tmp_path: Path) -> None:
    tiny = ["--seed", "5", "--seeds", "6", "--images", "60", "--flaws", "1", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.curation", *tiny],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert set(last) == {"filters", "duplicates", "alignment_auc", "seed"}
    assert set(last["filters"]) == set(REASONS.values())
    for found in last["filters"].values():
        assert found == {"precision": 1, "recall": 1, "planted": 1}
    assert last["duplicates"]["planted"] and last["duplicates"]["recall"] == 1
    assert (last["alignment_auc"], last["seed"]) == (1, 5)
    assert not list(tmp_path.iterdir())
