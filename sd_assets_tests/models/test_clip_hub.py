"""CLIPs by the ids that users write, `org/model` or `hf-hub:org/model`, of either library, from a Hub on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sd_assets.errors import ModelError
from sd_assets.models import open_clip_model, transformers_clip
from sd_assets.models.clip import ClipEncoder
from sd_assets.settings import ClipSettings
from sd_assets_tests.hub.repos import Files, files_of
from sd_assets_tests.hub.server import READER, Hub
from sd_assets_tests.models import tiny, tiny_clip

ID = "org/clip"
TEXTS = ["a red sofa", "a green chair"]
KINDS = ["open_clip", "transformers"]
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Files]]:
    """Of each library two models, as they are uploaded."""
    root = tmp_path_factory.mktemp("clips")
    made: dict[str, list[Files]] = {kind: [] for kind in KINDS}
    for seed in range(2):
        of_open_clip = files_of(tiny.clip(root / f"open_clip-{seed}", seed=seed))
        config = of_open_clip["open_clip_config.json"].replace(b'"here"', f'"{ID}"'.encode())
        made["open_clip"].append({**of_open_clip, "open_clip_config.json": config})
        made["transformers"].append(files_of(tiny_clip.clip(root / f"transformers-{seed}", seed=seed)))
    return made


def clip(model: str = ID, **settings: Any) -> ClipEncoder:
    return ClipEncoder(ClipSettings(model=model, **settings), device="cpu", precision="float32")


def local(folder: Path, files: Files) -> ClipEncoder:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return clip(str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_to_write_an_id(
    hub: Hub, files: Mapping[str, list[Files]], pictures: list[Image.Image], kind: str, tmp_path: Path
) -> None:
    commit = hub.model(ID, {**files[kind][0], "README.md": b"# A CLIP"}).refs["main"]
    plain, prefixed = clip(), clip(f"hf-hub:{ID}")
    assert plain.identity == prefixed.identity == f"hf-hub:{ID}@{commit}"
    assert plain.dim == 24
    assert np.array_equal(plain.encode_texts(TEXTS), prefixed.encode_texts(TEXTS))
    assert "README.md" not in {request.path for request in hub.requests}
    same = local(tmp_path / "folder", files[kind][0])
    pixels = [same.preprocess(picture) for picture in pictures]
    assert np.array_equal(plain.encode_images(pixels), same.encode_images(pixels))


def test_the_files_say_which_library_reads_them(hub: Hub, files: Mapping[str, list[Files]]) -> None:
    modules = {"open_clip": open_clip_model.OpenClipModel, "transformers": transformers_clip.TransformersClip}
    for kind in KINDS:
        hub.model(ID, files[kind][0])
        assert isinstance(clip()._loaded().clip, modules[kind])
    # A repository that holds both, as LAION's do, has always been read by open_clip.
    hub.model(ID, {**files["transformers"][0], **files["open_clip"][0]})
    assert isinstance(clip()._loaded().clip, open_clip_model.OpenClipModel)


@pytest.mark.parametrize("kind", KINDS)
def test_a_revision(hub: Hub, files: Mapping[str, list[Files]], kind: str) -> None:
    old, new = files[kind]
    repo = hub.model(ID, old)
    repo.tag("v1", repo.refs["main"])
    asked = clip()
    assert asked.identity.endswith(repo.refs["v1"])
    repo.push(new)
    latest, pinned = clip(), clip(revision="v1")
    assert latest.identity.endswith(repo.refs["main"])
    assert pinned.identity == asked.identity == clip(revision=repo.refs["v1"]).identity
    # What is loaded is what was named, although `main` has moved between the two.
    vectors = pinned.encode_texts(TEXTS)
    assert np.array_equal(asked.encode_texts(TEXTS), vectors)
    assert not np.array_equal(latest.encode_texts(TEXTS), vectors)
    with pytest.raises(ModelError, match="has no revision 'v9'"):
        clip(revision="v9").load()


@pytest.mark.parametrize("offline", ["mode", "network"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_the_hub_what_was_fetched_is_used(
    hub: Hub,
    files: Mapping[str, list[Files]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    offline: str,
) -> None:
    hub.model(ID, files[kind][0])
    first = clip()
    vectors = first.encode_texts(TEXTS)
    hub.requests.clear()
    if offline == "mode":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", UNREACHABLE)
    again = clip()
    assert again.identity == first.identity and again.dim == first.dim
    assert np.array_equal(again.encode_texts(TEXTS), vectors)
    assert not hub.requests


def test_without_the_hub_a_model_that_was_fetched_in_part(
    hub: Hub, files: Mapping[str, list[Files]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.model(ID, files["transformers"][0])
    assert clip().dim == 24  # which its configuration says
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", UNREACHABLE)
    with pytest.raises(ModelError, match="as safetensors: they are not in the Hub's cache on this machine"):
        clip().load()


@pytest.mark.parametrize("kind", KINDS)
def test_a_gated_model(
    hub: Hub, files: Mapping[str, list[Files]], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    hub.model(ID, files[kind][0], gated=True)
    with pytest.raises(ModelError, match="is gated: accept its terms on its page, then set HF_TOKEN"):
        clip().load()
    monkeypatch.setenv("HF_TOKEN", READER)
    assert clip().encode_texts(TEXTS).shape == (2, 24)


def test_a_model_that_does_not_exist(hub: Hub) -> None:
    for model in (ID, f"hf-hub:{ID}"):
        with pytest.raises(
            ModelError, match="does not exist on the Hub, or is private: check the id, or set HF"
        ):
            clip(model).load()


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ("model.safetensors", "no weights of transformers as safetensors: there is no model.safetensors"),
        ("config.json", "has neither open_clip_config.json nor config.json: it is not a model of this kind"),
    ],
)
def test_a_repository_that_lacks_a_file(
    hub: Hub, files: Mapping[str, list[Files]], taken: str, said: str
) -> None:
    hub.model(ID, {name: data for name, data in files["transformers"][0].items() if name != taken})
    with pytest.raises(ModelError, match=said):
        clip().load()


def test_weights_in_other_precisions_are_not_fetched(hub: Hub, files: Mapping[str, list[Files]]) -> None:
    data = files["transformers"][0]
    hub.model(ID, {**data, "model.fp16.safetensors": data["model.safetensors"], "pytorch_model.bin": b"?"})
    clip().load()
    asked = {request.path for request in hub.requests}
    assert "model.safetensors" in asked and not {"model.fp16.safetensors", "pytorch_model.bin"} & asked


def test_an_id_with_a_tag_of_open_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'org/clip' names its own weights: take `pretrained` away"):
        clip(pretrained="openai")
    # OpenAI's own spelling has a slash, too, and means open_clip's name.
    assert clip("ViT-B/32", pretrained="openai").identity == "ViT-B-32/openai"
    with pytest.raises(ValueError, match="'ViT-B/32' has no weights: add `pretrained:`"):
        clip("ViT-B/32")
