"""Image-to-text models of transformers: which one a folder or repository holds, and loading it.

Here belongs what is decided by a model's files, before anything is captioned.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, GenerationConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    AutoModelForImageTextToText,
)
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, logging

from sd_assets.errors import ModelError
from sd_assets.models.captioning.chat import Asked, Chat
from sd_assets.models.captioning.families import (
    Blip,
    Blip2,
    Family,
    Florence2,
    Git,
    Loaded,
    VisionEncoderDecoder,
)
from sd_assets.views.text import one_line

_FAMILIES: dict[str, type[Family]] = {
    "blip": Blip,
    "blip-2": Blip2,
    "instructblip": Blip2,
    "git": Git,
    "florence2": Florence2,
    "vision-encoder-decoder": VisionEncoderDecoder,
}
# As which a repository may offer code of its own.
_OFFERED = ("AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForCausalLM")
# The files in which a repository names code, its own or that of another one.
NAME_CODE = (
    "config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)
# What a model's files say of decoding: here the catalogue says it.
_OURS_TO_SAY = (
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "temperature",
    "top_p",
    "top_k",
)


def check_kind(config_file: Path, where: str, *, own_code: bool) -> None:
    """Refuses what is not an image-to-text model, before its weights are fetched.

    Args:
        config_file: the model's config.json.
        where: names the model in errors.
        own_code: code of the model's repository may be run.

    Raises:
        ModelError: it is none, or has code of its own that may not be run.
    """
    known = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{where} is not a model of transformers: its config.json names no model_type"
        ) from error
    offered = _offered(config)
    if own_code and offered:
        return
    if offered and kind == "florence2":
        raise ModelError(
            f"{where} is a Florence-2 in its first form, with code of its own: take the same model as transformers knows it, "
            "like florence-community/Florence-2-base"
        )
    if kind not in known:
        if offered and kind not in CONFIG_MAPPING:
            raise ModelError(
                f"{where} brings code of its own ({kind!r} is not in this transformers), which is not run unless you say so: "
                "read it, then set `trust_remote_code: true` and `revision:` to the commit that you have read"
            )
        raise ModelError(
            f"{where} is not an image-to-text model"
            + (
                f": it is a {kind!r}"
                if kind in CONFIG_MAPPING
                else f" that this transformers knows: {kind!r}"
            )
            + "; use one like Salesforce/blip-image-captioning-base, florence-community/Florence-2-base or "
            "Qwen/Qwen2.5-VL-3B-Instruct"
        )
    # A BLIP for visual question answering loads as a captioner without complaint, and captions nonsense.
    saved = config.get("architectures") or [known[kind]]
    if known[kind] not in saved:
        raise ModelError(
            f"{where} is not an image-to-text model: it was saved as {', '.join(saved)}, a captioner of its "
            f"family is a {known[kind]}"
        )


def check_code(files: Iterable[Path], where: str) -> None:
    """Refuses a model that names code of another repository (`org/other--modeling.Model`), of which nobody pins the commit.

    Args:
        files: of the model, of those named in `NAME_CODE`.
        where: names the model in errors.

    Raises:
        ModelError: which file names which code.
    """
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{where}: its {file.name} is not JSON: {error}") from error
        for name in _named_code(content):
            if "--" in name:
                raise ModelError(
                    f"{where} would run code of another repository, at whatever commit that is now: its {file.name} names "
                    f"{name!r}. Fetch it into a folder (`hf download --local-dir`), lay that code beside it once you have read "
                    f"it, take {name.split('--')[0] + '--'!r} out of that file, and give the folder as `model`"
                )


def _named_code(content: Any) -> Iterator[str]:
    """All classes that an `auto_map` names, at any depth: a processor's file holds those of its parts."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _texts(value) if key == "auto_map" else _named_code(value)
    elif isinstance(content, list):
        for item in content:
            yield from _named_code(item)


def _texts(value: Any) -> Iterator[str]:
    """A tokenizer names two classes, one of which may be null; older files have no more than a list."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def load_family(source: str, pinned: dict[str, Any], where: str, device: str, precision: str) -> Family:
    """The model on its device.

    Args:
        source: its Hub id or folder.
        pinned: for `from_pretrained`: commit, whether the Hub may be asked, whether its code may be run.
        where: names the model in errors.
        device: `cuda:0`, `mps`, `cpu`.
        precision: `float32`, `float16` or `bfloat16`.

    Raises:
        ModelError: what is wrong with its files and what to do.
    """
    logging.disable_progress_bar()  # in the log of a run it is noise
    try:
        image_processor, tokenizer, processor = _processors(source, pinned)
        model, report = _model_class(source, pinned).from_pretrained(
            source, dtype=getattr(torch, precision), use_safetensors=True, output_loading_info=True, **pinned
        )
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{where} cannot be loaded: {one_line(error)}. Its weights must be safetensors, and its processor "
            "must be there (preprocessor_config.json and the tokenizer's files)"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{where} is incomplete: its weights lack {len(missing)} parameters of "
            f"{type(model).__name__}, {missing[0]!r} for one"
        )
    _leave_decoding_to_us(model)
    model = model.to(device).eval().requires_grad_(False)
    loaded = Loaded(model, image_processor, tokenizer, processor, where)
    return _family(model, processor)(loaded)


def _family(model: Any, processor: Any) -> type[Family]:
    # A class of the repository's own may bear the name of a family, and be built in another way.
    own = type(model).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME)
    if not own and (family := _FAMILIES.get(model.config.model_type)):
        return family
    return Chat if getattr(processor, "chat_template", None) else Asked


def _offered(config: dict[str, Any]) -> list[str]:
    """The classes of its own that a repository offers, the fitting ones first: `modeling.Model`."""
    offered = config.get("auto_map") or {}
    return [offered[name] for name in _OFFERED if name in offered]


def _model_class(source: str, pinned: dict[str, Any]) -> Any:
    if not pinned["trust_remote_code"]:
        return AutoModelForImageTextToText
    from transformers import AutoConfig

    offered = _offered(AutoConfig.from_pretrained(source, **pinned).to_dict())
    if not offered:
        return AutoModelForImageTextToText
    fetch = {name: value for name, value in pinned.items() if name != "trust_remote_code"}
    return get_class_from_dynamic_module(offered[0], source, **fetch)


def _processors(source: str, pinned: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(image processor, tokenizer, the processor of both or None): ViT-GPT2 and its like have no joint one."""
    processor = AutoProcessor.from_pretrained(source, **pinned)
    if hasattr(processor, "image_processor") and hasattr(processor, "tokenizer"):
        return processor.image_processor, processor.tokenizer, processor
    return (
        AutoImageProcessor.from_pretrained(source, **pinned),
        AutoTokenizer.from_pretrained(source, **pinned),
        None,
    )


def _leave_decoding_to_us(model: Any) -> None:
    """A model's own `max_length` counts the prompt, and transformers warns of what does not fit at every batch."""
    for module in model.modules():
        if getattr(module, "generation_config", None) is not None:
            for name in _OURS_TO_SAY:
                setattr(module.generation_config, name, None)
            # By default none in transformers 5, and 0 before.
            module.generation_config.min_length = GenerationConfig().min_length
