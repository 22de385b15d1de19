"""The contact sheet, of real images in real tables."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from sd_assets.compute.run import write_rows
from sd_assets.schemas import (
    DOWNLOADED_IMAGES,
    IMAGE_CAPTIONS,
    SEED_IMAGES,
    TEXT_IMAGE_PAIRS,
    TableSchema,
    table,
)
from sd_assets.stages.stage import rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets.views.contact_sheet import MAX_BYTES, contact_sheet
from sd_assets_tests.tables import table_of
from sd_assets_tests.views.hostile import HOSTILE
from sd_assets_tests.views.seen import Picture, inline_tokens, picture_in

# Of the sheet: a tile's side, and from one tile to the next, pixels.
SIDE, STEP, FIRST = 144, 156, 12
# Small shards, so that a small table has many.
PHOTOS = TableSchema(
    "photos",
    ("name",),
    table("", ["name"], [pa.field("name", pa.string()), pa.field("image", pa.binary())]).arrow,
    shard_rows=16,
    row_group_rows=4,
)


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def plain(colour: str, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def noise(seed: int, side: int = 160) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return saved(Image.fromarray(values))


def photos(images: Mapping[str, bytes | None]) -> Iterator[dict[str, Any]]:
    return ({"name": name, "image": data} for name, data in images.items())


def pairs(captions: Mapping[str, str], image: bytes = saved(plain("red"))) -> Iterator[dict[str, Any]]:
    return ({"image_id": name, "image": image, "captions": [caption]} for name, caption in captions.items())


def seen(markdown: str | None) -> Picture:
    assert markdown is not None
    assert markdown.isascii() and len(markdown) <= MAX_BYTES
    return picture_in(markdown)


def colour(picture: Picture, column: int, row: int, x: float = 0.5, y: float = 0.5) -> str:
    """What a tile shows at a place in it: r, g, b, w(hite), k (black), or the numbers."""
    assert picture.photo is not None
    assert picture.photo.size == (picture.width, picture.height)
    place = (FIRST + column * STEP + int(x * SIDE), FIRST + row * (STEP + 4) + int(y * SIDE))
    pixel = picture.photo.convert("RGB").getpixel(place)
    assert isinstance(pixel, tuple)
    names = {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w", (0, 0, 0): "k"}
    close = all(value < 40 or value > 215 for value in pixel)
    return (
        names.get((int(pixel[0] > 127), int(pixel[1] > 127), int(pixel[2] > 127)), str(pixel))
        if close
        else str(pixel)
    )


def test_a_sheet_shows_each_image_as_a_viewer_does(tmp_path: Path) -> None:
    upright = Image.Exif()
    upright[0x0112] = 6  # to be turned by a quarter, clockwise
    sides = plain("blue", (400, 300))
    ImageDraw.Draw(sides).rectangle((0, 0, 199, 299), fill="red")
    images = {
        "0 plain": saved(plain("red", (300, 300))),
        "1 turned": saved(sides, "JPEG", exif=upright, quality=95, subsampling=0),
        "2 cmyk": saved(plain("cyan", (200, 200), "CMYK"), "JPEG"),
        "3 clear": saved(Image.new("RGBA", (200, 200), (0, 0, 0, 0))),
        "4 tall": saved(plain("green", (30, 6000)), "WEBP"),
        "5 a pixel": saved(plain("red", (1, 1)), "GIF"),
        "6 large": saved(plain("blue", (5000, 4000)), "JPEG"),
        "7 truncated": saved(sides, "JPEG")[:-400],
        "8 text": b"<!DOCTYPE html>",
        "9 null": None,
        "a huge": saved(Image.new("1", (12_000, 9_000))),
    }
    markdown = contact_sheet(table_of(tmp_path, PHOTOS, photos(images)))
    assert markdown is not None and markdown.startswith(
        "11 of 11 images, evenly spread\n\n![contact sheet](data:"
    )
    sheet = seen(markdown)
    assert (sheet.width, sheet.height) == (FIRST + 6 * STEP, FIRST + 2 * (STEP + 4))
    assert colour(sheet, 0, 0) == "r"
    # What was left is on top.
    assert (colour(sheet, 1, 0, y=0.25), colour(sheet, 1, 0, y=0.75)) == ("r", "b")
    assert colour(sheet, 1, 0, x=0.02) == "w"
    assert colour(sheet, 3, 0) == "w"
    assert [colour(sheet, 4, 0, x=x) for x in (0.4, 0.6)] == ["w", "w"]
    assert colour(sheet, 5, 0, x=0.4) == "w"
    assert colour(sheet, 0, 1) == "b"
    # Why there is nothing to see, in words.
    assert sheet.texts == ["corrupt_image", "not_an_image", "empty", "12000 x 9000 png"]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = list(pairs({f"{number:03}": f"a sofa, number {number}" for number in range(60)}))
    area = TableStore(LocalFiles(tmp_path / "a")).area("text_image_pairs", "p")
    staged = write_rows(TEXT_IMAGE_PAIRS, [rows_of(TEXT_IMAGE_PAIRS, rows)], area, "run")
    before = contact_sheet(staged.table())
    staged.commit()
    assert before == contact_sheet(TableStore(LocalFiles(tmp_path / "a")).open("text_image_pairs", "p"))
    assert before == contact_sheet(table_of(tmp_path / "b", TEXT_IMAGE_PAIRS, rows))
    assert before != contact_sheet(table_of(tmp_path / "c", TEXT_IMAGE_PAIRS, rows[1:]))


def test_the_sample_is_of_the_whole_table_and_of_good_rows(tmp_path: Path) -> None:
    rows = list(pairs({f"{number:04}": str(number) for number in range(1000)}))
    for row in rows[:900:2]:
        row.update(image=None, captions=None, error="not_found")
    shown = [int(text) for text in seen(contact_sheet(table_of(tmp_path, TEXT_IMAGE_PAIRS, rows))).texts]
    good = [int(row["captions"][0]) for row in rows if "error" not in row]
    assert len(shown) == 30 and set(shown) <= set(good)
    places = [good.index(number) for number in shown]
    distances = np.diff([-places[0], *places, 2 * len(good) - places[-1]])
    assert places == sorted(places) and distances.max() <= 2 * len(good) / 30 + 1


def test_only_the_shards_of_the_sample_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {f"{number:04}": saved(plain("red", (1, number + 1))) for number in range(1200)}
    photo_table = table_of(tmp_path, PHOTOS, photos(images))
    opened: list[str] = []
    open_file = LocalFiles.open

    def noted(files: LocalFiles, path: str) -> pa.NativeFile:
        opened.append(path)
        return open_file(files, path)

    monkeypatch.setattr(LocalFiles, "open", noted)
    assert contact_sheet(photo_table)
    assert len(photo_table.manifest.shards) > 60
    assert 25 < len(set(opened)) <= 31


def test_captions_are_text_in_any_script(tmp_path: Path) -> None:
    captions = {
        "0": "a red sofa",
        "1": "壁に掛けられた赤い時計と青いソファのある部屋",
        "2": "أريكة حمراء في غرفة",
        "3": "Красный диван — «уютно»",
        "4": "ein grünes Sofa 👩‍🍳",
        "5": "",
        "6": "word " * 200,
        "7": "x" * 500,
    }
    sheet = seen(contact_sheet(table_of(tmp_path, TEXT_IMAGE_PAIRS, pairs(captions))))
    texts = list(sheet.texts)
    for number in "01234":
        # In lines, cut at spaces where there are any.
        whole = ""
        while whole.replace(" ", "") != captions[number].replace(" ", ""):
            assert captions[number].replace(" ", "").startswith(whole.replace(" ", ""))
            whole += texts.pop(0)
    assert len(texts) == 8 and texts[3].endswith("word…") and texts[7].endswith("x…")
    assert sum(map(len, texts[4:])) < 100


@pytest.mark.parametrize("text", HOSTILE)
def test_captions_cannot_be_more_than_text(tmp_path: Path, text: str) -> None:
    stored = text.encode("utf-8", "replace").decode()
    markdown = contact_sheet(table_of(tmp_path, TEXT_IMAGE_PAIRS, pairs({"0": stored})))
    assert markdown is not None
    # The picture is well-formed, holds nothing but what we drew, and the Markdown nothing but the picture.
    picture_in(markdown)
    assert [token.type for token in inline_tokens(markdown)] == ["text", "image"]


def test_captions_hold_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2hunter2")
    rows = pairs({"0": "hunter2hunter2 https://x.example/a?sig=5ec2e7"})
    sheet = seen(contact_sheet(table_of(tmp_path, TEXT_IMAGE_PAIRS, rows)))
    assert sheet.texts == ["…", "https://x.example/a?…"]


def test_captions_of_images_that_lie_in_other_tables(tmp_path: Path) -> None:
    image = saved(plain("blue"))
    seeds = table_of(
        tmp_path,
        SEED_IMAGES,
        [{"image_id": "seed", "image": image, "text": "own"}, {"error": "unreadable", "source": "x"}],
    )
    found = table_of(
        tmp_path,
        DOWNLOADED_IMAGES,
        [
            {"url_id": "u1", "url": "http://x/1", "image_id": "good", "image": image},
            {"url_id": "u2", "url": "http://x/2", "image_id": "odd", "image": image},
            {"url_id": "u3", "url": "http://x/3", "error": "not_found"},
        ],
    )
    captions = table_of(
        tmp_path,
        IMAGE_CAPTIONS,
        [
            {"image_id": "odd", "variant": "default", "error": "empty_caption"},
            {"image_id": "good", "variant": "short", "error": "empty_caption"},
            {"image_id": "good", "variant": "long", "caption": "a blue square"},
            {"image_id": "good", "variant": "third", "caption": "a square"},
            {"image_id": "seed", "variant": "default", "caption": "a seed"},
        ],
    )
    sheet = seen(contact_sheet(captions, [seeds, found]))
    assert sheet.texts == ["a seed", "a blue square", "empty_caption"]
    assert contact_sheet(captions) is None


def test_without_images_there_is_no_sheet(tmp_path: Path) -> None:
    for number, rows in enumerate(([], [{"name": "a", "error": "not_found"}])):
        assert contact_sheet(table_of(tmp_path / str(number), PHOTOS, rows)) is None
    words = table("words", ["image"], [pa.field("image", pa.string())])
    assert contact_sheet(table_of(tmp_path, words, [{"image": "not binary"}])) is None


@pytest.mark.parametrize(("max_bytes", "least"), [(MAX_BYTES, 6), (40_000, 3), (15_000, 1)])
def test_the_limit_holds_for_the_worst_images_and_captions(
    tmp_path: Path, max_bytes: int, least: int
) -> None:
    rows = [
        {"image_id": str(number), "image": noise(number), "captions": ["壁と赤い時計" * 30]}
        for number in range(40)
    ]
    markdown = contact_sheet(table_of(tmp_path, TEXT_IMAGE_PAIRS, rows), max_bytes=max_bytes)
    assert markdown is not None and len(markdown) <= max_bytes
    picture = picture_in(markdown)
    shown = int(markdown.split(" of ")[0])
    assert least <= shown < 30 and len(picture.texts) == 4 * shown
    assert markdown.startswith(f"{shown} of 40 images")


def test_a_limit_that_nothing_meets_is_an_error(tmp_path: Path) -> None:
    images = table_of(tmp_path, PHOTOS, photos({"a": noise(1)}))
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        contact_sheet(images, max_bytes=1000)


def test_many_large_images_cost_a_bounded_number_of_pixels(tmp_path: Path) -> None:
    # Sixty million pixels are decoded: seven of these, and the first of them lie apart.
    large = saved(Image.new("L", (2900, 2900)))
    images = {f"{number:02}": large + os.urandom(4) for number in range(30)}
    sheet = seen(contact_sheet(table_of(tmp_path, PHOTOS, photos(images))))
    assert sheet.texts == ["2900 x 2900 png"] * 23
    shown = [number for number in range(30) if colour(sheet, number % 6, number // 6) == "k"]
    assert shown == [0, 1, 5, 10, 15, 20, 25]
