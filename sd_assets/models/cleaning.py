"""What captioners say that no person would: taken out of their captions."""

import re
from collections.abc import Sequence
from typing import Final

from sd_assets.settings import CaptionerSettings

# Words that are in no dictionary, which BLIP learned from its training texts: "an arafed man sitting on a bench".
ARTEFACTS: Final = (
    "araf",
    "arafe",
    "arafed",
    "arafes",
    "arafied",
    "arafy",
    "araffe",
    "araffed",
    "araffes",
    "araffied",
    "araffy",
)
# A decoder that found no end: "a dog on a a a a a". How often a phrase of so many words is said at the end before it counts
# as that: "ho ho ho" may be meant.
_TOO_OFTEN: Final = {1: 4, **dict.fromkeys(range(2, 9), 3)}
_PUNCTUATION: Final = ".,;:!?"
_ARTICLE = re.compile(r"\b(an?)$", re.IGNORECASE)


class Cleaner:
    """Takes artefacts out of captions. What is left may be empty.

    Args:
        artefacts: words and phrases, in whatever case.

    Attributes:
        artefacts: likewise.
    """

    def __init__(self, artefacts: Sequence[str] = ARTEFACTS) -> None:
        self.artefacts = list(artefacts)
        # The longest first, or of "arafed man" only "arafed" would be found.
        words = sorted((" ".join(text.split()) for text in artefacts), key=len, reverse=True)
        alternatives = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in words if word)
        self._artefacts = (
            re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE) if alternatives else None
        )

    def __call__(self, caption: str) -> str:
        """The caption without artefacts, and what it repeats at its end only once."""
        text = " ".join(caption.split())
        if self._artefacts is not None:
            text = self._without_artefacts(text, self._artefacts)
        return " ".join(_said_once(text.split()))

    def _without_artefacts(self, text: str, artefacts: re.Pattern[str]) -> str:
        left, *parts = artefacts.split(text)
        for part in parts:
            left = _joined(left.rstrip(), part.lstrip())
        return left


def cleaner_of(settings: CaptionerSettings) -> Cleaner | None:
    """What cleans the captions of a captioner, if they are to be cleaned."""
    if not settings.clean:
        return None
    return Cleaner(ARTEFACTS if settings.artefacts is None else settings.artefacts)


def _said_once(words: list[str]) -> list[str]:
    """The words without what they repeat at their end, which keeps its last punctuation."""
    plain = [word.casefold().rstrip(_PUNCTUATION) for word in words]
    for length, too_often in _TOO_OFTEN.items():
        start = len(words) - length
        while start >= length and plain[start - length : start] == plain[-length:]:
            start -= length
        if len(words) - start >= length * too_often:
            return [*words[: start + length - 1], words[-1]]
    return words


def _joined(before: str, after: str) -> str:
    """The texts on both sides of an artefact; "an arafed man" becomes "a man"."""
    if not before or not after:
        return before or after
    article = _ARTICLE.search(before)
    if article and after[0].isalpha():
        right = "an" if after[0].lower() in "aeiou" else "a"
        if article[1][0].isupper():
            right = right.capitalize()
        before = before[: article.start()] + right
    return before + ("" if after[0] in _PUNCTUATION else " ") + after
