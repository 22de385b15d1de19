"""`python -m benchmarks.scale` runs real clusters, and says in its last line what it measured."""

import json
import os
from pathlib import Path

import pytest

from benchmarks import scale

pytestmark = pytest.mark.ray


def test_tiny_models(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two cores are needed")
    scale.main(["--clip", "tiny", "--rows", "40", "--runs", "1", "--folder", str(tmp_path)])
    lines = capfd.readouterr().out.splitlines()
    found = json.loads(next(line for line in lines if line.startswith("detail ")).removeprefix("detail "))
    assert {way: [run["workers"] for run in runs] for way, runs in found.items()} == {
        "local": [1],
        "two": [2],
        "one": [1],
    }
    assert all(run["rows"] == 40 and run["seconds"] > 0 for runs in found.values() for run in runs)
    last = json.loads(lines[-1])
    assert set(last) == {"ray_vs_local", "two_nodes_vs_one", "images_s"}
    speed = {way: runs[0]["images_s"] for way, runs in found.items()}
    assert last["images_s"] == speed
    assert last["ray_vs_local"] == round(speed["two"] / speed["local"], 3)
    assert last["two_nodes_vs_one"] == round(speed["two"] / speed["one"], 3)
