"""text_image_pairs: what one trains on: every distinct image that has a caption, with all that is known of it."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from sd_assets.errors import TableError
from sd_assets.schemas import TEXT_IMAGE_PAIRS
from sd_assets.stages.stage import InputCounts, rows_of
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

    Fills `counts` as it goes: the input rows are the images; those that failed at an earlier stage or have no caption
    are skipped, the same image under another URL, or a seed that was retrieved too, is a duplicate.

    Images stream; what is held are the captions and the ids of the images that have passed (some hundred bytes an
    image).
    """
    captions: dict[str, list[str]] = {}
    for batch in image_captions.batches(["image_id", "caption", "error"]):
        for row in batch.to_pylist():
            if row["error"] is None:
                captions.setdefault(row["image_id"], []).append(row["caption"])
    seen: set[str] = set()

    def pairs(rows: Iterator[list[dict[str, Any]]]) -> Iterator[pa.RecordBatch]:
        for batch in rows:
            kept = []
            for row in batch:
                counts.rows += 1
                identity = row["image_id"]
                if row.pop("error") is not None or identity not in captions:
                    counts.skipped += 1
                elif identity in seen:
                    counts.duplicates += 1
                else:
                    seen.add(identity)
                    kept.append({**row, "captions": captions[identity]})
            if kept:
                yield rows_of(TEXT_IMAGE_PAIRS, kept)

    yield from pairs(_seeds(seed_images))
    yield from pairs(_downloads(retrieved_image_urls, downloaded_images))


_IMAGE_COLUMNS = ["image_id", "image", "width", "height", "error"]


def _seeds(seed_images: Table) -> Iterator[list[dict[str, Any]]]:
    for batch in seed_images.batches([*_IMAGE_COLUMNS, "text"]):
        yield [{**row, "origin": "seed"} for row in batch.to_pylist()]


def _downloads(retrieved_image_urls: Table, downloaded_images: Table) -> Iterator[list[dict[str, Any]]]:
    """Downloads with what retrieval knows of their URLs; both tables are in the order of `url_id`."""
    columns = ["url_id", "alt_text", "licence", "similarity", "hits"]
    urls = (row for batch in retrieved_image_urls.batches(columns) for row in batch.to_pylist())
    for batch in downloaded_images.batches(["url_id", "url", *_IMAGE_COLUMNS]):
        joined = []
        for row in batch.to_pylist():
            identity = row.pop("url_id")
            url = next((url for url in urls if url["url_id"] == identity), None)
            if url is None:
                raise TableError(
                    f"{downloaded_images.uri} was made from another version of {retrieved_image_urls.uri}: "
                    "materialize downloaded_images again"
                )
            joined.append(
                {
                    **row,
                    "origin": "retrieved",
                    "text": url["alt_text"],
                    "licence": url["licence"],
                    "similarity": url["similarity"],
                    "query_ids": sorted({hit["query_id"] for hit in url["hits"]}),
                }
            )
        yield joined
