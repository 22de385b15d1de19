"""Hits: whether there are any, and how similar they are."""

from pathlib import Path
from typing import Any

import pytest

from sd_assets.quality.finding import Finding, Severity
from sd_assets.quality.similarities import judge_hits, judge_urls
from sd_assets.schemas import RETRIEVAL_HITS, RETRIEVED_IMAGE_URLS
from sd_assets.settings import CheckSettings
from sd_assets_tests.tables import table_of

Query = tuple[str, list[float | None] | None]


def hits_of(similarities: list[float | None]) -> list[dict[str, Any]]:
    return [{"url": f"http://x/{rank}", "similarity": value} for rank, value in enumerate(similarities)]


def judged(base: Path, queries: list[Query], **settings: Any) -> tuple[Finding, Finding]:
    rows: list[dict[str, Any]] = [
        {
            "query_id": f"q{number}",
            "kind": kind,
            "hits": None if found is None else hits_of(found),
            "left_out": [{"reason": "width", "count": 2}, {"reason": kind, "count": 1}],
        }
        for number, (kind, found) in enumerate(queries)
    ]
    rows.append({"query_id": "failed", "kind": "text", "hits": None, "error": "query_failed"})
    have_hits, similarities = judge_hits(table_of(base, RETRIEVAL_HITS, rows), CheckSettings(**settings))
    return have_hits, similarities


GOOD: list[Query] = [("image", [0.9, 0.8, 0.7]), ("text", [0.3, 0.2]), ("text", [])]


def test_numbers_of_hits_by_kind_of_query(tmp_path: Path) -> None:
    have_hits, similarities = judged(tmp_path, GOOD)
    assert have_hits.passed and similarities.passed
    assert dict(have_hits.numbers) == {
        "queries": 3,
        "queries_without_hits": 1,
        "share_without_hits": pytest.approx(1 / 3),
        "hits": 5,
        "left_out": {"width": 6, "image": 1, "text": 2},
        "limit": 0.5,
    }
    assert have_hits.description.endswith("; left out: width 6, text 2, image 1")
    found = similarities.numbers["similarity"]
    assert (found["image"]["count"], found["text"]["count"]) == (3, 2)
    assert found["image"]["median"] == pytest.approx(0.8, abs=1e-3)
    assert found["text"]["max"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("queries", "limit", "passed"),
    [
        ([("text", []), ("text", None), ("text", [0.3])], 0.5, False),
        ([("text", []), ("text", None), ("text", [0.3])], 0.7, True),
        ([("text", []), ("text", [])], 1.0, False),  # no hit at all is never right
        ([], 0.0, True),  # no query, no wonder; the table before it says so
    ],
)
def test_queries_without_hits(tmp_path: Path, queries: list[Query], limit: float, passed: bool) -> None:
    found, _ = judged(tmp_path, queries, max_queries_without_hits=limit)
    assert found.passed is passed
    assert found.check.severity is Severity.ERROR
    assert ("the index of the entry's `retrieval`" in found.description) != passed


def test_medians_are_judged_by_kind(tmp_path: Path) -> None:
    _, low = judged(tmp_path / "a", GOOD, min_median_similarity_images=0.81)
    assert not low.passed
    assert (
        "of image queries is 0.800, below checks.min_median_similarity_images, 0.81: look" in low.description
    )
    _, fine = judged(
        tmp_path / "b", GOOD, min_median_similarity_images=0.79, min_median_similarity_prompts=0.19
    )
    assert fine.passed
    _, prompts = judged(tmp_path / "c", GOOD, min_median_similarity_prompts=0.25)
    assert not prompts.passed and "checks.min_median_similarity_prompts, 0.25" in prompts.description


def test_a_kind_without_queries_has_no_median_to_miss(tmp_path: Path) -> None:
    _, found = judged(tmp_path, [("text", [0.3])], min_median_similarity_images=0.9)
    assert found.passed


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_similarity_that_is_no_number_is_found(tmp_path: Path, value: float | None) -> None:
    _, found = judged(tmp_path, [("image", [0.5, value])])
    assert not found.passed and found.numbers["not_finite"] == 1
    assert "1 hits of image queries have no number" in found.description


def test_similarities_of_urls(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"url_id": f"u{n}", "similarity": n / 10} for n in range(11)]
    (found,) = judge_urls(table_of(tmp_path / "a", RETRIEVED_IMAGE_URLS, rows))
    assert found.passed and found.numbers["similarity"]["median"] == pytest.approx(0.5, abs=1e-3)
    rows.append({"url_id": "bad", "similarity": float("nan")})
    (found,) = judge_urls(table_of(tmp_path / "b", RETRIEVED_IMAGE_URLS, rows))
    assert not found.passed and found.check.severity is Severity.WARNING
    assert "1 of 12 URLs have no number" in found.description
    (found,) = judge_urls(table_of(tmp_path / "c", RETRIEVED_IMAGE_URLS, []))
    assert found.passed
