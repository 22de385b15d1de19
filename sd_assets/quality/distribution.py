"""The distribution of numbers that stream by, in little memory."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_QUANTILES: Final = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


class Distribution:
    """Count, extremes, mean and quantiles of numbers between two bounds.

    Extremes and mean are exact. A quantile is right to a bin, a 4,000th of the range; numbers outside the bounds count as
    in the first or last bin. NaN and infinity are counted apart.

    Args:
        low: where the range begins.
        high: where it ends.
    """

    def __init__(self, low: float, high: float) -> None:
        self._edges = np.linspace(low, high, 4001)
        self._bins = np.zeros(4000, np.int64)
        self._sum = 0.0
        self._min, self._max = np.inf, -np.inf
        self.count = 0
        self.not_finite = 0

    def add(self, values: npt.NDArray[np.floating[Any]]) -> None:
        """Count n more numbers."""
        finite = values[np.isfinite(values)].astype(np.float64)
        self.not_finite += len(values) - len(finite)
        self.count += len(finite)
        if len(finite):
            self._sum += float(finite.sum())
            self._min, self._max = min(self._min, finite.min()), max(self._max, finite.max())
            self._bins += np.histogram(np.clip(finite, self._edges[0], self._edges[-1]), self._edges)[0]

    def quantile(self, share: float) -> float | None:
        """The number that a `share` of all is at most; None if there is none at all."""
        if not self.count:
            return None
        place = int(np.searchsorted(self._bins.cumsum(), max(share * self.count, 1)))
        middle = (self._edges[place] + self._edges[place + 1]) / 2
        return round(float(np.clip(middle, self._min, self._max)), 6)  # no digits that say nothing

    def as_dict(self) -> dict[str, float | int | None]:
        """As JSON; without numbers all but the count are null."""
        some = self.count > 0
        return {
            "count": self.count,
            "min": float(self._min) if some else None,
            **{name: self.quantile(share) for name, share in _QUANTILES.items()},
            "max": float(self._max) if some else None,
            "mean": self._sum / self.count if some else None,
        }
