"""Colours of ICC profiles as sRGB, against the formulas of their spaces."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from sd_assets.download.finish import resized
from sd_assets.images import decode_rgb, inspect, is_srgb
from sd_assets.settings import DownloadSettings
from sd_assets_tests.containers import crafted

COLOURS = np.array(
    [[(255, 0, 0), (200, 100, 50), (60, 180, 75), (30, 60, 200), (128, 128, 128), (255, 255, 255), (0, 0, 0)]],
    np.uint8,
)  # fmt: skip


def in_srgb(colours: npt.NDArray[Any], colorants: Any, gamma: float) -> npt.NDArray[Any]:
    """By the definition: linear light, XYZ of D50, linear light of sRGB, its curve; what it cannot say is cut off."""
    light = (colours / 255) ** gamma @ np.array(colorants) @ np.linalg.inv(np.array(crafted.SRGB))
    light = light.clip(0, 1)
    curved: npt.NDArray[Any] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return curved * 255


def enlarged(colours: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every colour as a square of 16 pixels, which no encoder mixes with its neighbours."""
    return colours.repeat(16, axis=0).repeat(16, axis=1)


def middles(data: bytes) -> npt.NDArray[Any]:
    pixels: npt.NDArray[Any] = np.asarray(decode_rgb(data)).astype(float)
    middle: npt.NDArray[Any] = pixels[8:9, 8::16]
    return middle


def saved(pixels: npt.NDArray[Any] | Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(out, format, **options)
    return out.getvalue()


EXACT: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 100, "subsampling": "4:4:4"},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("format", EXACT)
@pytest.mark.parametrize("space", ["Display P3", "Adobe RGB"])
def test_wide_gamuts_become_srgb(format: str, space: str) -> None:
    colorants = crafted.DISPLAY_P3 if space == "Display P3" else crafted.ADOBE_RGB
    profile = crafted.rgb_profile(space, colorants, 2.2)
    data = saved(enlarged(COLOURS), format, icc_profile=profile, **EXACT[format])
    expected = in_srgb(COLOURS, colorants, 2.2)
    assert np.abs(expected - COLOURS).max() > 20
    assert np.abs(middles(data) - expected).max() <= 4


def test_the_profile_of_a_bmp() -> None:
    profile = crafted.rgb_profile("Display P3", crafted.DISPLAY_P3, 2.2)
    data = crafted.bmp(7, 1, 24, COLOURS[..., ::-1].tobytes() + bytes(3), profile=profile)
    expected = in_srgb(COLOURS, crafted.DISPLAY_P3, 2.2)
    assert np.abs(np.asarray(decode_rgb(data)).astype(float) - expected).max() <= 2


@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_what_is_only_called_srgb_is_converted(gamma: float) -> None:
    profile = crafted.rgb_profile("sRGB linear", crafted.SRGB, gamma)
    assert not is_srgb(profile)
    data = saved(enlarged(COLOURS), "PNG", icc_profile=profile)
    assert np.abs(middles(data) - in_srgb(COLOURS, crafted.SRGB, gamma)).max() <= 2


def test_srgb_by_any_name_leaves_the_pixels_alone() -> None:
    real = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    unnamed = real.replace("sRGB".encode("utf-16-be"), "c2ci".encode("utf-16-be"))
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    for profile in (real, unnamed):
        assert is_srgb(profile)
        assert np.array_equal(np.asarray(decode_rgb(saved(noise, "PNG", icc_profile=profile))), noise)


@pytest.mark.parametrize(("mode", "format"), [("L", "PNG"), ("LA", "PNG"), ("L", "JPEG"), ("L", "TIFF")])
def test_grey_profiles(mode: str, format: str) -> None:
    grey = Image.new("LA", (4, 4), (128, 255)).convert(mode)
    data = saved(grey, format, icc_profile=crafted.grey_profile(1.0))
    expected = in_srgb(np.array([[[128] * 3]]), crafted.SRGB, 1.0)
    assert np.abs(np.asarray(decode_rgb(data)).astype(float) - expected).max() <= 2
    kept, _, _ = resized(data, inspect(data), DownloadSettings(resize_mode="no", quality=100))
    assert np.abs(np.asarray(decode_rgb(kept)).astype(float) - expected).max() <= 3


def test_a_grey_profile_of_a_coloured_image_is_ignored() -> None:
    data = saved(enlarged(COLOURS), "PNG", icc_profile=crafted.grey_profile(1.0))
    assert np.array_equal(middles(data), COLOURS)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_the_profile_of_a_printing_press(format: str) -> None:
    # Of paper that is not quite white, and of a cyan that comes out red.
    profile = crafted.cmyk_profile((100, 0, 0), (54, 81, 70))
    inks = Image.new("CMYK", (32, 16), (0, 0, 0, 0))
    inks.paste((255, 0, 0, 0), (0, 0, 16, 16))
    data = saved(inks, format, icc_profile=profile, **({"quality": 100} if format == "JPEG" else {}))
    red, white = middles(data)[0]
    assert np.abs(white - 255).max() <= 2
    assert red[0] > 240 and red[1] < 50 and red[2] < 50  # without the profile it would be cyan


@pytest.mark.parametrize("format", EXACT)
@pytest.mark.parametrize("profile", ["nonsense", "cut", "of another kind of pixels", "large"])
def test_a_profile_that_is_of_no_use_is_ignored(format: str, profile: str) -> None:
    real = crafted.rgb_profile("Display P3", crafted.DISPLAY_P3, 2.2)
    value = {
        "nonsense": b"no profile at all",
        "cut": real[:300],
        "of another kind of pixels": crafted.cmyk_profile((100, 0, 0), (54, 81, 70)),
        "large": real + np.random.default_rng(0).bytes(5_000_000),
    }[profile]
    data = saved(enlarged(COLOURS), format, icc_profile=value, **EXACT[format])
    assert inspect(data).width == 7 * 16
    assert np.abs(middles(data) - COLOURS).max() <= 4


def test_a_jpeg_whose_profile_lacks_a_part_has_none() -> None:
    profile = crafted.rgb_profile("Display P3", crafted.DISPLAY_P3, 2.2) + bytes(100_000)
    data = saved(enlarged(COLOURS), "JPEG", icc_profile=profile, **EXACT["JPEG"])
    second = data.index(b"ICC_PROFILE\0\2\2")
    length = int.from_bytes(data[second - 2 : second], "big")
    assert np.abs(middles(data) - COLOURS).max() > 20
    assert np.abs(middles(data[: second - 4] + data[second - 2 + length :]) - COLOURS).max() <= 4
