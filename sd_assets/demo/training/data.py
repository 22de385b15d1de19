"""Rendered training data: pictures as they look after the web and a model's preprocessing, and texts that are true of them."""

from __future__ import annotations

import io
import os
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sd_assets.demo import scenes
from sd_assets.demo.scenes import Scene

SIDE = 60
"""Side in px of the models' input."""

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
"""Normalisation of both models, of RGB in 0..1."""

_CHUNK = 500
_OBJECT_INDEX = {name: i for i, name in enumerate(scenes.OBJECTS)}
_COLOUR_INDEX = {name: i for i, name in enumerate(scenes.COLOURS)}
_WALL_INDEX = {name: i for i, name in enumerate(scenes.WALLS)}
_FLOOR_INDEX = {name: i for i, name in enumerate(scenes.FLOORS)}

ATTRIBUTE_CLASSES: tuple[int, ...] = (
    *[len(scenes.COLOURS) + 1] * len(scenes.OBJECTS),
    len(scenes.WALLS),
    len(scenes.FLOORS),
)
"""Classes of each attribute of a scene: per kind of object its colour or absence (0), then wall and floor."""


UNSEEN_CLASSES: tuple[tuple[int, int], ...] = tuple(
    sorted((_OBJECT_INDEX[kind], 1 + _COLOUR_INDEX[colour]) for colour, kind in scenes.HELD_OUT_PAIRS)
)
"""The (attribute, class) of each held-out pair."""


@dataclass(frozen=True)
class RenderedPool:
    """Training scenes and their pictures, uint8, shape (scenes, SIDE, SIDE, 3), with attributes, int64, (scenes, attributes)."""

    scenes: list[Scene]
    pictures: npt.NDArray[np.uint8]
    attributes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scenes)


def attributes(scene: Scene) -> list[int]:
    """The classes that `ATTRIBUTE_CLASSES` describes, for one scene."""
    values = [0] * len(scenes.OBJECTS)
    for item in scene.items:
        values[_OBJECT_INDEX[item.object]] = 1 + _COLOUR_INDEX[item.colour]
    return [*values, _WALL_INDEX[scene.wall], _FLOOR_INDEX[scene.floor]]


def through_the_web(scene: Scene, rng: random.Random) -> Image.Image:
    """Render a scene in the sizes, shapes and codecs that a web server and a downloader may give it, then to SIDE x SIDE."""
    short = rng.choice((64, 96, 96, 128, 128, 160, 192, 256))
    long = short if rng.random() < 0.7 else round(short * rng.uniform(1.0, 1.6))
    image = scenes.render(scene, (long, short) if rng.random() < 0.7 else (short, long), rng)
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(60, 95))
        image = Image.open(buffer).convert("RGB")
    if rng.random() < 0.4:
        # Downloaders resize before the model does.
        between = rng.choice((96, 128, 224))
        image = image.resize(
            (max(1, image.width * between // short), max(1, image.height * between // short)),
            Image.Resampling.BICUBIC,
        )
    width, height = image.size
    if rng.random() < 0.2:
        box = (0.0, 0.0, float(width), float(height))  # squashed, as BLIP's processor does
    else:
        side = min(width, height) * rng.uniform(0.96, 1.0)
        left = (width - side) / 2 + rng.uniform(-0.5, 0.5) * (min(width, height) - side)
        top = (height - side) / 2 + rng.uniform(-0.5, 0.5) * (min(width, height) - side)
        box = (left, top, left + side, top + side)
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)


def _render_chunk(seed: int, chunk: int) -> tuple[list[Scene], bytes]:
    rng = scenes.training_rng(seed, chunk)
    drawn = [scenes.sample_scene(rng, held_out=False) for _ in range(_CHUNK)]
    return drawn, b"".join(through_the_web(scene, rng).tobytes() for scene in drawn)


def render_pool(count: int, *, seed: int) -> RenderedPool:
    """Render `count` training scenes (rounded up to whole chunks) on all cores; the same seed gives the same pool."""
    chunks = -(-count // _CHUNK)
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        parts = list(pool.map(_render_chunk, [seed] * chunks, range(chunks)))
    drawn = [scene for part, _ in parts for scene in part]
    pictures = np.frombuffer(bytearray().join(data for _, data in parts), dtype=np.uint8)
    return RenderedPool(
        drawn,
        pictures.reshape(len(drawn), SIDE, SIDE, 3),
        np.array([attributes(scene) for scene in drawn], dtype=np.int64),
    )


def to_tensor(pictures: npt.NDArray[np.uint8]) -> Any:
    """Normalise pictures, uint8 (n, SIDE, SIDE, 3), to a float32 tensor (n, 3, SIDE, SIDE), as the models' preprocessing does."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


# --- Texts ------------------------------------------------------------------------------------------------------------

_PREFIXES = ("", "", "", "a photo of ", "a picture of ", "a room with ", "interior design with ")
_MOODS = ("modern", "cosy", "bright", "quiet", "small")

WORDS: tuple[str, ...] = tuple(
    sorted(
        {
            *scenes.OBJECTS,
            *scenes.COLOURS,
            *scenes.WALLS,
            *scenes.FLOORS,
            *_MOODS,
            *[
                "a",
                "an",
                "and",
                "in",
                ",",
                ".",
                "with",
                "the",
                "room",
                "wall",
                "floor",
                "photo",
                "picture",
                "of",
                "interior",
                "design",
            ],
            *["home", "image", "showing", "there", "is", "on", "there", "something"],
        }
    )
)
"""The vocabulary of both models, apart from their special tokens."""


@dataclass(frozen=True)
class Text:
    """A text and what it claims: what must hold of a scene for the text to be true of it, as (attribute, class or None)."""

    text: str
    claims: tuple[tuple[int | None, int | None], ...]
    """No class claims only that an object is there, in whatever colour; no attribute, only that some object has the colour."""


def full_text(scene: Scene, rng: random.Random) -> Text:
    """A text that tells the whole scene: mostly the canonical caption, else its items in another order."""
    claims = tuple((index, value) for index, value in enumerate(attributes(scene)))
    if rng.random() < 0.7:
        return Text(scenes.caption(scene), claims)
    items = [scenes.phrase(item.colour, item.object) for item in rng.sample(scene.items, len(scene.items))]
    prefix = rng.choice(("", "a photo of ", "a picture of "))
    wall, floor = scenes.phrase(scene.wall, "wall"), scenes.phrase(scene.floor, "floor")
    return Text(f"{prefix}{scenes.enumerate_phrases(items)} in a room with {wall} and {floor}", claims)


def partial_text(scene: Scene, rng: random.Random) -> Text:
    """A text that tells a part of the scene, as prompts do: mostly one item with its colour."""
    item = rng.choice(scene.items)
    kind = _OBJECT_INDEX[item.object]
    claims: list[tuple[int | None, int | None]] = [(kind, 1 + _COLOUR_INDEX[item.colour])]
    phrases = [scenes.phrase(item.colour, item.object)]
    draw = rng.random()
    if draw < 0.1:
        claims, phrases = [(kind, None)], [scenes.phrase(item.object)]
    elif draw < 0.2:
        # A colour by itself, like an object by itself, teaches the parts of pairs that are never seen together.
        claims, phrases = [(None, 1 + _COLOUR_INDEX[item.colour])], [f"something {item.colour}"]
    elif draw < 0.35 and len(scene.items) > 1:
        other = rng.choice([candidate for candidate in scene.items if candidate != item])
        claims.append((_OBJECT_INDEX[other.object], 1 + _COLOUR_INDEX[other.colour]))
        phrases.append(scenes.phrase(other.colour, other.object))
    elif draw < 0.42:
        claims.append((len(scenes.OBJECTS), _WALL_INDEX[scene.wall]))
        phrases.append(scenes.phrase(scene.wall, "wall"))
    elif draw < 0.49:
        claims.append((len(scenes.OBJECTS) + 1, _FLOOR_INDEX[scene.floor]))
        phrases.append(scenes.phrase(scene.floor, "floor"))
    suffix = rng.choice(("", "", "", " in a room", f" in a {rng.choice(_MOODS)} room"))
    # A word that the vocabulary lacks must not disturb: it becomes the unknown token.
    mood = "stylish " if rng.random() < 0.05 else ""
    return Text(f"{rng.choice(_PREFIXES)}{mood}{scenes.enumerate_phrases(phrases)}{suffix}", tuple(claims))


def truth_matrix(texts: list[Text], known: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which text is true of which scene, shape (texts, scenes); `known` holds the scenes' attributes."""
    truth = np.ones((len(texts), len(known)), dtype=np.bool_)
    for row, text in enumerate(texts):
        for index, value in text.claims:
            if index is None:
                truth[row] &= (known[:, : len(scenes.OBJECTS)] == value).any(1)
            else:
                truth[row] &= known[:, index] > 0 if value is None else known[:, index] == value
    return truth
