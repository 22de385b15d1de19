"""text_image_pairs: what one trains on: every distinct image that has a caption, with all that is known of it."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa

from sd_assets.errors import TableError
from sd_assets.schemas import TEXT_IMAGE_PAIRS
from sd_assets.stages.stage import InputCounts, each_row, rows_of
from sd_assets.storage.table import Table

VERSION = "1"


def pair_batches(
    seed_images: Table,
    retrieved_image_urls: Table,
    downloaded_images: Table,
    image_captions: Table,
    counts: InputCounts,
) -> Iterator[pa.RecordBatch]:
    """Rows of text_image_pairs: seeds in their order, then downloads in theirs.

    An image that was found under several URLs has the URL, alt text, licence and similarity of the most similar, and
    the queries of all; a seed that was found, too, has them as well, and keeps its own text. Fills `counts` as it goes:
    the input rows are the images; those that failed at an earlier stage or have no caption are skipped, the same image
    once more is a duplicate.

    Images stream; what is held are the captions, and what retrieval knows of images that occur more than once.
    """
    captions: dict[str, list[str]] = {}
    for row in each_row(image_captions.batches(["image_id", "caption", "error"])):
        if row["error"] is None:
            captions.setdefault(row["image_id"], []).append(row["caption"])
    several = _several(seed_images, downloaded_images)
    found: dict[str, _Found] = {}
    for row, of_url in _with_urls(downloaded_images, retrieved_image_urls, ["image_id"]):
        identity = row["image_id"]
        if identity in several:
            found[identity] = of_url.merged(found[identity]) if identity in found else of_url
    images = _images(seed_images, downloaded_images, retrieved_image_urls, found)
    while some := list(islice(images, _ROWS_AT_ONCE)):
        kept = []
        for row, origin, known in some:
            counts.rows += 1
            identity = row["image_id"]
            if row.pop("error") is not None or identity not in captions:
                counts.skipped += 1
            elif not captions[identity]:  # an earlier row has taken them
                counts.duplicates += 1
            else:
                texts, captions[identity] = captions[identity], []
                facts = known._asdict() if known else {}
                text = row.get("text") or facts.get("alt_text")
                kept.append({**facts, **row, "text": text, "captions": texts, "origin": origin})
        if kept:
            yield rows_of(TEXT_IMAGE_PAIRS, kept)


_IMAGE_COLUMNS = ("image_id", "image", "width", "height", "error")
_ROWS_AT_ONCE = 16


class _Found(NamedTuple):
    """What retrieval knows of an image."""

    url: str
    alt_text: str | None
    licence: str | None
    similarity: float
    query_ids: list[str]

    def merged(self, earlier: "_Found") -> "_Found":
        """Of the same image under another URL, which came before."""
        best = self if self.similarity > earlier.similarity else earlier
        return best._replace(query_ids=sorted({*earlier.query_ids, *self.query_ids}))


def _several(seed_images: Table, downloaded_images: Table) -> set[str | None]:
    """The image_ids that more than one row has."""
    seen: set[str | None] = set()
    several: set[str | None] = set()
    for table in (seed_images, downloaded_images):
        for row in each_row(table.batches(["image_id"])):
            (several if row["image_id"] in seen else seen).add(row["image_id"])
    return several - {None}


def _images(
    seed_images: Table, downloaded_images: Table, retrieved_image_urls: Table, found: dict[str, _Found]
) -> Iterator[tuple[dict[str, Any], str, _Found | None]]:
    """All images in order: the row, its origin, and what retrieval knows of it."""
    for row in each_row(seed_images.batches([*_IMAGE_COLUMNS, "text"])):
        yield row, "seed", found.get(row["image_id"])
    for row, known in _with_urls(downloaded_images, retrieved_image_urls, _IMAGE_COLUMNS):
        yield row, "retrieved", found.get(row["image_id"], known)


def _with_urls(
    downloaded_images: Table, retrieved_image_urls: Table, columns: Sequence[str]
) -> Iterator[tuple[dict[str, Any], _Found]]:
    """Downloads, and what retrieval knows of the URL of each. Both tables are in the order of `url_id`."""
    urls = each_row(
        retrieved_image_urls.batches(["url_id", "url", "alt_text", "licence", "similarity", "hits"])
    )
    for row in each_row(downloaded_images.batches(["url_id", *columns])):
        identity = row.pop("url_id")
        url = next((url for url in urls if url["url_id"] == identity), None)
        if url is None:
            raise TableError(
                f"{downloaded_images.uri} was made from another version of {retrieved_image_urls.uri}: "
                "materialize downloaded_images again"
            )
        queries = sorted({hit["query_id"] for hit in url["hits"]})
        yield row, _Found(url["url"], url["alt_text"], url["licence"], url["similarity"], queries)
