"""Pairs against the captions and images they were made from."""

from pathlib import Path
from typing import Any

from sd_assets.quality.finding import Finding
from sd_assets.quality.pairs import judge_pairs
from sd_assets.schemas import DOWNLOADED_IMAGES, IMAGE_CAPTIONS, SEED_IMAGES, TEXT_IMAGE_PAIRS
from sd_assets_tests.tables import table_of

CAPTIONS = {"seed": ["a seed"], "both": ["a seed that was found, too"], "web": ["one", "two"]}


def judged(
    base: Path, *, pairs: dict[str, Any] | None = None, captions: dict[str, Any] | None = None
) -> Finding:
    pairs = CAPTIONS if pairs is None else pairs
    captions = CAPTIONS if captions is None else captions
    (found,) = judge_pairs(
        table_of(
            base, TEXT_IMAGE_PAIRS, ({"image_id": name, "captions": texts} for name, texts in pairs.items())
        ),
        table_of(
            base,
            IMAGE_CAPTIONS,
            [
                *(
                    {"image_id": name, "variant": f"v{number}", "caption": text}
                    for name, texts in captions.items()
                    for number, text in enumerate(texts)
                ),
                {"image_id": "uncaptioned", "variant": "v0", "error": "empty_caption"},
            ],
        ),
        table_of(
            base,
            SEED_IMAGES,
            [{"image_id": name} for name in ("seed", "both", "uncaptioned")]
            + [{"image_id": None, "error": "unreadable"}],
        ),
        table_of(
            base,
            DOWNLOADED_IMAGES,
            [{"url_id": f"u{name}", "image_id": name} for name in ("both", "web")]
            + [{"url_id": "u0", "image_id": "web"}, {"url_id": "u1", "error": "timeout"}],
        ),
    )
    return found


def counts(found: Finding) -> tuple[int, ...]:
    names = ("missing", "without_caption_row", "other_captions", "without_captions")
    return tuple(found.numbers[name] for name in names)


def test_pairs_that_match(tmp_path: Path) -> None:
    found = judged(tmp_path)
    assert found.passed and counts(found) == (0, 0, 0, 0)
    assert (found.numbers["pairs"], found.numbers["images_with_caption"]) == (3, 3)
    # The order of an image's captions says nothing.
    assert judged(tmp_path / "turned", pairs={**CAPTIONS, "web": ["two", "one"]}).passed


def test_an_image_with_a_caption_that_is_no_pair(tmp_path: Path) -> None:
    found = judged(tmp_path, pairs={name: CAPTIONS[name] for name in ("seed", "both")})
    assert not found.passed and counts(found) == (1, 0, 0, 0)
    assert found.numbers["examples"]["missing"] == ["web"]
    assert "materialize text_image_pairs again" in found.description


def test_a_pair_without_a_caption_row_or_an_image(tmp_path: Path) -> None:
    found = judged(tmp_path / "a", pairs={**CAPTIONS, "uncaptioned": ["made up"]})
    assert not found.passed and counts(found) == (0, 1, 0, 0)
    assert found.numbers["examples"]["without_caption_row"] == ["uncaptioned"]
    nowhere = {**CAPTIONS, "nowhere": ["of no image"]}
    assert counts(judged(tmp_path / "b", pairs=nowhere, captions=nowhere)) == (0, 1, 0, 0)


def test_a_caption_of_no_image_makes_no_pair(tmp_path: Path) -> None:
    assert judged(tmp_path, captions={**CAPTIONS, "nowhere": ["of no image"]}).passed


def test_other_captions(tmp_path: Path) -> None:
    for number, texts in enumerate((["one"], ["one", "two", "two"], ["one", "Two"], ["one", None])):
        found = judged(tmp_path / str(number), pairs={**CAPTIONS, "web": texts})
        assert not found.passed and counts(found) == (0, 0, 1, 0), texts
        assert found.numbers["examples"]["other_captions"] == ["web"]


def test_captions_that_belong_to_each_other_s_images(tmp_path: Path) -> None:
    swapped = {**CAPTIONS, "seed": CAPTIONS["both"], "both": CAPTIONS["seed"]}
    assert counts(judged(tmp_path, pairs=swapped)) == (0, 0, 2, 0)


def test_a_pair_without_captions(tmp_path: Path) -> None:
    nothing: list[list[str] | None] = [[], None]
    for number, captions in enumerate(nothing):
        found = judged(tmp_path / str(number), pairs={**CAPTIONS, "web": captions})
        assert not found.passed and counts(found) == (0, 0, 0, 1)


def test_nothing_matches_nothing(tmp_path: Path) -> None:
    assert judged(tmp_path, pairs={}, captions={}).passed
    assert counts(judged(tmp_path / "b", pairs={})) == (3, 0, 0, 0)
