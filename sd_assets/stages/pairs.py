"""text_image_pairs: what one trains on: every distinct image that has a caption, with all that is known of it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa

from sd_assets.errors import TableError
from sd_assets.schemas import TEXT_IMAGE_PAIRS, TableSchema
from sd_assets.stages.stage import Stage, each_row
from sd_assets.storage.rows import Rows
from sd_assets.storage.table import Table

_IMAGE_COLUMNS = ("image_id", "image", "width", "height", "error")
_ROWS_AT_ONCE = 16
_URLS_AT_ONCE = 256
_KNOWN = pa.schema([field for field in TEXT_IMAGE_PAIRS.arrow if field.name not in ("image", "error_detail")])


class PairStage(Stage):
    """What is known of an image, and the image: nothing is computed, but only pairs that are new are put together."""

    version = "2"
    is_spread = True
    batch_rows = _ROWS_AT_ONCE
    reads = tuple(name for name in TEXT_IMAGE_PAIRS.content if name not in ("image_id", "error"))

    @property
    def schema(self) -> TableSchema:
        return TEXT_IMAGE_PAIRS

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        columns = [
            rows.column(field.name) if field.name in rows.schema.names else pa.nulls(len(rows), field.type)
            for field in TEXT_IMAGE_PAIRS.arrow
        ]
        return pa.RecordBatch.from_arrays(columns, schema=TEXT_IMAGE_PAIRS.arrow)


def pair_rows(
    seed_images: Table, retrieved_image_urls: Table, downloaded_images: Table, image_captions: Table
) -> Iterator[Rows]:
    """All images as the input of `PairStage`: seeds in their order, then downloads in theirs.

    An image that was found under several URLs has the URL, alt text, licence and similarity of the most similar, and
    the queries of all; a seed that was found, too, has them as well, and keeps its own text. What failed at an earlier
    stage, or has no caption, has an error; the same image once more is left to be found a duplicate.

    What is held are the captions, and what retrieval knows of images that occur more than once; images are not read.
    """
    captions: dict[str, list[str]] = {}
    for row in each_row(image_captions.batches(["image_id", "caption", "error"])):
        if row["error"] is None:
            captions.setdefault(row["image_id"], []).append(row["caption"])
    several = _several(seed_images, downloaded_images)
    found: dict[str, _Found] = {}
    with_urls = _WithUrls(downloaded_images, retrieved_image_urls)
    for row in each_row(downloaded_images.batches(["url_id", "image_id"])):
        of_url = with_urls.found(row["url_id"])
        identity = row["image_id"]
        if identity in several:
            found[identity] = of_url.merged(found[identity]) if identity in found else of_url

    def pair(row: dict[str, Any], origin: str, known: _Found | None) -> dict[str, Any]:
        identity = row["image_id"]
        if row["error"] is not None or identity not in captions:
            return {"image_id": identity, "error": row["error"] or "no caption"}
        known = found.get(identity, known)
        facts = known._asdict() if known else {}
        text = row.get("text") or facts.get("alt_text")
        return {**facts, **row, "text": text, "captions": captions[identity], "origin": origin}

    for rows in seed_images.rows([*_IMAGE_COLUMNS, "text"]):
        # A seed is kept as it came.
        seeds = (
            {**row, "original_width": row["width"], "original_height": row["height"]}
            for row in rows.known.to_pylist()
        )
        yield _known(rows, (pair(row, "seed", None) for row in seeds))
    with_urls = _WithUrls(downloaded_images, retrieved_image_urls)
    for rows in downloaded_images.rows(["url_id", *_IMAGE_COLUMNS, "original_width", "original_height"]):
        yield _known(
            rows, (pair(row, "retrieved", with_urls.found(row["url_id"])) for row in rows.known.to_pylist())
        )


def _known(rows: Rows, pairs: Iterator[dict[str, Any]]) -> Rows:
    listed = list(pairs)
    columns = [pa.array([row.get(field.name) for row in listed], field.type) for field in _KNOWN]
    return replace(rows, known=pa.RecordBatch.from_arrays(columns, schema=_KNOWN))


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


class _WithUrls:
    """What retrieval knows of the URL of each download. Both tables are in the order of `url_id`, and so is who asks."""

    def __init__(self, downloaded_images: Table, retrieved_image_urls: Table) -> None:
        self._where = (downloaded_images.uri, retrieved_image_urls.uri)
        columns = ["url_id", "url", "alt_text", "licence", "similarity", "hits"]
        self._urls = each_row(retrieved_image_urls.batches(columns), _URLS_AT_ONCE)

    def found(self, url_id: str) -> _Found:
        url = next((url for url in self._urls if url["url_id"] == url_id), None)
        if url is None:
            downloads, urls = self._where
            raise TableError(
                f"{downloads} was made from another version of {urls}: materialize downloaded_images again"
            )
        queries = sorted({hit["query_id"] for hit in url["hits"]})
        return _Found(url["url"], url["alt_text"], url["licence"], url["similarity"], queries)
