"""Captioners of several families, with real transformers models, tiny and untrained."""

import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from sd_assets.errors import CatalogError, ModelError
from sd_assets.models.captioner import Captioner
from sd_assets.settings import CaptionerSettings
from sd_assets_tests.models import tiny

every_family = pytest.mark.parametrize("family", tiny.CAPTIONERS)
PROMPT = "a photo of"


def captioner(folder: Path, batch_size: int = 4, **settings: Any) -> Captioner:
    return Captioner(
        CaptionerSettings(model=str(folder), batch_size=batch_size, **{"max_new_tokens": 6, **settings})
    )


def only_words(ours: Captioner) -> None:
    """Makes the model say words only, so that its captions never end before their limit."""
    ours.load()
    assert ours._parts is not None
    silent = [
        *range(len(tiny.SPECIAL)),
        *range(len(tiny.SPECIAL) + len(tiny.WORDS), len(ours._parts.tokenizer)),
    ]
    for module in ours._parts.model.modules():
        if getattr(module, "generation_config", None) is not None:
            module.generation_config.suppress_tokens = silent


@every_family
@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_a_picture_has_the_same_caption_in_every_batch(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str, prompt: str | None
) -> None:
    ours = captioner(captioners[family], prompt=prompt)
    inputs = [ours.preprocess(picture) for picture in pictures]
    captions = ours.caption(inputs)
    assert len(captions) == len(pictures)
    assert len(set(captions)) > 2  # it is the picture that is captioned
    assert [ours.caption([one])[0] for one in inputs] == captions
    assert ours.caption(inputs[::-1])[::-1] == captions
    again = captioner(captioners[family], prompt=prompt)
    assert again.caption([again.preprocess(picture) for picture in pictures]) == captions
    assert (ours.device, ours.precision) == ("cpu", "float32")


@pytest.mark.parametrize("family", ["blip", "blip-2", "git"])
def test_captions_are_those_of_transformers(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str
) -> None:
    """As the documentation of these models shows it: one by one."""
    folder = captioners[family]
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    expected = []
    for picture in pictures:
        tokens = model.generate(**processor(images=picture, return_tensors="pt"), max_new_tokens=6)
        expected.append(processor.decode(tokens[0], skip_special_tokens=True))
    # [DEC], which a BLIP starts with, is no special token of its tokenizer, and is no word of a caption either.
    expected = [" ".join(word for word in text.split() if word != "[DEC]") for text in expected]
    ours = captioner(folder)
    assert ours.caption([ours.preprocess(picture) for picture in pictures]) == expected


@every_family
@pytest.mark.parametrize("prompt", [None, PROMPT])
@pytest.mark.parametrize("limit", [1, 5])
def test_the_limit_counts_new_tokens(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str, prompt: str | None, limit: int
) -> None:
    ours = captioner(captioners[family], prompt=prompt, max_new_tokens=limit)
    only_words(ours)
    for caption in ours.caption([ours.preprocess(picture) for picture in pictures[:3]]):
        assert len(caption.split()) == limit, caption


@every_family
def test_the_prompt_is_continued_and_not_repeated(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str
) -> None:
    plain, asked = captioner(captioners[family]), captioner(captioners[family], prompt=PROMPT)
    other = captioner(captioners[family], prompt="the dog under")
    inputs = [plain.preprocess(picture) for picture in pictures]
    assert len({tuple(it.caption(inputs)) for it in (plain, asked, other)}) == 3
    assert asked.caption(inputs) == asked.caption(inputs)  # BLIP writes into the prompt it is given
    assert not any(caption.startswith(PROMPT) for caption in asked.caption(inputs))
    digests = [it.fingerprint_settings for it in (plain, asked, other)]
    assert len({json.dumps(it, sort_keys=True) for it in digests}) == 3


def test_blip_repeats_the_prompt_when_asked_directly(
    captioners: dict[str, Path], pictures: list[Image.Image]
) -> None:
    """What the test above would not notice if it were not so."""
    processor = transformers.AutoProcessor.from_pretrained(captioners["blip"])
    model = transformers.AutoModelForImageTextToText.from_pretrained(captioners["blip"])
    inputs = processor(images=pictures[0], text=PROMPT, return_tensors="pt")
    assert PROMPT in processor.decode(model.generate(**inputs, max_new_tokens=6)[0], skip_special_tokens=True)


@every_family
def test_threads_prepare_what_one_prepares(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str
) -> None:
    ours = captioner(captioners[family])
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(ours.preprocess, pictures * 10))
    for number, inputs in enumerate(made):
        assert np.array_equal(
            inputs["pixel_values"], ours.preprocess(pictures[number % len(pictures)])["pixel_values"]
        )
    assert made[0]["pixel_values"].shape == (3, tiny.SIDE, tiny.SIDE)
    assert made[0]["pixel_values"].dtype == np.float32


@every_family
def test_odd_shapes(captioners: dict[str, Path], family: str) -> None:
    ours = captioner(captioners[family])
    red = Image.new("RGB", (50, 50), (250, 10, 20))
    expected = ours.preprocess(red)["pixel_values"]
    for size in [(1, 1), (1, 700), (3, 40), (20_000, 1), (4, 4)]:
        np.testing.assert_allclose(ours.preprocess(red.resize(size))["pixel_values"], expected, atol=1e-3)


def test_a_poisoned_picture_costs_its_own_caption(
    captioners: dict[str, Path], pictures: list[Image.Image]
) -> None:
    ours = captioner(captioners["blip"])
    inputs = [ours.preprocess(picture) for picture in pictures[:3]]
    poisoned = [inputs[0], {"pixel_values": np.full_like(inputs[1]["pixel_values"], np.nan)}, inputs[2]]
    clean, captions = ours.caption(inputs), ours.caption(poisoned)
    assert (captions[0], captions[2]) == (clean[0], clean[2])


def test_it_can_be_sent_to_a_worker(captioners: dict[str, Path], pictures: list[Image.Image]) -> None:
    ours = captioner(captioners["git"])
    inputs = [ours.preprocess(pictures[0])]
    there = pickle.loads(pickle.dumps(ours))
    assert there.caption(inputs) == ours.caption(inputs)
    assert ours.caption([]) == []


def test_half_precision_when_asked_for(captioners: dict[str, Path], pictures: list[Image.Image]) -> None:
    ours = Captioner(CaptionerSettings(model=str(captioners["blip"]), max_new_tokens=3), precision="bfloat16")
    assert len(ours.caption([ours.preprocess(pictures[0])])) == 1
    assert ours.precision == "bfloat16"


def test_identity_is_the_content_not_the_path(captioners: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(captioners["blip"], tmp_path / "elsewhere")
    assert captioner(tmp_path / "elsewhere").identity == captioner(captioners["blip"]).identity
    assert captioner(captioners["git"]).identity != captioner(captioners["blip"]).identity
    assert captioner(captioners["git"]).fingerprint_settings == {
        "model": captioner(captioners["git"]).identity,
        "prompt": None,
        "max_new_tokens": 6,
    }


# --- what cannot be loaded -------------------------------------------------------------------------------------------


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the folder does not exist"):
        captioner(tmp_path / "nowhere").load()
    (tmp_path / "bare").mkdir()
    with pytest.raises(ModelError, match=r"holds no config.json"):
        captioner(tmp_path / "bare").load()


def test_variable_that_is_not_set() -> None:
    with pytest.raises(CatalogError, match=r"captioner.model .* CAPTIONER is not set"):
        Captioner(CaptionerSettings(model="${CAPTIONER}")).load()


def _saved(folder: Path, config: dict[str, Any]) -> Captioner:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return captioner(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "clip"},
            r"is not an image-to-text model: it is a 'clip'; use one like Salesforce/blip",
        ),
        ({"model_type": "gpt2"}, r"is not an image-to-text model: it is a 'gpt2'"),
        (
            {"model_type": "novel", "auto_map": {}},
            r"is not an image-to-text model that this transformers knows: 'novel'",
        ),
        (
            {"model_type": "blip", "architectures": ["BlipForQuestionAnswering"]},
            r"saved as BlipForQuestionAnswering",
        ),
        ({"hidden_size": 3}, r"names no model_type"),
        ([], r"names no model_type"),
    ],
)
def test_models_of_another_kind(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _saved(tmp_path / "model", config).load()


def _changed(source: Path, target: Path, change: Callable[[Path], object]) -> Captioner:
    shutil.copytree(source, target)
    change(target)
    return captioner(target)


def test_only_safetensors(captioners: dict[str, Path], tmp_path: Path) -> None:
    def pickled(folder: Path) -> None:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    with pytest.raises(ModelError, match="must be safetensors"):
        _changed(captioners["git"], tmp_path / "model", pickled).load()


def test_incomplete_weights(captioners: dict[str, Path], tmp_path: Path) -> None:
    def thinned(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        lost = next(name for name in weights if "vision_model" in name)
        del weights[lost]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"incomplete: its weights lack 1 parameters of GitForCausalLM"):
        _changed(captioners["git"], tmp_path / "model", thinned).load()


def test_missing_processor(captioners: dict[str, Path], tmp_path: Path) -> None:
    def bare(folder: Path) -> None:
        for file in folder.iterdir():
            if file.name not in ("config.json", "generation_config.json", "model.safetensors"):
                file.unlink()

    with pytest.raises(ModelError, match="its processor must be there"):
        _changed(captioners["blip"], tmp_path / "model", bare).load()


def test_chat_models_are_refused(tmp_path: Path) -> None:
    """Before their weights, which are large, are looked for."""
    words = tiny.tokenizer()
    words.add_tokens(["<image>"], special_tokens=True)
    images = transformers.CLIPImageProcessor()
    transformers.LlavaProcessor(images, words, patch_size=8, chat_template="{{ messages }}").save_pretrained(
        tmp_path
    )
    transformers.LlavaConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a chat model"):
        captioner(tmp_path).load()


@pytest.mark.usefixtures("no_hub")
def test_no_network() -> None:
    with pytest.raises(
        ModelError, match=r"not in the Hub's cache .* cannot be reached .* name a local folder"
    ):
        Captioner(CaptionerSettings()).load()
    with pytest.raises(ModelError, match="neither a Hub id"):
        Captioner(CaptionerSettings(model="a/b/c")).load()
