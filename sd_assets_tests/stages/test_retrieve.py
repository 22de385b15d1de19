"""Hits that were taken down, and the queries that are asked again for them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from sd_assets.blocked import Blocked
from sd_assets.compute.run import run_stage
from sd_assets.retrieval.faiss_index import FaissIndex
from sd_assets.retrieval.layout import write_index
from sd_assets.retrieval.selection import Selection
from sd_assets.schemas import SEED_EMBEDDINGS
from sd_assets.settings import HitFilters, RetrievalSettings
from sd_assets.stages.retrieve import RetrieveStage, embedding_batches
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table
from sd_assets_tests.tables import table_of

URLS = [f"http://host{number}.example/{number}.jpg" for number in range(8)]
HASHES = [f"{number:064x}" for number in range(8)]


class Retrieval:
    """Eight images on a circle, and two queries: of the images before, and of those behind."""

    def __init__(self, base: Path, patch: pytest.MonkeyPatch) -> None:
        angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
        vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        write_index(
            base / "index", vectors, pa.table({"url": URLS, "sha256": HASHES, "width": [100] * 7 + [5]})
        )
        queries = [{"query_id": f"q{place}", "kind": "text", "embedding": vectors[place]} for place in (1, 5)]
        # Of the same direction, so that no query is as far from one image as from another.
        for query, tilt in zip(queries, (0.1, 0.1), strict=True):
            query["embedding"] = turned(query["embedding"], tilt)
        self._embeddings = table_of(base, SEED_EMBEDDINGS, queries)
        self._area = Area(LocalFiles(base / "data"), "retrieval_hits", "p")
        self.index = FaissIndex("i", base / "index")
        self.asked = 0
        self.report: dict[str, Any] = {}
        self._runs = 0
        select = Selection.select

        def counting(selection: Selection, vectors: npt.NDArray[np.float32], kinds: Any) -> Any:
            self.asked += len(vectors)
            return select(selection, vectors, kinds)

        patch.setattr(Selection, "select", counting)

    def rows(self, filters: dict[str, Any] | None = None, **blocked: Any) -> dict[str, dict[str, Any]]:
        """The rows of the next version, by query."""
        self.asked = 0
        self._runs += 1
        settings = RetrievalSettings(index="i", images_per_query=3, filters=HitFilters(**filters or {}))
        stage = RetrieveStage(self.index, settings, Blocked(**blocked))
        rows = embedding_batches(self._embeddings)
        staged = run_stage(stage, rows, self._area, f"run{self._runs}", print, [self._embeddings])
        self.report = staged.report
        found = Table(self._area, staged.commit()).read().to_pylist()
        return {row["query_id"]: row for row in found}

    def run(self, **blocked: Any) -> dict[str, list[int]]:
        """The numbers of the images that each query hits; their ranks have no gaps."""
        rows = self.rows(**blocked)
        for row in rows.values():
            assert [hit["rank"] for hit in row["hits"]] == list(range(len(row["hits"])))
        return {name: [URLS.index(hit["url"]) for hit in row["hits"]] for name, row in rows.items()}


def turned(vector: npt.NDArray[np.float32], angle: float) -> npt.NDArray[np.float32]:
    x, y = vector.tolist()
    return np.array(
        [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], np.float32
    )


@pytest.fixture
def retrieval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retrieval:
    return Retrieval(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("blocked", "left"),
    [
        ({"urls": [URLS[2]]}, [1, 0, 3]),
        ({"hosts": ["host1.example"]}, [2, 0, 3]),
        ({"images": [HASHES[0]]}, [1, 2, 3]),
        ({"urls": [URLS[2]], "hosts": ["host3.example", "host5.example"]}, [1, 0, 7]),
    ],
)
def test_others_take_the_place_of_blocked_hits_until_these_come_back(
    retrieval: Retrieval, blocked: dict[str, list[str]], left: list[int]
) -> None:
    before = retrieval.run()
    assert before == {"q1": [1, 2, 0], "q5": [5, 6, 4]}
    assert retrieval.asked == 2

    after = retrieval.run(**blocked)
    others_too = "host5.example" in blocked.get("hosts", ())
    assert retrieval.asked == (2 if others_too else 1)
    assert after == {"q1": left, "q5": [6, 4, 7] if others_too else before["q5"]}

    assert retrieval.run(**blocked) == after
    # More on the list, elsewhere: nothing to do here.
    assert retrieval.run(**{**blocked, "hosts": [*blocked.get("hosts", ()), "evil.example"]}) == after
    assert retrieval.asked == 0

    assert retrieval.run() == before
    # The version before has them still.
    assert retrieval.asked == 0


def test_hits_come_back_from_the_index_where_no_version_has_them(retrieval: Retrieval) -> None:
    blocked = {"urls": [URLS[2]]}
    after = retrieval.run(**blocked)
    assert retrieval.asked == 2
    back = retrieval.run()
    assert retrieval.asked == 1
    assert (after["q1"], back["q1"]) == ([1, 0, 3], [1, 2, 0])


def test_a_query_is_asked_again_only_for_what_would_be_its_hit(retrieval: Retrieval) -> None:
    narrow = {"min_width": 50}
    # Of q1 7 would be no hit in any case; of q5 it is no hit as it is too narrow.
    blocked = {"urls": [URLS[7], URLS[0]]}
    rows = retrieval.rows(narrow, **blocked)
    assert rows["q1"]["blocked_by"] == [Blocked(**blocked).url(URLS[0])]
    assert rows["q5"]["blocked_by"] is None
    again = retrieval.rows(narrow, urls=[URLS[0]])
    assert retrieval.asked == 0
    assert again == rows


def test_what_was_left_out_is_counted_in_the_row_and_in_the_report(retrieval: Retrieval) -> None:
    rows = retrieval.rows({"min_width": 50, "hosts": [f"host{n}.example" for n in (5, 6, 7, 0)]})
    assert [hit["url"] for hit in rows["q5"]["hits"]] == [URLS[5], URLS[6], URLS[0]]
    # 4, 7, and, as far as they are more like it than image 0, one of 3 and 1.
    assert rows["q5"]["left_out"] == [{"reason": "host", "count": 2}, {"reason": "width", "count": 1}]
    total = sum(entry["count"] for row in rows.values() for entry in row["left_out"])
    assert sum(retrieval.report["left_out"].values()) == total
    assert (retrieval.report["queries_asked"], retrieval.report["queries_cut_short"]) == (2, 0)
    retrieval.rows({"min_width": 50, "hosts": [f"host{n}.example" for n in (5, 6, 7, 0)]})
    assert (retrieval.report["queries_asked"], retrieval.report["left_out"]) == (0, {})


def test_a_query_that_fails_keeps_its_row_and_is_asked_again(retrieval: Retrieval, tmp_path: Path) -> None:
    broken = [float("nan"), 1.0]
    queries = [
        {"query_id": "fine", "kind": "text", "embedding": [1.0, 0.0]},
        {"query_id": "broken", "kind": "text", "embedding": broken},
    ]
    retrieval._embeddings = table_of(tmp_path / "broken", SEED_EMBEDDINGS, queries)
    for _ in range(2):
        rows = retrieval.rows()
        assert rows["broken"]["hits"] is None and rows["broken"]["error"] == "query_failed"
        assert "NaN" in rows["broken"]["error_detail"]
        assert len(rows["fine"]["hits"]) == 3 and rows["fine"]["error"] is None
    assert retrieval.asked == 1


def test_the_more_hits_a_query_the_fewer_queries_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Retrieval(tmp_path, monkeypatch).index
    sizes = {
        hits: RetrieveStage(index, RetrievalSettings(index="i", images_per_query=hits)).batch_rows
        for hits in (1, 20, 1_000, 100_000)
    }
    assert sizes == {1: 1_024, 20: 1_024, 1_000: 200, 100_000: 2}
