"""text_image_pairs against the tables it was made from: every image that has a caption, once, with its captions."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sd_assets.quality.finding import Check, Finding, Severity
from sd_assets.storage.table import Table

MATCH_CAPTIONS = Check(
    "pairs_match_captions",
    Severity.ERROR,
    "Every image of seed_images and downloaded_images that has a caption is one pair, its captions are those of "
    "image_captions, and there is no other pair.",
)

EXAMPLES: Final = 3
Hashes = npt.NDArray[np.int64]


@dataclass
class _Captioned:
    """One place a caption of an image, both as hashes: 16 bytes."""

    images: "array[int]" = field(default_factory=lambda: array("q"))
    captions: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, image_id: str, captions: Iterable[str | None]) -> None:
        for caption in captions:
            self.images.append(hash(image_id))
            self.captions.append(hash(caption))

    def by_image(self) -> tuple[Hashes, Hashes]:
        """The images, sorted, and for each the sum of its captions' hashes: the same whatever their order."""
        images, place = np.unique(np.asarray(self.images), return_inverse=True)
        sums = np.zeros(len(images), np.int64)
        np.add.at(sums, place.reshape(-1), np.asarray(self.captions))
        return images, sums


def judge_pairs(
    text_image_pairs: Table, image_captions: Table, seed_images: Table, downloaded_images: Table
) -> Iterator[Finding]:
    """`MATCH_CAPTIONS`. Holds some 50 bytes an image."""
    captioned, paired = _Captioned(), _Captioned()
    for row in _rows(image_captions, "image_id", "caption"):
        captioned.add(row["image_id"], [row["caption"]])
    without = 0
    pair_ids = array("q")
    for row in _rows(text_image_pairs, "image_id", "captions"):
        pair_ids.append(hash(row["image_id"]))
        without += not row["captions"]
        paired.add(row["image_id"], row["captions"] or ())
    there = array("q")
    for table in (seed_images, downloaded_images):
        there.extend(hash(row["image_id"]) for row in _rows(table, "image_id"))

    images, sums = captioned.by_image()
    has_image = np.isin(images, np.asarray(there))
    images, sums = images[has_image], sums[has_image]
    pairs = np.unique(np.asarray(pair_ids))
    missing = np.setdiff1d(images, pairs)
    foreign = np.setdiff1d(pairs, images)
    paired_images, paired_sums = paired.by_image()
    common, left, right = np.intersect1d(images, paired_images, return_indices=True)
    other = common[sums[left] != paired_sums[right]]
    passed = not (len(missing) or len(foreign) or len(other) or without)
    said = f"{len(pairs)} pairs, one for each of {len(images)} images with a caption"
    examples = {}
    if not passed:
        said = (
            f"of {len(images)} images with a caption {len(missing)} are no pair, {len(foreign)} pairs have no such image "
            f"or caption row, {len(other)} have other captions, {without} have none: materialize text_image_pairs again"
        )
        examples = {
            "missing": _examples(image_captions, missing),
            "without_caption_row": _examples(text_image_pairs, foreign),
            "other_captions": _examples(text_image_pairs, other),
        }
    yield MATCH_CAPTIONS.found(
        passed,
        said,
        pairs=len(pairs),
        images_with_caption=len(images),
        missing=len(missing),
        without_caption_row=len(foreign),
        other_captions=len(other),
        without_captions=without,
        examples=examples,
    )


def _rows(table: Table, *columns: str) -> Iterator[dict[str, Any]]:
    for batch in table.batches([*columns, "error"]):
        yield from (row for row in batch.to_pylist() if row["error"] is None)


def _examples(table: Table, hashes: Hashes) -> list[str]:
    """The image_ids of the first few rows whose image is among the hashed ones."""
    wanted = set(hashes.tolist())
    found: list[str] = []
    for row in _rows(table, "image_id"):
        if len(found) == EXAMPLES or not wanted:
            break
        if hash(row["image_id"]) in wanted and row["image_id"] not in found:
            found.append(row["image_id"])
    return found
