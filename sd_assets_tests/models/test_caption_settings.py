"""What the catalogue says of captions: variants, and what does not fit together."""

from typing import Any

import pytest
from pydantic import ValidationError

from sd_assets.settings import CaptionerSettings, numbered_names


def test_variants_override_what_stands_above_them() -> None:
    settings = CaptionerSettings(
        prompt="a photo of",
        max_new_tokens=80,
        variants={
            "short": {"max_new_tokens": 10},
            "long": {"min_new_tokens": 60, "prompt": None},
            "plain": None,
        },
    )
    assert list(settings.kinds) == ["short", "long", "plain"]
    said = {name: (it.prompt, it.min_new_tokens, it.max_new_tokens) for name, it in settings.kinds.items()}
    assert said == {"short": ("a photo of", 0, 10), "long": (None, 60, 80), "plain": ("a photo of", 0, 80)}
    # Settings are written and read again on their way to a worker.
    assert CaptionerSettings.model_validate(settings.model_dump()) == settings


def test_without_variants_there_is_one() -> None:
    settings = CaptionerSettings(top_p=0.9, count=2)
    assert list(settings.kinds) == ["default"] and settings.kinds["default"].count == 2
    assert numbered_names("default", 2) == ["default-1", "default-2"]
    assert numbered_names("default", 1) == ["default"]


def test_what_stands_above_variants_need_not_be_complete() -> None:
    variants: Any = {"one": {"max_new_tokens": 100}, "two": {"max_new_tokens": 90}}
    assert CaptionerSettings(min_new_tokens=60, variants=variants).kinds["two"].min_new_tokens == 60
    with pytest.raises(ValidationError, match=r"`min_new_tokens` is 60, more than `max_new_tokens`, 50"):
        CaptionerSettings(min_new_tokens=60)


def test_only_what_is_used_has_effects() -> None:
    variants: Any = {"one": {"max_new_tokens": 100}}
    plain = CaptionerSettings(variants=variants)
    assert CaptionerSettings(variants=variants, max_new_tokens=7, batch_size=3).effects() == plain.effects()
    assert CaptionerSettings(variants={**variants, "two": {}}).effects() != plain.effects()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 2, "top_p": 0.5}, r"either sampled .* or searched for with beams"),
        ({"num_beams": 2, "temperature": 0.5}, r"either sampled .* or searched for with beams"),
        ({"count": 2}, r"greedy captions of an image are all the same: sample them \(`top_p: 0.9`\)"),
        ({"num_beams": 2, "count": 3}, r"2 beams have 2 captions: raise `num_beams`"),
        ({"top_p": 0}, r"top_p\n.*greater than 0"),
        ({"top_p": 1.1}, r"top_p\n.*less than or equal to 1"),
        ({"max_new_tokens": True}, r"max_new_tokens\n.*valid integer"),
        ({"variants": {"a": {"min_new_tokens": 70}}}, r"variants.a\n.*`min_new_tokens` is 70"),
        ({"variants": {"Long Ones": {}}}, r"variants.Long Ones"),
        ({"variants": {"a": {"model": "b"}}}, r"variants.a.model\n.*not permitted"),
        ({"variants": {"a": "short"}}, r"variants.a\n"),
        (
            {"variants": {"a": {"count": 2, "top_p": 0.5}, "a-1": {}}},
            r"two variants are named 'a-1': one is a number of `count`",
        ),
        ({"trust_remote_code": True}, r"give the commit that you have read as `revision`, all 40 digits"),
        ({"trust_remote_code": True, "revision": "main"}, r"all 40 digits"),
    ],
)
def test_mistakes(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CaptionerSettings(**given)


def test_own_code_of_a_commit_or_a_folder() -> None:
    assert CaptionerSettings(trust_remote_code=True, revision="0123456789" * 4).trust_remote_code
    assert CaptionerSettings(trust_remote_code=True, model="./here").trust_remote_code
