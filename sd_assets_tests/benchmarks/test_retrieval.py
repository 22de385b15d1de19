"""`python -m benchmarks.retrieval` runs, and says in its last line what it measured; and the parts that it is made of."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import clip_back, one_retrieval, vectors
from benchmarks.retrieval import summary
from sd_assets_tests.optional import missing

PROJECT = Path(__file__).parents[2]
KEYS = [
    "qps",
    "back_qps",
    "ratio",
    "recall_at_10",
    "faiss_bound_qps",
    "build_seconds",
    "autofaiss_build_seconds",
    "query_peak_rss_mb",
    "index_mb",
    "stage_seconds",
    "stage_peak_rss_mb",
]
TINY = ["--vectors", "12000", "--queries", "300", "--back-queries", "10", "--clients", "2", "--runs", "1"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def python() -> Path:
    """The interpreter that has clip-retrieval: this one, or that of `make test-clip-retrieval`."""
    beside = Path(sys.executable)
    found = beside if beside.with_name("clip-retrieval").exists() else clip_back.PYTHON
    if not found.exists():
        missing("environment with clip-retrieval", "run `make setup-clip-retrieval`")
    return found


@pytest.mark.clip_retrieval
@pytest.mark.timeout(300)
def test_the_last_line_has_all_figures(tmp_path: Path, python: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.retrieval",
            *TINY,
            "--folder",
            str(tmp_path),
            "--python",
            str(python),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    *_, detail_line, last_line = done.stdout.splitlines()
    last = json.loads(last_line)
    assert list(last) == KEYS
    assert all(math.isfinite(figure) and figure > 0 for figure in last.values())
    assert last["recall_at_10"] >= 0.9
    detail = json.loads(detail_line.removeprefix("detail "))
    assert detail["machine"]["theirs"]["clip-retrieval"] == "2.45.0"
    assert detail["probes"]["recall_of_one"] < 0.95 <= detail["probes"]["recall"]
    assert sorted(detail["runs"]) == ["back 2", "faiss", "ours", "stage"]
    assert (detail["runs"]["stage"][0]["queries"], detail["runs"]["stage"][0]["hits"]) == (300, 30_000)
    assert detail["runs"]["back 2"][0]["recall"] >= 0.9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus-12000-300", "corpus-12000-300.json"]


def test_one_run_after_the_other_without_clip_retrieval(tmp_path: Path) -> None:
    corpus, index = tmp_path / "corpus", tmp_path / "index"
    vectors.main(corpus, 6_000, 100)
    one_retrieval.build(corpus, index, "IVF24,Flat")
    chosen = one_retrieval.probes(corpus, index, 0.95)
    assert chosen["recall_of_one"] < 0.95 <= chosen["recall"]
    ours = one_retrieval.ours(corpus, index)
    assert 0.9 <= ours["recall"] != chosen["recall"]  # of other queries
    staged = one_retrieval.stage(corpus, index, tmp_path / "stage")
    assert (staged["queries"], staged["hits"]) == (100, 10_000)


def test_the_corpus_and_its_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "ROWS_PER_FILE", 1_000)
    vectors.main(tmp_path, 2_500, 40)
    parts = [np.load(path).astype(np.float32) for path in sorted((tmp_path / "img_emb").iterdir())]
    assert [len(part) for part in parts] == [1_000, 1_000, 500]
    corpus, queries = np.concatenate(parts), np.load(tmp_path / "queries.npy")
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    truth = np.argsort(-(queries @ corpus.T), axis=1)[:, : vectors.K]
    assert vectors.recall(np.load(tmp_path / "truth.npy"), truth) == 1
    assert vectors.recall(np.full_like(truth, -1), truth) == 0
    rows = pq.read_table(tmp_path / "metadata")
    assert len(rows) == 2_500
    assert set(rows.column_names) == set(clip_back.COLUMNS)
    assert len(set(rows["sha256"].to_pylist())) == 2_500
    assert set(map(len, rows["sha256"].to_pylist())) == {64}


def test_what_the_figures_are() -> None:
    measured = {
        "build": {"seconds": 12.5, "peak_mb": 9},
        "autofaiss": {"seconds": 25.0},
        "index_bytes": 2_500_000,
        "runs": {
            "ours": [{"qps": rate, "recall": 0.96, "peak_mb": 100 + rate} for rate in (300, 100, 200)],
            "faiss": [{"qps": 250}, {"qps": 220}, {"qps": 210}],
            "back 1": [{"qps": 20}, {"qps": 19}, {"qps": 90}],
            "back 4": [{"qps": 40}, {"qps": 30}, {"qps": 50}],
            "stage": [{"seconds": seconds, "peak_mb": 500 + seconds} for seconds in (9.5, 8.0, 20.0)],
        },
    }
    assert summary(measured) == {
        "qps": 200,
        "back_qps": 40,
        "ratio": 5,
        "recall_at_10": 0.96,
        "faiss_bound_qps": 220,
        "build_seconds": 12.5,
        "autofaiss_build_seconds": 25.0,
        "query_peak_rss_mb": 400,
        "index_mb": 2.5,
        "stage_seconds": 9.5,
        "stage_peak_rss_mb": 520.0,
    }


def test_without_clip_retrieval_it_says_how_to_get_it(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="make setup-clip-retrieval"),
        clip_back.serving(tmp_path / "python", tmp_path, tmp_path, 4),
    ):
        pass
