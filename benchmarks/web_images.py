"""`python -m benchmarks.web_images FOLDER COUNT`: images as the web has them, made from nothing, on all cores.

No photographs can be shipped or fetched, so they are painted, after the "dead leaves" model of natural images: shapes that
cover one another, of sizes that follow a power law, each with a colour, a shading and a texture (1/f noise) of its own. Such
pictures have what decoders, resizers and encoders see of a photograph: a spectrum that falls off as 1/f, sharp edges, flat
and busy regions. A camera is imitated, too: a part is out of focus, there is noise of the sensor, some are sharpened.
Bytes a pixel, and how far shrinking decoders and Lanczos resizing are from exact, were made to match real photographs.

Each image is a cut-out of one of few large scenes, with a place, zoom, orientation, light, focus and noise of its own, 640 to
2,048 pixels wide, in the usual aspect ratios. Of 100 images:

    92   JPEG, quality 75 to 92; of these 12% progressive, 12% 4:4:4 (others 4:2:0), 30% with EXIF, 25% with sRGB's profile
     5   WebP, quality 75 to 90
     3   PNG

The same count gives the same images. FOLDER.json is written last: with it, the folder is complete, and is used again. Prints
one JSON line last: `statistics` of the images; without COUNT, of those that are in the folder.
"""

import io
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageFilter

from sd_assets.images import inspect

VERSION = 1  # of the images: raise it when they change, and none made before are used
_SCENE_SIDE = 3_072
_PER_SCENE = 125
_WIDTHS = (640, 640, 720, 800, 800, 960, 1024, 1024, 1024, 1200, 1280, 1280, 1600, 1920, 2048)
_ASPECTS = (16 / 9, 3 / 2, 3 / 2, 4 / 3, 4 / 3, 1, 3 / 4, 2 / 3)
# Radii of the shapes of a scene, pixels; their density falls with the third power.
_RADII = (4.0, 900.0)
_COVERED = 4.0  # times that the shapes would cover the scene, if none covered another

_NAME = re.compile(r"\d{6}\.(jpg|png|webp)")

Floats = npt.NDArray[np.float32]


def web_images(folder: Path, count: int) -> list[Path]:
    """The images, by number; made unless they are there.

    Args:
        folder: of nothing else; made if missing. Images of another version or count are replaced.

    Raises:
        RuntimeError: there are other files in the folder.
    """
    wanted = {"version": VERSION, "count": count}
    made = folder.with_name(folder.name + ".json")
    if not made.exists() or json.loads(made.read_text()) != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        others = [path.name for path in folder.iterdir() if not _NAME.fullmatch(path.name)]
        if others:
            raise RuntimeError(
                f"{folder} is to have images of the benchmark only, and has {others[0]}: choose another"
            )
        for old in folder.iterdir():
            old.unlink()
        starts = range(0, count, _PER_SCENE)
        counts = [min(_PER_SCENE, count - start) for start in starts]
        # Not forked: a fork of a process with threads may hang.
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            list(pool.map(_write, starts, counts, [folder] * len(starts)))
        made.write_text(json.dumps(wanted))
    return sorted(folder.iterdir())


def statistics(files: Sequence[Path]) -> dict[str, Any]:
    """What there is: number, by format, mean megapixels, mean kilobytes, and of JPEGs the bytes a pixel in percentiles."""
    kinds: Counter[str] = Counter()
    pixels, size, density = 0, 0, []
    for path in files:
        data = path.read_bytes()
        info = inspect(data)
        kinds[info.format] += 1
        pixels, size = pixels + info.width * info.height, size + len(data)
        if info.format == "jpeg":
            density.append(len(data) / (info.width * info.height))
    return {
        "images": len(files),
        **kinds,
        "mean_megapixels": round(pixels / len(files) / 1e6, 3),
        "mean_kb": round(size / len(files) / 1e3, 1),
        "jpeg_bytes_per_pixel": {
            f"p{share}": round(float(np.percentile(density, share)), 3) for share in (5, 50, 95) if density
        },
    }


def _write(start: int, count: int, folder: Path) -> None:
    """The images of one scene, numbered from `start`."""
    scene = Image.fromarray(_scene(np.random.default_rng((VERSION, start))))
    for number in range(start, start + count):
        rng = np.random.default_rng((VERSION, start, number))
        data, ending = _encoded(_photograph(scene, rng), number, rng)
        (folder / f"{number:06d}.{ending}").write_bytes(data)


# --- scenes ------------------------------------------------------------------------------------------------------


@dataclass
class _Leaves:
    """What the shapes of a scene look like; index 0 is the ground.

    Attributes:
        colour: [n, 3].
        slope: of the shading, [n, 2], in units of the colour a pixel.
        texture: strength of each of the two textures, [n, 2].
    """

    colour: Floats
    slope: Floats
    texture: Floats


def _scene(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A scene, [_SCENE_SIDE, _SCENE_SIDE, 3]."""
    side = _SCENE_SIDE
    places, radii = _places(rng)
    which = np.asarray(_painted(places, radii, rng))
    leaves = _looks(len(radii) + 1, np.concatenate([[side], radii]), rng)
    textures = [_noise(rng, side, slope) for slope in (1.0, 0.6)]
    centres = np.concatenate([[[side / 2, side / 2]], places]).astype(np.float32)
    scene = np.empty((side, side, 3), np.uint8)
    columns = np.arange(side, dtype=np.float32)
    strip = 128
    for top in range(0, side, strip):
        ids = which[top : top + strip]
        rows = np.arange(top, top + len(ids), dtype=np.float32)[:, None]
        light = leaves.slope[ids, 0] * (columns - centres[ids, 0]) + leaves.slope[ids, 1] * (
            rows - centres[ids, 1]
        )
        for number, texture in enumerate(textures):
            light += leaves.texture[ids, number] * texture[top : top + strip]
        # Light and shade change all channels in proportion, as they do on a surface.
        scene[top : top + strip] = (leaves.colour[ids] * np.exp(light)[..., None]).clip(0, 255)
    return scene


def _places(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Centres [n, 2] and radii [n] of the shapes, in the order in which they are painted."""
    least, most = _RADII
    mean_area = math.pi * 2 * least**2 * math.log(most / least)
    count = round(_COVERED * _SCENE_SIDE**2 / mean_area)
    # The inverse of the distribution of a density r**-3 between `least` and `most`.
    share = rng.uniform(0, 1, count)
    radii = (least**-2 - share * (least**-2 - most**-2)) ** -0.5
    places = rng.uniform(-0.05 * _SCENE_SIDE, 1.05 * _SCENE_SIDE, (count, 2))
    return places.astype(np.float32), radii.astype(np.float32)


def _painted(places: Floats, radii: Floats, rng: np.random.Generator) -> Image.Image:
    """The number of the shape that is seen at each pixel."""
    image = Image.new("I", (_SCENE_SIDE, _SCENE_SIDE), 0)
    draw = ImageDraw.Draw(image)
    turns, flatness = rng.uniform(0, 2 * math.pi, len(radii)), rng.uniform(0.3, 1, len(radii))
    corners = rng.integers(3, 7, len(radii))
    for number, ((x, y), radius) in enumerate(zip(places.tolist(), radii.tolist(), strict=True), 1):
        if number % 2:
            draw.ellipse(
                (
                    x - radius,
                    y - radius * flatness[number - 1],
                    x + radius,
                    y + radius * flatness[number - 1],
                ),
                number,
            )
        else:
            angles = turns[number - 1] + np.linspace(0, 2 * math.pi, corners[number - 1], endpoint=False)
            ring = np.stack(
                [x + radius * np.cos(angles), y + flatness[number - 1] * radius * np.sin(angles)], 1
            )
            draw.polygon(ring.ravel().tolist(), number)
    return image


def _looks(count: int, radii: npt.NDArray[Any], rng: np.random.Generator) -> _Leaves:
    # A scene has few hues; what differs most from shape to shape is how light it is, of small ones the least.
    palette = rng.uniform(-0.3, 0.3, (6, 3))
    contrast = rng.uniform(0.35, 0.7) * np.minimum(1, radii / 200) ** 0.2
    lightness = rng.normal(4.6, contrast)
    tint = palette[rng.integers(0, len(palette), count)] + rng.normal(0, 0.05, (count, 3))
    tint *= np.minimum(1, radii / 200)[:, None] ** 0.3
    angle, steepness = rng.uniform(0, 2 * math.pi, count), rng.exponential(0.25, count) / np.maximum(radii, 8)
    return _Leaves(
        np.exp(lightness[:, None] + tint).clip(2, 255).astype(np.float32),
        (steepness[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32),
        rng.exponential(0.05, (count, 2)).astype(np.float32),
    )


def _noise(rng: np.random.Generator, side: int, slope: float) -> Floats:
    """1/f**slope noise in octaves, of mean 0 and standard deviation 1, [side, side]."""
    plane = np.zeros((side, side), np.float32)
    cells = 6
    while cells <= side:
        layer = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        plane += np.asarray(layer.resize((side, side), Image.Resampling.BICUBIC)) * cells ** -(slope - 0.5)
        cells *= 2
    plane /= plane.std()
    return plane


# --- photographs -------------------------------------------------------------------------------------------------


def _photograph(scene: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One picture of the scene, as a camera and whoever put it on the web would have left it."""
    width = int(rng.choice(_WIDTHS))
    height = round(width / float(rng.choice(_ASPECTS)))
    # Pixels of the scene for one of the picture: the shapes' edges are as sharp as a good lens makes them, or softer.
    zoom = min(_SCENE_SIDE / max(width, height), float(np.exp(rng.uniform(math.log(0.8), math.log(2)))))
    cut = (round(width * zoom), round(height * zoom))
    left, top = (int(rng.integers(0, _SCENE_SIDE - side + 1)) for side in cut)
    image = scene.resize((width, height), Image.Resampling.LANCZOS, (left, top, left + cut[0], top + cut[1]))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.6:
        image = _out_of_focus(image, rng)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    image = _lit(image, rng)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.UnsharpMask(1, int(rng.integers(30, 100)), 2))
    return image


def _out_of_focus(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of the image blurred, with a soft border."""
    cells = rng.uniform(0, 255, (3, 4)).astype(np.uint8)
    mask = Image.fromarray(cells).resize(image.size, Image.Resampling.BICUBIC)
    threshold = rng.uniform(60, 190)
    mask = mask.point([min(255, max(0, round((value - threshold) * 6))) for value in range(256)])
    radius = float(np.exp(rng.uniform(math.log(2), math.log(20)))) * image.width / 1_000
    return Image.composite(image.filter(ImageFilter.GaussianBlur(radius)), image, mask)


def _lit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Exposure and contrast of its own, and the noise of the sensor."""
    gain, gamma, contrast = rng.uniform(0.8, 1.2, 3), rng.uniform(0.8, 1.25), rng.uniform(0.55, 1.15)
    levels = np.clip(np.arange(256) / 255 * gain[:, None], 0, 1) ** gamma
    image = image.point(
        np.rint(255 * (0.5 + contrast * (levels - 0.5)).clip(0, 1)).astype(int).ravel().tolist()
    )
    strength = rng.exponential(1.5)
    if strength < 0.5:
        return image
    noise = 128 + strength * rng.standard_normal(image.size[::-1], np.float32)
    grey = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    return ImageChops.add(image, Image.merge("RGB", [grey] * 3), 1, -128)


def _encoded(image: Image.Image, number: int, rng: np.random.Generator) -> tuple[bytes, str]:
    """The bytes of image `number`, and how its name ends."""
    out = io.BytesIO()
    kind = number * 37 % 100  # of a hundred numbers each once, in any order
    if kind < 3:
        image.save(out, "PNG")
        return out.getvalue(), "png"
    if kind < 8:
        image.save(out, "WEBP", quality=int(rng.integers(75, 91)), method=2)
        return out.getvalue(), "webp"
    more: dict[str, Any] = {}
    if rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x010F], exif[0x0110], exif[0x0112] = "Benchmark", "Dead leaves", 1
        more["exif"] = exif
    if rng.random() < 0.25:
        more["icc_profile"] = _profile()
    image.save(
        out,
        "JPEG",
        quality=int(rng.choice((75, 80, 80, 85, 85, 85, 90, 90, 92))),
        progressive=rng.random() < 0.12,
        subsampling="4:4:4" if rng.random() < 0.12 else "4:2:0",
        optimize=rng.random() < 0.3,
        **more,
    )
    return out.getvalue(), "jpg"


def _profile() -> bytes:
    """ICC, sRGB. In place of the time at which it was made it has none, or each run would give other images."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the images that the command line asks for; describe those that are there."""
    folder, *count = arguments or sys.argv[1:]
    files = web_images(Path(folder), int(count[0])) if count else sorted(Path(folder).iterdir())
    print(json.dumps(statistics(files)), flush=True)


if __name__ == "__main__":
    main()
