"""Decoded small, resized, encoded: against the slow way, which decodes all pixels and averages over exact areas."""

import io
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms
from skimage.data import astronaut, chelsea, coffee
from skimage.transform import resize_local_mean

from sd_assets import images, stored_pixels
from sd_assets.download import codec
from sd_assets.errors import ErrorCode, RowError
from sd_assets.settings import DownloadSettings, ResizeMode

PHOTOS = {"astronaut": astronaut, "chelsea": chelsea, "coffee": coffee}


def jpeg(pixels: npt.NDArray[np.uint8], **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **{"quality": 90, **options})
    return out.getvalue()


def ours(data: bytes, size: int, mode: ResizeMode, **more: Any) -> npt.NDArray[np.uint8]:
    settings = DownloadSettings(image_size=size, resize_mode=mode, **more)
    return codec.resized_pixels(data, images.inspect(data), settings).copy()


def decibels(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    return 10 * float(np.log10(255**2 / max(1e-9, ((one.astype(np.float64) - other) ** 2).mean())))


@pytest.mark.parametrize("size", [48, 64, 100, 150, 256])
@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("options", [{}, {"subsampling": "4:4:4"}, {"progressive": True}], ids=str)
def test_pixels_are_means_of_areas(photo: str, size: int, options: dict[str, Any]) -> None:
    data = jpeg(PHOTOS[photo](), **options)
    whole = np.asarray(images.decode_rgb(data))
    small = ours(data, size, "keep_ratio_largest")
    exact = resize_local_mean(whole, small.shape[:2], preserve_range=True)
    assert (
        decibels(small, exact) > 32
    )  # sharp photographs of 512 pixels; benchmarks.codecs has the distribution
    square = ours(data, size, "center_crop")
    height, width = (round(side * size / min(whole.shape[:2])) for side in whole.shape[:2])
    exact = resize_local_mean(whole, (height, width), preserve_range=True)
    top, left = (height - size) // 2, (width - size) // 2
    exact = exact[top : top + size, left : left + size]
    assert decibels(square, exact) > 32


@pytest.mark.parametrize("size", [40, 301])
@pytest.mark.parametrize("mode", ["no", "keep_ratio", "center_crop", "keep_ratio_largest", "border"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_that_is_turned_comes_out_upright(mode: ResizeMode, size: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(chelsea(), exif=exif)
    settings = DownloadSettings(image_size=size, resize_mode=mode)
    info = images.inspect(data)
    fast, width, height = codec.resized(data, info, settings)
    out = io.BytesIO()
    images.decode_rgb(data).save(out, "PNG")  # upright already, and no JPEG: it goes the slow way
    slow, *size_of_slow = codec.resized(out.getvalue(), images.inspect(out.getvalue()), settings)
    assert [width, height] == size_of_slow
    assert decibels(np.asarray(images.decode_rgb(fast)), np.asarray(images.decode_rgb(slow))) > 28


def webp(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", **{"quality": 80, **options})
    return out.getvalue()


@pytest.mark.parametrize("kind", ["plain", "turned", "profile", "lossless", "transparent", "animated"])
def test_a_webp_has_the_pixels_that_pillow_finds(kind: str) -> None:
    image = Image.fromarray(coffee())
    options: dict[str, Any] = {}
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    elif kind == "profile":
        options["icc_profile"] = swapped_profile()
    elif kind == "lossless":
        options["lossless"] = True
    elif kind == "transparent":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    elif kind == "animated":
        options |= {"save_all": True, "append_images": [image.rotate(90)]}
    data = webp(image, **options)
    assert np.array_equal(ours(data, 1, "no"), np.asarray(images.decode_rgb(data)))


def test_a_truncated_webp_is_corrupt() -> None:
    data = webp(Image.fromarray(coffee()))
    with pytest.raises(RowError) as caught:
        ours(data[: len(data) // 2], 100, "no")
    assert caught.value.code == ErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize("space", ["L", "CMYK", "YCbCr"])
def test_other_colours_go_the_same_way(space: str) -> None:
    out = io.BytesIO()
    Image.fromarray(chelsea()).convert(space).save(out, "JPEG", quality=95)
    data = out.getvalue()
    exact = resize_local_mean(np.asarray(images.decode_rgb(data)), (100, 150), preserve_range=True)
    assert decibels(ours(data, 150, "keep_ratio_largest"), exact) > 32


def swapped_profile() -> bytes:
    """LAB is no profile of an RGB file, so a wide one is made by swapping the red and green of sRGB."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = {
        bytes(profile[i : i + 4]): i
        for i in range(132, 132 + 12 * profile[131], 12)
        if bytes(profile[i : i + 4]) in (b"rXYZ", b"gXYZ")
    }
    red, green = at[b"rXYZ"] + 4, at[b"gXYZ"] + 4
    profile[red : red + 4], profile[green : green + 4] = profile[green : green + 4], profile[red : red + 4]
    return bytes(profile)


def test_a_profile_is_applied_to_the_small_image() -> None:
    plain = np.full((64, 64, 3), (200, 20, 20), np.uint8)
    small = ours(jpeg(plain, icc_profile=swapped_profile()), 16, "center_crop")
    assert abs(small.astype(int) - (20, 200, 20)).max() <= 6


def test_what_is_damaged_fails_and_what_viewers_show_passes() -> None:
    data = jpeg(chelsea())
    with pytest.raises(RowError) as caught:
        ours(data[: len(data) // 2], 64, "border")
    assert caught.value.code == ErrorCode.CORRUPT_IMAGE
    assert (ours(data + b"junk after the end", 64, "border") == ours(data, 64, "border")).all()


def test_threads_do_not_share_their_memory() -> None:
    files = [jpeg(np.full((300, 400, 3), value, np.uint8)) for value in range(0, 250, 10)]
    expected = [ours(data, 96, "border") for data in files]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(20):
            wrong.extend(
                number
                for number, data in enumerate(files)
                if not (ours(data, 96, "border") == expected[number]).all()
            )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_large_images_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_pixels, "_KEPT_BYTES", 1000)
    monkeypatch.setattr(stored_pixels, "_kept", threading.local())
    data = jpeg(chelsea())
    first = ours(data, 200, "border")
    assert not hasattr(stored_pixels._kept, "memory")
    assert (ours(data, 200, "border") == first).all()


@pytest.mark.parametrize("mode", ["no", "keep_ratio"])
def test_colours_are_as_fine_as_the_format_that_is_written(mode: ResizeMode) -> None:
    """A PNG keeps every pixel's colour, so the fast way to spread a JPEG's colours will not do."""
    data = jpeg(chelsea())
    whole = np.asarray(images.decode_rgb(data))
    fine = ours(data, 300, mode, image_format="png")
    assert fine.shape == whole.shape
    assert decibels(fine, whole) > 55
