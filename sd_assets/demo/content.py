"""What the world's pages hold: pictures in the formats and conditions of the web, opaque names, and texts of little worth."""

from __future__ import annotations

import hashlib
import io
import random
from typing import Any

import numpy as np
from PIL import Image

from sd_assets.demo import scenes
from sd_assets.demo.scenes import Item, Scene

_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP"}
_ORIENTATION_TAG = 0x0112
# A room's light, as a grid of so many by so many random levels, smoothed, which change a pixel's by at most this share.
_LAMPS = 4
_UNEVEN = 0.16


def opaque_name(seed: int, part: str) -> str:
    """A name that says nothing; the same for the same part of the same world."""
    return hashlib.sha256(f"world:{seed}:name:{part}".encode()).hexdigest()[:20]


def picture(scene: Scene, rng: random.Random) -> Image.Image:
    """A photograph of a scene, of 256 to 384 px a side, in either orientation."""
    short, long = rng.randint(256, 320), rng.randint(256, 384)
    size = (max(short, long), min(short, long))
    return _lit(scenes.render(scene, size if rng.random() < 0.6 else size[::-1], rng), rng)


def rearranged(scene: Scene, rng: random.Random) -> Scene:
    """The same furniture the other way round, in another room: a photograph of it is no duplicate of one of the scene."""
    items = tuple(Item(item.colour, item.object, slot) for slot, item in enumerate(reversed(scene.items)))
    wall = rng.choice([name for name in scenes.WALLS if name != scene.wall])
    return Scene(items, wall, floor=rng.choice([name for name in scenes.FLOORS if name != scene.floor]))


def _lit(image: Image.Image, rng: random.Random) -> Image.Image:
    """The picture in uneven light, as rooms have it: no wall is of one colour, and no two photographs of a room are the same."""
    lamps = np.frombuffer(rng.randbytes(_LAMPS * _LAMPS), np.uint8).reshape(_LAMPS, _LAMPS)
    smooth = Image.fromarray(lamps.astype(np.float32) / 127.5 - 1).resize(
        image.size, Image.Resampling.BICUBIC
    )
    light = 1 + _UNEVEN * np.asarray(smooth)[..., None]
    return Image.fromarray((np.asarray(image) * light).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, extension: str, quality: int = 88, *, rotated: bool = False) -> bytes:
    """The file of an image.

    Args:
        image: RGB.
        extension: jpg, png, webp or bmp.
        quality: of jpg and webp.
        rotated: store it turned by 90 degrees, with the EXIF tag that turns it back (jpg only).
    """
    options: dict[str, Any] = {}
    if extension in ("jpg", "webp"):
        options["quality"] = quality
    elif extension == "png":
        options["compress_level"] = 3
    if rotated and extension == "jpg":
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = 6  # to be turned clockwise
        options["exif"] = exif
        image = image.transpose(Image.Transpose.ROTATE_90)
    buffer = io.BytesIO()
    image.save(buffer, _FORMATS[extension], **options)
    return buffer.getvalue()


def near_duplicate(image: Image.Image, rng: random.Random) -> Image.Image:
    """The same picture as another site would have it: a little cropped, at another size."""
    width, height = image.size
    left, top, right, bottom = (rng.uniform(0, 0.025) for _ in range(4))
    scale = rng.uniform(0.82, 1.0)
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    size = (round((box[2] - box[0]) * scale), round((box[3] - box[1]) * scale))
    return image.resize(size, Image.Resampling.BICUBIC, box=box)


_PHRASES = (
    "Living room ideas you will love",
    "Interior design inspiration | Home & Garden",
    "Small flat makeover, before and after",
    "Free shipping on orders over 50",
    "Our new showroom",
    "10 tips for a cosy home",
    "click to enlarge",
    "product image",
)


def alt_text(scene: Scene, rng: random.Random) -> str | None:
    """The text that a page has for its image: often none, often nothing to the point, sometimes wrong, seldom the whole truth."""
    draw = rng.random()
    if draw < 0.15:
        return None
    if draw < 0.35:
        return f"{rng.choice(('IMG', 'DSC', 'photo', 'image'))}_{rng.randint(1, 9999):04d}.jpg"
    if draw < 0.55:
        return rng.choice(_PHRASES)
    if draw < 0.72:  # of another image
        colour, kind = rng.choice(scenes.PAIRS)
        return f"{colour} {kind} for sale"
    item = rng.choice(scene.items)
    if draw < 0.92:
        return rng.choice((f"{item.object} for sale", f"{item.colour} {item.object}", f"our {item.object}"))
    return scenes.caption(scene)


def licence(rng: random.Random) -> str | None:
    """What a page says of its licence: mostly nothing."""
    return rng.choice((None, None, None, "cc-by", "cc-by-sa", "cc0"))
