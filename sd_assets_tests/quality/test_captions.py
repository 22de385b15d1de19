"""Captions: empty, repeated, short, long, all the same."""

from pathlib import Path
from typing import Any

import pytest

from sd_assets.quality.captions import judge_captions, words_of
from sd_assets.quality.finding import Finding
from sd_assets.schemas import IMAGE_CAPTIONS
from sd_assets.settings import CheckSettings
from sd_assets_tests.tables import table_of


def caption(image: str, text: str | None, *, variant: str = "default", own: bool = False) -> dict[str, Any]:
    return {"image_id": image, "variant": variant, "caption": text, "model": None if own else "m"}


def judged(base: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, Finding]:
    failed = {"image_id": "failed", "variant": "default", "error": "empty_caption"}
    table = table_of(base, IMAGE_CAPTIONS, [*rows, failed])
    return {found.check.name: found for found in judge_captions(table, CheckSettings(**settings))}


def distinct(count: int) -> list[dict[str, Any]]:
    return [caption(f"i{n}", f"a picture of thing {n}") for n in range(count)]


def test_good_captions_pass_everything(tmp_path: Path) -> None:
    found = judged(tmp_path, distinct(5_000))  # more than one row group
    assert len(found) == 5 and all(finding.passed for finding in found.values())
    assert found["captioner_varies"].numbers["distinct"] == 5_000
    assert found["few_repeated_captions"].numbers["share_repeated"] == 0
    lengths = found["caption_lengths_within_limits"].numbers
    assert (lengths["words_min"], lengths["words_median"], lengths["words_max"]) == (5, 5, 5)


def test_no_captions_at_all_are_not_judged(tmp_path: Path) -> None:
    assert all(finding.passed for finding in judged(tmp_path, []).values())


@pytest.mark.parametrize("text", [None, "", " ", "\n\t", "\u00a0\u2003\u3000"])
def test_an_empty_caption_is_found(tmp_path: Path, text: str | None) -> None:
    found = judged(tmp_path, [*distinct(3), caption("bad", text)])["no_empty_captions"]
    assert not found.passed and (found.numbers["empty"], found.numbers["captions"]) == (1, 4)
    assert "1 of 4 captions are empty" in found.description


@pytest.mark.parametrize(
    ("same", "limit", "passed"), [(18, 0.9, True), (19, 0.9, False), (20, 0.9, False), (20, 1.0, True)]
)
def test_a_captioner_that_says_the_same_of_all_is_found(
    tmp_path: Path, same: int, limit: float, passed: bool
) -> None:
    # The same but for case and spaces.
    rows = [caption(f"s{n}", "a White  wall" if n % 2 else " a white wall ") for n in range(same)]
    rows += distinct(20 - same)
    found = judged(tmp_path, rows, max_same_caption=limit)["captioner_varies"]
    assert found.passed is passed
    assert found.numbers["share_of_most_frequent"] == same / 20
    assert found.numbers["most_frequent"]["a white wall"] == same
    assert ("does not see the images" in found.description) != passed


def test_own_texts_and_few_captions_accuse_no_captioner(tmp_path: Path) -> None:
    own = [caption(f"o{n}", "a photo of sks dog", own=True) for n in range(50)]
    found = judged(tmp_path / "own", own)
    assert found["captioner_varies"].passed and found["captioner_varies"].numbers["images"] == 0
    assert not found["few_repeated_captions"].passed  # worth a look all the same
    few = [caption(f"f{n}", "a white wall") for n in range(9)]
    assert judged(tmp_path / "few", few)["captioner_varies"].passed
    assert not judged(tmp_path / "ten", [*few, caption("f9", "a white wall")])["captioner_varies"].passed


def test_the_share_of_images_whose_caption_another_has(tmp_path: Path) -> None:
    rows = [caption(f"i{n}", f"a picture of thing {n // 2}") for n in range(12)] + distinct(40)[30:]
    found = judged(tmp_path, rows, max_repeated_captions=0.54)["few_repeated_captions"]
    # Twelve images in pairs, ten alone; the same image twice is no repetition.
    assert found.numbers["share_repeated"] == 12 / 22 and not found.passed
    assert "12 of 22 images (54.5 %) share a caption with another" in found.description
    assert judged(tmp_path, rows, max_repeated_captions=0.55)["few_repeated_captions"].passed


def test_images_whose_captions_are_all_the_same(tmp_path: Path) -> None:
    rows = []
    for number in range(10):
        rows.append(caption(f"i{number}", f"a picture of thing {number}", variant="a"))
        second = f"A picture of thing {number}" if number < 6 else f"thing {number} in a picture"
        rows.append(caption(f"i{number}", second, variant="b"))
    rows.append(caption("alone", "a picture alone", variant="a"))
    found = judged(tmp_path, rows)
    differ = found["captions_of_an_image_differ"]
    assert not differ.passed
    assert (differ.numbers["images"], differ.numbers["images_with_several"]) == (11, 10)
    assert differ.numbers["images_with_one_text"] == 6
    # An image that repeats itself does not share its caption with another.
    assert found["few_repeated_captions"].numbers["images_with_repeated"] == 0
    assert judged(tmp_path, rows, max_images_with_one_text=0.6)["captions_of_an_image_differ"].passed


def test_lengths(tmp_path: Path) -> None:
    rows = [*distinct(8), caption("short", "dog"), caption("long", "word " * 80)]
    found = judged(tmp_path / "a", rows, max_captions_of_odd_length=0.19)["caption_lengths_within_limits"]
    assert not found.passed and (found.numbers["too_short"], found.numbers["too_long"]) == (1, 1)
    assert found.numbers["words_max"] == 80
    assert "1 have fewer than 3 words and 1 more than 75 (20 %)" in found.description
    assert judged(tmp_path / "b", rows, max_captions_of_odd_length=0.2)[
        "caption_lengths_within_limits"
    ].passed
    wide = judged(tmp_path / "c", rows, min_caption_words=1, max_caption_words=80)
    assert wide["caption_lengths_within_limits"].numbers["share"] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A red sofa.", 3),
        ("客厅里的红色沙发", 8),
        ("赤いソファ in a room", 8),
        ("거실의 빨간 소파", 3),
        ("диван у окна", 3),
        ("أريكة حمراء", 2),
        ("e\u0301tage\u0300re 🛋️", 2),
        ("\U00020000\U00020001", 2),
        ("", 0),
    ],
)
def test_words_in_many_scripts(text: str, words: int) -> None:
    assert len(words_of(text)) == words


def test_a_huge_caption_makes_no_huge_event(tmp_path: Path) -> None:
    huge = "word " * 200_000
    rows = [caption(f"i{n}", huge) for n in range(12)]
    found = judged(tmp_path, rows)
    assert not found["captioner_varies"].passed
    assert all(len(repr(finding)) < 4_000 for finding in found.values())
