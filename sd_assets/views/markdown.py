"""Markdown as Dagster's UI shows it (GitHub's flavour, `data:` pictures, no HTML), into which no text can inject anything."""

import re
from collections.abc import Sequence
from urllib.parse import quote

# All but what a URI may hold as it is and Markdown does not take for its own. `quote` alone is slow on what is mostly
# base64.
_NOT_IN_URI = re.compile(r"[^A-Za-z0-9/:;,=+._~@$?-]+")


def picture(svg: str, alt: str) -> str:
    """An SVG picture, inline. Percent-encoded, so that base64 in it is not encoded twice."""
    uri = _NOT_IN_URI.sub(lambda match: quote(match[0], safe=""), svg)
    return f"![{alt}](data:image/svg+xml,{uri})"


def code(text: str) -> str:
    """Any one line of text as a code span, fit for the cell of a table.

    Nothing in a code span is markup: no link, no picture, no HTML, no URL that is made one. Only what ends the span, or the
    cell, is replaced by its lookalike.
    """
    clean = text.replace("`", "ˋ").replace("|", "¦").strip()
    return f"`{clean}`" if clean else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells that are Markdown already; the columns in `numbers` are set to the right."""
    rule = ["---:" if column in numbers else "---" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
