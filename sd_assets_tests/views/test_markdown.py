"""Markdown into which nothing can be injected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_assets.views.markdown import code, picture, table
from sd_assets.views.text import shortened
from sd_assets_tests.views.hostile import HOSTILE
from sd_assets_tests.views.seen import cells_in, inline_tokens, picture_in


def check_cells(text: str) -> None:
    line = shortened(text, 500)
    markdown = table(["a", "b"], [[code(line), "1"], ["2", code(line)]])
    rows = cells_in(markdown)
    assert [len(row) for row in rows] == [2, 2]
    assert (rows[0][1], rows[1][0]) == ("1", "2")
    assert {token.type for token in inline_tokens(markdown)} <= {"text", "code_inline"}
    assert all(
        token.content in ("a", "b", "1", "2") for token in inline_tokens(markdown) if token.type == "text"
    )
    shown = line.replace("`", "ˋ").replace("|", "¦").strip()
    assert rows[0][0] == rows[1][1] == shown


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_text(text: str) -> None:
    check_cells(text)


@given(st.text(alphabet=st.sampled_from("`|\\<>[]()!&#*_~:/ \n\tax") | st.characters(), max_size=30))
def test_any_text_is_text(text: str) -> None:
    check_cells(text)


def test_a_picture_comes_back_as_it_was() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="3" height="4"><text>(a) "b" \'c\' 写真 100% &lt;</text></svg>'
    seen = picture_in(picture(svg, "a picture"))
    assert (seen.width, seen.height, seen.texts) == (3, 4, ["(a) \"b\" 'c' 写真 100% <"])
