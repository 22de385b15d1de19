"""`python -m benchmarks.refresh` runs, and says in its last line what it measured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks import refresh
from benchmarks.refresh import Runs, write_part

PROJECT = Path(__file__).parents[2]
KEYS = [
    "full_s",
    "unchanged_ratio",
    "unchanged_vs_hash",
    "one_percent_ratio",
    "model_calls_unchanged",
    "model_rows_one_percent",
    "new_rows_one_percent",
    "shards_rewritten_one_row",
]


def test_the_models_see_what_is_new_and_nothing_else(tmp_path: Path) -> None:
    tiny = ["--rows", "30", "--web", "3", "--samples", "1", "--places", "front", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.refresh", *tiny],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    *_, detail_line, last_line = done.stdout.splitlines()
    last = json.loads(last_line)
    assert list(last) == KEYS
    assert last["model_calls_unchanged"] == 0
    # One seed, to be embedded, to be captioned, and to be embedded as an image of the dataset.
    assert last["model_rows_one_percent"] == last["new_rows_one_percent"] == 3
    # That of the new row and that of the image it found: one, unless a key among the last rows ends a shard. Keys hold the port.
    assert last["shards_rewritten_one_row"] in (1, 2)
    detail = json.loads(detail_line.removeprefix("detail "))
    models = detail["full"]["models"]
    # The seeds, then all images of the dataset.
    assert models["clip"] == {"calls": 2 + 3, "rows": 30 + 33, "padded_rows": 32 + 48}
    assert models["captioner"] == {"calls": 9, "rows": 33, "padded_rows": 36}
    assert [run["versions"] for run in detail["unchanged"]] == [[]]
    assert set(detail["one_percent"]) == {"front"}
    assert not list(tmp_path.iterdir())


def test_what_the_figures_are() -> None:
    def run(seconds: float, rows: int, **more: Any) -> dict[str, Any]:
        models = {
            "clip": {"calls": 1, "rows": rows, "padded_rows": 32},
            "captioner": {"calls": 2, "rows": 0, "padded_rows": 0},
        }
        return {"seconds": seconds, "fixed": 0.5, "models": models, **more}

    runs = Runs(
        full=run(100, 50),
        unchanged=[run(1, 0), run(3, 0), run(2, 0)],
        hashed=[{"seconds": 4}, {"seconds": 1}, {"seconds": 1}],
        one_percent={
            "front": run(5, 10, new_rows=10),
            "middle": run(9, 7, new_rows=10),
            "end": run(6, 10, new_rows=10),
        },
        one_row=run(2, 2, new_rows=2, shards={"seed_images": 1, "text_image_pairs": 2}),
    )
    assert runs.summary() == {
        "full_s": 100,
        "unchanged_ratio": 0.02,
        "unchanged_vs_hash": 1.5,
        "one_percent_ratio": 0.09,
        "model_calls_unchanged": 9,
        "model_rows_one_percent": 7,
        "new_rows_one_percent": 10,
        "shards_rewritten_one_row": 2,
    }


def test_a_file_of_the_source_takes_the_place_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "ROW_GROUP_ROWS", 2)
    files = [tmp_path / str(number) for number in range(5)]
    for number, file in enumerate(files):
        file.write_bytes(b"%d" % number)
    for part in (files[:4], files[::-1]):
        write_part(tmp_path / "source", 7, part)
        (path,) = (tmp_path / "source").iterdir()
        written = pq.read_table(path)["image"].to_pylist()
        assert written == [file.read_bytes() for file in part]
