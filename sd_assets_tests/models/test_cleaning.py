"""Artefacts of captioners, and what is none."""

import pytest

from sd_assets.models.cleaning import Cleaner


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("arafed man sitting on a bench", "man sitting on a bench"),
        ("there is an arafed man sitting", "there is a man sitting"),
        ("there is a arafed old man", "there is an old man"),
        ("An Arafed dog", "A dog"),
        ("two araffes, one big", "two, one big"),
        ("a red sofa and araffe", "a red sofa and"),
        ("arafed", ""),
        ("a dog on a a a a a", "a dog on a"),
        ("a sofa and a lamp and a lamp and a lamp", "a sofa and a lamp"),
        ("a cat. a cat. A cat.", "a cat."),
        ("no no no no!", "no!"),
        ("  a   red\nsofa ", "a red sofa"),
    ],
)
def test_artefacts_are_taken_out(caption: str, cleaned: str) -> None:
    assert Cleaner()(caption) == cleaned
    assert Cleaner()(cleaned) == cleaned


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "there is a red sofa in a room",
        "The image shows a giraffe",
        "yasser arafat at a table",
        "a sign that says ho ho ho",
        "a cat and a cat",
        "a an hour a umbrella",  # whatever a captioner writes where there is no artefact
        "1 1 1 is what the sign says",
        "ein rotes Sofa, eine Lampe und 猫",
    ],
)
def test_other_words_stay(caption: str) -> None:
    assert Cleaner()(caption) == caption


def test_own_artefacts_take_the_place_of_ours() -> None:
    clean = Cleaner(["the image shows", "Stock Photo", "(c)"])
    assert clean("The image  shows an old stock photo of an arafed man (c)") == "an old of an arafed man"
    assert clean("stock photos") == "stock photos"
    assert Cleaner([])("an arafed man") == "an arafed man"
    # The longer one first.
    assert Cleaner(["red", "red sofa"])("a red sofa here") == "a here"


def test_long_captions_are_cleaned_quickly() -> None:
    """Looking for repetitions does not take time with the square of the length: minutes, here."""
    assert Cleaner()("a b " * 20_000 + "c").endswith("c")
