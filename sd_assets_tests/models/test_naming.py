"""Names of CLIPs, as records, catalogues and clip-retrieval write them."""

import itertools
from pathlib import Path

import pytest
from open_clip.pretrained import get_pretrained_cfg

from sd_assets.errors import ModelError
from sd_assets.models.clip import ClipEncoder
from sd_assets.models.naming import _REPOSITORIES, clip_name, same_clip
from sd_assets.settings import ClipSettings

# Of each model the names that mean it.
MODELS = [
    ["ViT-B-32/openai", "ViT-B/32", "open_clip:ViT-B-32/openai", "ViT-B-32-quickgelu/openai"],
    [
        "ViT-L-14/openai",
        "ViT-L/14",
        "openai/clip-vit-large-patch14",
        "hf-hub:openai/clip-vit-large-patch14@0a1b",
        "hf_clip:openai/clip-vit-large-patch14",
        "hf-hub:timm/vit_large_patch14_clip_224.openai",
    ],
    ["ViT-L-14-336/openai", "ViT-L/14@336px"],
    ["RN50x4/openai", "RN50x4"],
    [
        "ViT-B-32/laion2b_s34b_b79k",
        "open_clip:ViT-B-32/laion2b_s34b_b79k",
        "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K@0a1b",
    ],
    # Of these weights the activation makes another model.
    ["ViT-B-32-quickgelu/laion400m_e32"],
    ["ViT-B-32/laion400m_e32"],
    ["hf-hub:laion/CLIP-ViT-B-32", "hf-hub:laion/CLIP-ViT-B-32@0a1b", "hf-hub:laion/clip-vit-b-32@main"],
    ["hf-hub:laion/CLIP-ViT-L-14"],
    ["hf-hub:google/siglip-base-patch16-224", "hf_clip:google/siglip-base-patch16-224"],
    ["local-dir:0123456789abcdef"],
    ["local-dir:fedcba9876543210"],
]


def test_names_of_one_model_are_the_same_and_of_two_are_not() -> None:
    for one, other in itertools.combinations_with_replacement(range(len(MODELS)), 2):
        for pair in itertools.product(MODELS[one], MODELS[other]):
            assert same_clip(*pair) == (one == other), pair


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"model": "ViT-B-32", "pretrained": "openai"}, "ViT-B-32/openai"),
        ({"model": "ViT-B/32", "pretrained": "openai"}, "ViT-B-32/openai"),
        ({"model": "hf-hub:org/model", "revision": "v1"}, "hf-hub:org/model"),
        ({"model": "org/model", "revision": "v1"}, "hf-hub:org/model"),
    ],
)
def test_a_catalogue_s_clip_has_a_name_without_loading_it(settings: dict[str, str], name: str) -> None:
    assert clip_name(ClipSettings(**settings)) == name


def test_repositories_are_those_of_open_clip() -> None:
    """Each of a name and tag for which open_clip fetches just that repository; OpenAI's own it does not fetch."""
    for repository, name in _REPOSITORIES.items():
        model, _, tag = name.partition("/")
        known = get_pretrained_cfg(model, tag)["hf_hub"].rstrip("/").casefold()
        assert repository == known or (repository.startswith("openai/") and tag == "openai")


def test_an_encoder_s_identity_is_its_name(clip_folder: Path) -> None:
    for settings in (
        ClipSettings(model="ViT-B/32", pretrained="openai"),
        ClipSettings(model=f"local-dir:{clip_folder}"),
        ClipSettings(model=str(clip_folder)),
    ):
        assert same_clip(ClipEncoder(settings).identity, clip_name(settings))


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gone does not exist"):
        clip_name(ClipSettings(model=f"local-dir:{tmp_path / 'gone'}"))
