"""A partition of few pairs, written through the real store: from its seeds to what is kept of it.

Seed 0 was retrieved, too, by itself and by a prompt, under two URLs. Every third image is retrieved only, and the last is
left out by curation.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from sd_assets.schemas import (
    ALIGNMENT_SCORES,
    CURATED_PAIRS,
    DOWNLOADED_IMAGES,
    IMAGE_CAPTIONS,
    IMAGE_EMBEDDINGS,
    IMAGE_QUALITY,
    NEAR_DUPLICATES,
    RETRIEVAL_HITS,
    RETRIEVED_IMAGE_URLS,
    SEED_EMBEDDINGS,
    SEED_IMAGES,
    SEED_PROMPTS,
    TEXT_IMAGE_PAIRS,
    TableSchema,
    image_id,
    text_id,
)
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.tables import table_of

PARTITION = "p"
Write = Callable[[TableSchema, list[dict[str, Any]]], None]
PROMPT = "a red sofa"
PROMPT_ID = text_id(PROMPT)
SIZE = 32
FETCHED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CAPTIONER, CLIP = "captioner-1", "clip-1"


@cache
def picture(number: int) -> bytes:
    """A PNG of one colour, another for each number."""
    out = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (number % 256, number // 256, 90)).save(out, "png")
    return out.getvalue()


@dataclass(frozen=True)
class SmallPartition:
    """Where it lies, and its images: seeds first.

    Attributes:
        base: of the store.
        images: image_ids.
        seeds: how many of them are seeds.
    """

    base: Path
    images: list[str]
    seeds: int

    @property
    def store(self) -> TableStore:
        return TableStore(LocalFiles(self.base))


def write_partition(
    base: Path,
    count: int = 9,
    *,
    without: frozenset[int] = frozenset(),
    captions: int = 1,
    partition: str = PARTITION,
) -> SmallPartition:
    """Writes all tables of a partition, as the next version of whichever there were.

    Args:
        base: a folder.
        count: images.
        without: the numbers of those that are not kept, besides the last.
        captions: of each image.
        partition: its name.
    """
    data = [picture(number) for number in range(count)]
    images = [image_id(it) for it in data]
    seeds = count - count // 3
    write = partial(_write, base, partition)
    _write_seeds(write, images[:seeds], data)
    _write_retrieved(write, images, data, seeds)
    variants = [f"v{number}" for number in range(captions)]
    texts = {image: [f"picture {image[:6]}, {variant}" for variant in variants] for image in images}
    write(
        IMAGE_CAPTIONS,
        [
            {"image_id": image, "variant": variant, "caption": text, "model": CAPTIONER}
            for image in images
            for variant, text in zip(variants, texts[image], strict=True)
        ],
    )
    pairs = [
        {
            "image_id": image,
            "image": data[number],
            "width": SIZE,
            "height": SIZE,
            "original_width": SIZE,
            "original_height": SIZE,
            "captions": texts[image],
            "text": "a text" if number < seeds else "an alt text",
            "origin": "seed" if number < seeds else "retrieved",
            "url": None if 0 < number < seeds else _url(number),
            "licence": None if 0 < number < seeds else "CC-BY-4.0",
            "similarity": None if 0 < number < seeds else 0.75,
            "query_ids": None if 0 < number < seeds else [PROMPT_ID],
        }
        for number, image in enumerate(images)
    ]
    write(TEXT_IMAGE_PAIRS, pairs)
    write(IMAGE_EMBEDDINGS, [{"image_id": it, "embedding": [0.6, 0.8], "model": CLIP} for it in images])
    write(IMAGE_QUALITY, [{"image_id": it, "resolution": SIZE, "sharpness": 1.5} for it in images])
    write(ALIGNMENT_SCORES, [{"image_id": it, "alignment": 0.25, "model": CLIP} for it in images])
    write(NEAR_DUPLICATES, [{"image_id": it, "cluster": it, "cluster_size": 1} for it in images])
    dropped = without | {count - 1}
    write(
        CURATED_PAIRS,
        [
            {
                "image_id": image,
                "keep": number not in dropped,
                "reasons": ["low_sharpness", "near_duplicate"] if number in dropped else [],
                "split": None if number in dropped else "validation" if number % 4 == 3 else "train",
                "cluster": image,
                "resolution": SIZE,
                "sharpness": 1.5,
                "alignment": 0.25,
                "similarity": pairs[number]["similarity"],
                "own_scores": [{"score": "redness", "value": number / 10}],
            }
            for number, image in enumerate(images)
        ],
    )
    return SmallPartition(base, images, seeds)


def _url(number: int, host: str = "a.example.org") -> str:
    return f"https://{host}/{number}.png"


def _write_seeds(write: Write, images: list[str], data: list[bytes]) -> None:
    seeds = [
        {
            "image_id": image,
            "image": data[number],
            "format": "png",
            "width": SIZE,
            "height": SIZE,
            "text": "a text",
            "source": "somebody/rooms",
            "source_revision": "c0ffee",
            "source_row": number,
        }
        for number, image in enumerate(images)
    ]
    write(SEED_IMAGES, seeds)
    write(SEED_PROMPTS, [{"prompt_id": PROMPT_ID, "prompt": PROMPT}])
    embedded = [{"query_id": images[0], "kind": "image"}, {"query_id": PROMPT_ID, "kind": "text"}]
    write(SEED_EMBEDDINGS, [{**it, "embedding": [0.6, 0.8], "model": CLIP} for it in embedded])
    write(RETRIEVAL_HITS, [{**it, "index": "rooms", "hits": []} for it in embedded])


def _write_retrieved(write: Write, images: list[str], data: list[bytes], seeds: int) -> None:
    found = [
        (0, _url(0)),
        (0, _url(0, "b.example.org")),
        *((it, _url(it)) for it in range(seeds, len(images))),
    ]
    urls, downloads = [], []
    for number, url in sorted(found, key=lambda it: text_id(it[1])):
        hits = [{"query_id": PROMPT_ID, "rank": number, "similarity": 0.75, "url": url}]
        if number == 0:
            hits.append({"query_id": images[0], "rank": 0, "similarity": 1.0, "url": url})
        known = {"alt_text": "an alt text", "licence": "CC-BY-4.0", "similarity": 0.75}
        urls.append({"url_id": text_id(url), "url": url, "hits": hits, **known})
        downloads.append(
            {
                "url_id": text_id(url),
                "url": url,
                "image_id": images[number],
                "image": data[number],
                "width": SIZE,
                "height": SIZE,
                "original_width": SIZE,
                "original_height": SIZE,
                "original_bytes": len(data[number]),
                "format": "png",
                "http_status": 200,
                "fetched_at": FETCHED_AT,
                "attempts": 1,
            }
        )
    write(RETRIEVED_IMAGE_URLS, urls)
    dead = _url(10_000)
    downloads.append({"url_id": "f" * 64, "url": dead, "error": "not_found", "http_status": 404})
    write(DOWNLOADED_IMAGES, downloads)


def _write(base: Path, partition: str, schema: TableSchema, rows: list[dict[str, Any]]) -> None:
    table_of(base, schema, rows, partition)
