"""All that the tables of a partition say of an image."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sd_assets.errors import TableError
from sd_assets.provenance.tables import JUDGED_BY, PartitionTables, Row
from sd_assets.schemas import (
    CURATED_PAIRS,
    DOWNLOADED_IMAGES,
    IMAGE_CAPTIONS,
    NEAR_DUPLICATES,
    RETRIEVAL_HITS,
    RETRIEVED_IMAGE_URLS,
    SEED_EMBEDDINGS,
    SEED_IMAGES,
    SEED_PROMPTS,
    TEXT_IMAGE_PAIRS,
)
from sd_assets.storage.table import TableStore


@dataclass(frozen=True)
class Query:
    """A query that found an image.

    Attributes:
        query_id: of the seed image or the prompt that was asked for.
        kind: image or text.
        prompt: of a text.
        seed: of an image, its row of `seed_images`.
        model: the CLIP that embedded the query.
        index: that was asked.
        rank: of the hit; 0 is the best.
        similarity: of the hit, as the index gave it.
        url: of the hit; another one of the same image, perhaps.
    """

    query_id: str
    kind: str | None
    prompt: str | None
    seed: Row | None
    model: str | None
    index: str | None
    rank: int
    similarity: float
    url: str


@dataclass(frozen=True)
class Download:
    """A URL that an image was downloaded from.

    Attributes:
        row: of `downloaded_images`: when it was fetched, the answer's status, size and format as it came and as it is kept.
        known: of `retrieved_image_urls`: the alt text, the licence, and what else the corpus knew of it.
        queries: that found it, the most similar first.
    """

    row: Row
    known: Row | None
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Version:
    """The version of a table that was read.

    Attributes:
        number: 1, 2, 3 ...
        data_version: as Dagster shows it.
        created_at: ISO 8601, UTC.
    """

    number: int
    data_version: str
    created_at: str


@dataclass(frozen=True)
class Provenance:
    """All that is known of an image.

    Attributes:
        partition: the seed dataset.
        image_id: sha256 (hex) of its bytes as they came.
        seed: its row of `seed_images`, where it was a seed: source, revision and row there.
        downloads: the URLs that it came from, where it was retrieved; one that is both has both.
        captions: its rows of `image_captions`: each with its model.
        pair: its row of `text_image_pairs`; None: it is in none.
        judged: by their tables what it is judged by: its embedding's model, quality and scores.
        near_duplicates: its row of `near_duplicates`.
        curation: its row of `curated_pairs`: whether it is kept, and all reasons against it.
        versions: of the tables that there are, which were read.
    """

    partition: str
    image_id: str
    seed: Row | None
    downloads: tuple[Download, ...]
    captions: tuple[Row, ...]
    pair: Row | None
    judged: dict[str, Row]
    near_duplicates: Row | None
    curation: Row | None
    versions: dict[str, Version]

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON value; times are ISO 8601."""
        value: dict[str, Any] = _json(asdict(self))
        return value


def trace(store: TableStore, partition: str, image_id: str) -> Provenance:
    """What the current tables of a partition say of an image: where it comes from, and what became of it.

    Reads a column of each table, and the rows that matter; no images. Tables that were not materialized yet are left out.

    Args:
        store: of the tables; `StorageResource().store()` is the project's.
        partition: the seed dataset.
        image_id: as `text_image_pairs`, exports and reports have it.

    Raises:
        TableError: there is no such partition, or no table of it has the image.
    """
    image_id = image_id.strip().lower()
    tables = PartitionTables(store, partition)
    if not tables.manifests:
        raise TableError(
            f"{store.files.uri} has no table of a partition {partition!r}: `python -m sd_assets tables` lists those that there are"
        )
    found = Provenance(
        partition,
        image_id,
        seed=tables.row(SEED_IMAGES, image_id),
        downloads=tuple(_downloads(tables, image_id)),
        captions=tuple(tables.rows(IMAGE_CAPTIONS, "image_id", [image_id])),
        pair=tables.row(TEXT_IMAGE_PAIRS, image_id),
        judged={
            schema.name: row for schema in JUDGED_BY if (row := tables.row(schema, image_id)) is not None
        },
        near_duplicates=tables.row(NEAR_DUPLICATES, image_id),
        curation=tables.row(CURATED_PAIRS, image_id),
        versions={
            name: Version(it.version, it.data_version, it.created_at) for name, it in tables.manifests.items()
        },
    )
    if found.seed is None and not found.downloads and found.pair is None:
        raise TableError(
            f"{store.files.uri}: no table of {partition!r} has an image {image_id!r}: give the whole image_id, 64 hexadecimal "
            "digits, as text_image_pairs has it. Of what was blocked nothing is known any more"
        )
    return found


def _downloads(tables: PartitionTables, image_id: str) -> Iterator[Download]:
    downloads = tables.rows(DOWNLOADED_IMAGES, "image_id", [image_id])
    urls = {
        row["url_id"]: row
        for row in tables.rows(RETRIEVED_IMAGE_URLS, "url_id", [row["url_id"] for row in downloads])
    }
    asked = {hit["query_id"] for url in urls.values() for hit in url["hits"]}
    queries = _Queries(tables, asked)
    for row in downloads:
        known = dict(urls.get(row["url_id"], {}))
        hits = sorted(
            known.pop("hits", []), key=lambda hit: (-hit["similarity"], hit["rank"], hit["query_id"])
        )
        yield Download(row, known or None, tuple(queries.query(hit) for hit in hits))


class _Queries:
    """What is known of some queries: what was asked for, by which model, of which index."""

    def __init__(self, tables: PartitionTables, query_ids: Collection[str]) -> None:
        self._seeds = {row["image_id"]: row for row in tables.rows(SEED_IMAGES, "image_id", query_ids)}
        self._prompts = {
            row["prompt_id"]: row["prompt"] for row in tables.rows(SEED_PROMPTS, "prompt_id", query_ids)
        }
        self._embedded = {row["query_id"]: row for row in tables.rows(SEED_EMBEDDINGS, "query_id", query_ids)}
        self._asked = {row["query_id"]: row for row in tables.rows(RETRIEVAL_HITS, "query_id", query_ids)}

    def query(self, hit: Mapping[str, Any]) -> Query:
        name = hit["query_id"]
        embedded, asked = self._embedded.get(name, {}), self._asked.get(name, {})
        return Query(
            query_id=name,
            kind=embedded.get("kind"),
            prompt=self._prompts.get(name),
            seed=self._seeds.get(name),
            model=embedded.get("model"),
            index=asked.get("index"),
            rank=hit["rank"],
            similarity=hit["similarity"],
            url=hit["url"],
        )


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value
