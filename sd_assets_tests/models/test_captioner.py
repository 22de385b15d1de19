"""Captioners of several families, with real transformers models, tiny and untrained."""

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from sd_assets.errors import CatalogError, ErrorCode, ModelError, RowError
from sd_assets.models.captioner import Captioner
from sd_assets.models.captioning.chat import Asked
from sd_assets.settings import CaptionerSettings
from sd_assets_tests.models import tiny

every_family = pytest.mark.parametrize("family", tiny.CAPTIONERS)
PROMPT = "a photo of"


def captioner(folder: Path, batch_size: int = 4, **settings: Any) -> Captioner:
    given = {"max_new_tokens": 6, "clean": False, **settings}
    return Captioner(
        CaptionerSettings(model=str(folder), batch_size=batch_size, **given), precision="float32"
    )


def captions_of(ours: Captioner, pictures: Sequence[Image.Image], variant: str = "default") -> list[str]:
    """All of them texts."""
    captions = ours.caption([ours.preprocess(picture) for picture in pictures], variant)
    assert all(isinstance(caption, str) for caption in captions), captions
    return [str(caption) for caption in captions]


def only_words(ours: Captioner) -> None:
    """Makes the model say words only, so that its captions never end before their limit."""
    family = ours._loaded().family
    silent = [
        *range(len(tiny.SPECIAL)),
        *range(len(tiny.SPECIAL) + len(tiny.WORDS), len(family.tokenizer)),
    ]
    for module in family.model.modules():
        if getattr(module, "generation_config", None) is not None:
            module.generation_config.suppress_tokens = silent


@every_family
@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_a_picture_has_the_same_caption_in_every_batch(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str, prompt: str | None
) -> None:
    ours = captioner(captioners[family], prompt=prompt)
    captions = captions_of(ours, pictures)
    assert len(set(captions)) > 2  # it is the picture that is captioned
    assert [captions_of(ours, [one])[0] for one in pictures] == captions
    assert captions_of(ours, pictures[::-1])[::-1] == captions
    again = captioner(captioners[family], batch_size=64, prompt=prompt)
    assert captions_of(again, pictures) == captions
    assert (ours.device, ours.precision) == ("cpu", "float32")


def _as_documented(folder: Path, pictures: Sequence[Image.Image], **asked: Any) -> list[str]:
    """Captions as the documentation of transformers makes them: one by one, greedily."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    captions = []
    for picture in pictures:
        if processor.chat_template:
            content = [{"type": "image", "image": picture}, {"type": "text", "text": asked["text"]}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            inputs = processor(images=picture, return_tensors="pt", **asked)
        tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False, num_beams=1)[0]
        echoed = (
            0
            if model.config.is_encoder_decoder or "input_ids" not in inputs
            else inputs["input_ids"].shape[1]
        )
        words = processor.decode(tokens[echoed:], skip_special_tokens=True).split()
        # [DEC], which a BLIP starts with, is no special token of its tokenizer, and is no word of a caption either.
        captions.append(" ".join(word for word in words if word != "[DEC]" or folder.name != "blip"))
    return captions


@pytest.mark.parametrize(
    ("family", "asked"),
    [
        ("blip", {}),
        ("blip-2", {}),
        ("git", {}),
        ("florence-2", {"text": "<CAPTION>"}),
        ("llava", {"text": "red sofa"}),
        ("qwen2-vl", {"text": "red sofa"}),
        ("paligemma", {"text": "<image>red sofa"}),
    ],
)
def test_captions_are_those_of_transformers(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str, asked: dict[str, str]
) -> None:
    expected = _as_documented(captioners[family], pictures, **asked)
    prompt = asked.get("text", "").removeprefix("<image>") or None
    assert captions_of(captioner(captioners[family], prompt=prompt), pictures) == expected


@every_family
@pytest.mark.parametrize(("prompt", "limit"), [(None, 5), (PROMPT, 1)])
def test_the_limit_counts_new_tokens(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str, prompt: str | None, limit: int
) -> None:
    ours = captioner(captioners[family], prompt=prompt, max_new_tokens=limit)
    only_words(ours)
    for caption in captions_of(ours, pictures[:3]):
        assert len(caption.split()) == limit, caption


@every_family
def test_the_prompt_is_continued_and_not_repeated(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str
) -> None:
    plain, asked = captioner(captioners[family]), captioner(captioners[family], prompt=PROMPT)
    other = captioner(captioners[family], prompt="the dog under")
    assert len({tuple(captions_of(it, pictures)) for it in (plain, asked, other)}) == 3
    assert captions_of(asked, pictures) == captions_of(
        asked, pictures
    )  # BLIP writes into the prompt it is given
    assert not any(caption.startswith(PROMPT) for caption in captions_of(asked, pictures))
    assert len({json.dumps(it.variants, sort_keys=True) for it in (plain, asked, other)}) == 3


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
    alone = [_arrays(ours.preprocess(picture).inputs) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(ours.preprocess, pictures * 10))
    for number, picture in enumerate(made):
        for name, array in _arrays(picture.inputs).items():
            assert np.array_equal(array, alone[number % len(pictures)][name]), name
    assert alone[0]["pixel_values"].dtype == np.float32


def _arrays(inputs: Any) -> dict[str, Any]:
    """Of a model that is asked through its processor, those of its only prompt."""
    return dict(inputs if "pixel_values" in inputs else next(iter(inputs.values())))


@every_family
def test_odd_shapes(captioners: dict[str, Path], family: str) -> None:
    ours = captioner(captioners[family])
    red = Image.new("RGB", (50, 50), (250, 10, 20))
    expected = _arrays(ours.preprocess(red).inputs)["pixel_values"]
    for size in [(1, 1), (1, 180), (3, 40), (180, 1), (4, 4)]:
        made = _arrays(ours.preprocess(red.resize(size)).inputs)["pixel_values"]
        if family == "qwen2-vl":  # as many patches as its shape asks for, all of them red
            np.testing.assert_allclose(made, np.broadcast_to(expected[:1], made.shape), atol=1e-3)
        elif family == "idefics3":  # and tiles
            np.testing.assert_allclose(made, np.broadcast_to(expected[:, :1], made.shape), atol=1e-3)
        else:
            np.testing.assert_allclose(made, expected, atol=1e-3)
        assert len(captions_of(ours, [red.resize(size)])) == 1


def test_a_picture_that_the_image_processor_refuses(captioners: dict[str, Path]) -> None:
    """Qwen2-VL takes nothing that is more than 200 times as long as wide."""
    with pytest.raises(RowError, match="aspect ratio") as refused:
        captioner(captioners["qwen2-vl"]).preprocess(Image.new("RGB", (3000, 5)))
    assert refused.value.code is ErrorCode.MODEL_FAILED


@pytest.mark.parametrize(
    ("family", "settings"),
    [*((family, {}) for family in tiny.CAPTIONERS), ("blip", {"num_beams": 2}), ("git", {"top_p": 0.9})],
)
def test_a_poisoned_picture_costs_its_own_caption(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str, settings: dict[str, Any]
) -> None:
    """NaN, whatever made it."""
    ours = captioner(captioners[family], **settings)
    inputs = [ours.preprocess(picture) for picture in pictures[:3]]
    clean = captions_of(ours, pictures[:3])
    _arrays(inputs[1].inputs)["pixel_values"][:] = np.nan
    captions = ours.caption(inputs, "default")
    assert (captions[0], captions[2]) == (clean[0], clean[2])
    assert isinstance(captions[1], RowError) and captions[1].code is ErrorCode.NOT_FINITE


@pytest.mark.parametrize("family", ["blip", "llava"])
def test_a_picture_at_which_the_model_fails_costs_its_own_caption(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str
) -> None:
    ours = captioner(captioners[family])
    inputs = [ours.preprocess(picture) for picture in pictures[:3]]
    wrong = _arrays(inputs[1].inputs)["pixel_values"][..., :2, :, :]
    if family == "blip":
        inputs[1].inputs["pixel_values"] = wrong
    else:
        next(iter(inputs[1].inputs.values()))["pixel_values"] = wrong
    captions = ours.caption(inputs, "default")
    clean = captions_of(ours, pictures[:3])
    assert (captions[0], captions[2]) == (clean[0], clean[2])
    assert isinstance(captions[1], RowError) and captions[1].code is ErrorCode.MODEL_FAILED


def test_a_device_with_too_little_memory_gets_smaller_batches(
    captioners: dict[str, Path], pictures: list[Image.Image]
) -> None:
    many = pictures * 7
    expected = captions_of(captioner(captioners["blip"], batch_size=64), many)
    ours = captioner(captioners["blip"], batch_size=64)
    decoder = ours._loaded().family.model.text_decoder

    def small(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if len(kwargs["input_ids"]) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")

    decoder.register_forward_pre_hook(small, with_kwargs=True)
    assert captions_of(ours, many) == expected
    assert ours.batch_size == 16


@pytest.mark.parametrize(("size", "beams", "pictures"), [(40, 1, 32), (70, 4, 16), (40, 4, 10), (3, 4, 1)])
def test_a_batch_is_not_filled_up_beyond_its_size(
    captioners: dict[str, Path], size: int, beams: int, pictures: int
) -> None:
    ours = captioner(captioners["blip"], batch_size=size, num_beams=beams)
    ours.load()
    assert ours.batch_size == pictures


# --- variants --------------------------------------------------------------------------------------------------------

KINDS: dict[str, Any] = {
    "short": {"max_new_tokens": 2},
    "long": {"min_new_tokens": 12, "max_new_tokens": 15},
    "sample": {"top_p": 0.9, "temperature": 1.5, "count": 3},
    "beam": {"num_beams": 3, "count": 2},
}
NAMES = ["short", "long", "sample-1", "sample-2", "sample-3", "beam-1", "beam-2"]


@every_family
def test_variants(captioners: dict[str, Path], pictures: list[Image.Image], family: str) -> None:
    ours = captioner(captioners[family], variants=KINDS)
    assert list(ours.variants) == NAMES
    inputs = [ours.preprocess(picture) for picture in pictures]
    captions = {name: ours.caption(inputs, name) for name in NAMES}
    # Each as if there were no others, and in another order.
    again = captioner(captioners[family], batch_size=64, variants=KINDS)
    for name in reversed(NAMES):
        assert captions_of(again, pictures, name) == captions[name], name
    words = {name: [len(str(text).split()) for text in captions[name]] for name in NAMES}
    assert max(words["short"]) <= 2
    # Tokens like [PAD], of which tiny models are fond, are no words of a caption.
    assert np.mean(words["long"]) > 2 * np.mean(words["short"]) and max(words["long"]) <= 15
    for one, other in (("sample-1", "sample-2"), ("sample-2", "sample-3"), ("beam-1", "beam-2")):
        assert captions[one] != captions[other]


@pytest.mark.parametrize("family", ["blip", "blip-2", "florence-2", "vit-gpt2"])
def test_variants_encode_a_picture_once(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = captioner(captioners[family], variants=KINDS)
    model = ours._loaded().family
    encode = model.encode
    seen: list[Any] = []

    def counted(batch: Sequence[Any]) -> Sequence[Any]:
        seen.extend(batch)
        return encode(batch)

    monkeypatch.setattr(model, "encode", counted)
    inputs = [ours.preprocess(picture) for picture in pictures[:4]]
    for name in NAMES:
        ours.caption(inputs, name)
    assert len(seen) == 4


def test_beams_are_those_of_transformers(captioners: dict[str, Path], pictures: list[Image.Image]) -> None:
    processor = transformers.AutoProcessor.from_pretrained(captioners["blip"])
    model = transformers.AutoModelForImageTextToText.from_pretrained(captioners["blip"]).eval()
    ours = captioner(captioners["blip"], num_beams=4, count=3)
    for picture in pictures[:3]:
        tokens = model.generate(
            **processor(images=picture, return_tensors="pt"),
            max_new_tokens=6,
            num_beams=4,
            num_return_sequences=3,
        )
        texts = processor.batch_decode(tokens, skip_special_tokens=True)
        expected = [" ".join(word for word in text.split() if word != "[DEC]") for text in texts]
        assert [captions_of(ours, [picture], f"default-{rank}")[0] for rank in (1, 2, 3)] == expected


def test_samples_depend_on_seed_and_picture(captioners: dict[str, Path], pictures: list[Image.Image]) -> None:
    def sampled(seed: int, pictures: Sequence[Image.Image] = pictures) -> list[str]:
        return captions_of(captioner(captioners["git"], top_p=0.95, seed=seed), pictures)

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    assert sampled(1, pictures[2:4]) == sampled(1)[2:4]


def test_the_settings_of_a_variant_are_what_changes_it(captioners: dict[str, Path]) -> None:
    def variants(**settings: Any) -> dict[str, Any]:
        return captioner(captioners["blip"], **settings).variants

    plain = variants()
    assert list(plain) == ["default"] and variants(seed=5) == plain  # greedy: nothing is drawn
    assert variants(max_new_tokens=7) != plain and variants(prompt="a") != plain
    sampled = variants(top_p=0.9, count=2)
    assert sampled["default-1"] != sampled["default-2"]
    assert variants(top_p=0.9, count=2, seed=1) != sampled
    # A third sample changes nothing in the first two.
    assert {**variants(top_p=0.9, count=3), **sampled} == variants(top_p=0.9, count=3)
    assert variants(variants={"short": {"max_new_tokens": 2}, "default": {}})["default"] == plain["default"]
    json.dumps(sampled)


def test_captions_are_cleaned(captioners: dict[str, Path], pictures: list[Image.Image]) -> None:
    raw = captioner(captioners["blip"], max_new_tokens=20)
    only_words(raw)
    cleaned = captioner(captioners["blip"], max_new_tokens=20, clean=True, artefacts=["room", "dog"])
    only_words(cleaned)
    before, after = captions_of(raw, pictures), captions_of(cleaned, pictures)
    assert any({"room", "dog"} & set(caption.split()) for caption in before)
    assert not any({"room", "dog"} & set(caption.split()) for caption in after)
    assert raw.fingerprint_settings != cleaned.fingerprint_settings
    assert raw.variants == cleaned.variants


def test_a_precision_that_is_asked_for_makes_captions_anew(captioners: dict[str, Path]) -> None:
    """So that `precision: float32` mends what half precision made `not_finite`."""
    settings = CaptionerSettings(model=str(captioners["blip"]))
    asked = [Captioner(settings, precision=name).fingerprint_settings for name in ("float32", "bfloat16")]
    left = Captioner(settings, precision="auto")
    assert asked[0] != asked[1] and left.fingerprint_settings not in asked
    before = left.fingerprint_settings
    left.load()
    assert left.fingerprint_settings == before  # what the device decided does not count


def test_it_can_be_sent_to_a_worker(captioners: dict[str, Path], pictures: list[Image.Image]) -> None:
    ours = captioner(captioners["git"])
    there = pickle.loads(pickle.dumps(ours))
    assert captions_of(there, pictures[:1]) == captions_of(ours, pictures[:1])
    assert captions_of(ours, []) == []


@every_family
def test_half_precision_when_asked_for(
    captioners: dict[str, Path], pictures: list[Image.Image], family: str
) -> None:
    settings = CaptionerSettings(model=str(captioners[family]), max_new_tokens=3, batch_size=8, clean=False)
    ours = Captioner(settings, precision="bfloat16")
    captions = captions_of(ours, pictures * 2)
    assert ours.precision == "bfloat16"
    assert captions[: len(pictures)] == captions[len(pictures) :]


def test_identity_is_the_content_not_the_path(captioners: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(captioners["blip"], tmp_path / "elsewhere")
    assert captioner(tmp_path / "elsewhere").identity == captioner(captioners["blip"]).identity
    assert captioner(captioners["git"]).identity != captioner(captioners["blip"]).identity
    assert captioner(captioners["git"]).fingerprint_settings["model"] == captioner(captioners["git"]).identity


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


def test_a_prompt_that_the_model_does_not_take(captioners: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"does not take the prompt '<CAPTION> please'.* only content"):
        captioner(captioners["florence-2"], prompt="<CAPTION> please").load()


# Code of a repository: a model of a kind that transformers does not know.
_OWN_CODE = """
from transformers import BlipConfig, BlipForConditionalGeneration

class OwnConfig(BlipConfig):
    model_type = "own"

class OwnModel(BlipForConditionalGeneration):
    config_class = OwnConfig
"""


def _with_own_code(source: Path, folder: Path, kind: str = "own") -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    offered = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}
    config |= {"model_type": kind, "architectures": ["OwnModel"], "auto_map": offered}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(_OWN_CODE.replace("own", kind))
    return folder


def test_own_code_is_run_only_where_the_catalogue_says_so(
    captioners: dict[str, Path], pictures: list[Image.Image], tmp_path: Path
) -> None:
    folder = _with_own_code(captioners["blip"], tmp_path / "own")
    with pytest.raises(ModelError, match=r"code of its own .* set `trust_remote_code: true`"):
        captioner(folder).load()
    trusted = captioner(folder, trust_remote_code=True)
    assert len(captions_of(trusted, pictures[:2])) == 2


def test_own_code_under_the_name_of_a_family(
    captioners: dict[str, Path], pictures: list[Image.Image], tmp_path: Path
) -> None:
    """It is asked through its processor: what is known of the family may not be so of it."""
    folder = _with_own_code(captioners["blip"], tmp_path / "own", kind="florence2")
    with pytest.raises(ModelError, match=r"in its first form.* like florence-community/Florence-2-base"):
        captioner(folder).load()
    trusted = captioner(folder, trust_remote_code=True)
    assert len(captions_of(trusted, pictures[:2])) == 2
    assert type(trusted._loaded().family) is Asked


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"auto_map": {"AutoModelForImageTextToText": "org/other--own.OwnModel"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "org/other--own.Text"}}}),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "org/other--images.Own"}}),
        (
            "processor_config.json",
            {"image_processor": {"auto_map": {"AutoProcessor": "org/other--both.Own"}}},
        ),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "org/other--words.Own"]}}),
    ],
)
def test_code_of_another_repository_is_never_run(
    captioners: dict[str, Path], tmp_path: Path, file: str, content: dict[str, Any]
) -> None:
    folder = _with_own_code(captioners["blip"], tmp_path / "own")
    path = folder / file
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **content}))
    with pytest.raises(ModelError, match=rf"code of another repository.* its {file} names 'org/other--"):
        captioner(folder, trust_remote_code=True).load()


@pytest.mark.usefixtures("no_hub")
def test_no_network() -> None:
    with pytest.raises(
        ModelError, match=r"not in the Hub's cache .* cannot be reached .* name a local folder"
    ):
        Captioner(CaptionerSettings()).load()
    with pytest.raises(ModelError, match="neither a Hub id"):
        Captioner(CaptionerSettings(model="a/b/c")).load()
