"""Embeddings that are and are not numbers of length 1."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sd_assets.quality.embeddings import FINITE, UNIT_LENGTH, judge_embeddings
from sd_assets.quality.finding import Finding
from sd_assets.schemas import SEED_EMBEDDINGS
from sd_assets.settings import CheckSettings
from sd_assets_tests.tables import table_of


def judged(base: Path, vectors: list[Any], **settings: Any) -> tuple[Finding, Finding]:
    rows = [{"query_id": f"q{n}", "kind": "image", "embedding": vector} for n, vector in enumerate(vectors)]
    # Of rows that failed nothing is asked.
    rows.append({"query_id": "failed", "kind": "text", "embedding": None, "error": "not_finite"})
    finite, unit = judge_embeddings(table_of(base, SEED_EMBEDDINGS, rows), CheckSettings(**settings))
    assert (finite.check, unit.check) == (FINITE, UNIT_LENGTH)
    return finite, unit


def unit_vectors(count: int, dimension: int = 8) -> list[Any]:
    vectors = np.random.default_rng(0).normal(size=(count, dimension))
    return list((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))


def test_good_embeddings_pass_and_say_their_numbers(tmp_path: Path) -> None:
    finite, unit = judged(tmp_path, unit_vectors(5_000))  # more than one row group
    assert finite.passed and unit.passed
    assert dict(finite.numbers) == {
        "rows": 5_000,
        "missing": 0,
        "not_finite": 0,
        "dimensions": {"8": 5_000},
    }
    assert unit.numbers["norm_min"] == pytest.approx(1, abs=1e-6)
    assert unit.numbers["norm_max"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_none_is_found(tmp_path: Path, bad: float) -> None:
    vectors = unit_vectors(3)
    vectors[1][7] = bad
    finite, unit = judged(tmp_path, vectors)
    assert not finite.passed and finite.numbers["not_finite"] == 1
    assert "1 hold NaN or infinity" in finite.description and "precision float32" in finite.description
    # Lengths are of those that have one.
    assert unit.passed and unit.numbers["rows"] == 2


def test_a_missing_embedding_and_a_missing_number_are_found(tmp_path: Path) -> None:
    finite, _ = judged(tmp_path, [[1.0, 0.0], None, [1.0, None], []])
    assert not finite.passed
    assert (finite.numbers["missing"], finite.numbers["not_finite"]) == (1, 1)
    assert finite.numbers["dimensions"] == {"2": 2, "0": 1}


def test_two_dimensions_are_one_too_many(tmp_path: Path) -> None:
    finite, unit = judged(tmp_path, [*unit_vectors(3, 4), *unit_vectors(2, 6)])
    assert not finite.passed and "dimensions: 4, 6" in finite.description
    assert unit.passed  # each for itself


@pytest.mark.parametrize("vector", [[0.0, 0.0], [3.0, 4.0], [1e30, 1e30], [1e-30, 0.0]])
def test_other_lengths_are_found_however_large(tmp_path: Path, vector: list[float]) -> None:
    finite, unit = judged(tmp_path, [[0.6, 0.8], vector])
    assert finite.passed and not unit.passed
    assert unit.numbers["off"] == 1
    length = float(np.linalg.norm(np.array(vector, np.float64)))
    assert (
        pytest.approx(length, rel=1e-5, abs=1e-12) == unit.numbers["norm_max" if length > 1 else "norm_min"]
    )
    assert "1 of 2 embeddings (50 %)" in unit.description


def test_the_tolerance_is_the_catalogue_s(tmp_path: Path) -> None:
    vectors = [[1.004, 0.0]]
    assert not judged(tmp_path / "a", vectors)[1].passed
    assert judged(tmp_path / "b", vectors, norm_tolerance=0.01)[1].passed


def test_no_embeddings_are_none_too_many(tmp_path: Path) -> None:
    finite, unit = judged(tmp_path, [])
    assert finite.passed and unit.passed
    assert unit.numbers["norm_mean"] is None
