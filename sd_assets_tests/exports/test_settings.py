"""What `exports:` of the catalogue may say."""

from pathlib import Path
from typing import Any

import pytest

from sd_assets import catalog
from sd_assets.errors import CatalogError
from sd_assets.exports.export import LAYOUTS
from sd_assets.settings import LAYOUTS as NAMES
from sd_assets.settings import ExportsSettings


def exports(tmp_path: Path, own: Any, shared: Any = None) -> ExportsSettings:
    """Those of an entry of a catalogue that says this."""
    raw = {
        "defaults": {"clip": {"model": "ViT-B-32", "pretrained": "openai"}, "exports": shared or {}},
        "indices": {"laion": {"kind": "faiss", "path": "index"}},
        "seed_datasets": {"one": {"prompts": {"texts": ["x"]}, "exports": own}},
    }
    return catalog.parse(raw, tmp_path / "c.yaml").entry("one").exports


def chosen(settings: ExportsSettings) -> list[str]:
    return [name for name in NAMES if settings.layout(name) is not None]


def test_every_layout_can_be_chosen_and_none_is() -> None:
    assert tuple(LAYOUTS) == NAMES
    assert chosen(ExportsSettings()) == []
    assert chosen(ExportsSettings.model_validate(dict.fromkeys(NAMES))) == list(NAMES)


@pytest.mark.parametrize("value", [None, True, {}])
def test_a_layout_is_chosen_as_it_is(tmp_path: Path, value: Any) -> None:
    assert chosen(exports(tmp_path, {"kohya": value})) == ["kohya"]


def test_an_entry_s_go_over_the_shared_ones(tmp_path: Path) -> None:
    shared = {"kohya": {"resolution": 768, "captions": "all"}, "mds": {}}
    found = exports(tmp_path, {"kohya": {"captions": "first"}, "mds": False, "parquet": True}, shared)
    assert chosen(found) == ["kohya", "parquet"]
    assert found.kohya is not None
    assert (found.kohya.resolution, found.kohya.captions) == (768, "first")


def test_the_path_is_relative_to_the_file_and_changes_nothing_in_the_files(tmp_path: Path) -> None:
    assert exports(tmp_path, {"path": "out"}).path == str(tmp_path / "out")
    assert exports(tmp_path, {"path": "s3://bucket/out"}).path == "s3://bucket/out"
    assert "path" not in exports(tmp_path, {"path": "out"}).effects()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kohja": {}}, r"one\.exports\.kohja: unknown field; allowed: .*; did you mean 'kohya'\?"),
        ({"ai_toolkit": {"captions": "all"}}, r"exports\.ai_toolkit\.captions: unknown field"),
        ({"mds": {"captions": "some"}}, r"exports\.mds\.captions: must be 'first' or 'all', got 'some'"),
        ({"imagefolder": 512}, r"exports\.imagefolder: must be a mapping of fields"),
        ({"parquet": {"shard_mb": 4000}}, r"exports\.parquet\.shard_mb: .*1000, got 4000"),
    ],
)
def test_a_mistake_says_what_is_allowed(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        exports(tmp_path, given)
