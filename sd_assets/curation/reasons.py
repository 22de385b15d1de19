"""The codes of the reasons against a pair, and the order in which they are told."""

from collections.abc import Iterable
from typing import Final

UNREADABLE: Final = "unreadable"  # the image cannot be decoded, so that nothing is known of it
LICENCE: Final = "licence"
HOST: Final = "host"
HELD_OUT: Final = "held_out"  # nearly an image that must not be trained on
ELSEWHERE: Final = "elsewhere"  # nearly one of another partition, whose images win
NEAR_DUPLICATE: Final = "near_duplicate"  # nearly a better one of this partition
PER_HOST: Final = "per_host"  # the host has enough better ones
PER_QUERY: Final = "per_query"  # likewise a query that found it

# Images that it is to be kept from could not be compared with it.
UNKNOWN_HELD_OUT: Final = f"unknown_{HELD_OUT}"
UNKNOWN_ELSEWHERE: Final = f"unknown_{ELSEWHERE}"

# As they are judged: after thresholds, of which each has a reason of its own.
_LAST: Final = (
    LICENCE,
    f"unknown_{LICENCE}",
    HOST,
    HELD_OUT,
    UNKNOWN_HELD_OUT,
    ELSEWHERE,
    UNKNOWN_ELSEWHERE,
    NEAR_DUPLICATE,
    PER_HOST,
    PER_QUERY,
)


def low(score: str) -> str:
    """The score is below its `min`."""
    return f"low_{score}"


def high(score: str) -> str:
    """The score is above its `max`."""
    return f"high_{score}"


def unknown(score: str) -> str:
    """There is a threshold on the score, and it is not known."""
    return f"unknown_{score}"


def in_order(reasons: Iterable[str]) -> list[str]:
    """Reasons as they are judged: `unreadable`, those of thresholds by name, the others."""
    places = {UNREADABLE: -2, **{name: place for place, name in enumerate(_LAST)}}
    return sorted(set(reasons), key=lambda reason: (places.get(reason, -1), reason))
