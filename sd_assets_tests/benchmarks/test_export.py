"""`python -m benchmarks.export` runs, and says in its last line what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.export
from benchmarks.export import ratios
from sd_assets.exports.export import LAYOUTS

PROJECT = Path(__file__).parents[2]


def test_every_layout_is_compared_with_both_copies(tmp_path: Path) -> None:
    tiny = ["--pairs", "12", "--samples", "1", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.export", *tiny],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *_, detail_line, last_line = done.stdout.splitlines()
    last, detail = json.loads(last_line), json.loads(detail_line.removeprefix("detail "))
    assert list(last) == ["vs_copy", "vs_cp"]
    for of_layout in (*last.values(), detail):
        assert list(of_layout) == list(LAYOUTS)
    assert all(ratio > 0 for of_copy in last.values() for ratio in of_copy.values())
    # What was compared is of one size: twelve photographs, and what a layout says of them.
    assert all(1_200_000 < it["bytes"] < 3_000_000 for it in detail.values())
    assert not list(tmp_path.iterdir())


def test_what_is_measured_says_where_images_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what the asset makes does."""
    said: list[str] = []

    def remember(source: Path, target: Path) -> None:
        target.mkdir()
        lines = (source / "metadata.jsonl").read_text().splitlines()
        said.extend(json.loads(line)["provenance"] for line in lines)

    monkeypatch.setattr(benchmarks.export, "LAYOUTS", {"kohya": LAYOUTS["kohya"]})
    monkeypatch.setattr(benchmarks.export, "_copy_files", remember)
    benchmarks.export.run(tmp_path, 3, 1)
    assert [json.loads(it)["found_by"][0]["prompt"] for it in said] == ["a photograph"] * 3


def test_the_ratio_is_the_median_of_those_by_turns() -> None:
    found = {"mds": {"export": [2.0, 9.0, 4.0], "copy": [1.0, 1.0, 4.0], "cp": [1.0, 1.0, 1.0]}}
    assert (ratios(found, "copy"), ratios(found, "cp")) == ({"mds": 2.0}, {"mds": 4.0})
