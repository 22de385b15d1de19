"""The catalogue: merging, expansion, and errors that a person can act on."""

from pathlib import Path
from typing import Any

import pytest

from sd_assets import catalog
from sd_assets.errors import CatalogError
from sd_assets.settings import parse_allowed_address

CLIP = {"model": "ViT-L-14", "pretrained": "openai"}
GOOD: dict[str, Any] = {
    "defaults": {"clip": CLIP, "download": {"image_size": 256}, "retrieval": {"index": "rooms"}},
    "indices": {"rooms": {"kind": "faiss", "path": "index"}},
    "seed_datasets": {"logos": {"source": {"kind": "folder", "path": "images"}}},
}


def with_entry(**entry: Any) -> dict[str, Any]:
    return {**GOOD, "seed_datasets": {"logos": entry}}


def test_an_entry_overrides_the_defaults_field_by_field(tmp_path: Path) -> None:
    raw = with_entry(prompts={"texts": ["a"]}, download={"retries": 7}, clip={"model": "hf-hub:org/model"})
    entry = catalog.parse(raw, tmp_path / "c.yaml").entry("logos")
    assert (entry.download.image_size, entry.download.retries) == (256, 7)
    # Another model has other weights: the default's tag does not go with it.
    assert (entry.clip.model, entry.clip.pretrained) == ("hf-hub:org/model", None)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    raw = {
        **with_entry(
            prompts={"file": "p.txt"}, clip={"model": "local-dir:models/clip"}, captioner={"model": "./blip"}
        )
    }
    found = catalog.parse(raw, tmp_path / "c.yaml")
    entry, index = found.entry("logos"), found.index("rooms")
    assert entry.prompts is not None
    assert entry.prompts.file == str(tmp_path / "p.txt")
    assert entry.clip.model == f"local-dir:{tmp_path / 'models' / 'clip'}"
    assert entry.captioner.model == str(tmp_path / "blip")
    assert getattr(index, "path", None) == str(tmp_path / "index")


def test_environment_variables_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNN", "http://knn:1234")
    index = {"kind": "clip-retrieval", "url": "${KNN}/x", "indice_name": "${NAME_NOT_SET:-fallback}"}
    found = catalog.parse({**GOOD, "indices": {"rooms": index}}, tmp_path / "c.yaml").index("rooms")
    assert (getattr(found, "url", None), getattr(found, "indice_name", None)) == (
        "http://knn:1234/x",
        "fallback",
    )


def test_an_unset_variable_hurts_only_who_uses_it(tmp_path: Path) -> None:
    index = {"kind": "clip-retrieval", "url": "${NOT_SET_AT_ALL}"}
    found: Any = catalog.parse(
        {**GOOD, "indices": {**GOOD["indices"], "other": index}}, tmp_path / "c.yaml"
    ).index("other")
    with pytest.raises(CatalogError, match="NOT_SET_AT_ALL is not set: export NOT_SET_AT_ALL="):
        catalog.require_set(found.url, "indices.other.url")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "must be a mapping with `seed_datasets:`"),
        ({**GOOD, "datasets": {}}, "datasets: unknown section; allowed: defaults, indices, seed_datasets"),
        ({**GOOD, "seed_datasets": {}}, "there is no entry"),
        (
            {**GOOD, "seed_datasets": {"a/b": {}}},
            r"seed_datasets.a/b: the name is a folder and a partition key",
        ),
        (with_entry(), "needs `source:` .images., `prompts:`, or both"),
        (with_entry(source={"kind": "folder"}), r"seed_datasets.logos.source.path: this field is required"),
        (with_entry(source={"kind": "zip"}), "source: there is no kind 'zip'; allowed: 'folder', 'hub'"),
        (
            with_entry(source={"kind": "hub", "id": "a/b", "spilt": "x"}),
            r"spilt: unknown field; allowed: .*split",
        ),
        (with_entry(prompts={"template": "{a} {b}", "a": ["x"]}), r"uses \{b\}, but there is no list `b:`"),
        (with_entry(prompts={"template": "x", "a": ["x"]}), "the list `a:` is used nowhere"),
        (with_entry(prompts={"template": "{a}", "a": "x"}), "`a` must be a list of texts"),
        (
            with_entry(prompts={"texts": ["x"]}, clip={"model": "ViT-B-32"}),
            "has no weights: add `pretrained:`",
        ),
        (
            with_entry(prompts={"texts": ["x"]}, retrieval={"index": "no"}),
            "there is no index 'no' under `indices:`; there are: rooms",
        ),
        (
            with_entry(prompts={"texts": ["x"]}, download={"resize_mode": "crop"}),
            r"resize_mode: .*'center_crop', got 'crop'",
        ),
        (
            with_entry(prompts={"texts": ["x"]}, download={"image_size": 0}),
            r"image_size: .*greater than or equal to 1, got 0",
        ),
        (
            with_entry(prompts={"texts": ["x"]}, download={"allow_addresses": ["home"]}),
            "'home' is no address or network",
        ),
    ],
)
def test_a_mistake_says_where_and_what_is_allowed(tmp_path: Path, raw: Any, message: str) -> None:
    with pytest.raises(CatalogError, match=message) as caught:
        catalog.parse(raw, tmp_path / "c.yaml")
    assert str(tmp_path / "c.yaml") in str(caught.value)


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    raw = {
        **GOOD,
        "indices": {"rooms": {"kind": "faiss"}},
        "seed_datasets": {"a": {"source": {"kind": "hub"}}, "b": 3, "c": {"description": "no seeds"}},
    }
    with pytest.raises(CatalogError, match="4 mistake") as caught:
        catalog.parse(raw, tmp_path / "c.yaml")
    for place in ("indices.rooms.path", "seed_datasets.a.source.id", "seed_datasets.b", "seed_datasets.c"):
        assert f"  {place}: " in str(caught.value)


def test_a_mistake_in_the_defaults_is_said_there_and_once(tmp_path: Path) -> None:
    entries = {name: {"prompts": {"texts": ["x"]}} for name in ("a", "b", "c")}
    defaults = {**GOOD["defaults"], "retrieval": {"index": "rooms", "images_per_qery": 20}}
    with pytest.raises(CatalogError, match="1 mistake") as caught:
        catalog.parse({**GOOD, "defaults": defaults, "seed_datasets": entries}, tmp_path / "c.yaml")
    assert "  defaults.retrieval.images_per_qery: unknown field; allowed: " in str(caught.value)


def test_an_unknown_entry_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no seed dataset 'x'; there are: logos"):
        catalog.parse(GOOD, tmp_path / "c.yaml").entry("x")


def test_a_missing_file_and_bad_yaml(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="set SD_ASSETS_CATALOG to yours"):
        catalog.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(CatalogError, match="cannot be read as YAML"):
        catalog.load(tmp_path / "bad.yaml")


def test_the_catalogue_that_ships_is_right() -> None:
    assert {"demo_rooms", "demo_prompts"} <= set(catalog.load().seed_datasets)


@pytest.mark.parametrize(
    ("text", "network", "port"),
    [
        ("127.0.0.1", "127.0.0.1/32", None),
        ("127.0.0.1:80", "127.0.0.1/32", 80),
        ("10.0.0.0/8", "10.0.0.0/8", None),
        ("[::1]:8000", "::1/128", 8000),
        ("[fd00::/8]", "fd00::/8", None),
        ("::1", "::1/128", None),
    ],
)
def test_allowed_addresses(text: str, network: str, port: int | None) -> None:
    assert parse_allowed_address(text) == (network, port)
