"""The section `push_to_hub:` of the catalogue."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sd_assets.catalog import Catalog, load
from sd_assets.errors import CatalogError
from sd_assets.settings.exports import ParquetSettings


def catalog(folder: Path, section: Any, **defaults: Any) -> Catalog:
    entry = {"prompts": {"texts": ["a sofa"]}, "push_to_hub": section}
    shared = {"clip": {"model": "toy", "pretrained": "toy"}, "retrieval": {"index": "toy"}, **defaults}
    said = {
        "defaults": shared,
        "indices": {"toy": {"kind": "faiss", "path": "index"}},
        "seed_datasets": {"rooms": entry},
    }
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(said))
    return load(path)


def test_a_push_is_private_unless_said_else(tmp_path: Path) -> None:
    settings = catalog(tmp_path, {"repo_id": "me/rooms"}).entry("rooms").push_to_hub
    assert settings is not None
    assert (settings.private, settings.licence, settings.contact) == (True, "other", None)


def test_without_the_section_nothing_is_pushed(tmp_path: Path) -> None:
    found = catalog(tmp_path, None)
    assert found.entry("rooms").push_to_hub is None
    assert found.sections("rooms")["push_to_hub"] == {}


def test_an_entry_takes_what_the_defaults_say(tmp_path: Path) -> None:
    found = catalog(tmp_path, {"repo_id": "me/rooms"}, push_to_hub={"contact": "who@example.org"})
    settings = found.entry("rooms").push_to_hub
    assert settings is not None and settings.contact == "who@example.org"


def test_what_the_card_says_is_no_matter_of_the_files(tmp_path: Path) -> None:
    said = {"repo_id": "me/rooms", "contact": "who@example.org", "captions": "all", "shard_pairs": 10}
    settings = catalog(tmp_path, said).entry("rooms").push_to_hub
    assert settings is not None
    assert settings.parquet == ParquetSettings(captions="all", shard_pairs=10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"repo_id": "rooms"}, "push_to_hub.repo_id: must be `owner/name`, a dataset of the Hub"),
        ({"repo_id": "me/rooms/train"}, "push_to_hub.repo_id: must be `owner/name`"),
        ({}, "push_to_hub.repo_id: this field is required"),
        ({"repo_id": "me/rooms", "licence": "CC BY 4.0"}, "push_to_hub.licence"),
        ({"repo_id": "me/rooms", "token": "hf_abc"}, "push_to_hub.token: unknown field"),
        ({"repo_id": "me/rooms", "private": "perhaps"}, "push_to_hub.private: must be true or false"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogError) as raised:
        catalog(tmp_path, wrong)
    assert message in str(raised.value) and "hf_abc" not in str(raised.value)
