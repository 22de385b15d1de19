"""The figures of the two trained models, on scenes of worlds: never seen, with the pairs that training held out.

The models are loaded from their folders as any other model is, so that their export is measured with them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sd_assets.demo import scenes
from sd_assets.demo.scenes import Scene

_BATCH = 250


def unseen(count: int, seed: int | str, *, size: int = 256) -> tuple[list[Scene], list[Image.Image]]:
    """Scenes with pairwise distinct captions, and their pictures after a JPEG's round trip."""
    drawn: dict[str, tuple[Scene, Image.Image]] = {}
    part = 0
    while len(drawn) < count:
        rng = scenes.world_rng(seed, f"evaluation:{part}")
        part += 1
        scene = scenes.sample_scene(rng, held_out=True)
        if scenes.caption(scene) in drawn:
            continue
        buffer = io.BytesIO()
        scenes.render(scene, size, rng).save(buffer, "JPEG", quality=85)
        drawn[scenes.caption(scene)] = scene, Image.open(buffer).convert("RGB")
    return [scene for scene, _ in drawn.values()], [picture for _, picture in drawn.values()]


def embed(
    folder: Path, pictures: Sequence[Image.Image], texts: Sequence[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Normalised float32 embeddings of pictures and texts, (pictures, width) and (texts, width), by the CLIP in a folder."""
    import open_clip
    import torch
    from torch.nn import functional

    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()

    def batched(encode: Any, inputs: list[Any]) -> npt.NDArray[np.float32]:
        parts = [functional.normalize(encode(part), dim=-1) for part in inputs]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)

    with torch.inference_mode():
        starts = range(0, len(pictures), _BATCH)
        images = [
            torch.stack([preprocess(picture) for picture in pictures[at : at + _BATCH]]) for at in starts
        ]
        tokens = [tokenizer(list(texts[at : at + _BATCH])) for at in range(0, len(texts), _BATCH)]
        return batched(model.encode_image, images), batched(model.encode_text, tokens)


def measure_clip(
    folder: Path, *, seed: int | str, candidates: int = 1000, world: int = 2000
) -> dict[str, float]:
    """Text-to-image recall among `candidates` pictures by full captions; precision at 10 of "a red sofa" in a world."""
    known, pictures = unseen(world, seed)
    prompts = [scenes.phrase(*pair) for pair in scenes.PAIRS]
    captions = [scenes.caption(scene) for scene in known[:candidates]]
    images, texts = embed(folder, pictures, [*captions, *prompts])

    similarity = texts[:candidates] @ images[:candidates].T
    ranks = (similarity > np.diag(similarity)[:, None]).sum(1)
    best = np.argsort(-(texts[candidates:] @ images.T), axis=1)[:, :10]
    precision = {
        pair: sum(pair in known[index].pairs for index in row) / 10
        for pair, row in zip(scenes.PAIRS, best, strict=True)
    }
    return {
        "recall_at_1": round(float((ranks == 0).mean()), 4),
        "recall_at_5": round(float((ranks < 5).mean()), 4),
        "precision_at_10": round(float(np.mean(list(precision.values()))), 4),
        "precision_at_10_held_out_pairs": round(
            float(np.mean([precision[pair] for pair in scenes.HELD_OUT_PAIRS])), 4
        ),
        "precision_at_10_worst_pair": min(precision.values()),
        "candidates": candidates,
        "world": world,
    }


def generate_captions(
    folder: Path, pictures: Sequence[Image.Image], *, max_new_tokens: int = 50
) -> list[str]:
    """Captions of pictures by the BLIP in a folder."""
    import torch
    from transformers import AutoProcessor, BlipForConditionalGeneration

    model: Any = BlipForConditionalGeneration.from_pretrained(str(folder)).eval()
    processor: Any = AutoProcessor.from_pretrained(str(folder))
    captions: list[str] = []
    with torch.inference_mode():
        for at in range(0, len(pictures), _BATCH):
            pixels = processor(images=list(pictures[at : at + _BATCH]), return_tensors="pt").pixel_values
            tokens = model.generate(pixel_values=pixels, max_new_tokens=max_new_tokens)
            captions.extend(processor.batch_decode(tokens, skip_special_tokens=True))
    return [caption.strip() for caption in captions]


def measure_blip(folder: Path, *, seed: int | str, count: int = 1000) -> dict[str, float]:
    """How much of what captions say is true, and how much of what is in view they say."""
    known, pictures = unseen(count, seed)
    captions = generate_captions(folder, pictures)
    named = true = objects = found = held_out = held_out_found = 0
    for scene, caption in zip(known, captions, strict=True):
        pairs = scenes.pairs_in(caption)
        named += len(pairs)
        true += len(pairs & scene.pairs)
        objects += len(scene.objects)
        found += len(scenes.objects_in(caption) & scene.objects)
        rare = scene.pairs & scenes.HELD_OUT_PAIRS
        held_out += len(rare)
        held_out_found += len(rare & pairs)
    exact = sum(caption == scenes.caption(scene) for scene, caption in zip(known, captions, strict=True))
    return {
        "pair_accuracy": round(true / max(1, named), 4),
        "object_recall": round(found / objects, 4),
        "held_out_pair_recall": round(held_out_found / max(1, held_out), 4),
        "exact_captions": round(exact / count, 4),
        "scenes": count,
    }
