"""Models of a Hub, by the ids that users write: `hf-hub:org/model` for CLIP, `org/model` for captioners."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sd_assets
from sd_assets.errors import ModelError, RowError
from sd_assets.models.captioner import Captioner
from sd_assets.models.clip import ClipEncoder
from sd_assets.settings import CaptionerSettings, ClipSettings
from sd_assets_tests.hub.repos import Files, files_of
from sd_assets_tests.hub.server import READER, STRANGER, Hub
from sd_assets_tests.models import tiny

DEMO = Path(sd_assets.__file__).parent / "demo" / "models"
CLIP, BLIP = "org/clip", "org/blip"
TEXTS = ["a red sofa", "a green chair"]
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
MISSING = (
    "does not exist on the Hub, or is private: check the id, or set HF_TOKEN to a token that may read it"
)


def clip_files(folder: Path, tokenizer: str | None = CLIP) -> Files:
    """A CLIP's folder as it is uploaded: the tokenizer is named by the repository that holds it."""
    files = files_of(folder)
    config = json.loads(files[CONFIG])
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = tokenizer
    return {**files, CONFIG: json.dumps(config).encode(), "README.md": b"# A CLIP"}


def clip(**settings: Any) -> ClipEncoder:
    return ClipEncoder(ClipSettings(**{"model": f"hf-hub:{CLIP}", **settings}), device="cpu")


def blip(**settings: Any) -> Captioner:
    return Captioner(CaptionerSettings(**{"model": BLIP, "max_new_tokens": 6, **settings}), device="cpu")


def captions(captioner: Captioner, pictures: list[Image.Image]) -> list[str | RowError]:
    return captioner.caption([captioner.preprocess(picture) for picture in pictures], "default")


def same_vectors(one: ClipEncoder, other: ClipEncoder) -> bool:
    return np.array_equal(one.encode_texts(TEXTS), other.encode_texts(TEXTS))


# --- CLIP ------------------------------------------------------------------------------------------------------------


def test_a_clip(hub: Hub, pictures: list[Image.Image]) -> None:
    commit = hub.model(CLIP, clip_files(DEMO / "clip")).refs["main"]
    ours, local = clip(), ClipEncoder(ClipSettings(model=f"local-dir:{DEMO / 'clip'}"), device="cpu")
    assert (ours.identity, ours.dim) == (f"hf-hub:org/clip@{commit}", local.dim)
    assert same_vectors(ours, local)
    pixels = [ours.preprocess(picture) for picture in pictures]
    assert np.array_equal(ours.encode_images(pixels), local.encode_images(pixels))
    assert "README.md" not in {request.path for request in hub.requests}


def test_the_revision_of_a_clip(hub: Hub, clip_folder: Path, tmp_path: Path) -> None:
    old = clip_files(clip_folder)
    new = clip_files(tiny.clip(tmp_path / "new", seed=1))
    repo = hub.model(CLIP, old)
    repo.tag("v1", repo.refs["main"])
    asked = clip()
    assert asked.identity.endswith(repo.refs["v1"])
    repo.push(new)
    latest, pinned = clip(), clip(revision="v1")
    assert latest.identity.endswith(repo.refs["main"])
    assert pinned.identity == asked.identity == clip(revision=repo.refs["v1"]).identity
    # What is loaded is what was named, although `main` has moved between the two.
    assert same_vectors(asked, pinned) and not same_vectors(asked, latest)
    with pytest.raises(ModelError, match="has no revision 'v9'"):
        clip(revision="v9").load()
    with pytest.raises(ValueError, match="'ViT-L-14' does not name: take it away"):
        clip(model="ViT-L-14", pretrained="openai", revision="v1")


def test_a_tokenizer_that_lies_elsewhere(hub: Hub, clip_folder: Path) -> None:
    files = clip_files(clip_folder, "org/words")
    words = {name: data for name, data in files.items() if "tokenizer" in name}
    hub.model("org/words", words)
    hub.model(CLIP, {name: data for name, data in files.items() if name not in words})
    ours = clip()
    assert same_vectors(ours, ClipEncoder(ClipSettings(model=f"local-dir:{clip_folder}"), device="cpu"))
    assert "org/words" in {request.repo for request in hub.requests}


def test_weights_in_the_older_form(hub: Hub, clip_folder: Path, tmp_path: Path) -> None:
    torch.save(load_file(clip_folder / WEIGHTS), tmp_path / "old.bin")
    files = dict(clip_files(clip_folder))
    both = {**files, "open_clip_pytorch_model.bin": (tmp_path / "old.bin").read_bytes()}
    hub.model(CLIP, both)
    reference = clip()
    assert reference.encode_texts(TEXTS).any()
    assert "open_clip_pytorch_model.bin" not in {request.path for request in hub.requests}
    hub.model(CLIP, {name: data for name, data in both.items() if name != WEIGHTS})
    assert same_vectors(clip(), reference)


def test_a_repository_that_is_no_clip(hub: Hub, clip_folder: Path) -> None:
    files = clip_files(clip_folder)
    hub.model(CLIP, {name: data for name, data in files.items() if name != WEIGHTS})
    with pytest.raises(
        ModelError, match="has no weights of open_clip: its repository holds neither open_clip_model"
    ):
        clip().load()
    hub.model(CLIP, files_of(DEMO / "blip"))
    with pytest.raises(ModelError, match=r"is no CLIP: its config.json is of a 'blip', saved as Blip"):
        clip().load()


# --- captioners ------------------------------------------------------------------------------------------------------


def test_a_captioner(hub: Hub, pictures: list[Image.Image]) -> None:
    commit = hub.model(BLIP, DEMO / "blip").refs["main"]
    ours = blip()
    assert ours.identity == f"org/blip@{commit}"
    assert captions(ours, pictures) == captions(blip(model=str(DEMO / "blip")), pictures)


def test_the_revision_of_a_captioner(
    hub: Hub, captioners: dict[str, Path], pictures: list[Image.Image]
) -> None:
    repo = hub.model(BLIP, captioners["blip"])
    repo.tag("v1", repo.refs["main"])
    asked = blip()
    assert asked.identity.endswith(repo.refs["v1"])
    repo.push(captioners["git"])
    latest, pinned = blip(), blip(revision="v1")
    assert captions(asked, pictures) == captions(pinned, pictures) != captions(latest, pictures)
    # Whatever is read of each is read at its commit.
    files = [request for request in hub.asked("file") if request.path != "config.json"]
    assert {request.revision for request in files} == set(repo.commits)
    with pytest.raises(ModelError, match="has no revision 'v9'"):
        blip(revision="v9").load()


def test_own_code_of_a_captioner_is_of_the_commit_that_was_read(
    hub: Hub, captioners: dict[str, Path]
) -> None:
    files = dict(files_of(captioners["blip"]))
    code = b"from transformers import BlipForConditionalGeneration as OwnModel"
    config = json.loads(files["config.json"])

    def push(own: str) -> str:
        config["auto_map"] = {"AutoModelForImageTextToText": own}
        pushed = {**files, "config.json": json.dumps(config).encode(), "modeling.py": code}
        return hub.model(BLIP, pushed).refs["main"]

    hub.model("org/other", {"modeling.py": code})
    commit = push("org/other--modeling.OwnModel")
    with pytest.raises(ModelError, match=r"code of another repository.* its config.json names 'org/other--"):
        blip(trust_remote_code=True, revision=commit).load()
    assert "org/other" not in {request.repo for request in hub.requests}
    commit = push("modeling.OwnModel")
    hub.requests.clear()
    ours = blip(trust_remote_code=True, revision=commit)
    ours.load()
    assert ours.identity == f"org/blip@{commit}"
    (asked,) = {request.revision for request in hub.requests if request.path == "modeling.py"}
    assert asked == commit


# --- who may read, and failures --------------------------------------------------------------------------------------


@pytest.fixture
def models(clip_folder: Path, captioners: dict[str, Path]) -> dict[str, Files]:
    return {CLIP: clip_files(clip_folder), BLIP: files_of(captioners["blip"])}


def both() -> tuple[ClipEncoder, Captioner]:
    return clip(), blip()


def test_private_models(hub: Hub, models: dict[str, Files], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, files in models.items():
        hub.model(name, files, private=True)
    for model in both():
        with pytest.raises(ModelError, match=MISSING):
            model.load()
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    for model in both():
        with pytest.raises(ModelError, match=MISSING):
            model.load()
    monkeypatch.setenv("HF_TOKEN", READER)
    hub.requests.clear()
    for model in both():
        model.load()
    assert {request.token for request in hub.requests if request.repo and request.what != "store"} == {READER}
    assert {request.token for request in hub.asked("store")} == {None}


def test_gated_models(hub: Hub, models: dict[str, Files], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, files in models.items():
        hub.model(name, files, gated=True)
    for model in both():
        with pytest.raises(ModelError, match="is gated: accept its terms on its page, then set HF_TOKEN"):
            model.load()
    monkeypatch.setenv("HF_TOKEN", READER)
    for model in both():
        model.load()


def test_a_token_that_the_hub_does_not_know(
    hub: Hub, models: dict[str, Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, files in models.items():
        hub.model(name, files)
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    for model in both():
        with pytest.raises(ModelError, match="does not accept the token that HF_TOKEN"):
            model.load()


def test_models_that_do_not_exist(hub: Hub) -> None:
    for model in both():
        with pytest.raises(ModelError, match=MISSING):
            model.load()


def test_a_connection_that_is_lost(hub: Hub, models: dict[str, Files], no_pauses: None) -> None:
    for name, files in models.items():
        hub.model(name, files)
    hub.cut(WEIGHTS, 1_000, times=2)
    hub.cut("/model.safetensors", 1_000, times=2)
    for model in both():
        model.load()
    assert [request.path for request in hub.asked("store") if request.sent == 1_000] == [
        *[WEIGHTS] * 2,
        *["model.safetensors"] * 2,
    ]


def test_a_connection_that_stays_lost(hub: Hub, models: dict[str, Files], no_pauses: None) -> None:
    for name, files in models.items():
        hub.model(name, files)
    hub.cut("safetensors", 0, times=1_000)
    with pytest.raises(ModelError, match=r"could not be fetched: .*Run it again"):
        clip().load()
    with pytest.raises(ModelError, match="cannot be loaded"):
        blip().load()


@pytest.mark.parametrize("offline", ["mode", "network"])
def test_without_the_hub_what_was_fetched_is_used(
    hub: Hub,
    models: dict[str, Files],
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    offline: str,
) -> None:
    for name, files in models.items():
        hub.model(name, files)
    first = both()
    vectors, said = first[0].encode_texts(TEXTS), captions(first[1], pictures)
    hub.requests.clear()
    if offline == "mode":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    again = both()
    assert [model.identity for model in again] == [model.identity for model in first]
    assert np.array_equal(again[0].encode_texts(TEXTS), vectors)
    assert captions(again[1], pictures) == said
    assert not hub.requests


def test_a_clip_that_was_fetched_in_part(
    hub: Hub, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.model(CLIP, clip_files(clip_folder))
    assert clip().dim == 24  # which its configuration says
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="has no weights of open_clip: they are not in the Hub's cache"):
        clip().load()
