"""The reduction of hits to URLs."""

import random
from pathlib import Path
from typing import Any

import pytest

from sd_assets.schemas import RETRIEVAL_HITS, text_id
from sd_assets.stages import urls
from sd_assets.stages.stage import InputCounts
from sd_assets_tests.tables import table_of


def hit(url: str, rank: int, similarity: float, alt_text: str = "", **known: Any) -> dict[str, Any]:
    return {"url": url, "rank": rank, "similarity": similarity, "alt_text": alt_text, **known}


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


def test_urls_of_the_same_image_are_one_row_that_knows_who_found_it_where(tmp_path: Path) -> None:
    queries = {
        "q1": [hit("http://a/1", 0, 0.5, sha256="A" * 64), hit("http://a/2", 1, 0.4, sha256="c" * 64)],
        "q2": [hit("http://b/1", 0, 0.75, "better", sha256="a" * 64, licence="cc0")],
        "q3": [hit("http://a/1", 3, 0.3, sha256="A" * 64), hit("http://a/3", 4, 0.2)],
    }
    rows, counts = reduced(tmp_path, queries)
    assert [row["url_id"] for row in rows] == sorted(
        text_id(url) for url in ("http://b/1", "http://a/2", "http://a/3")
    )
    one = next(row for row in rows if row["url"] == "http://b/1")
    assert (one["similarity"], one["alt_text"], one["licence"]) == (0.75, "better", "cc0")
    assert [(it["query_id"], it["rank"], it["url"]) for it in one["hits"]] == [
        ("q2", 0, "http://b/1"),
        ("q1", 0, "http://a/1"),
        ("q3", 3, "http://a/1"),
    ]
    assert counts == InputCounts(rows=5, duplicates=2)


def test_one_url_with_two_hashes_joins_both(tmp_path: Path) -> None:
    # What an index says of it has changed in between; it must not become a row twice.
    queries = {
        "q1": [hit("http://a/1", 0, 0.9, sha256="a"), hit("http://a/2", 1, 0.8, sha256="b")],
        "q2": [hit("http://a/2", 0, 0.7, sha256="a"), hit("http://a/1", 1, 0.5, sha256="b")],
        "q3": [hit("http://a/3", 0, 0.95, sha256="b"), hit("http://a/4", 1, 0.1, sha256="\u00e4")],
    }
    rows, counts = reduced(tmp_path, queries)
    assert {row["url"]: len(row["hits"]) for row in rows} == {"http://a/3": 5, "http://a/4": 1}
    assert counts == InputCounts(rows=6, duplicates=4)


def test_hashes_merge_the_same_in_any_order_and_number_of_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(2)

    def found(rank: int) -> dict[str, Any]:
        number = rng.randrange(120)
        sha256 = None if number % 3 == 0 else f"{number // 4:064x}"
        return hit(f"http://a/{number}", rank, rng.choice([0.25, 0.5, 0.75]), sha256=sha256)

    queries = {f"q{query}": [found(rank) for rank in range(15)] for query in range(30)}
    first, counts = reduced(tmp_path / "1", queries)
    shuffled = list(queries.items())
    rng.shuffle(shuffled)
    monkeypatch.setattr(urls, "HITS_AT_ONCE", 50)
    second, again = reduced(tmp_path / "2", dict(shuffled))
    assert second == first and counts == again
    assert [row["url_id"] for row in first] == sorted({row["url_id"] for row in first})
    by_image: dict[str, list[dict[str, Any]]] = {}
    for name, hits in queries.items():
        for it in hits:
            by_image.setdefault(it["sha256"] or it["url"], []).append({**it, "query_id": name})
    assert len(first) == len(by_image) < len({it["url"] for hits in by_image.values() for it in hits})
    for row in first:
        expected = sorted(
            by_image[row["sha256"] or row["url"]],
            key=lambda it: (-it["similarity"], it["rank"], it["query_id"]),
        )
        assert row["url"] == expected[0]["url"]
        assert [(it["query_id"], it["rank"], it["url"]) for it in row["hits"]] == [
            (it["query_id"], it["rank"], it["url"]) for it in expected
        ]
