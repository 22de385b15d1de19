"""Images that come again."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from sd_assets.retrieval import duplicates
from sd_assets.retrieval.duplicates import near_duplicates, repeated


def test_the_better_of_two_stays_in_each_query() -> None:
    owners = np.array([0, 0, 0, 0, 1, 1, 1])
    values = pa.array(["a", "b", "a", None, "a", None, "a"])
    alive = np.ones(7, np.bool_)
    assert np.flatnonzero(repeated(values, owners, alive)).tolist() == [2, 6]
    # What does not count any more takes no other with it.
    alive[[0, 4]] = False
    assert np.flatnonzero(repeated(values, owners, alive)).tolist() == []
    assert not repeated(pa.nulls(7, pa.string()), owners, alive).any()


def on_a_circle(degrees: list[float], length: float = 1.0) -> npt.NDArray[np.float32]:
    angles = np.radians(degrees)
    return np.asarray(length * np.stack([np.cos(angles), np.sin(angles)], axis=1), np.float32)


@pytest.mark.parametrize("block", [1, 2, 128])
@pytest.mark.parametrize("length", [1.0, 3.0])
def test_a_chain_is_thinned_and_not_taken_as_one(
    block: int, length: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    # Each is 10 degrees from the next; as one component all but the first would go.
    vectors = on_a_circle([0, 10, 20, 30, 40, 90], length)
    least = float(np.cos(np.radians(11)))
    near = near_duplicates(np.arange(6), 1_000 if block > 1 else 1, least, lambda ids: vectors[ids])
    if block == 1:  # with one that is wanted, one is looked at
        assert not near.any()
    else:
        assert near.tolist() == [False, True, False, True, False, False]


def test_whether_one_stays_does_not_depend_on_worse_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", 16)
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((300, 4)).astype(np.float32)
    whole = near_duplicates(np.arange(300), 300, 0.9, lambda ids: vectors[ids])
    assert 0 < whole.sum() < 300
    for count in (1, 15, 16, 17, 200):
        part = near_duplicates(np.arange(count), 300, 0.9, lambda ids: vectors[ids])
        assert (part == whole[:count]).all()
    # No two that stay are near.
    kept = vectors[~whole] / np.linalg.norm(vectors[~whole], axis=1, keepdims=True)
    assert (np.triu(kept @ kept.T, 1) < 0.9).all()
