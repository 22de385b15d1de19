"""What a CLIP sees of a picture, against what its own library makes of it: photographs, and odd shapes and formats."""

import functools
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageCms

from sd_assets.errors import ErrorCode, RowError
from sd_assets.images import decode_rgb
from sd_assets.models.open_clip_model import _recipe
from sd_assets.models.preprocessing import Recipe, middle_of_strip

CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"size": 224},
    "siglip": {
        "size": (224, 224),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "resize_mode": "squash",
    },
    "bilinear": {"size": 96, "interpolation": "bilinear", "mean": 0.5, "std": 0.25},
    "wide": {"size": (96, 160)},
    "padded": {"size": 112, "resize_mode": "longest", "fill_color": 127},
}
SIZES = [(512, 512), (1024, 768), (768, 1023), (511, 766), (300, 225), (130, 90), (224, 231), (1500, 1121)]


@functools.cache
def photographs() -> list[Image.Image]:
    # Not as files: of their profiles the libraries know nothing.
    return [
        Image.fromarray(getattr(skimage.data, name)())
        for name in ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry")
    ]


@functools.cache
def files() -> list[bytes]:
    """Photographs of many sizes. The subsampling of colours changes what is decoded quickly."""
    return [
        encoded(photograph.resize(size), subsampling=number % 3)
        for number, photograph in enumerate(photographs())
        for size in SIZES
    ]


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **({"quality": 90, **options} if format == "JPEG" else options))
    return out.getvalue()


def normalised(recipe: Recipe, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = recipe.batch([pixels], "cpu")[0].numpy()
    return values


def cosine(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    assert one.shape == other.shape
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def of_library(config: dict[str, Any], image: Image.Image) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = image_transform_v2(PreprocessCfg(**config), is_train=False)(
        image
    ).numpy()
    return values


@pytest.mark.parametrize("name", CONFIGS)
def test_photographs_are_seen_as_the_library_shows_them(name: str) -> None:
    config = CONFIGS[name]
    recipe = _recipe(config)
    of_images, of_bytes = [], []
    for data in files():
        image = Image.open(io.BytesIO(data))
        expected = of_library(config, image)
        of_images.append(cosine(normalised(recipe, recipe.of_image(image)), expected))
        of_bytes.append(cosine(normalised(recipe, recipe.of_bytes(data)), expected))
    assert min(of_images) > 0.9999
    assert np.percentile(of_bytes, 1) > 0.999 and min(of_bytes) > 0.998


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 500), (3, 77), (960, 32), (32, 2001), (5000, 1), (10_000, 7), (301, 9000)]
)
def test_odd_shapes_are_seen_as_the_library_shows_them(size: tuple[int, int]) -> None:
    config = {"size": 32}
    recipe = _recipe(config)
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (1 + size[1] // 20, 1 + size[0] // 20, 3), dtype=np.uint8))
    picture = coarse.resize(size, Image.Resampling.BILINEAR)
    expected = of_library(config, picture)
    assert cosine(normalised(recipe, recipe.of_image(picture)), expected) > 0.999
    assert cosine(normalised(recipe, recipe.of_bytes(encoded(picture, "PNG"))), expected) > 0.999


@pytest.mark.parametrize("size", [(10_000, 1), (1, 10_001), (9_999, 2)])
def test_a_long_strip_is_not_blown_up(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    largest = 0
    interpolate = torch.nn.functional.interpolate

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal largest
        result = interpolate(*args, **kwargs)
        largest = max(largest, result.numel())
        return result

    monkeypatch.setattr(torch.nn.functional, "interpolate", watched)
    ramp = Image.linear_gradient("L").convert("RGB").resize(size)
    seen = normalised(_recipe({"size": 224}), _recipe({"size": 224}).of_bytes(encoded(ramp, "PNG")))
    assert 0 < largest <= 3 * 21 * 224**2
    # What lies in the middle of the strip, to which the library scales 2,240,000 x 224.
    wide = size[0] > size[1]
    middle, side = max(size) / 2, min(size)
    box = (
        (middle - side / 2, 0, middle + side / 2, side)
        if wide
        else (0, middle - side / 2, side, middle + side / 2)
    )
    exact = ramp.resize((224, 224), Image.Resampling.BICUBIC, box=box)
    assert cosine(seen, of_library({"size": 224}, exact)) > 0.999


@pytest.mark.parametrize("size", [(1001, 10), (1000, 7), (7, 1000), (50, 50)])
def test_the_middle_of_a_strip_stays_in_the_middle(size: tuple[int, int]) -> None:
    middle = middle_of_strip(Image.new("RGB", size))
    assert all((a - b) % 2 == 0 for a, b in zip(size, middle.size, strict=True))
    assert max(middle.size) in (max(size), 20 * min(size), 20 * min(size) + 1)


@functools.cache
def _kinds() -> dict[str, bytes]:
    photograph = Image.fromarray(skimage.data.chelsea())
    clear = photograph.copy()
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257)
    return {
        "grey": encoded(photograph.convert("L")),
        "cmyk": encoded(photograph.convert("CMYK")),
        "progressive": encoded(photograph, progressive=True),
        "profile": encoded(photograph, icc_profile=profile),
        "png": encoded(photograph, "PNG"),
        "alpha": encoded(clear, "PNG"),
        "palette": encoded(photograph.quantize(64), "PNG"),
        "16 bits": encoded(deep, "PNG"),
        "gif": encoded(photograph, "GIF"),
        "webp": encoded(photograph, "WEBP"),
        "clear webp": encoded(clear, "WEBP"),
        "tiff": encoded(photograph, "TIFF"),
    }


@pytest.mark.parametrize("kind", _kinds())
@pytest.mark.parametrize("size", [64, 224])
def test_every_kind_of_image_is_seen_as_it_is_shown(kind: str, size: int) -> None:
    config = {"size": size}
    data = _kinds()[kind]
    expected = of_library(config, decode_rgb(data))
    recipe = _recipe(config)
    assert cosine(normalised(recipe, recipe.of_bytes(data)), expected) > 0.999


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_that_is_turned_is_seen_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photographs()[0].resize((461, 800)), exif=exif.tobytes())
    recipe = _recipe({"size": 96})
    expected = of_library({"size": 96}, decode_rgb(data))
    assert cosine(normalised(recipe, recipe.of_bytes(data)), expected) > 0.999


def test_pixels_are_bytes_of_the_model_s_size() -> None:
    recipe = _recipe({"size": (96, 160)})
    for made in (recipe.of_image(photographs()[1]), recipe.of_bytes(encoded(photographs()[1]))):
        assert (
            made.shape == (96, 160, 3)
            and made.dtype == np.uint8
            and made.flags.owndata | made.flags.writeable
        )


def test_what_was_made_of_one_image_stays_when_the_next_is_decoded() -> None:
    first, second = (encoded(photograph.resize((224, 224))) for photograph in photographs()[:2])
    recipe = _recipe({"size": 224})
    kept = recipe.of_bytes(first)
    before = kept.copy()
    recipe.of_bytes(second)
    assert np.array_equal(kept, before)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", ErrorCode.EMPTY),
        (b"<html>", ErrorCode.NOT_AN_IMAGE),
        (encoded(Image.new("RGB", (600, 600), "red"))[:900], ErrorCode.CORRUPT_IMAGE),
    ],
)
def test_what_is_no_image_is_an_error_of_its_row(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(RowError) as caught:
        _recipe({"size": 32}).of_bytes(data)
    assert caught.value.code == code


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    data = encoded(Image.new("L", (12_000, 12_000)), quality=1)
    with pytest.raises(RowError) as caught:
        _recipe({"size": 32}).of_bytes(data)
    assert caught.value.code == ErrorCode.TOO_MANY_PIXELS
