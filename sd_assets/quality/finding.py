"""A check, and what it found."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """What follows from a check that fails."""

    ERROR = "error"  # what is made from the table would be wasted work: it is not made
    WARNING = "warning"  # somebody should have a look


@dataclass(frozen=True)
class Check:
    """Something that can be right or wrong about a table.

    Attributes:
        name: unique among the checks of a table.
        severity: what follows if it fails.
        description: what is checked, against which limit of the catalogue.
    """

    name: str
    severity: Severity
    description: str

    def found(self, passed: bool, said: str, **numbers: Any) -> "Finding":
        """What this check found; see `Finding`."""
        return Finding(self, passed, said, numbers)


@dataclass(frozen=True)
class Finding:
    """What a check found in one version of a table.

    Attributes:
        check: that found it.
        passed: whether all is well.
        description: one line for a person: what was found, against which limit, and, unless it passed, what to do.
        numbers: what it was judged by: numbers, texts, or JSON made of them.
    """

    check: Check
    passed: bool
    description: str
    numbers: Mapping[str, Any]


def percent(share: float) -> str:
    """A share for a person: `12 %`, and never `0 %` or `100 %` of what is only nearly so."""
    text = f"{100 * share:.3g}"
    return f"{'99.99' if text == '100' and share < 1 else text} %"
