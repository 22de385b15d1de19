"""`python -m benchmarks.bookkeeping` runs, counts what it says it counts, and derives the plan by its formulas.

The processes of the benchmark are calls here: each would import everything anew.
"""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import bookkeeping, one_bookkeeping, one_reduction
from benchmarks.bookkeeping import plan
from benchmarks.one_bookkeeping import SHARD_ROWS, measured

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MODULES = {"one_bookkeeping": one_bookkeeping, "one_reduction": one_reduction}


def test_the_last_line_has_the_figures_and_the_plan_comes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def called(module: str, folder: Path, rows: int, name: str) -> dict[str, object]:
        MODULES[module].main([str(folder), str(rows), name])
        said: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return said

    monkeypatch.setattr(bookkeeping, "_run", called)
    tiny = [
        "--rows",
        "200",
        "--pairs",
        "20",
        "--near",
        "20",
        "--plan",
        "1e6",
        "10",
        "--folder",
        str(tmp_path),
    ]
    bookkeeping.main(tiny)
    *_, plan_line, last_line = capsys.readouterr().out.splitlines()
    last = json.loads(last_line)
    assert set(last["row_cpu_us"]) == {
        "first",
        "read",
        "together",
        "spread",
        "scan",
        "images",
        "pairs",
        "curated",
    }
    assert set(last["row_memory_bytes"]) == {"first", "read", "spread", "pairs", "curated"}
    # The digests alone are five times 16 bytes.
    assert last["index_bytes"] > 80
    assert json.loads(plan_line.removeprefix("plan "))["rows"] == 100_000
    assert not list(tmp_path.iterdir())


def test_what_a_run_asks_for_at_each_shard(tmp_path: Path) -> None:
    rows = 4 * SHARD_ROWS
    first = measured(tmp_path, rows, "first")
    shards = first["shards"]
    assert first["rows"] == rows
    assert first["shards_new"] == shards > 1
    for place in ("put shards", "put index", "put wip", "project shards", "delete wip"):
        assert first["requests"][place] == shards
    kept, read = (measured(tmp_path, rows, run) for run in ("kept", "read"))
    assert "get index" not in kept["requests"]
    assert read["requests"]["get index"] == shards
    assert kept["shards_new"] == read["shards_new"] == 0
    together, spread = (measured(tmp_path, rows, run) for run in ("together", "spread"))
    assert together["rows"] == rows + rows // 100
    assert 1 <= together["shards_new"] <= 2
    # New rows are everywhere, and what they supersede is swept: a shard and its index for each.
    assert spread["shards_new"] > together["shards_new"]
    assert spread["requests"]["delete shards"] >= spread["shards_new"] - 1
    assert spread["requests"]["open shards"] >= spread["shards_new"]
    scan = measured(tmp_path, rows, "scan")
    # One more for the schema.
    assert scan["requests"]["open shards"] == scan["shards"] + 1


def test_the_plan_is_what_the_formulas_say() -> None:
    figures = {
        "row_cpu_us": {"first": 36.0, "read": 3.6, "images": 72.0},
        "row_memory_bytes": {"first": 500, "curated": 2_000},
        "rows_per_shard": 250.0,
        "shard_requests": {
            "first": {"put": 3.0, "copy": 1.0, "delete": 1.0},
            "read": {"get": 1.0},
            "spread": {"put": 3.0, "copy": 1.0, "list": 4.0, "get": 2.0, "open": 5.0, "delete": 5.0},
        },
        "kept": {"shard_cpu_us": 20.0, "shard_bytes": 900},
        "shards_written": {"together": 0.01, "spread": 0.5},
        "manifest_bytes": 200,
        "index_bytes": 90.0,
        "objects": 3.0,
        "near_cpu_s": 5e-9,
    }
    found = plan(figures, 100e6, 100)
    assert found == {
        "rows": 1e6,
        "shards": 4_000,
        "objects": 12_000,
        "manifest_mb": 0.8,
        "index_gb": 0.09,
        "memory_gb": 2.0,
        "cpu_h": 0.02,
        "read_cpu_h": 0.001,
        "kept_s": 0.08,
        "requests_h": 0.556,
        "read_requests_h": 0.111,
        "spread_requests_h": 1.39,
        "dollars": 8.0,
        "spread_dollars": 8.96,
        "near_cpu_h": 1.39,
        "near_all_cpu_h": 13_900,
    }
