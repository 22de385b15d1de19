"""The reduction of hits to URLs."""

import random
from pathlib import Path
from typing import Any

import pytest

from sd_assets.schemas import RETRIEVAL_HITS, text_id
from sd_assets.stages import urls
from sd_assets.stages.stage import InputCounts
from sd_assets_tests.tables import table_of


def hit(url: str, rank: int, similarity: float, alt_text: str = "") -> dict[str, Any]:
    return {"url": url, "rank": rank, "similarity": similarity, "alt_text": alt_text}


def reduced(base: Path, queries: dict[str, Any]) -> tuple[list[dict[str, Any]], InputCounts]:
    rows = [
        {"query_id": name, "kind": "text", **({"error": hits} if isinstance(hits, str) else {"hits": hits})}
        for name, hits in queries.items()
    ]
    counts = InputCounts()
    batches = urls.url_batches(table_of(base, RETRIEVAL_HITS, rows), counts)
    return [row for batch in batches for row in batch.to_pylist()], counts


def test_a_url_keeps_its_best_hit_and_all_that_found_it(tmp_path: Path) -> None:
    queries = {
        "q1": [hit("http://a/1", 0, 0.5, "worse"), hit("http://a/2", 1, 0.4)],
        "q2": [hit("http://a/1", 3, 0.75, "better")],
    }
    rows, counts = reduced(tmp_path, queries)
    one = next(row for row in rows if row["url"] == "http://a/1")
    assert (one["url_id"], one["similarity"], one["alt_text"]) == (text_id("http://a/1"), 0.75, "better")
    assert [(found["query_id"], found["rank"]) for found in one["hits"]] == [("q2", 3), ("q1", 0)]
    assert (len(rows), counts.duplicates) == (2, 1)


def test_failed_queries_and_queries_without_hits_bring_nothing(tmp_path: Path) -> None:
    rows, counts = reduced(tmp_path, {"q1": "query_failed", "q2": [], "q3": [hit("http://a/1", 0, 0.5)]})
    assert ([row["url"] for row in rows], counts) == (["http://a/1"], InputCounts(rows=1))


def test_the_result_does_not_depend_on_the_order_of_the_queries_or_on_the_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    queries = {
        f"q{query}": [
            hit(f"http://a/{rng.randrange(80)}", rank, rng.choice([0.25, 0.5]), f"{query}")
            for rank in range(20)
        ]
        for query in range(30)
    }
    first, counts = reduced(tmp_path / "1", queries)
    shuffled = list(queries.items())
    rng.shuffle(shuffled)
    monkeypatch.setattr(urls, "HITS_AT_ONCE", 50)
    second, again = reduced(tmp_path / "2", dict(shuffled))
    assert second == first
    assert [row["url_id"] for row in first] == sorted({row["url_id"] for row in first})
    assert counts == again == InputCounts(rows=600, duplicates=600 - len(first))
