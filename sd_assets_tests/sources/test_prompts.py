"""Seed prompts from templates, lists and files."""

from pathlib import Path

import pytest

from sd_assets.errors import CatalogError, SourceError
from sd_assets.settings import Prompts
from sd_assets.sources.prompts import read_prompts


def prompts(**fields: object) -> list[str]:
    return list(read_prompts(Prompts.model_validate(fields)))


def test_every_combination_the_last_field_fastest() -> None:
    assert prompts(template="{style} {room}, interior", style=["old", "new"], room=["bath", "hall"]) == [
        "old bath, interior",
        "old hall, interior",
        "new bath, interior",
        "new hall, interior",
    ]


def test_the_order_is_that_of_the_lists_not_of_the_template() -> None:
    assert prompts(template="{b}{a}{a}", a=["1", "2"], b=["x", "y"]) == ["x11", "y11", "x22", "y22"]


def test_a_template_without_fields_and_with_other_braces() -> None:
    assert prompts(template="a {} b {{c}} {%}", c=["1", "2"]) == ["a {} b {1} {%}", "a {} b {2} {%}"]
    assert prompts(template="just this") == ["just this"]


def test_what_fills_a_field_is_not_filled_again() -> None:
    assert prompts(template="{a}-{b}", a=["{b}"], b=[r"\1 \g<0>"]) == [r"{b}-\1 \g<0>"]


def test_template_then_texts_then_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffone \n\n   \n  two\r\nthr\u00e9e \u2603\none", encoding="utf-8")
    assert prompts(file=str(file), texts=(" a red sofa ", "", "a red sofa"), template="x") == [
        "x",
        "a red sofa",
        "a red sofa",
        "one",
        "two",
        "thr\u00e9e \u2603",
        "one",
    ]


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"")
    assert prompts(file=str(tmp_path / "prompts.txt")) == []


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"prompts.file .*none.txt cannot be read: No such file"):
        prompts(file=str(tmp_path / "none.txt"))
    with pytest.raises(SourceError, match="cannot be read: Is a directory"):
        prompts(file=str(tmp_path))


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("fine\nch\u00e2teau\n".encode("latin-1"))
    with pytest.raises(SourceError, match=r"prompts.txt: line 2 is not UTF-8 .*save it as UTF-8"):
        prompts(file=str(tmp_path / "prompts.txt"))


def test_variable_that_is_not_set() -> None:
    with pytest.raises(CatalogError, match=r"prompts.file .* MY_PROMPTS is not set"):
        prompts(file="${MY_PROMPTS}/a.txt")


def test_nothing_is_held(tmp_path: Path) -> None:
    """A thousand to the fifth combinations cannot be."""
    many = [str(number) for number in range(1000)]
    rows = read_prompts(
        Prompts.model_validate({"template": "{a}{b}{c}{d}{e}", **dict.fromkeys("abcde", many)})
    )
    assert [next(rows) for _ in range(3)] == ["00000", "00001", "00002"]
