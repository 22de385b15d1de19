"""The section `scores:` of the catalogue: what it may say, and mistakes in it."""

from pathlib import Path
from typing import Any

import pytest

from sd_assets import catalog
from sd_assets.errors import CatalogError
from sd_assets.settings import CurationSettings, ScoreModelSettings, ScoreSettings


def scores(tmp_path: Path, own: Any, shared: Any = None) -> ScoreSettings:
    """Of an entry of a catalogue that says these."""
    raw = {
        "defaults": {"clip": {"model": "ViT-B-32", "pretrained": "openai"}, "scores": shared or {}},
        "indices": {"laion": {"kind": "faiss", "path": "index"}},
        "seed_datasets": {"one": {"prompts": {"texts": ["x"]}, "scores": own}},
    }
    return catalog.parse(raw, tmp_path / "c.yaml").entry("one").scores


def test_nothing_is_asked_for_by_default(tmp_path: Path) -> None:
    assert scores(tmp_path, {}) == ScoreSettings() == ScoreSettings(aesthetic=None, nsfw=None)


def test_files_and_folders_are_relative_to_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "models" / "nsfw").mkdir(parents=True)
    found = scores(
        tmp_path, {"aesthetic": {"head": "heads/a.pth"}, "nsfw": {"model": "models/nsfw", "label": "x"}}
    )
    assert found.aesthetic is not None and found.aesthetic.head == str(tmp_path / "heads" / "a.pth")
    assert found.nsfw is not None and found.nsfw.model == str(tmp_path / "models" / "nsfw")


def test_what_is_on_the_hub_stays_as_it_is(tmp_path: Path) -> None:
    head = {"head": "hf-hub:org/heads/vit/a.safetensors", "revision": "v1"}
    found = scores(tmp_path, {"aesthetic": head, "nsfw": {"model": "org/nsfw", "label": "x"}})
    assert found.aesthetic is not None and found.aesthetic.hub_file == ("org/heads", "vit/a.safetensors")
    assert found.aesthetic.head == head["head"]
    assert found.nsfw is not None and found.nsfw.model == "org/nsfw"


def test_an_entry_takes_another_model_than_the_defaults_or_none(tmp_path: Path) -> None:
    shared = {"aesthetic": {"head": "hf-hub:o/m/a"}}
    other = scores(tmp_path, {"aesthetic": {"head": None, "model": "org/m", "label": "nice"}}, shared)
    assert other.aesthetic == ScoreModelSettings(model="org/m", label="nice")
    assert scores(tmp_path, {"aesthetic": None}, shared).aesthetic is None


def test_batches_change_nothing() -> None:
    models = [ScoreModelSettings(model="org/m", label="x", batch_size=size) for size in (None, 8)]
    assert ScoreSettings(nsfw=models[0]).effects() == ScoreSettings(nsfw=models[1]).effects()
    labelled = ScoreSettings(nsfw=ScoreModelSettings(model="org/m", label="y"))
    assert labelled.effects() != ScoreSettings(nsfw=models[0]).effects()


@pytest.mark.parametrize(
    ("curation", "field", "score"),
    [
        ({"min": {"aesthetic": 5}}, "min", "aesthetic"),
        ({"max": {"nsfw": 0.3}}, "max", "nsfw"),
        ({"unknown_passes": ["licence", "nsfw"]}, "unknown_passes", "nsfw"),
    ],
)
def test_a_threshold_on_what_no_model_gives_is_a_mistake(
    tmp_path: Path, curation: dict[str, Any], field: str, score: str
) -> None:
    model = {"model": "org/m", "label": "x"}
    raw = {
        # Of the defaults, which the one entry has a model for, and the other takes it away.
        "defaults": {
            "clip": {"model": "ViT-B-32", "pretrained": "openai"},
            "curation": curation,
            "scores": {score: model},
        },
        "indices": {"laion": {"kind": "faiss", "path": "index"}},
        "seed_datasets": {
            "one": {"prompts": {"texts": ["x"]}},
            "two": {"prompts": {"texts": ["x"]}, "scores": {score: None}},
        },
    }
    with pytest.raises(CatalogError) as error:
        catalog.parse(raw, tmp_path / "c.yaml")
    assert "1 mistake(s)" in str(error.value)
    assert f"seed_datasets.two.curation.{field}: {score} is asked for, and nothing gives" in str(error.value)
    assert f"name a model under `scores: {{{score}: ...}}`" in str(error.value)


def test_what_no_model_gives_may_be_named_among_the_best(tmp_path: Path) -> None:
    assert "aesthetic" in CurationSettings().best
    assert scores(tmp_path, {}).aesthetic is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give either `head:`"),
        ({"head": "a.pth", "model": "org/m"}, "give either `head:`"),
        (
            {"head": "a.pth", "label": "x"},
            "`label` is a field of a classifier (`model:`), and this is a `head:`",
        ),
        ({"model": "org/m", "sigmoid": True}, "`sigmoid` is a field of a `head:`, and this is a classifier"),
        ({"model": "org/m", "activation": "relu"}, "`activation` is a field of a `head:`"),
        ({"head": "a.pth", "activation": "softmax"}, "activation: must be 'none', 'relu'"),
        ({"head": "a.pth", "revision": "v1"}, "`revision` is one of a Hub repository"),
        ({"head": "hf-hub:org/m"}, "names no file of the Hub: write hf-hub:org/model/file"),
        ({"head": "hf-hub:/m/a.pth"}, "names no file of the Hub"),
        ({"hed": "a.pth"}, "unknown field"),
    ],
)
def test_mistakes(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(CatalogError) as error:
        scores(tmp_path, {"nsfw": given})
    assert "seed_datasets.one.scores.nsfw" in str(error.value) and said in str(error.value)
