"""Where each image comes from, in the short form that exported metadata has."""

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.provenance.tables import ORIGINS_IN, PartitionTables, Row
from sd_assets.schemas import (
    DOWNLOADED_IMAGES,
    RETRIEVAL_HITS,
    RETRIEVED_IMAGE_URLS,
    SEED_EMBEDDINGS,
    SEED_IMAGES,
    SEED_PROMPTS,
    TableSchema,
)
from sd_assets.storage.rows import as_array
from sd_assets.storage.table import Table, TableStore
from sd_assets.views.text import publisher

ORIGIN_TABLES: Final = tuple(schema.name for schema in ORIGINS_IN)

_OF_A_SEED = ("source", "source_revision", "source_row")


class Origins:
    """Where many images come from, besides what `text_image_pairs` says. `trace` says more, of one.

    Nothing is read before the first image is asked for. What is held of an image then are some hundred bytes; no image is read.

    Args:
        store: of the tables.
        partition: the seed dataset.
        image_ids: gives those of the images that will be asked for: texts.
    """

    def __init__(self, store: TableStore, partition: str, image_ids: Callable[[], pa.Array]) -> None:
        self._tables = PartitionTables(store, partition)
        self._image_ids = image_ids
        self._public = publisher()

    @property
    def data_versions(self) -> dict[str, str | None]:
        """Of the tables that say all this, by name; None: there is none."""
        manifests = self._tables.manifests
        return {name: manifests[name].data_version if name in manifests else None for name in ORIGIN_TABLES}

    @property
    def models(self) -> dict[str, list[str]]:
        """The models that the scores come from, by table."""
        return self._tables.models()

    def of(self, image_id: str) -> Row:
        """Where an image comes from, by name; what does not apply is not there.

        Of a seed `source`, `source_revision` and `source_row`; of what was retrieved `found_by`, the most similar first: query_id,
        kind (image: query_id is that of a seed; or text), prompt (of a text), index, model (that embedded the query), rank,
        similarity, url. Of addresses the secrets are left out: see `views.text.public`.
        """
        held = self._held
        row: Row = {}
        for seed in held.seeds.of(image_id):
            row |= {name: seed[name] for name in _OF_A_SEED if seed[name] is not None}
        if "source" in row:
            row["source"] = self._public(row["source"])
        downloads = held.downloads.of(image_id)
        if downloads:
            hits = [hit for it in downloads for url in held.urls.of(it["url_id"]) for hit in url["hits"]]
            hits.sort(key=lambda hit: (-hit["similarity"], hit["rank"], hit["query_id"], hit["url"]))
            row["found_by"] = [self._found_by(hit) for hit in hits]
        return row

    def text(self, image_id: str) -> str:
        """The same as JSON; empty: nothing is known."""
        row = self.of(image_id)
        return json.dumps(row, ensure_ascii=False) if row else ""

    def _found_by(self, hit: Mapping[str, Any]) -> Row:
        query = hit["query_id"]
        prompt = self._held.prompts.get(query)
        return {
            "query_id": query,
            "kind": "image" if prompt is None else "text",
            "prompt": prompt,
            "index": self._held.indices.get(query),
            "model": self._held.models.get(query),
            "rank": hit["rank"],
            # The digits that a float32 has.
            "similarity": float(f"{hit['similarity']:.7g}"),
            "url": self._public(hit["url"]),
        }

    @cached_property
    def _held(self) -> "_Held":
        return _Held(self._tables, self._image_ids())


class _Held:
    """What the tables say of some images, in memory.

    When an image was fetched is not: it changes with each refresh, and what was exported with it would.
    """

    def __init__(self, tables: PartitionTables, image_ids: pa.Array) -> None:
        self.seeds = tables.held(SEED_IMAGES, "image_id", image_ids, _OF_A_SEED)
        self.downloads = tables.held(DOWNLOADED_IMAGES, "image_id", image_ids, ["url_id"])
        self.urls = tables.held(RETRIEVED_IMAGE_URLS, "url_id", self.downloads.array("url_id"), ["hits"])
        hits = pc.list_flatten(self.urls.array("hits"))
        asked = pc.struct_field(hits, "query_id").unique()

        def by_query(schema: TableSchema, key: str, column: str) -> dict[str, str]:
            rows = tables.held(schema, key, asked, [column])
            return dict(zip(rows.column(key), rows.column(column), strict=True))

        self.prompts = by_query(SEED_PROMPTS, "prompt_id", "prompt")
        self.indices = by_query(RETRIEVAL_HITS, "query_id", "index")
        self.models = by_query(SEED_EMBEDDINGS, "query_id", "model")


def origins_of_kept(store: TableStore, partition: str, curated_pairs: Table) -> Origins:
    """The origins of the pairs that are kept."""

    def kept() -> pa.Array:
        batches = curated_pairs.batches(["image_id", "keep"])
        found = [batch.filter(batch.column("keep")).column("image_id") for batch in batches]
        return as_array(pa.chunked_array(found, pa.string()))

    return Origins(store, partition, kept)
