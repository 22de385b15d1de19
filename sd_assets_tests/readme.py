"""The README and the pages of `docs/`, taken apart for the tests that keep them true."""

import re
from pathlib import Path

_PROJECT = Path(__file__).parents[1]
README = (_PROJECT / "README.md").read_text("utf-8")
_PAGES = [README, *(path.read_text("utf-8") for path in sorted((_PROJECT / "docs").glob("*.md")))]


def section(title: str) -> str:
    """The text under a heading of the README, or of a page of `docs/`, up to the next one of its rank."""
    pattern = rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)"
    found = [text for page in _PAGES for text in re.findall(pattern, page, re.MULTILINE | re.DOTALL)]
    assert len(found) == 1, f"sections of the title {title!r}: {len(found)}"
    return str(found[0])


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
