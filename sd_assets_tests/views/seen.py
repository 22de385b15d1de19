"""What a reader of a view sees: Markdown and pictures, taken apart again."""

import io
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

_SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Picture:
    """An SVG: its size in pixels, its texts in order, and the JPEG in it, if there is one."""

    width: int
    height: int
    texts: list[str]
    photo: Image.Image | None


def inline_tokens(markdown: str) -> list[Token]:
    """All that Markdown makes of the text, HTML and tables allowed: what would be a link, a picture, HTML or code."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    parser.validateLink = lambda url: True  # type: ignore[method-assign] # it would hide what is dangerous
    parsed = parser.parse(markdown)
    return [
        *(token for token in parsed if token.type == "html_block"),
        *(child for token in parsed for child in token.children or ()),
    ]


def picture_in(markdown: str) -> Picture:
    """The one picture of a view."""
    (image,) = (token for token in inline_tokens(markdown) if token.type == "image")
    kind, _, data = str(image.attrs["src"]).partition(",")
    assert kind == "data:image/svg+xml"
    root = ElementTree.fromstring(unquote(data, errors="strict"))
    photos = [element.attrib["href"] for element in root.iter(f"{_SVG}image")]
    assert all(photo.startswith("data:image/jpeg;base64,") for photo in photos)
    texts = ["".join(element.itertext()) for element in root.iter(f"{_SVG}text")]
    photo = Image.open(io.BytesIO(b64decode(photos[0].partition(",")[2]))) if photos else None
    return Picture(int(root.attrib["width"]), int(root.attrib["height"]), texts, photo)


def cells_in(markdown: str) -> list[list[str]]:
    """The rows of the one table of a view, without its header, as text."""
    parsed = MarkdownIt("commonmark").enable("table").parse(markdown)
    rows: list[list[str]] = []
    for token, inside in pairwise(parsed):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append("".join(child.content for child in inside.children or ()))
    return rows[1:]
