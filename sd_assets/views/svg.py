"""Small SVG pictures. The browser sets their text, in whatever script it is written."""

import unicodedata
from collections.abc import Iterable

from sd_assets.views.text import HIDDEN, shortened, visible

INK, FAINT, PAPER = "#333", "#777", "#f6f6f7"
_NARROW = frozenset("fijlrtI.,:;'`\"|!()[]{}/\\- ")
_WIDE = frozenset("mwMW@%&")


def document(width: int, height: int, body: Iterable[str]) -> str:
    """A whole picture on light paper, whatever the theme of the page."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="system-ui,sans-serif" font-size="12" fill="{INK}">'
        f'<rect width="100%" height="100%" fill="{PAPER}"/>{"".join(body)}</svg>'
    )


def text(x: float, y: float, words: str, **attributes: str) -> str:
    """A line of text; its baseline is at `y`. The words may be any, the attributes are ours."""
    named = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:g}" y="{y:g}"{named}>{_escaped(words)}</text>'


def wrapped(words: str, width: float, lines: int, size: float = 12) -> list[str]:
    """Text as lines of about `width` pixels; what is left over after so many is cut, and marked so."""
    # An em is hardly ever filled by less than a fifth of it, so more than this cannot be shown.
    left = shortened(words, int(5 * lines * width / size) + 1).split(" ")
    found: list[str] = []
    line = ""
    while left:
        word = left.pop(0)
        longer = f"{line} {word}".strip()
        if _width(longer) * size <= width:
            line = longer
            continue
        if not line:  # one word fills more than a line: cut it
            fits = max(1, next(n for n in range(len(word), -1, -1) if _width(word[:n]) * size <= width))
            line, word = word[:fits], word[fits:]
        found.append(line)
        line = ""
        if word:
            left.insert(0, word)
        if len(found) == lines and left:
            last = found[-1]
            while last and _width(last + HIDDEN) * size > width:
                last = last[:-1]
            return [*found[:-1], last.rstrip(" ,;:" + HIDDEN) + HIDDEN]
    return [*found, line] if line else found


def _width(words: str) -> float:
    """About, in em: the fonts are the browser's."""
    return sum(map(_char_width, words))


def _char_width(char: str) -> float:
    if unicodedata.east_asian_width(char) in "WF":
        return 1.0
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0.0
    # As wide as in the widest of common fonts.
    return 0.37 if char in _NARROW else 0.95 if char in _WIDE else 0.72 if char.isupper() else 0.6


def _escaped(words: str) -> str:
    # XML has no place for most of what is not visible.
    return visible(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
