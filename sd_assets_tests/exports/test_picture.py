"""Which bytes an export has: those that came, or what a viewer shows of them."""

import numpy as np
import pytest

from sd_assets import images
from sd_assets.errors import ErrorCode, RowError
from sd_assets.exports.picture import exported, exported_size, rendition
from sd_assets.settings import LayoutSettings
from sd_assets_tests.exports.contracts import opened
from sd_assets_tests.exports.kept import SIZE, encoded

AS_IT_IS = LayoutSettings()


@pytest.mark.parametrize(("kind", "extension"), [("jpeg", "jpg"), ("png", "png"), ("webp", "webp")])
def test_bytes_that_trainers_read_are_kept(kind: str, extension: str) -> None:
    assert exported(encoded(1, kind), AS_IT_IS) == (encoded(1, kind), extension)


@pytest.mark.parametrize(
    ("kind", "extension"),
    [
        ("gif", "png"),
        ("bmp", "png"),
        ("tiff", "png"),
        ("transparent", "png"),
        ("avif", "jpg"),
        ("turned", "jpg"),
        ("cmyk", "jpg"),
    ],
)
def test_what_they_would_see_otherwise_is_made_as_it_is_shown(kind: str, extension: str) -> None:
    data, found = exported(encoded(1, kind), AS_IT_IS)
    assert found == extension and data != encoded(1, kind)
    shown, seen = np.asarray(images.decode_rgb(encoded(1, kind)), int), np.asarray(opened(data), int)
    assert seen.shape == shown.shape
    assert np.abs(seen - shown).mean() < (1 if extension == "png" else 4)


def test_a_transparent_webp_is_made_anew() -> None:
    import io

    from PIL import Image

    for options in ({"lossless": True}, {}):
        out = io.BytesIO()
        Image.new("RGBA", SIZE, (200, 10, 10, 0)).save(out, "webp", **options)
        data, extension = exported(out.getvalue(), AS_IT_IS)
        assert extension == "jpg" and np.asarray(opened(data)).min() > 250  # on white
    plain = io.BytesIO()
    Image.new("RGB", SIZE, (200, 10, 10)).save(plain, "webp", lossless=True)
    assert exported(plain.getvalue(), AS_IT_IS) == (plain.getvalue(), "webp")


@pytest.mark.parametrize("mode", ["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"])
@pytest.mark.parametrize("only_if_bigger", [True, False])
@pytest.mark.parametrize("size", [16, 32, 48, 64])
def test_the_size_is_told_without_a_look(mode: str, only_if_bigger: bool, size: int) -> None:
    settings = LayoutSettings.model_validate(
        {"image_size": size, "resize_mode": mode, "resize_only_if_bigger": only_if_bigger}
    )
    data, _ = exported(encoded(1, "png"), settings)
    told = exported_size(*SIZE, settings)
    assert opened(data).size == told
    assert (data == encoded(1, "png")) == (told == SIZE)


def test_a_damaged_image_is_the_row_s_error() -> None:
    with pytest.raises(RowError) as caught:
        exported(b"no image", AS_IT_IS)
    assert caught.value.code == ErrorCode.NOT_AN_IMAGE


def test_the_name_changes_with_the_bytes_and_with_what_is_made_of_them() -> None:
    smaller = LayoutSettings(image_size=16)
    told = {
        rendition(b"a", AS_IT_IS),
        rendition(b"b", AS_IT_IS),
        rendition(b"a", smaller),
        rendition(b"a", LayoutSettings(image_size=16, quality=80)),
    }
    assert len(told) == 4 and rendition(b"a", smaller) == rendition(b"a", smaller)
