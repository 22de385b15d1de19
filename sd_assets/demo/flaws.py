"""What a training set should not hold, and the web has: the kinds of planted flaw, and the reason that curation must give each.

Unlike a fault (`demo.faults`) a flawed page answers well: its file is an image that can be decoded, captioned and trained on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageFilter

from sd_assets.demo import scenes
from sd_assets.demo.scenes import Scene

_TINY = (40, 100)
"""The shorter side of a tiny image, px; a healthy one has at least 200."""
_BLUR = (0.008, 0.02)
"""Radius of a blur, as a share of the shorter side."""
_FRAMED = (0.66, 0.84)
"""What a frame leaves of either side."""
_LETTERBOX = 1.25
"""From this ratio of the sides on bars make a picture a square. Nearer to one they would be too narrow to see."""
_BORDERS = ((0, 0, 0), (255, 255, 255), (18, 18, 18), (236, 236, 236), (40, 44, 60))


@dataclass(frozen=True)
class Flaw:
    """A kind of flaw of a picture.

    Attributes:
        reason: that curation must have against the image; see `sd_assets.curation`.
        spoil: makes a healthy RGB picture a flawed one.
    """

    reason: str
    spoil: Callable[[Image.Image, random.Random], Image.Image]


def _blurred(picture: Image.Image, rng: random.Random) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(*_BLUR) * min(picture.size)))


def _tiny(picture: Image.Image, rng: random.Random) -> Image.Image:
    scale = rng.randint(*_TINY) / min(picture.size)
    return picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
    )


def _bordered(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Bars along the longer sides, as a film on a square screen has, or a frame: neither is lost to the crop of a square."""
    width, height = picture.size
    if max(width, height) >= _LETTERBOX * min(width, height):
        canvas = Image.new("RGB", (max(width, height),) * 2, rng.choice(_BORDERS))
    else:
        canvas = Image.new("RGB", picture.size, rng.choice(_BORDERS))
        share = rng.uniform(*_FRAMED)
        picture = picture.resize((round(width * share), round(height * share)), Image.Resampling.LANCZOS)
    canvas.paste(picture, ((canvas.width - picture.width) // 2, (canvas.height - picture.height) // 2))
    return canvas


FLAWS: dict[str, Flaw] = {
    "blurred": Flaw("low_sharpness", _blurred),
    "tiny": Flaw("low_resolution", _tiny),
    "bordered": Flaw("high_flat_border", _bordered),
}
"""The kinds of planted flaw of a page's picture, by their names in the world's truth."""

MISMATCHED = "mismatched"
"""The flaw of a seed whose text is of another scene: a pipeline that captions what has no text would give it none."""

REASONS: dict[str, str] = {**{kind: flaw.reason for kind, flaw in FLAWS.items()}, MISMATCHED: "low_alignment"}
"""By the name of the flaw, of a picture or of a text, the reason that curation must give."""


def false_text(scene: Scene, rng: random.Random) -> str:
    """The caption of another scene, of whose items not one is in view."""
    while True:
        other = scenes.sample_scene(rng, held_out=True)
        if not other.pairs & scene.pairs:
            return scenes.caption(other)
