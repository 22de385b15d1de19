"""Bringing vectors to length 1, and leaving out those that have no direction."""

import numpy as np
import pytest

from sd_assets.retrieval.corpora.corpus import Reason
from sd_assets.retrieval.vectors import normalised


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_row_is_judged(dtype: type[np.floating]) -> None:
    rows = np.array([[3, 4], [np.nan, 1], [0, 0], [1, -np.inf], [0.6, 0.8]], dtype)
    vectors, reasons = normalised(rows, np.array([0, 0, 0, 0, Reason.NO_URL], np.uint8))
    np.testing.assert_allclose(vectors, [[0.6, 0.8]], atol=1e-6)
    assert vectors.dtype == np.float32
    assert reasons.tolist() == [
        Reason.NONE,
        Reason.NOT_FINITE,
        Reason.ZERO,
        Reason.NOT_FINITE,
        Reason.NO_URL,
    ]
    assert np.array_equal(rows[0], [3, 4])  # it belongs to somebody else


def test_vectors_whose_squares_float32_cannot_hold() -> None:
    rows = np.array([[3e30, 4e30], [3e-30, 4e-30], [3e200, 4e200]])
    vectors, reasons = normalised(rows, np.zeros(3, np.uint8))
    np.testing.assert_allclose(vectors, [[0.6, 0.8]] * 3, atol=1e-6)
    assert not reasons.any()


def test_what_has_length_1_stays_as_it_is_to_the_last_bit() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    once, _ = normalised(rows, np.zeros(50, np.uint8))
    twice, _ = normalised(once, np.zeros(50, np.uint8))
    np.testing.assert_array_equal(once, twice)
    mixed, _ = normalised(np.concatenate([once, 2 * once]), np.zeros(100, np.uint8))
    np.testing.assert_allclose(mixed[50:], once, atol=1e-6)
