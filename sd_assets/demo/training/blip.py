"""The small BLIP: a transformers captioner trained on rendered scenes, written so that `from_pretrained` loads it.

Its vision encoder starts as the trained CLIP's, so that the decoder, which learns to say the canonical caption, reads features
that already tell objects and colours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sd_assets.demo import scenes
from sd_assets.demo.training import data, loop
from sd_assets.demo.training.clip import MODEL_CONFIG
from sd_assets.demo.training.tokenizer import (
    END,
    PAD,
    START,
    UNKNOWN,
    VOCABULARY,
    build_tokenizer,
    encode,
    save_tokenizer,
)

LENGTH = 32
"""Longest caption in tokens, with start and end."""

_BATCH = 128
_HIDDEN_COLOURS = 0.3
"""Part of the colours that the decoder does not get to see of what it has said."""


def new_model() -> Any:
    """An untrained `BlipForConditionalGeneration`, its vision encoder shaped like the CLIP's."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    vision = MODEL_CONFIG["vision_cfg"]
    start, end, pad = (VOCABULARY.index(token) for token in (START, END, PAD))
    config = BlipConfig(
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "projection_dim": 128,
            "initializer_range": 0.02,
        },
        text_config={
            "vocab_size": len(VOCABULARY),
            "hidden_size": 128,
            "encoder_hidden_size": vision["width"],
            "intermediate_size": 512,
            "projection_dim": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 2 * LENGTH,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "bos_token_id": start,
            "eos_token_id": end,
            "sep_token_id": end,
            "pad_token_id": pad,
        },
        projection_dim=128,
        image_text_hidden_size=128,
    )
    return BlipForConditionalGeneration(config)


def vision_from_clip(model: Any, clip_folder: Path) -> None:
    """Start the vision encoder from the CLIP in a folder; their blocks are the same, under other names."""
    import torch
    from safetensors.torch import load_file

    source = {
        name.removeprefix("visual."): value.float()
        for name, value in load_file(str(clip_folder / "open_clip_model.safetensors")).items()
        if name.startswith("visual.")
    }
    target = {
        "embeddings.class_embedding": source["class_embedding"].view(1, 1, -1),
        "embeddings.position_embedding": source["positional_embedding"][None],
        "embeddings.patch_embedding.weight": source["conv1.weight"],
        "embeddings.patch_embedding.bias": torch.zeros(source["conv1.weight"].shape[0]),
        "post_layernorm.weight": source["ln_post.weight"],
        "post_layernorm.bias": source["ln_post.bias"],
    }
    names = {
        "ln_1.": "layer_norm1.",
        "ln_2.": "layer_norm2.",
        "attn.in_proj_": "self_attn.qkv.",
        "attn.out_proj.": "self_attn.projection.",
        "mlp.c_fc.": "mlp.fc1.",
        "mlp.c_proj.": "mlp.fc2.",
    }
    for layer in range(MODEL_CONFIG["vision_cfg"]["layers"]):
        for old, new in names.items():
            for part in ("weight", "bias"):
                target[f"encoder.layers.{layer}.{new}{part}"] = source[
                    f"transformer.resblocks.{layer}.{old}{part}"
                ]
    model.vision_model.load_state_dict(target)


def export(model: Any, folder: Path) -> None:
    """Write model, tokenizer and image processor for `from_pretrained`; weights in float16, to be loaded as float32."""
    import torch
    from transformers import BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    def write(beside: Path) -> None:
        weights = {
            name: value.detach().to("cpu", torch.float16) for name, value in model.state_dict().items()
        }
        half: Any = BlipForConditionalGeneration(model.config).half()
        half.load_state_dict(weights)
        half.generation_config.max_new_tokens = LENGTH
        half.save_pretrained(str(beside))
        # transformers loads in the dtype that the configuration names: float32 is right on every device.
        config_file = beside / "config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        for part in (config, config["text_config"], config["vision_config"]):
            part["dtype"] = "float32"
        config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        size = {"height": data.SIDE, "width": data.SIDE}
        images = BlipImageProcessor(size=size, image_mean=list(data.MEAN), image_std=list(data.STD))
        BlipProcessor(images, build_tokenizer(2 * LENGTH)).save_pretrained(str(beside))
        save_tokenizer(beside, 2 * LENGTH)
        images.save_pretrained(
            str(beside)
        )  # transformers 4 looks for the image processor in a file of its own

    loop.replace_folder(folder, write)


def train_blip(
    pool: data.RenderedPool, clip_folder: Path, folder: Path, *, minutes: float, device: str, seed: int = 0
) -> dict[str, Any]:
    """Train for the given time, exporting every few minutes; returns what was done."""
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    model = new_model()
    vision_from_clip(model, clip_folder)
    model = model.to(device).train()
    tokens = encode(build_tokenizer(LENGTH), [scenes.caption(scene) for scene in pool.scenes], LENGTH)
    labels, unjudged = _labels(tokens)
    colours = torch.tensor([VOCABULARY.index(colour) for colour in scenes.COLOURS])
    optimiser = loop.optimiser(list(model.parameters()))
    draws = np.random.default_rng(seed)
    clock = loop.Clock(60 * minutes, peak_rate=1e-3)

    for number in clock.running():
        chosen = draws.integers(0, len(pool), _BATCH)
        pixels = data.to_tensor(pool.pictures[chosen]).to(device)
        known = tokens[chosen]
        # Without its colour, what stands there must be read from the picture.
        hidden = torch.isin(known, colours) & (torch.rand(known.shape) < _HIDDEN_COLOURS)
        given = known.masked_fill(hidden, VOCABULARY.index(UNKNOWN)).to(device)
        with loop.precision(device):
            logits = model(pixel_values=pixels, input_ids=given).logits
        logits = logits.float().scatter(2, unjudged[chosen].to(device)[:, :, None], float("-inf"))
        loss = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[chosen].to(device)[:, :-1].flatten()
        )
        loop.step(optimiser, loss, clock.rate)
        if number % 50 == 0:
            loop.log(f"blip step {number} {100 * clock.progress:.0f}% loss {loss.item():.4f}")
        if clock.export_due(180):
            export(model, folder)
    export(model, folder)
    return {
        "minutes": round(clock.elapsed / 60, 1),
        "steps": clock.steps,
        "batch": _BATCH,
        "scenes": len(pool),
    }


def _labels(tokens: Any) -> tuple[Any, Any]:
    """What the decoder is to say next at each place, and which token is not judged there, both (captions, LENGTH).

    Never seen is not the same as false: no caption has a held-out pair, and a decoder judged on its absence would learn that
    no sofa can be red. So the colour that is held out with the coming object, and the object that is held out with the colour
    just said, are left out of the choice. Elsewhere the padding is, which is never a right answer.
    """
    import torch

    pad = VOCABULARY.index(PAD)
    following = torch.full_like(tokens, pad)
    following[:, :-1] = tokens[:, 1:]
    after_next = torch.full_like(tokens, pad)
    after_next[:, :-2] = tokens[:, 2:]
    colour_of, object_of = (torch.full((len(VOCABULARY),), pad) for _ in range(2))
    for colour, kind in scenes.HELD_OUT_PAIRS:
        colour_of[VOCABULARY.index(kind)] = VOCABULARY.index(colour)
        object_of[VOCABULARY.index(colour)] = VOCABULARY.index(kind)
    unjudged = torch.maximum(colour_of[after_next], object_of[tokens])
    return following.masked_fill(following == pad, -100), unjudged
