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

    An image that was found under several URLs has the URL, alt text, licence and similarity of the most similar, and
    the queries of all; a seed that was found, too, has them as well, and keeps its own text. Fills `counts` as it goes:
    the input rows are the images; those that failed at an earlier stage or have no caption are skipped, the same image
    once more is a duplicate.

    Images stream; what is held are captions and what retrieval knows, some hundred bytes an image.
    """
    captions: dict[str, list[str]] = {}
    for batch in image_captions.batches(["image_id", "caption", "error"]):
        for row in batch.to_pylist():
            if row["error"] is None:
                captions.setdefault(row["image_id"], []).append(row["caption"])
    found = _found(retrieved_image_urls, downloaded_images)
    seen: set[str] = set()
    for table, origin in ((seed_images, "seed"), (downloaded_images, "retrieved")):
        columns = [name for name in (*_IMAGE_COLUMNS, "text") if name != "text" or origin == "seed"]
        for batch in table.batches(columns):
            kept = []
            for row in batch.to_pylist():
                counts.rows += 1
                identity = row["image_id"]
                if row.pop("error") is not None or identity not in captions:
                    counts.skipped += 1
                elif identity in seen:
                    counts.duplicates += 1
                else:
                    seen.add(identity)
                    known = found.get(identity, {})
                    text = row.get("text") or known.get("alt_text")
                    kept.append(
                        {**known, **row, "text": text, "captions": captions[identity], "origin": origin}
                    )
            if kept:
                yield rows_of(TEXT_IMAGE_PAIRS, kept)


_IMAGE_COLUMNS = ("image_id", "image", "width", "height", "error")


def _found(retrieved_image_urls: Table, downloaded_images: Table) -> dict[str, dict[str, Any]]:
    """What retrieval knows of each image, by its image_id. Both tables are in the order of `url_id`."""
    columns = ["url_id", "url", "alt_text", "licence", "similarity", "hits"]
    urls = (row for batch in retrieved_image_urls.batches(columns) for row in batch.to_pylist())
    found: dict[str, dict[str, Any]] = {}
    for batch in downloaded_images.batches(["url_id", "image_id"]):
        for row in batch.to_pylist():
            url = next((url for url in urls if url["url_id"] == row["url_id"]), None)
            if url is None:
                raise TableError(
                    f"{downloaded_images.uri} was made from another version of {retrieved_image_urls.uri}: "
                    "materialize downloaded_images again"
                )
            if row["image_id"] is None:
                continue
            queries = {hit["query_id"] for hit in url["hits"]}
            known = found.get(row["image_id"])
            if known is not None:
                queries |= set(known["query_ids"])
            if known is None or url["similarity"] > known["similarity"]:
                known = {name: url[name] for name in ("url", "alt_text", "licence", "similarity")}
            found[row["image_id"]] = {**known, "query_ids": sorted(queries)}
    return found
