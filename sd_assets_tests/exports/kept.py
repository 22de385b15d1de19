"""Curated pairs of all kinds of images, in real tables, and their exports."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sd_assets.exports.export import LAYOUTS, TABLES, Exported, export
from sd_assets.exports.folder import ExportFolder
from sd_assets.schemas import CURATED_PAIRS, IMAGE_CAPTIONS, TEXT_IMAGE_PAIRS, image_id
from sd_assets.settings import ExportsSettings
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore
from sd_assets_tests.tables import table_of

SIZE = (48, 32)
MODEL = "captioner-1"


@cache
def encoded(number: int, kind: str = "jpeg", size: tuple[int, int] = SIZE) -> bytes:
    """A picture that is another for each number; `kind` is a format, or one that trainers would not see as it is shown."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (4, 6, 3), np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    out, options = io.BytesIO(), dict[str, Any]()
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter to the right
        options["exif"] = exif
    if kind == "transparent":
        image.putalpha(Image.new("L", size, 128))
    if kind == "cmyk":
        image = image.convert("CMYK")
    formats = {"turned": "jpeg", "cmyk": "jpeg", "transparent": "png"}
    image.save(out, formats.get(kind, kind), **options)
    return out.getvalue()


@dataclass(frozen=True)
class Kept:
    """A pair that is kept, unless it says otherwise."""

    image: bytes
    captions: tuple[str, ...] = ("a room", "a small room with a lamp")
    split: str = "train"
    keep: bool = True
    seed: bool = False
    size: tuple[int, int] = SIZE
    url: str | None = None
    text: str = "a text"
    own_score: str = "redness"


def some(count: int = 8, *, start: int = 0) -> list[Kept]:
    """So many pairs, the fourth of each four for validation."""
    return [
        Kept(
            encoded(number, ("jpeg", "png", "webp")[number % 3]),
            (f"room {number}", f"a room, number {number}"),
            "validation" if number % 4 == 3 else "train",
            seed=number % 2 == 0,
        )
        for number in range(start, start + count)
    ]


def tables_of(base: Path, pairs: Sequence[Kept], partition: str = "p") -> dict[str, Table]:
    """The tables of a partition that say all this."""
    images = [image_id(pair.image) for pair in pairs]
    of_pairs, curated, captions = [], [], []
    for image, pair in zip(images, pairs, strict=True):
        width, height = pair.size
        url = pair.url or f"https://example.org/{image[:8]}.jpg"
        found = {} if pair.seed else {"url": url, "licence": "CC-BY-4.0"}
        of_pairs.append(
            {
                "image_id": image,
                "image": pair.image,
                "width": width,
                "height": height,
                "original_width": 2 * width,
                "original_height": 2 * height,
                "captions": list(pair.captions),
                "text": pair.text,
                "origin": "seed" if pair.seed else "retrieved",
                "similarity": None if pair.seed else 0.75,
                "query_ids": None if pair.seed else ["q1", "q2"],
                **found,
            }
        )
        curated.append(
            {
                "image_id": image,
                "keep": pair.keep,
                "reasons": [] if pair.keep else ["low_sharpness"],
                "split": pair.split if pair.keep else None,
                "cluster": image,
                "resolution": min(pair.size),
                "alignment": 0.25,
                "similarity": None if pair.seed else 0.75,
                "own_scores": [{"score": pair.own_score, "value": 0.5}],
            }
        )
        captions += [
            {"image_id": image, "variant": f"v{number}", "caption": caption, "model": MODEL}
            for number, caption in enumerate(pair.captions)
        ]
    return {
        "text_image_pairs": table_of(base, TEXT_IMAGE_PAIRS, of_pairs, partition),
        "curated_pairs": table_of(base, CURATED_PAIRS, curated, partition),
        "image_captions": table_of(base, IMAGE_CAPTIONS, captions, partition),
    }


def exported(base: Path, layout: str, pairs: Sequence[Kept] | None = None, **settings: Any) -> Exported:
    """Export pairs, or those that are in the tables already, into `<base>/exports/<layout>/p/`."""
    store = TableStore(LocalFiles(base / "data"))
    tables: Mapping[str, Table] = (
        {name: store.open(name, "p") for name in TABLES} if pairs is None else tables_of(base / "data", pairs)
    )
    chosen = ExportsSettings.model_validate({layout: settings}).layout(layout)
    assert chosen is not None
    folder = ExportFolder(LocalFiles(base / "exports"), layout, "p")
    return export(LAYOUTS[layout](chosen), folder, tables, lambda line: None)


def folder_of(base: Path, layout: str) -> Path:
    """Where `exported` writes."""
    return base / "exports" / layout / "p"


def files_of(base: Path, layout: str) -> dict[str, bytes]:
    """The files of an export, by their path in it."""
    folder = folder_of(base, layout)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
