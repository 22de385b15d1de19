"""How long to wait before something is asked again."""

import random

# Before the first further attempt; doubled before each one after it.
BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0


def backoff_s(failed: int) -> float:
    """Seconds before the next attempt, after the first one and `failed` more; spread, so that many do not come back at once."""
    return min(BACKOFF_S * 2.0**failed, LONGEST_BACKOFF_S) * random.uniform(0.5, 1)
