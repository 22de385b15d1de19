"""Small interior scenes with known contents: what they hold, how they look, and what is said of them.

A scene is one to three pieces of furniture side by side, each of one colour, in front of a wall and on a floor. The truth of an
image is the `Scene` that it was rendered from, so that retrieval and captions can be judged exactly.

Seeds live in namespaces (`world_rng`, `training_rng`): no seed that a user gives a world can be one that a model was trained on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

Pair = tuple[str, str]
"""(colour, object), such as ("red", "sofa")."""

RGB = tuple[int, int, int]

OBJECTS: tuple[str, ...] = (
    "sofa",
    "chair",
    "table",
    "bed",
    "lamp",
    "shelf",
    "plant",
    "rug",
    "clock",
    "mirror",
)

COLOURS: dict[str, RGB] = {
    "red": (206, 30, 38),
    "orange": (246, 130, 20),
    "yellow": (250, 222, 40),
    "green": (30, 140, 50),
    "turquoise": (50, 208, 210),
    "blue": (30, 66, 196),
    "purple": (132, 40, 164),
    "black": (26, 26, 28),
}

# Walls are pale and floors are materials, so that no object vanishes in front of its background.
WALLS: dict[str, RGB] = {
    "white": (240, 240, 238),
    "beige": (228, 206, 164),
    "mint": (172, 222, 190),
    "lilac": (206, 186, 232),
    "grey": (158, 162, 168),
}

FLOORS: dict[str, RGB] = {
    "oak": (206, 162, 106),
    "walnut": (112, 74, 50),
    "slate": (92, 104, 120),
    "marble": (226, 228, 232),
}

PAIRS: tuple[Pair, ...] = tuple((colour, kind) for colour in COLOURS for kind in OBJECTS)

# One pair per colour, each of another object: every colour and every object is still seen in training.
HELD_OUT_PAIRS: frozenset[Pair] = frozenset(
    (colour, OBJECTS[(3 * i) % len(OBJECTS)]) for i, colour in enumerate(COLOURS)
)

TRAINING_PAIRS: tuple[Pair, ...] = tuple(pair for pair in PAIRS if pair not in HELD_OUT_PAIRS)

_ITEM_COUNTS = (1, 2, 2, 2, 2, 2, 2, 3)


@dataclass(frozen=True)
class Item:
    """One piece of furniture. `slot` counts from the left; no two items of a scene share one."""

    colour: str
    object: str
    slot: int

    @property
    def pair(self) -> Pair:
        """(colour, object)."""
        return self.colour, self.object


@dataclass(frozen=True)
class Scene:
    """What an image shows. `items` are ordered from left to right, and no kind of object occurs twice."""

    items: tuple[Item, ...]
    wall: str
    floor: str

    @property
    def pairs(self) -> frozenset[Pair]:
        """The (colour, object) pairs in view."""
        return frozenset(item.pair for item in self.items)

    @property
    def objects(self) -> frozenset[str]:
        """The kinds of object in view."""
        return frozenset(item.object for item in self.items)


def world_rng(seed: int | str, part: int | str) -> random.Random:
    """The random numbers of one part (say, an image) of the world with this seed."""
    return random.Random(f"world:{seed}:{part}")


def training_rng(seed: int | str, part: int | str) -> random.Random:
    """The random numbers of one part of the training data; shares no seed with any world."""
    return random.Random(f"train:{seed}:{part}")


def sample_scene(rng: random.Random, *, held_out: bool) -> Scene:
    """Draw a scene. Only with `held_out` may it contain a pair of `HELD_OUT_PAIRS`: worlds ask for it, training never does."""
    allowed = PAIRS if held_out else TRAINING_PAIRS
    count = rng.choice(_ITEM_COUNTS)
    chosen: dict[str, str] = {}
    while len(chosen) < count:
        colour, kind = rng.choice(allowed)
        chosen.setdefault(kind, colour)
    items = tuple(Item(colour, kind, slot) for slot, (kind, colour) in enumerate(chosen.items()))
    return Scene(items, wall=rng.choice(list(WALLS)), floor=rng.choice(list(FLOORS)))


def phrase(*words: str) -> str:
    """The words after their indefinite article: `phrase("orange", "bed")` is "an orange bed"."""
    text = " ".join(words)
    return f"{'an' if text[0] in 'aeio' else 'a'} {text}"


def enumerate_phrases(phrases: list[str]) -> str:
    """One phrase from several: "a", "a and b", "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def caption(scene: Scene) -> str:
    """The canonical caption: everything in view, items from left to right. Equal captions mean equal scenes."""
    items = enumerate_phrases([phrase(item.colour, item.object) for item in scene.items])
    return f"{items} in a room with {phrase(scene.wall, 'wall')} and {phrase(scene.floor, 'floor')}"


_PLURAL = {"shelf": "shelves"}
_KIND = "|".join(f"{kind}|{_PLURAL.get(kind, kind + 's')}" for kind in OBJECTS)
_PAIR_PATTERN = re.compile(rf"\b({'|'.join(COLOURS)})\s+({_KIND})\b")
_OBJECT_PATTERN = re.compile(rf"\b({_KIND})\b")
_SINGULAR = {_PLURAL.get(kind, kind + "s"): kind for kind in OBJECTS}


def pairs_in(text: str) -> set[Pair]:
    """The (colour, object) pairs that a caption or prompt names."""
    return {(colour, _SINGULAR.get(kind, kind)) for colour, kind in _PAIR_PATTERN.findall(text.lower())}


def objects_in(text: str) -> set[str]:
    """The kinds of object that a caption or prompt names, with or without a colour."""
    return {_SINGULAR.get(kind, kind) for kind in _OBJECT_PATTERN.findall(text.lower())}


# --- Drawing ----------------------------------------------------------------------------------------------------------


def _scaled(colour: RGB, factor: float) -> RGB:
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


@dataclass(frozen=True)
class _Brush:
    """Draws in the unit square of an item's box: (0, 0) is its top left, (1, 1) its bottom right."""

    draw: ImageDraw.ImageDraw
    left: float
    top: float
    width: float
    height: float
    paint: RGB
    light: float

    @property
    def shade(self) -> RGB:
        """The paint in shadow; black, which cannot get darker, gets lighter."""
        return _scaled(self.paint, 0.72) if max(self.paint) > 60 else (62, 62, 66)

    def neutral(self, level: int) -> RGB:
        """A grey in the light of the scene."""
        return _scaled((level, level, level), self.light)

    def _points(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(self.left + x * self.width, self.top + y * self.height) for x, y in points]

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: RGB) -> None:
        """A rectangle."""
        self.draw.rectangle(self._points((x0, y0), (x1, y1)), fill=fill)

    def oval(self, x0: float, y0: float, x1: float, y1: float, fill: RGB) -> None:
        """An ellipse."""
        self.draw.ellipse(self._points((x0, y0), (x1, y1)), fill=fill)

    def shape(self, *points: tuple[float, float], fill: RGB) -> None:
        """A polygon."""
        self.draw.polygon(self._points(*points), fill=fill)


def _sofa(b: _Brush) -> None:
    b.box(0.08, 0.90, 0.16, 1.0, b.neutral(60))
    b.box(0.84, 0.90, 0.92, 1.0, b.neutral(60))
    b.box(0.10, 0.0, 0.90, 0.6, b.paint)
    b.box(0.0, 0.35, 0.16, 0.92, b.paint)
    b.box(0.84, 0.35, 1.0, 0.92, b.paint)
    b.box(0.16, 0.52, 0.84, 0.92, b.shade)
    b.box(0.485, 0.0, 0.515, 0.92, b.neutral(60))


def _chair(b: _Brush) -> None:
    b.box(0.0, 0.0, 0.24, 0.62, b.paint)
    b.box(0.0, 0.48, 1.0, 0.66, b.paint)
    b.box(0.0, 0.62, 0.16, 1.0, b.shade)
    b.box(0.84, 0.66, 1.0, 1.0, b.shade)


def _table(b: _Brush) -> None:
    b.box(0.0, 0.0, 1.0, 0.32, b.paint)
    b.box(0.08, 0.32, 0.22, 1.0, b.shade)
    b.box(0.78, 0.32, 0.92, 1.0, b.shade)


def _bed(b: _Brush) -> None:
    b.box(0.0, 0.0, 0.09, 1.0, b.neutral(70))
    b.box(0.94, 0.5, 1.0, 1.0, b.neutral(70))
    b.box(0.09, 0.45, 0.94, 0.86, b.paint)
    b.box(0.09, 0.7, 0.94, 0.86, b.shade)
    b.box(0.10, 0.26, 0.36, 0.5, b.neutral(250))


def _lamp(b: _Brush) -> None:
    b.box(0.45, 0.3, 0.55, 0.96, b.neutral(70))
    b.oval(0.2, 0.93, 0.8, 1.0, b.neutral(70))
    b.shape((0.24, 0.0), (0.76, 0.0), (1.0, 0.38), (0.0, 0.38), fill=b.paint)


def _shelf(b: _Brush) -> None:
    b.box(0.0, 0.0, 1.0, 1.0, b.paint)
    for y in (0.07, 0.39, 0.71):
        b.box(0.14, y, 0.86, y + 0.22, b.neutral(225))
        b.box(0.2, y + 0.06, 0.48, y + 0.22, b.neutral(120))


def _plant(b: _Brush) -> None:
    b.shape((0.25, 0.68), (0.75, 0.68), (0.66, 1.0), (0.34, 1.0), fill=_scaled((150, 92, 62), b.light))
    b.shape((0.46, 0.7), (0.0, 0.42), (0.04, 0.16), (0.34, 0.3), fill=b.shade)
    b.shape((0.54, 0.7), (1.0, 0.42), (0.96, 0.16), (0.66, 0.3), fill=b.shade)
    b.shape((0.5, 0.7), (0.24, 0.3), (0.5, 0.0), (0.76, 0.3), fill=b.paint)


def _rug(b: _Brush) -> None:
    b.shape((0.14, 0.0), (0.86, 0.0), (1.0, 1.0), (0.0, 1.0), fill=b.paint)
    b.shape((0.12, 0.22), (0.88, 0.22), (0.91, 0.38), (0.09, 0.38), fill=b.neutral(245))
    b.shape((0.08, 0.6), (0.92, 0.6), (0.95, 0.78), (0.05, 0.78), fill=b.neutral(245))


def _clock(b: _Brush) -> None:
    b.oval(0.0, 0.0, 1.0, 1.0, b.paint)
    b.oval(0.24, 0.24, 0.76, 0.76, b.neutral(248))
    b.box(0.46, 0.3, 0.54, 0.54, b.neutral(40))
    b.box(0.46, 0.46, 0.68, 0.54, b.neutral(40))


def _mirror(b: _Brush) -> None:
    b.box(0.0, 0.0, 1.0, 1.0, b.paint)
    b.box(0.2, 0.14, 0.8, 0.86, _scaled((205, 228, 240), b.light))
    b.shape((0.3, 0.62), (0.68, 0.2), (0.76, 0.28), (0.38, 0.7), fill=b.neutral(252))


@dataclass(frozen=True)
class _Look:
    """How a kind of object is drawn: its box in units of the item's width, and where the box stands."""

    paint: Callable[[_Brush], None]
    width: float
    height: float
    base: tuple[float, float]
    """The range of its bottom, in units of the picture's side."""


_STANDING = (0.82, 0.92)

_LOOKS: dict[str, _Look] = {
    "sofa": _Look(_sofa, 1.0, 0.62, _STANDING),
    "chair": _Look(_chair, 0.62, 0.95, _STANDING),
    "table": _Look(_table, 1.0, 0.6, _STANDING),
    "bed": _Look(_bed, 1.0, 0.68, _STANDING),
    "lamp": _Look(_lamp, 0.72, 1.4, _STANDING),
    "shelf": _Look(_shelf, 0.7, 1.15, _STANDING),
    "plant": _Look(_plant, 0.82, 1.05, _STANDING),
    "rug": _Look(_rug, 1.0, 0.42, (0.88, 0.95)),
    "clock": _Look(_clock, 0.72, 0.72, (0.42, 0.5)),
    "mirror": _Look(_mirror, 0.62, 0.92, (0.5, 0.58)),
}

# Widths of an item in units of the picture's side, by the number of items.
_WIDTHS = {1: (0.46, 0.56), 2: (0.38, 0.44), 3: (0.285, 0.315)}

_NOISE = 10
"""Peak-to-peak noise of a pixel, in levels of 255."""


def render(scene: Scene, size: int | tuple[int, int], rng: random.Random) -> Image.Image:
    """Draw a scene as an RGB image of `size` pixels (a side, or width and height).

    Everything that matters lies within the central square, so that the crop of a model's preprocessing loses none of it. The
    same scene, size and state of `rng` give the same pixels.
    """
    width, height = (size, size) if isinstance(size, int) else size
    # PIL draws without anti-aliasing: small pictures are drawn larger and reduced.
    oversampling = max(1, -(-96 // min(width, height)))
    canvas_width, canvas_height = width * oversampling, height * oversampling
    side = min(canvas_width, canvas_height)
    x_origin, y_origin = (canvas_width - side) / 2, (canvas_height - side) / 2
    light = rng.uniform(0.88, 1.04)

    wall = _scaled(WALLS[scene.wall], light)
    image = Image.new("RGB", (canvas_width, canvas_height), wall)
    draw = ImageDraw.Draw(image)
    horizon = y_origin + side * rng.uniform(0.6, 0.66)
    _floor(draw, scene.floor, horizon, canvas_width, canvas_height, side, light)

    for item in sorted(scene.items, key=lambda item: _LOOKS[item.object].base):
        look = _LOOKS[item.object]
        unit = side * rng.uniform(*_WIDTHS[len(scene.items)])
        item_width, item_height = unit * look.width, unit * look.height
        column = side / len(scene.items)
        slack = max(0.0, column - item_width) / 2
        centre = x_origin + column * (item.slot + 0.5) + rng.uniform(-0.6, 0.6) * slack
        bottom = y_origin + side * rng.uniform(*look.base)
        paint = _scaled(COLOURS[item.colour], light)
        look.paint(
            _Brush(draw, centre - item_width / 2, bottom - item_height, item_width, item_height, paint, light)
        )

    if oversampling > 1:
        image = image.reduce(oversampling)
    noise = Image.frombytes("RGB", (width, height), rng.randbytes(3 * width * height)).point(_NOISE_TABLE)
    return ImageChops.add(image, noise, 1, -(_NOISE // 2))


_NOISE_TABLE = [level * _NOISE // 255 for level in range(256)] * 3


def _floor(
    draw: ImageDraw.ImageDraw, name: str, horizon: float, width: int, height: int, side: float, light: float
) -> None:
    """Planks for woods, tiles for stones; both only hinted at, for they must not hide what stands on them."""
    paint = _scaled(FLOORS[name], light)
    joint = _scaled(paint, 0.88)
    draw.rectangle((0, horizon, width, height), fill=paint)
    line = max(1, round(side / 128))
    for step in (0.12, 0.26):
        y = horizon + side * step
        draw.line((0, y, width, y), fill=joint, width=line)
    if name in ("slate", "marble"):
        for tile in range(1, 5):
            x = width * tile / 5
            draw.line((x, horizon, width / 2 + (x - width / 2) * 1.5, height), fill=joint, width=line)
    draw.line((0, horizon, width, horizon), fill=_scaled(paint, 0.7), width=2 * line)
