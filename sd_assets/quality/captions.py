"""image_captions: whether captions say something, and not all the same.

Captions are compared as their words in lower case, by 64-bit hashes: some 20 bytes a caption are held.
"""

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sd_assets.quality.finding import Check, Finding, Severity, percent
from sd_assets.settings import CheckSettings
from sd_assets.storage.table import Table
from sd_assets.views.text import shortened

NOT_EMPTY = Check(
    "no_empty_captions",
    Severity.ERROR,
    "Every caption has a word; a captioner that finds none is to fail the row with `empty_caption`.",
)
CAPTIONER_VARIES = Check(
    "captioner_varies",
    Severity.ERROR,
    "The share of images to which the captioner gave one and the same caption, against `checks.max_same_caption` of the "
    "catalogue. Texts that seeds came with do not count, nor fewer than ten captions.",
)
FEW_REPEATED = Check(
    "few_repeated_captions",
    Severity.WARNING,
    "The share of images whose caption another image has, too, against `checks.max_repeated_captions` of the catalogue.",
)
CAPTIONS_DIFFER = Check(
    "captions_of_an_image_differ",
    Severity.WARNING,
    "Of the images with several captions, the share whose captions are all the same, against "
    "`checks.max_images_with_one_text` of the catalogue.",
)
LENGTHS = Check(
    "caption_lengths_within_limits",
    Severity.WARNING,
    "The share of captions with fewer words than `checks.min_caption_words` or more than `checks.max_caption_words`, "
    "against `checks.max_captions_of_odd_length` of the catalogue.",
)

# Of fewer captions, chance may make all the same.
FEW: Final = 10
# Chinese and Japanese are written without spaces; each of their characters counts as a word.
_CHARACTERS: Final = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD: Final = re.compile(f"[{_CHARACTERS}]|[^\\s{_CHARACTERS}]+")


@dataclass
class _Captions:
    """One place a caption that has a word: whose it is, what it says (as hashes), whether a model wrote it."""

    images: "array[int]" = field(default_factory=lambda: array("q"))
    texts: "array[int]" = field(default_factory=lambda: array("q"))
    generated: "array[int]" = field(default_factory=lambda: array("b"))
    words: Counter[int] = field(default_factory=Counter)
    empty: int = 0


def judge_captions(table: Table, settings: CheckSettings) -> Iterator[Finding]:
    """All checks of this module, over the rows that did not fail."""
    captions = _read(table)
    images, texts = np.asarray(captions.images), np.asarray(captions.texts)
    generated = np.asarray(captions.generated, bool)
    # An image counts once for a caption, however many of its captions say the same.
    own_once = np.unique(np.stack([images, texts], axis=1), axis=0)
    yield _not_empty(captions)
    yield _captioner_varies(table, images[generated], texts[generated], settings)
    yield _few_repeated(table, own_once, settings)
    yield _captions_differ(images, own_once, settings)
    yield _lengths(captions.words, settings)


def words_of(caption: str) -> list[str]:
    """The words of a caption, in lower case: runs without space, and single Chinese or Japanese characters."""
    return _WORD.findall(caption.casefold())


def _read(table: Table) -> _Captions:
    found = _Captions()
    for row in _rows(table, ["image_id", "caption", "model", "error"]):
        words = words_of(row["caption"] or "")
        if not words:
            found.empty += 1
            continue
        found.images.append(hash(row["image_id"]))
        found.texts.append(hash(tuple(words)))
        found.generated.append(row["model"] is not None)
        found.words[len(words)] += 1
    return found


def _rows(table: Table, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in table.batches(columns):
        yield from (row for row in batch.to_pylist() if row["error"] is None)


def _not_empty(captions: _Captions) -> Finding:
    rows = len(captions.texts) + captions.empty
    said = f"each of {rows} captions has a word"
    if captions.empty:
        said = (
            f"{captions.empty} of {rows} captions are empty or nothing but spaces: let the captioner answer with an "
            "empty text, so that the row fails with `empty_caption` and makes no pair"
        )
    return NOT_EMPTY.found(captions.empty == 0, said, captions=rows, empty=captions.empty)


def _captioner_varies(
    table: Table, images: npt.NDArray[np.int64], texts: npt.NDArray[np.int64], settings: CheckSettings
) -> Finding:
    once = np.unique(np.stack([images, texts], axis=1), axis=0)
    distinct, counts = np.unique(once[:, 1], return_counts=True)
    captioned = len(np.unique(images))
    share = float(counts.max() / captioned) if captioned else 0.0
    passed = captioned < FEW or share <= settings.max_same_caption
    said = f"{len(distinct)} different captions of {captioned} images; the most frequent has {percent(share)} of them"
    common = _most_common(table, distinct, counts)
    if not passed:
        said = (
            f"{percent(share)} of {captioned} images have the same caption {next(iter(common))!r}, and "
            f"checks.max_same_caption is {percent(settings.max_same_caption)}: the captioner does not see the images. "
            "Try precision float32 of the resource `captioner`, other weights, or another prompt"
        )
    return CAPTIONER_VARIES.found(
        passed,
        said,
        images=captioned,
        distinct=len(distinct),
        share_of_most_frequent=share,
        most_frequent=common,
        limit=settings.max_same_caption,
    )


def _few_repeated(table: Table, once: npt.NDArray[np.int64], settings: CheckSettings) -> Finding:
    distinct, place, counts = np.unique(once[:, 1], return_inverse=True, return_counts=True)
    captioned = len(np.unique(once[:, 0]))
    repeated = len(np.unique(once[counts[place.reshape(-1)] > 1, 0]))
    share = repeated / captioned if captioned else 0.0
    passed = share <= settings.max_repeated_captions
    said = f"{repeated} of {captioned} images ({percent(share)}) share a caption with another"
    common = _most_common(table, distinct, counts)
    if not passed:
        said += (
            f", and checks.max_repeated_captions is {percent(settings.max_repeated_captions)}; the most frequent is "
            f"{next(iter(common))!r}. A larger captioner, or another prompt, tells images apart; if they are alike, raise "
            "the limit"
        )
    return FEW_REPEATED.found(
        passed,
        said,
        images=captioned,
        distinct=len(distinct),
        images_with_repeated=repeated,
        share_repeated=share,
        most_frequent=common,
        limit=settings.max_repeated_captions,
    )


def _captions_differ(
    images: npt.NDArray[np.int64], once: npt.NDArray[np.int64], settings: CheckSettings
) -> Finding:
    _, captions = np.unique(images, return_counts=True)
    _, different = np.unique(once[:, 0], return_counts=True)  # both are in the order of the images
    several = int((captions > 1).sum())
    same = int(((captions > 1) & (different == 1)).sum())
    share = same / several if several else 0.0
    passed = share <= settings.max_images_with_one_text
    said = (
        f"{same} of {several} images with several captions ({percent(share)}) have the same one several times"
    )
    if not passed:
        said += (
            f", and checks.max_images_with_one_text is {percent(settings.max_images_with_one_text)}: further captions "
            "add nothing; let them come from another model or prompt, or make one an image"
        )
    return CAPTIONS_DIFFER.found(
        passed,
        said,
        images=len(captions),
        images_with_several=several,
        images_with_one_text=same,
        share=share,
        limit=settings.max_images_with_one_text,
    )


def _lengths(words: Counter[int], settings: CheckSettings) -> Finding:
    captions = words.total()
    short = sum(count for length, count in words.items() if length < settings.min_caption_words)
    long = sum(count for length, count in words.items() if length > settings.max_caption_words)
    share = (short + long) / captions if captions else 0.0
    passed = share <= settings.max_captions_of_odd_length
    said = (
        f"of {captions} captions {short} have fewer than {settings.min_caption_words} words and {long} more than "
        f"{settings.max_caption_words} ({percent(share)})"
    )
    if not passed:
        said += (
            f", and checks.max_captions_of_odd_length is {percent(settings.max_captions_of_odd_length)}: see the entry's "
            "captioner (max_new_tokens, prompt) and the texts that seeds came with"
        )
    return LENGTHS.found(
        passed,
        said,
        captions=captions,
        too_short=short,
        too_long=long,
        share=share,
        words_min=min(words, default=None),
        words_median=_median(words),
        words_max=max(words, default=None),
        limit=settings.max_captions_of_odd_length,
    )


def _median(counts: Counter[int]) -> int | None:
    left = counts.total() / 2
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return None


def _most_common(
    table: Table, hashes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], most: int = 5
) -> dict[str, int]:
    """The captions that most images have, and how many; reads the table once more to find their texts."""
    order = np.argsort(-counts, kind="stable")[:most]
    wanted = {int(hashes[place]): int(counts[place]) for place in order}
    texts: dict[int, str] = {}
    for row in _rows(table, ["caption", "error"]):
        if len(texts) == len(wanted):
            break
        identity = hash(tuple(words_of(row["caption"] or "")))
        if identity in wanted:
            texts.setdefault(identity, shortened(row["caption"], 200))
    return {texts[identity]: count for identity, count in wanted.items() if identity in texts}
