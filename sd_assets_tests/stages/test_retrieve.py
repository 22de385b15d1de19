"""Hits that were taken down, and the queries that are asked again for them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from sd_assets.blocked import Blocked
from sd_assets.compute.local import run_stage
from sd_assets.retrieval.faiss_index import FaissIndex
from sd_assets.retrieval.layout import write_index
from sd_assets.schemas import SEED_EMBEDDINGS
from sd_assets.settings import RetrievalSettings
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
        write_index(base / "index", vectors, pa.table({"url": URLS, "sha256": HASHES}))
        queries = [{"query_id": f"q{place}", "kind": "text", "embedding": vectors[place]} for place in (1, 5)]
        self._embeddings = table_of(base, SEED_EMBEDDINGS, queries)
        self._area = Area(LocalFiles(base / "data"), "retrieval_hits", "p")
        self._index = FaissIndex("i", base / "index")
        self.asked = 0
        self._runs = 0
        search = FaissIndex.search

        def counting(index: FaissIndex, vectors: npt.NDArray[np.float32], k: int) -> Any:
            self.asked += len(vectors)
            return search(index, vectors, k)

        patch.setattr(FaissIndex, "search", counting)

    def run(self, **blocked: Any) -> dict[str, list[tuple[int, str]]]:
        """The hits of each query, as rank and URL."""
        self.asked = 0
        self._runs += 1
        stage = RetrieveStage(
            self._index, RetrievalSettings(index="i", images_per_query=3), Blocked(**blocked)
        )
        rows = embedding_batches(self._embeddings)
        staged = run_stage(stage, rows, self._area, f"run{self._runs}", print, [self._embeddings])
        found = Table(self._area, staged.commit()).read().to_pylist()
        return {row["query_id"]: [(hit["rank"], hit["url"]) for hit in row["hits"]] for row in found}


@pytest.fixture
def retrieval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retrieval:
    return Retrieval(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("blocked", "gone"),
    [
        ({"urls": [URLS[2]]}, 2),
        ({"hosts": ["host1.example"]}, 1),
        ({"images": [HASHES[0]]}, 0),
    ],
)
def test_queries_lose_blocked_hits_and_get_them_back(
    retrieval: Retrieval, blocked: dict[str, list[str]], gone: int
) -> None:
    before = retrieval.run()
    assert retrieval.asked == 2
    assert {url for _, url in before["q1"]} == {URLS[0], URLS[1], URLS[2]}

    after = retrieval.run(**blocked)
    assert retrieval.asked == 1
    assert after["q1"] == [hit for hit in before["q1"] if hit[1] != URLS[gone]]
    assert after["q5"] == before["q5"]

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
    assert len(after["q1"]) == 2 and len(back["q1"]) == 3
