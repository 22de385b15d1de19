"""Tiny, randomly initialised CLIPs of transformers' families, written as those are published."""

from pathlib import Path
from typing import Any

import torch
import transformers

from sd_assets_tests.models import tiny

SIDE = 48  # px; not the side of the crops, which shows whether it is cropped
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_CONTEXT = 16


def clip(folder: Path, *, seed: int = 0, **processor: Any) -> Path:
    """As `openai/clip-vit-large-patch14`; `processor` are fields of its image processor."""
    words = tiny.tokenizer(end="[END]")  # of its texts the end token is read
    text = {**_TEXT, **_words(words), "max_position_embeddings": _CONTEXT}
    return _saved(
        folder,
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=24)
        ),
        transformers.CLIPImageProcessor(
            **{
                "size": {"shortest_edge": SIDE},
                "crop_size": {"height": SIDE, "width": SIDE},
                "image_mean": [0.4, 0.5, 0.6],
                "image_std": [0.2, 0.3, 0.25],
                **processor,
            }
        ),
        words,
        seed,
    )


def siglip(folder: Path, *, seed: int = 0) -> Path:
    """As `google/siglip-base-patch16-224`."""
    words = tiny.tokenizer(end="[END]")
    text = {**_TEXT, **_words(words), "max_position_embeddings": _CONTEXT, "projection_size": 32}
    return _saved(
        folder,
        lambda: transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=_VISION)),
        transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}),
        words,
        seed,
    )


def siglip2(folder: Path, *, seed: int = 0) -> Path:
    """As `google/siglip2-base-patch16-naflex`: pictures in their own proportions."""
    words = tiny.tokenizer(end="[END]")
    text = {**_TEXT, **_words(words), "max_position_embeddings": _CONTEXT, "projection_size": 32}
    vision = {name: value for name, value in _VISION.items() if name != "image_size"} | {"num_patches": 36}
    return _saved(
        folder,
        lambda: transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision)),
        transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=36),
        words,
        seed,
    )


def chinese_clip(folder: Path, *, seed: int = 0) -> Path:
    """As `OFA-Sys/chinese-clip-vit-base-patch16`: its text tower is a BERT, of long texts."""
    words = tiny.tokenizer()
    text = {**_TEXT, "vocab_size": len(words), "max_position_embeddings": 256, "pad_token_id": 0}
    return _saved(
        folder,
        lambda: transformers.ChineseCLIPModel(
            transformers.ChineseCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=24)
        ),
        transformers.ChineseCLIPImageProcessor(
            size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        words,
        seed,
    )


FAMILIES = {"clip": clip, "siglip": siglip, "siglip2": siglip2, "chinese_clip": chinese_clip}


def _words(words: transformers.PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(words),
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }


def _saved(folder: Path, make: Any, image_processor: Any, words: Any, seed: int) -> Path:
    torch.manual_seed(seed)
    make().save_pretrained(folder)
    image_processor.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
