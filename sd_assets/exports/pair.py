"""What an export says of a pair: its captions, and where it comes from."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

import pyarrow as pa

from sd_assets.curation.reading import curated_rows
from sd_assets.errors import ErrorCode
from sd_assets.exports.picture import exported_size, rendition
from sd_assets.provenance.origins import Origins
from sd_assets.settings import SCORES
from sd_assets.settings.exports import LayoutSettings
from sd_assets.stages.stage import each_row
from sd_assets.storage.rows import Rows
from sd_assets.storage.table import Table
from sd_assets.views.text import publisher

# Of text_image_pairs, as they are there.
_OF_PAIRS = (
    "width",
    "height",
    "original_width",
    "original_height",
    "captions",
    "text",
    "origin",
    "url",
    "licence",
    "query_ids",
)


@dataclass(frozen=True)
class Pair:
    """A pair that is kept.

    Attributes:
        image_id: sha256 of the image's bytes as they came, hex.
        split: train or validation.
        captions: one line each: one, or all, as the layout asks for.
        facts: what the export says of it besides: JSON values, none of them null, of the same types in every pair. What is not
            known is an empty text.
        scores: those that are known, by name.
        stem: of the name of its image's file: the image_id, and what changes with the bytes that are written under it. So a trainer
            that keeps what it computed of a file by its name finds nothing stale.
        size: bytes that it takes, about.
    """

    image_id: str
    split: str
    captions: tuple[str, ...]
    facts: dict[str, Any]
    scores: dict[str, float]
    stem: str
    size: int

    @property
    def digest(self) -> bytes:
        """16 bytes that change with whatever is written of it."""
        said = json.dumps([self.stem, self.captions, self.facts, self.scores])
        return hashlib.blake2b(said.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Pairs:
    """Pairs that lie together, their images left to be fetched.

    Attributes:
        pairs: in order.
        rows: what they were made of.
        places: of each of them in `rows`.
    """

    pairs: Sequence[Pair]
    rows: Rows
    places: Sequence[int]

    def images(self, numbers: Sequence[int]) -> list[pa.Buffer]:
        """The stored bytes of some of the images, in the order asked for. To be asked for before the next `Pairs` are.

        They share their memory, so that one that is held keeps that of all.
        """
        assert self.rows.fetch is not None
        fetched = self.rows.fetch([self.places[number] for number in numbers]) if numbers else None
        return [image.as_buffer() for image in fetched.column("image")] if fetched is not None else []


def read_pairs(
    text_image_pairs: Table,
    curated_pairs: Table,
    image_captions: Table,
    settings: LayoutSettings,
    failures: Counter[str],
    origins: Origins | None = None,
) -> Iterator[Pairs]:
    """The kept pairs in the order of text_image_pairs, a shard at a time.

    Args:
        text_image_pairs: with the images.
        curated_pairs: says which are kept, and in which split.
        image_captions: says which model made which caption.
        settings: of the layout.
        failures: counts what cannot be exported: a pair all of whose captions are empty.
        origins: says where the images come from; None: `provenance` stays empty.
    """
    models = _models(image_captions)
    public = publisher()
    columns = ["image", "split", *_OF_PAIRS, *SCORES, "own_scores"]
    for rows in curated_rows(text_image_pairs, curated_pairs, columns):
        assert rows.digests is not None and rows.sizes is not None
        pairs, places = [], []
        for place, row in enumerate(each_row([rows.known])):
            captions, made_by = _captions(row["captions"], models.get(row["image_id"], ()), settings)
            if not captions:
                failures[ErrorCode.EMPTY_CAPTION] += 1
                continue
            stem = f"{row['image_id']}_{rendition(rows.digests[place], settings)}"
            facts = _facts(row, made_by, settings, public)
            facts["provenance"] = origins.text(row["image_id"]) if origins else ""
            pair = Pair(row["image_id"], row["split"], captions, facts, _scores(row), stem, rows.sizes[place])
            pairs.append(pair)
            places.append(place)
        yield Pairs(pairs, rows, places)


def _models(image_captions: Table) -> dict[str, tuple[str, ...]]:
    """Which model made each caption of an image, in their order; an empty text: the image came with it."""
    models: dict[str, tuple[str, ...]] = {}
    known: dict[tuple[str, ...], tuple[str, ...]] = {}  # one for all that are equal
    for row in each_row(image_captions.batches(["image_id", "model", "error"])):
        if row["error"] is None:
            made_by = (*models.get(row["image_id"], ()), row["model"] or "")
            models[row["image_id"]] = known.setdefault(made_by, made_by)
    return models


def _captions(
    captions: Sequence[str], models: Sequence[str], settings: LayoutSettings
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The captions that are written, a line each, and the models that made them: of those that are not empty."""
    lines = (" ".join(caption.split()) for caption in captions)
    written = [(line, model) for line, model in zip_longest(lines, models, fillvalue="") if line]
    chosen = written if settings.all_captions else written[:1]
    return tuple(line for line, _ in chosen), tuple(model for _, model in chosen)


def _facts(
    row: dict[str, Any], models: Sequence[str], settings: LayoutSettings, public: Callable[[str], str]
) -> dict[str, Any]:
    width, height = exported_size(row["width"], row["height"], settings)
    return {
        "image_id": row["image_id"],
        "width": width,
        "height": height,
        "original_width": row["original_width"] or row["width"],
        "original_height": row["original_height"] or row["height"],
        "origin": row["origin"] or "",
        "url": public(row["url"] or ""),
        "licence": row["licence"] or "",
        "source_text": public(row["text"] or ""),
        # One text, as a list that is empty everywhere has no type in JSON.
        "query_ids": " ".join(row["query_ids"] or ()),
        "caption_models": list(models),
    }


def _scores(row: dict[str, Any]) -> dict[str, float]:
    scores = {name: row[name] for name in SCORES if row[name] is not None}
    own = {each["score"]: each["value"] for each in row["own_scores"] or () if each["value"] is not None}
    # The digits that a float32 has.
    return {name: float(f"{value:.7g}") for name, value in (scores | own).items()}


# Of `facts`, as Parquet has them.
FACTS: Final = pa.schema(
    [
        pa.field("image_id", pa.string()),
        *(pa.field(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")),
        *(pa.field(name, pa.string()) for name in ("origin", "url", "licence", "source_text", "query_ids")),
        pa.field("caption_models", pa.list_(pa.string())),
        pa.field("provenance", pa.string()),  # JSON: `Origins.text`
    ]
)
