"""All measures of an encoded image at once: as it is shown, and errors of what is none."""

import pytest
from PIL import Image, ImageOps

from sd_assets.errors import RowError
from sd_assets.measures.pictures import luma_of
from sd_assets.measures.quality import measured
from sd_assets_tests.measures.photographs import NAMES, compressed, encoded, luma, photograph

PHOTO = "coffee.png"


def test_it_does_not_matter_how_an_image_is_stored() -> None:
    image = photograph(PHOTO)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by 90 degrees to the right
    as_shown = measured(encoded(image, "png"))
    assert (as_shown.width, as_shown.height) == image.size
    assert measured(encoded(turned, "png", exif=exif)) == as_shown
    jpeg = measured(encoded(turned, exif=exif))
    assert (jpeg.width, jpeg.height) == image.size and jpeg.perceptual_hash == as_shown.perceptual_hash
    assert jpeg.sharpness == pytest.approx(as_shown.sharpness, abs=0.02)


def test_the_luma_is_pillows() -> None:
    image = photograph(PHOTO)
    # Both round, each in its own place.
    assert abs(luma_of(encoded(image, "png")).astype(int) - luma(image)).max() <= 1


def test_bars_do_not_count_as_sharp_edges() -> None:
    image = compressed(photograph(PHOTO), 30)
    framed = ImageOps.expand(image, (0, 80), fill="black")
    alone, within = (measured(encoded(it, "png")) for it in (image, framed))
    assert within.flat_border > 0.25 and alone.flat_border == 0
    assert (within.sharpness, within.blockiness) == pytest.approx((alone.sharpness, alone.blockiness))
    assert within.perceptual_hash == alone.perceptual_hash


@pytest.mark.parametrize("name", NAMES)
def test_a_square_that_was_cropped_from_a_picture_has_its_hash(name: str) -> None:
    image = photograph(name)
    side = min(image.size)
    square = ImageOps.fit(image, (side * 3 // 4,) * 2, Image.Resampling.LANCZOS)
    hashes = [int(measured(encoded(it)).perceptual_hash or "", 16) for it in (image, square)]
    assert (hashes[0] ^ hashes[1]).bit_count() <= 6


def test_all_of_one_colour() -> None:
    flat = measured(encoded(Image.new("RGB", (64, 48), "grey"), "png"))
    assert (flat.sharpness, flat.blockiness, flat.flat_border) == (0, 0, 1)
    assert flat.perceptual_hash is None


@pytest.mark.parametrize(
    ("data", "code"), [(b"", "empty"), (b"text", "not_an_image"), (b"\xff\xd8\xff\xe0", "corrupt_image")]
)
def test_what_is_no_image(data: bytes, code: str) -> None:
    with pytest.raises(RowError) as error:
        measured(data)
    assert error.value.code == code
