"""The limits of the checks: their defaults, how an entry's go over the shared ones, and mistakes in them; secrets of services."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd_assets import catalog
from sd_assets.errors import CatalogError, ErrorCode
from sd_assets.schemas import TABLES
from sd_assets.settings import CaptionerSettings, CheckSettings, without_password


def checks(tmp_path: Path, shared: Any = None, own: Any = None) -> CheckSettings:
    """The limits of an entry of a catalogue that says these."""
    raw = {
        "defaults": {"clip": {"model": "ViT-B-32", "pretrained": "openai"}, **_given(shared)},
        "indices": {"laion": {"kind": "faiss", "path": "index"}},
        "seed_datasets": {"one": {"prompts": {"texts": ["x"]}, **_given(own)}},
    }
    return catalog.parse(raw, tmp_path / "c.yaml").entry("one").checks


def _given(value: Any) -> dict[str, Any]:
    return {} if value is None else {"checks": value}


def test_every_table_has_a_limit_without_a_word_in_the_catalogue(tmp_path: Path) -> None:
    limits = checks(tmp_path).max_failed
    assert list(limits) == [table.name for table in TABLES]
    # What cannot be read is kept out of nothing.
    assert limits.pop("held_out_images") == {"total": 0}
    assert all(0 < of_table["total"] < 1 for of_table in limits.values())
    assert limits["downloaded_images"] == {"total": 0.9}
    assert limits["seed_embeddings"] == {"total": 0.5, ErrorCode.NOT_FINITE: 0.01}


@pytest.mark.parametrize(
    ("shared", "own", "expected"),
    [
        (None, 0.7, {"total": 0.7}),
        (0.7, None, {"total": 0.7}),
        (0.7, 0.8, {"total": 0.8}),
        (None, {"timeout": 0.3}, {"total": 0.9, "timeout": 0.3}),
        (0.7, {"timeout": 0.3}, {"total": 0.7, "timeout": 0.3}),
        ({"timeout": 0.3}, 0.7, {"total": 0.7, "timeout": 0.3}),
        (
            {"total": 0.7, "timeout": 0.3},
            {"timeout": 1, "dns_error": 0},
            {"total": 0.7, "timeout": 1, "dns_error": 0},
        ),
    ],
)
def test_an_entry_s_limits_go_over_the_shared_ones_code_by_code(
    tmp_path: Path, shared: Any, own: Any, expected: dict[str, float]
) -> None:
    given = [
        None if limit is None else {"max_failed": {"downloaded_images": limit}} for limit in (shared, own)
    ]
    limits = checks(tmp_path, *given).max_failed
    assert limits["downloaded_images"] == expected
    # The other tables keep theirs.
    assert limits["seed_images"] == {"total": 0.5}


def test_an_entry_s_limits_of_one_table_keep_the_shared_ones_of_another(tmp_path: Path) -> None:
    shared = {"max_failed": {"seed_images": 0.1}, "min_caption_words": 5}
    found = checks(tmp_path, shared, {"max_failed": {"image_captions": 0.2}, "norm_tolerance": 0.5})
    assert (found.max_failed["seed_images"], found.max_failed["image_captions"]) == (
        {"total": 0.1},
        {"total": 0.2},
    )
    assert (found.min_caption_words, found.norm_tolerance) == (5, 0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"max_failed": {"downlods": 0.5}},
            r"checks\.max_failed\.downlods: there is no table of this name; there are: seed_images, .*text_image_pairs",
        ),
        (
            {"max_failed": {"downloaded_images": {"time_out": 0.5}}},
            r"downloaded_images\.time_out: there is no error code of this name; there are: total, .*timeout",
        ),
        ({"max_failed": {"downloaded_images": 1.5}}, r"total: .*less than or equal to 1, got 1.5"),
        ({"max_failed": {"downloaded_images": "half"}}, r"must be a share from 0 to 1, or a mapping.*'half'"),
        ({"max_failed": {"downloaded_images": True}}, r"max_failed\.downloaded_images: must be a share"),
        ({"max_same_caption": -0.1}, "max_same_caption: .*greater than or equal to 0"),
        ({"min_caption_word": 2}, "min_caption_word: unknown field; allowed: .*min_caption_words"),
        ({"min_caption_words": 80}, r"min_caption_words \(80\) is more than max_caption_words \(75\)"),
    ],
)
def test_a_mistake_says_what_there_is(tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        checks(tmp_path, own=wrong)


def test_a_mistake_in_the_shared_limits_is_said_there_and_once(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"1 mistake.*\n  defaults\.checks\.max_failed\.downlods: "):
        checks(tmp_path, {"max_failed": {"downlods": 0.5}})


def test_limits_make_nothing_stale(tmp_path: Path) -> None:
    raw = {
        "indices": {"laion": {"kind": "faiss", "path": "index"}},
        "seed_datasets": {
            "one": {
                "prompts": {"texts": ["x"]},
                "clip": {"model": "ViT-B-32", "pretrained": "openai"},
                "checks": {"min_caption_words": 9},
            }
        },
    }
    sections = catalog.parse(raw, tmp_path / "c.yaml").sections("one")
    assert "checks" not in sections and "min_caption_words" not in str(sections)


# --- services --------------------------------------------------------------------------------------------------------

# The `/` of the password is not written as %2F, so the host cannot be told from it.
UNREADABLE = (
    "http://user:pa/5ec2e7@host/v1",
    "http://user:pa?5ec2e7@host/v1",
    "http://user:pa#5ec2e7@host/v1",
    "http://user:5ec2e7/@host/v1",
    "http://user:p://5ec2e7@host/v1",
    "http:///user:5ec2e7@host/v1",
    "http:/user:5ec2e7@host/v1",
    "user:5e://c2e7:5ec2e7@host/v1",
    "user:pa/5ec2e7@host/v1",
    "https://host/5ec2e7@v1",
)


def services(tmp_path: Path, place: str, url: str) -> None:
    """A catalogue in which a service, or a web server of the user's, has this URL."""
    endpoint = {"model": "a", "endpoint": {"url": url if place == "endpoint" else "http://host/v1"}}
    served = {"kind": "clip-retrieval", "url": ["http://h:1", url] if place == "list" else url}
    corpus = {"kind": "partition", "partition": "one", "base_url": url if place == "base_url" else None}
    raw = {
        "indices": {
            "laion": served if place in ("index", "list") else {"kind": "faiss", "path": "index"},
            "own": {"kind": "faiss", "path": "own", "corpus": corpus},
        },
        "seed_datasets": {
            "one": {
                "prompts": {"texts": ["x"]},
                "clip": {"model": "ViT-B-32", "pretrained": "openai"},
                "captioner": endpoint,
            }
        },
    }
    catalog.parse(raw, tmp_path / "c.yaml")


@pytest.mark.parametrize("place", ["endpoint", "index", "list", "base_url"])
def test_a_password_that_cannot_be_told_from_the_path_is_refused_and_not_shown(
    tmp_path: Path, place: str
) -> None:
    for url in UNREADABLE:
        with pytest.raises(CatalogError, match=r"url\S*: has an `@` behind the first `/`.*%2F") as error:
            services(tmp_path, place, url)
        assert "5ec2e7" not in str(error.value)
    for url in ("http://user:pa%2Fss@host/v1", "http://user:p@ss@host/v1", "https://host/%40me/v1"):
        services(tmp_path, place, url)


def test_what_pydantic_says_quotes_no_password() -> None:
    for url in UNREADABLE:
        with pytest.raises(ValueError, match="has an `@` behind") as error:
            CaptionerSettings.model_validate({"model": "a", "endpoint": {"url": url, "api_key": "5ec2e7"}})
        assert "5ec2e7" not in str(error.value)


@pytest.mark.parametrize("url", UNREADABLE[:-1])
def test_what_is_shown_of_a_url_has_no_password_however_it_is_written(url: str) -> None:
    assert "5ec2e7" not in without_password(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:pw@host:1/v1", "http://host:1/v1"),
        ("http://me:p@w@host/v1", "http://host/v1"),
        ("me:pw@host:1234", "host:1234"),
        ("https://host/v1", "https://host/v1"),
        ("host", "host"),
    ],
)
def test_urls_without_their_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize("name", ["api_key", "API_Key", "Authorization", "token", "key", "x-api-key"])
@pytest.mark.parametrize(
    "wrap", [lambda fields: fields, lambda fields: {"extra": [fields]}], ids=["", "deep"]
)
def test_a_credential_among_the_fields_of_a_request_is_refused_and_not_shown(
    name: str, wrap: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    body = wrap({"top_k": 3, name: "5ec2e7"})
    given = {"model": "a", "endpoint": {"url": "http://host/v1", "body": body}}
    with pytest.raises(ValueError, match=rf"`{name}` looks like a credential.*`endpoint: api_key: ") as error:
        CaptionerSettings.model_validate(given)
    assert "5ec2e7" not in str(error.value)


def test_other_fields_of_a_request_are_taken() -> None:
    body = {
        "max_tokens": None,
        "max_completion_tokens": 100,
        "chat_template_kwargs": {"enable_thinking": False},
        "guided_json": {"properties": {"key": {"type": "string"}}},
    }
    endpoint = {"url": "http://host/v1", "body": body}
    settings = CaptionerSettings.model_validate({"model": "a", "endpoint": endpoint})
    assert settings.effects()["endpoint"]["body"] == body
