"""The README names every asset and how they hang together, every field of the catalogue, every error code."""

import re
from itertools import product

import pytest
import yaml
from pydantic import BaseModel

from sd_assets import settings
from sd_assets.assets.knn_index import knn_index
from sd_assets.definitions import ASSETS
from sd_assets.errors import ErrorCode
from sd_assets.models.captioner import Captioner
from sd_assets_tests.readme import README, blocks, section

MODELS = [
    model
    for model in vars(settings).values()
    if isinstance(model, type)
    and issubclass(model, BaseModel)
    and model.__module__.startswith(settings.__name__)
]


def test_the_picture_is_the_asset_graph() -> None:
    (picture,) = blocks(README, "mermaid")
    drawn: set[tuple[str, str]] = set()
    for line in picture.splitlines():
        if found := re.fullmatch(r"\s*([\w &]+?)(?: --.*?)? --+> (\w+)", line):
            drawn |= set(product(found[1].split(" & "), [found[2]]))
    assets = [*ASSETS, knn_index]
    names = {asset.key.to_user_string() for asset in assets}
    real = {
        (dependency.to_user_string(), asset.key.to_user_string())
        for asset in assets
        for dependency in asset.dependency_keys
        if dependency.to_user_string() in names
    }
    assert drawn == real


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_of_the_catalogue_is_explained(model: type[BaseModel]) -> None:
    text = section("Your own data") + section("The catalogue, field by field")
    missing = [name for name in model.model_fields if not re.search(rf"`{name}[`:]", text)]
    assert not missing


def test_the_captioners_that_are_shown_can_be_used() -> None:
    examples = map(yaml.safe_load, blocks(section("The catalogue, field by field"), "yaml"))
    shown = [example["captioner"] for example in examples if "captioner" in example]
    local, remote = map(settings.CaptionerSettings.model_validate, shown)
    assert list(Captioner(local).variants) == ["short", "detailed-1", "detailed-2", "detailed-3"]
    assert remote.endpoint is not None and remote.endpoint.api_key is not None


def test_every_error_code_is_explained() -> None:
    text = section("What the error codes mean")
    assert [code for code in ErrorCode if f"`{code}`" not in text] == []
    named = set(re.findall(r"^\| (`[^|]+)\|", text, re.MULTILINE))
    unknown = {name for cell in named for name in re.findall(r"`(\w+)`", cell)} - set(ErrorCode)
    assert not unknown
