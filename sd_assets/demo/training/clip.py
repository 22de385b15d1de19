"""The small CLIP: an open_clip model trained on rendered scenes, written so that `local-dir:` loads it.

The vision tower learns the scenes' attributes from linear heads, which is many times quicker than contrast alone; the contrastive
loss then needs only to bring the texts there. Because the truth is known, every picture that a text is true of counts as a match.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from sd_assets.demo import scenes
from sd_assets.demo.training import data, loop
from sd_assets.demo.training.tokenizer import VOCABULARY, build_tokenizer, encode, save_tokenizer

CONTEXT = 32
_BATCH = 256
_WARM_UP = 0.2
"""Part of the time that trains the vision tower on attributes alone."""

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": data.SIDE,
        "patch_size": 12,
        "width": 192,
        "head_width": 32,
        "layers": 4,
        # BLIP's encoder has no norm before its blocks: without it, it can start from this tower's weights.
        "no_ln_pre": True,
    },
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": len(VOCABULARY),
        "width": 128,
        "heads": 4,
        "layers": 3,
        # Its presence makes open_clip read the tokenizer in the model's folder; the value is ignored there.
        "hf_tokenizer_name": "sd_assets/demo-clip",
        "tokenizer_kwargs": {"clean": "whitespace"},
    },
}


def new_model() -> Any:
    """An untrained `open_clip.CLIP`."""
    import open_clip

    settings = {
        name: dict(value) if isinstance(value, dict) else value for name, value in MODEL_CONFIG.items()
    }
    text = {
        name: value
        for name, value in settings["text_cfg"].items()
        if not name.startswith(("hf_", "tokenizer"))
    }
    return open_clip.CLIP(settings["embed_dim"], settings["vision_cfg"], text)


def export(model: Any, folder: Path) -> None:
    """Write the model for `open_clip.create_model_and_transforms("local-dir:...")`, weights in float16."""
    import torch
    from safetensors.torch import save_file

    def write(beside: Path) -> None:
        weights = {
            name: value.detach().to("cpu", torch.float16).contiguous()
            for name, value in model.state_dict().items()
        }
        save_file(weights, str(beside / "open_clip_model.safetensors"), metadata={"format": "pt"})
        preprocess = {
            "mean": data.MEAN,
            "std": data.STD,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "size": [data.SIDE, data.SIDE],
        }
        config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": preprocess}
        (beside / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_tokenizer(beside, CONTEXT)

    loop.replace_folder(folder, write)


def _contrast(images: Any, texts: Any, truth: Any, scale: Any) -> Any:
    """Cross-entropy both ways, in which all true matches share the target evenly."""
    import torch

    logits = scale * texts @ images.T
    loss = 0.0
    for scores, target in ((logits, truth), (logits.T, truth.T)):
        target = target / target.sum(1, keepdim=True)
        loss = loss - (target * torch.log_softmax(scores, 1)).sum(1).mean() / 2
    return loss


def train_clip(
    pool: data.RenderedPool, folder: Path, *, minutes: float, device: str, seed: int = 0
) -> dict[str, Any]:
    """Train for the given time, exporting every few minutes; returns what was done."""
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    model = new_model().to(device).train()
    heads = torch.nn.Linear(MODEL_CONFIG["embed_dim"], sum(data.ATTRIBUTE_CLASSES)).to(device)
    tokenizer = build_tokenizer(CONTEXT)
    optimiser = loop.optimiser([*model.parameters(), *heads.parameters()])
    draws = np.random.default_rng(seed)
    rng = scenes.training_rng(seed, "texts")
    clock = loop.Clock(60 * minutes, peak_rate=1.5e-3)

    for number in clock.running():
        warm = clock.progress < _WARM_UP
        chosen = draws.integers(0, len(pool), _BATCH // 2 if warm else _BATCH)
        known = pool.attributes[chosen]
        pixels = data.to_tensor(pool.pictures[chosen]).to(device)
        with loop.precision(device):
            features = model.encode_image(pixels)
        features = features.float()
        loss = attributes = _attribute_loss(heads(features), torch.from_numpy(known).to(device))
        if not warm:
            images = functional.normalize(features, dim=-1)
            scale = model.logit_scale.exp().clamp(max=100)
            parts = [_texts(pool, chosen, rng, full) for full in (True, False)]
            tokens = encode(tokenizer, [text.text for part in parts for text in part], CONTEXT).to(device)
            with loop.precision(device):
                encoded = model.encode_text(tokens)
            contrasts = []
            for part, texts in zip(
                parts, functional.normalize(encoded.float(), dim=-1).chunk(2), strict=True
            ):
                truth = torch.from_numpy(data.truth_matrix(part, known)).float().to(device)
                contrasts.append(_contrast(images, texts, truth, scale))
            loss = 0.3 * attributes + sum(contrasts)
        loop.step(optimiser, loss, clock.rate)
        if number % 50 == 0:
            said = f"attributes {attributes.item():.3f}"
            if not warm:
                said += f" full {contrasts[0].item():.3f} partial {contrasts[1].item():.3f} scale {scale.item():.1f}"
            loop.log(f"clip step {number} {100 * clock.progress:.0f}% {said}")
        if not warm and clock.export_due(180):
            export(model, folder)
    export(model, folder)
    return {
        "minutes": round(clock.elapsed / 60, 1),
        "steps": clock.steps,
        "batch": _BATCH,
        "scenes": len(pool),
    }


def _attribute_loss(scores: Any, known: Any) -> Any:
    import torch
    from torch.nn import functional

    # Never seen is not the same as false: without the mask the tower learns that no sofa can be red.
    masked = torch.zeros_like(scores[0])
    for index, value in data.UNSEEN_CLASSES:
        masked[sum(data.ATTRIBUTE_CLASSES[:index]) + value] = float("-inf")
    parts = (scores + masked).split(list(data.ATTRIBUTE_CLASSES), dim=1)
    return sum(functional.cross_entropy(part, known[:, index]) for index, part in enumerate(parts))


def _texts(pool: data.RenderedPool, chosen: Any, rng: random.Random, full: bool) -> list[data.Text]:
    make = data.full_text if full else data.partial_text
    return [make(pool.scenes[index], rng) for index in chosen]
