"""Quantiles of a stream against those of numpy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sd_assets.quality.distribution import Distribution

NUMBERS = st.lists(st.floats(-1, 1), min_size=1, max_size=300)


@given(NUMBERS, st.sampled_from(["p05", "p25", "median", "p75", "p95"]))
def test_quantiles_are_right_to_a_bin(values: list[float], name: str) -> None:
    found = Distribution(-1, 1)
    for part in np.array_split(np.array(values), 3):
        found.add(part)
    share = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}[name]
    exact = np.quantile(values, share, method="inverted_cdf")
    counted = found.as_dict()
    assert abs((counted[name] or 0.0) - exact) <= 2 / 4000 + 1e-9
    assert (counted["min"], counted["max"], counted["count"]) == (min(values), max(values), len(values))
    assert abs((counted["mean"] or 0.0) - np.mean(values)) < 1e-9


def test_what_is_no_number_is_counted_apart() -> None:
    found = Distribution(0, 1)
    found.add(np.array([np.nan, np.inf, 0.5, -np.inf], np.float32))
    assert (found.count, found.not_finite, found.quantile(0.5)) == (1, 3, 0.5)


def test_what_is_out_of_bounds_is_in_the_extremes() -> None:
    found = Distribution(0, 1)
    found.add(np.array([-5.0, 0.5, 9.0]))
    numbers = found.as_dict()
    assert (numbers["min"], numbers["max"], numbers["mean"]) == (-5.0, 9.0, 1.5)
    assert abs((numbers["median"] or 0) - 0.5) < 1e-3


def test_nothing_has_no_numbers() -> None:
    numbers = Distribution(0, 1).as_dict()
    assert numbers.pop("count") == 0
    assert set(numbers.values()) == {None}
