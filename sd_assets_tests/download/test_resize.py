"""The resize modes against a table of sizes, and what is put where."""

import numpy as np
import pytest
from skimage.transform import resize_local_mean

from sd_assets.download.resize import judge_size, resize
from sd_assets.errors import ErrorCode, RowError
from sd_assets.settings import DownloadSettings, ResizeMode


# Expected sizes follow img2dataset 1.47's rules: the side in question becomes the size, the other is rounded half to
# even; only_if_bigger leaves alone what is not larger than the size.
@pytest.mark.parametrize(
    ("original", "mode", "only_if_bigger", "expected"),
    [
        ((1000, 500), "no", False, (1000, 500)),
        ((1000, 500), "keep_ratio", False, (512, 256)),
        ((500, 1000), "keep_ratio", False, (256, 512)),
        ((1023, 767), "keep_ratio", False, (341, 256)),
        ((100, 50), "keep_ratio", False, (512, 256)),
        ((100, 50), "keep_ratio", True, (100, 50)),
        ((1000, 200), "keep_ratio", True, (1000, 200)),
        ((1000, 256), "keep_ratio", True, (1000, 256)),
        ((1000, 257), "keep_ratio", True, (996, 256)),
        ((1000, 500), "keep_ratio_largest", False, (256, 128)),
        ((1000, 501), "keep_ratio_largest", False, (256, 128)),
        ((1024, 510), "keep_ratio_largest", False, (256, 128)),  # 127.5 -> 128
        ((1024, 514), "keep_ratio_largest", False, (256, 128)),  # 128.5 -> 128
        ((100, 50), "keep_ratio_largest", False, (256, 128)),
        ((100, 50), "keep_ratio_largest", True, (100, 50)),
        ((300, 50), "keep_ratio_largest", True, (256, 43)),
        ((5000, 2), "keep_ratio_largest", False, (256, 1)),
        ((1000, 500), "center_crop", False, (256, 256)),
        ((500, 1000), "center_crop", False, (256, 256)),
        ((100, 50), "center_crop", False, (256, 256)),
        ((1000, 200), "center_crop", True, (1000, 200)),
        ((1000, 256), "center_crop", True, (1000, 256)),
        ((1000, 300), "center_crop", True, (256, 256)),
        ((1000, 500), "border", False, (256, 256)),
        ((100, 50), "border", False, (256, 256)),
        ((100, 50), "border", True, (100, 50)),
        ((300, 50), "border", True, (256, 256)),
    ],
)
def test_sizes(
    original: tuple[int, int], mode: ResizeMode, only_if_bigger: bool, expected: tuple[int, int]
) -> None:
    width, height = original
    pixels = resize(np.zeros((height, width, 3), np.uint8), 256, mode, only_if_bigger)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (expected[1], expected[0], 3)


def test_border_centres_the_image_on_white() -> None:
    pixels = resize(np.full((254, 512, 3), (10, 20, 30), np.uint8), 256, "border", False)
    # 254 / 2 = 127 rows, 129 of white: 64 above, 65 below
    assert (pixels[:64] == 255).all()
    assert (pixels[64:191] == (10, 20, 30)).all()
    assert (pixels[191:] == 255).all()


def test_center_crop_takes_the_middle() -> None:
    image = np.full((30, 90, 3), (255, 0, 0), np.uint8)
    image[:, 30:60] = (0, 0, 255)
    assert (resize(image, 30, "center_crop", False) == (0, 0, 255)).all()
    assert (resize(np.repeat(image, 4, 0).repeat(4, 1), 30, "center_crop", False) == (0, 0, 255)).all()


def test_shrinking_does_not_alias() -> None:
    """A fine chequerboard becomes an even grey, neither stripes nor dots."""
    y, x = np.mgrid[0:999, 0:999]
    board = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    small = resize(board, 100, "keep_ratio", False)[2:-2, 2:-2]
    assert abs(float(small.mean()) - 127.5) < 1
    assert float(small.std()) < 3


@pytest.mark.parametrize("size", [90, 128, 200, 256, 300, 384])
def test_shrinking_averages_areas(size: int) -> None:
    """Against the exact means, of a picture of waves and edges: as near as Lanczos comes, at least 35 dB."""
    y, x = np.mgrid[0:480, 0:640]
    picture = np.stack([x * 255 / 640, y * 255 / 480, 127 + 127 * np.sin(x * y / 8_000)], axis=-1).astype(
        np.uint8
    )
    picture[100:250, 300:450] = (250, 10, 10)
    ours = resize(picture, size, "keep_ratio_largest", False)
    height, width = ours.shape[:2]
    exact = resize_local_mean(picture, (height, width), preserve_range=True)
    assert 10 * np.log10(255**2 / ((ours - exact) ** 2).mean()) > 35


def test_sizes_are_judged() -> None:
    settings = DownloadSettings(min_image_size=64, max_aspect_ratio=2.5, max_pixels=1_000_000)
    judge_size(64, 160, settings)
    judge_size(1000, 1000, settings)
    for width, height, code in (
        (63, 100, ErrorCode.TOO_SMALL),
        (100, 63, ErrorCode.TOO_SMALL),
        (100, 251, ErrorCode.ASPECT_RATIO),
        (251, 100, ErrorCode.ASPECT_RATIO),
        (1001, 1000, ErrorCode.TOO_MANY_PIXELS),
    ):
        with pytest.raises(RowError) as caught:
            judge_size(width, height, settings)
        assert caught.value.code == code
