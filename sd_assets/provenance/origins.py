"""Where each image comes from, in the short form that exported metadata has."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from sd_assets.provenance.tables import PartitionTables, Row
from sd_assets.schemas import (
    DOWNLOADED_IMAGES,
    IMAGE_CAPTIONS,
    RETRIEVED_IMAGE_URLS,
    SEED_IMAGES,
    SEED_PROMPTS,
)
from sd_assets.storage.table import Table, TableStore

FOUND_BY = pa.struct(
    [
        pa.field("query_id", pa.string()),
        pa.field("kind", pa.string()),  # image: query_id is that of a seed; or text
        pa.field("prompt", pa.string()),  # of a text
        pa.field("rank", pa.int32()),
        pa.field("similarity", pa.float32()),
        pa.field("url", pa.string()),
    ]
)
# What the tables say of where an image comes from, besides what `text_image_pairs` says.
ORIGIN_FIELDS = (
    pa.field("source", pa.string()),  # of a seed
    pa.field("source_revision", pa.string()),
    pa.field("source_row", pa.int64()),
    pa.field("fetched_at", pa.timestamp("us", tz="UTC")),  # of what was retrieved
    pa.field("found_by", pa.list_(FOUND_BY)),  # the most similar first
    pa.field(
        "caption_models", pa.list_(pa.string())
    ),  # of each of its captions; null: it came with the image
)

_OF_A_SEED = ("source", "source_revision", "source_row")


class Origins:
    """Where many images come from: `ORIGIN_FIELDS` of each. `trace` says more, of one.

    What is held of an image are some hundred bytes; no image is read.

    Args:
        store: of the tables.
        partition: the seed dataset.
        image_ids: of the images that will be asked for.
    """

    def __init__(self, store: TableStore, partition: str, image_ids: Collection[str]) -> None:
        tables = PartitionTables(store, partition)
        self._seeds = tables.held(SEED_IMAGES, "image_id", image_ids, _OF_A_SEED)
        self._downloads = tables.held(DOWNLOADED_IMAGES, "image_id", image_ids, ["url_id", "fetched_at"])
        self._urls = tables.held(RETRIEVED_IMAGE_URLS, "url_id", self._downloads.column("url_id"), ["hits"])
        self._captions = tables.held(IMAGE_CAPTIONS, "image_id", image_ids, ["model"])
        asked = {hit["query_id"] for hits in self._urls.column("hits") for hit in hits}
        self._prompts = {
            row["prompt_id"]: row["prompt"] for row in tables.rows(SEED_PROMPTS, "prompt_id", asked)
        }

    def of(self, image_id: str) -> Row:
        """The `ORIGIN_FIELDS` of an image by name; those that do not apply are null."""
        row: Row = dict.fromkeys(field.name for field in ORIGIN_FIELDS)
        for seed in self._seeds.of(image_id):
            row |= {name: seed[name] for name in _OF_A_SEED}
        downloads = self._downloads.of(image_id)
        if downloads:
            hits = [hit for it in downloads for url in self._urls.of(it["url_id"]) for hit in url["hits"]]
            hits.sort(key=lambda hit: (-hit["similarity"], hit["rank"], hit["query_id"], hit["url"]))
            row["fetched_at"] = max((it["fetched_at"] for it in downloads if it["fetched_at"]), default=None)
            row["found_by"] = [self._query(hit) for hit in hits]
        row["caption_models"] = [it["model"] for it in self._captions.of(image_id)] or None
        return row

    def text(self, image_id: str) -> str:
        """The same as JSON, without what does not apply, and without `caption_models`; empty: nothing is known."""
        row = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in self.of(image_id).items()
            if value is not None and name != "caption_models"
        }
        return json.dumps(row, ensure_ascii=False) if row else ""

    def _query(self, hit: Mapping[str, Any]) -> Row:
        prompt = self._prompts.get(hit["query_id"])
        # The digits that a float32 has.
        similarity = float(f"{hit['similarity']:.7g}")
        kind = "image" if prompt is None else "text"
        return {**hit, "similarity": similarity, "prompt": prompt, "kind": kind}


def origins_of_kept(store: TableStore, partition: str, curated_pairs: Table) -> Origins:
    """The origins of the pairs that are kept."""
    kept = [
        image_id
        for batch in curated_pairs.batches(["image_id", "keep"])
        for image_id in batch.filter(batch.column("keep")).column("image_id").to_pylist()
    ]
    return Origins(store, partition, kept)
