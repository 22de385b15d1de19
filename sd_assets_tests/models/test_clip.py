"""CLIP encoders, with a real open_clip model, tiny and untrained."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sd_assets.errors import CatalogError, ErrorCode, ModelError, RowError
from sd_assets.models.clip import ClipEncoder
from sd_assets.settings import ClipSettings
from sd_assets_tests.models import tiny

TEXTS = ["a red sofa", "a dog in the kitchen", "a lamp on a table", "a green chair", "a cat"]


def encoder(folder: Path, batch_size: int = 4, **options: Any) -> ClipEncoder:
    options = {"precision": "float32", **options}
    return ClipEncoder(ClipSettings(model=f"local-dir:{folder}", batch_size=batch_size), **options)


def test_vectors_are_those_of_open_clip(clip_folder: Path, pictures: list[Image.Image]) -> None:
    ours = encoder(clip_folder)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    model.eval()
    with torch.inference_mode():
        images = model.encode_image(torch.stack([transform(picture) for picture in pictures]), normalize=True)
        texts = model.encode_text(open_clip.get_tokenizer(f"local-dir:{clip_folder}")(TEXTS), normalize=True)
    of_images = ours.encode_images([ours.preprocess(picture) for picture in pictures])
    of_texts = ours.encode_texts(TEXTS)
    assert of_images.dtype == of_texts.dtype == np.float32
    assert of_images.shape == (len(pictures), ours.dim) and of_texts.shape == (len(TEXTS), ours.dim)
    assert (of_images * images.numpy()).sum(axis=1).min() > 0.9999  # resized to a level of 255 or so
    np.testing.assert_allclose(of_texts, texts.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(of_images, axis=1), 1, atol=1e-6)
    assert (ours.device, ours.precision) == ("cpu", "float32")


def test_a_row_has_the_same_bytes_in_every_batch(clip_folder: Path, pictures: list[Image.Image]) -> None:
    ours = encoder(clip_folder)
    pixels = [ours.preprocess(picture) for picture in pictures]
    together = ours.encode_images(pixels)
    assert np.array_equal(np.concatenate([ours.encode_images([one]) for one in pixels]), together)
    assert np.array_equal(ours.encode_images(pixels[::-1])[::-1], together)
    texts = ours.encode_texts(TEXTS)
    assert np.array_equal(np.concatenate([ours.encode_texts([text]) for text in TEXTS]), texts)
    assert np.array_equal(ours.encode_texts(TEXTS[::-1])[::-1], texts)


def test_a_picture_that_the_model_cannot_take_costs_its_own_row(
    clip_folder: Path, pictures: list[Image.Image]
) -> None:
    ours = encoder(clip_folder)
    pixels = [ours.preprocess(picture) for picture in pictures[:3]]
    clean = ours.encode_images(pixels)
    poisoned = ours.encode_images([pixels[0], pixels[1][:5], pixels[2]])
    assert np.isnan(poisoned[1]).all()
    assert np.array_equal(poisoned[[0, 2]], clean[[0, 2]])


def test_nothing_gives_no_vectors(clip_folder: Path) -> None:
    assert encoder(clip_folder).encode_images([]).shape == (0, 24)
    assert encoder(clip_folder).encode_texts([]).shape == (0, 24)


def test_threads_load_it_once_and_agree(
    clip_folder: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    create = open_clip.create_model

    def counted(*args: Any, **kwargs: Any) -> Any:
        loads.append(args)
        return create(*args, **kwargs)

    monkeypatch.setattr(open_clip, "create_model", counted)
    ours = encoder(clip_folder)
    assert not loads
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(ours.preprocess, pictures * 20))
    assert len(loads) == 1
    ours.load()
    assert len(loads) == 1
    for number, pixels in enumerate(made):
        assert np.array_equal(pixels, ours.preprocess(pictures[number % len(pictures)]))


def test_it_can_be_sent_to_a_worker(clip_folder: Path, pictures: list[Image.Image]) -> None:
    ours = encoder(clip_folder)
    ours.load()
    sent = pickle.dumps(ours)
    assert len(sent) < 2_000  # settings, not weights
    there = pickle.loads(sent)
    assert (there.device, there.precision) == ("auto", "float32")  # as was asked for
    assert np.array_equal(there.encode_texts(TEXTS), ours.encode_texts(TEXTS))


def test_half_precision_when_asked_for(clip_folder: Path, pictures: list[Image.Image]) -> None:
    half, full = encoder(clip_folder, precision="bfloat16"), encoder(clip_folder)
    pixels = [full.preprocess(picture) for picture in pictures]
    a, b = half.encode_images(pixels), full.encode_images(pixels)
    assert half.precision == "bfloat16" and a.dtype == np.float32
    assert (a * b).sum(axis=1).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-6)


def test_identity_is_the_content_not_the_path(clip_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(clip_folder, moved)
    (moved / "README.md").write_text("notes")
    first = encoder(clip_folder).identity
    assert first.startswith("local-dir:")
    assert encoder(moved).identity == first
    assert encoder(moved, precision="auto").fingerprint_settings == {"model": first}
    assert encoder(tiny.clip(tmp_path / "other", seed=1)).identity != first
    weights = moved / "open_clip_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert encoder(moved).identity != first


def test_facts_name_the_model_as_the_catalogue_does(clip_folder: Path) -> None:
    ours = encoder(clip_folder)
    assert ours.facts() == {"model": f"local-dir:{clip_folder} ({ours.identity})"}
    builtin = ClipEncoder(ClipSettings(model="ViT-L-14", pretrained="openai"))
    assert builtin.facts() == {"model": "ViT-L-14/openai"}


def test_name_and_size_are_known_without_torch(clip_folder: Path) -> None:
    code = """if True:
        import sys
        from sd_assets.settings import ClipSettings
        from sd_assets.models.clip import ClipEncoder
        big = ClipEncoder(ClipSettings(model="ViT-L-14", pretrained="openai"))
        assert (big.dim, big.identity) == (768, "ViT-L-14/openai")
        tiny = ClipEncoder(ClipSettings(model="local-dir:" + sys.argv[1]))
        assert tiny.dim == 24 and tiny.identity
        assert not {"torch", "open_clip", "transformers"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code, str(clip_folder)], check=True)


@pytest.mark.parametrize("quick", [True, False])
def test_a_name_with_a_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: list[Image.Image], quick: bool
) -> None:
    """The tag says which activation its weights were trained with; the name alone would compute other vectors."""
    torch.manual_seed(0)
    reference = open_clip.create_model("ViT-S-32-alt", force_quick_gelu=quick).eval()
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    tag = {"file": str(tmp_path / "weights.safetensors"), "quick_gelu": quick, "mean": (0.5, 0.5, 0.5)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-S-32-alt", {"tiny": tag})
    ours = ClipEncoder(
        ClipSettings(model="ViT-S-32-alt", pretrained="tiny", batch_size=3), precision="float32"
    )
    assert ours.dim == 256 and ours.identity == "ViT-S-32-alt/tiny"
    pixels = [ours.preprocess(picture) for picture in pictures[:4]]
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]
    with torch.inference_mode():
        batch = (
            torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255 - 0.5
        ) / std  # the tag's own mean is used
        expected = reference.encode_image(batch, normalize=True).numpy()
    np.testing.assert_allclose(ours.encode_images(pixels), expected, atol=1e-5)
    assert np.array_equal(ours.encode_images(pixels[2:3])[0], ours.encode_images(pixels)[2])


def _broken(clip_folder: Path, tmp_path: Path, change: Callable[[Path], object]) -> ClipEncoder:
    shutil.copytree(clip_folder, tmp_path / "broken")
    change(tmp_path / "broken")
    return encoder(tmp_path / "broken")


def test_unknown_name_lists_close_ones() -> None:
    with pytest.raises(ModelError, match=r"knows no model 'ViT-L-15'; close to it: .*ViT-L-14"):
        ClipEncoder(ClipSettings(model="ViT-L-15", pretrained="openai")).load()


def test_unknown_tag_lists_those_there_are() -> None:
    with pytest.raises(
        ModelError, match=r"no weights 'openia' for 'ViT-L-14'.*there are: openai, laion400m_e31"
    ):
        ClipEncoder(ClipSettings(model="ViT-L-14", pretrained="openia")).load()


def test_missing_folder(tmp_path: Path) -> None:
    for use in (ClipEncoder.load, lambda it: it.identity, lambda it: it.dim):
        with pytest.raises(ModelError, match="does not exist"):
            use(encoder(tmp_path / "nowhere"))


def test_variable_that_is_not_set() -> None:
    with pytest.raises(CatalogError, match=r"clip.model .* CLIP_FOLDER is not set"):
        ClipEncoder(ClipSettings(model="local-dir:${CLIP_FOLDER}")).load()


def test_folder_that_is_no_clip(captioners: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"is no CLIP: its config.json is of a 'blip', saved as BlipForCond"):
        encoder(captioners["blip"]).load()


def test_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"no CLIP: the folder holds neither open_clip_config.json nor config.json"
    ):
        encoder(tmp_path).load()


@pytest.mark.parametrize("config", ["not json", "[]", "{}", json.dumps({"model_cfg": {"embed_dim": 3}})])
def test_config_that_is_no_clip(clip_folder: Path, tmp_path: Path, config: str) -> None:
    ours = _broken(
        clip_folder, tmp_path, lambda folder: (folder / "open_clip_config.json").write_text(config)
    )
    with pytest.raises(ModelError, match="is not a CLIP of open_clip"):
        ours.load()


def test_missing_weights_are_not_replaced_by_random_ones(clip_folder: Path, tmp_path: Path) -> None:
    ours = _broken(clip_folder, tmp_path, lambda folder: (folder / "open_clip_model.safetensors").unlink())
    with pytest.raises(ModelError, match=r"cannot be loaded: Required pretrained weights .* Check its files"):
        ours.load()


def test_weights_of_another_model(clip_folder: Path, tmp_path: Path) -> None:
    def widen(folder: Path) -> None:
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"]["embed_dim"] = 48
        (folder / "open_clip_config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match=r"cannot be loaded: .*size mismatch"):
        _broken(clip_folder, tmp_path, widen).load()


def test_device_that_is_not_there(clip_folder: Path) -> None:
    with pytest.raises(ModelError, match="device 'tpu' is unknown"):
        encoder(clip_folder, device="tpu").load()
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device 'cuda:1' was asked for"):
            encoder(clip_folder, device="cuda:1").load()
    with pytest.raises(ModelError, match="precision 'fp8' is unknown"):
        encoder(clip_folder, precision="fp8")


def test_a_precision_that_was_asked_for_is_part_of_what_changes_results() -> None:
    def changes(**options: Any) -> dict[str, Any]:
        return ClipEncoder(ClipSettings(model="RN50", pretrained="openai"), **options).fingerprint_settings

    # By itself the precision goes with the machine, and no table is made anew on another one.
    assert changes() == changes(precision="auto") == changes(device="cuda") == {"model": "RN50/openai"}
    assert changes(precision="float16") == {"model": "RN50/openai", "precision": "float16"}


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    "settings", [{"model": "hf-hub:some/clip"}, {"model": "ViT-L-14", "pretrained": "dfn2b"}]
)
def test_no_network(settings: dict[str, str]) -> None:
    with pytest.raises(
        ModelError, match=r"not in the Hub's cache .* cannot be reached .* name a local folder"
    ):
        ClipEncoder(ClipSettings(**settings)).load()


def test_a_text_at_which_the_model_fails_costs_its_own_row(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = encoder(clip_folder)
    clip = ours._loaded().clip
    encode = clip.encode_texts

    def picky(texts: Sequence[str]) -> Any:
        if "poison" in texts:
            raise ValueError("no such word")
        return encode(texts)

    monkeypatch.setattr(clip, "encode_texts", picky)
    failed: dict[int, RowError] = {}
    vectors = ours.encode_texts(["a dog", "poison", "a cat"], failed)
    assert np.isfinite(vectors).all(axis=1).tolist() == [True, False, True]
    assert {place: (error.code, error.detail) for place, error in failed.items()} == {
        1: (ErrorCode.MODEL_FAILED, "no such word")
    }


def test_an_image_at_which_the_model_s_preprocessing_fails_costs_its_own_row(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = encoder(clip_folder)
    monkeypatch.setattr(
        type(ours._loaded().clip.preprocessing), "of_bytes", lambda self, data: data.index(b"x") and None
    )
    with pytest.raises(RowError) as caught:
        ours.pixels(b"")
    assert caught.value.code == ErrorCode.MODEL_FAILED
    assert "the model's preprocessing: " in caught.value.detail
