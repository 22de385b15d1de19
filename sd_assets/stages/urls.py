"""retrieved_image_urls: the hits of all queries, one row a URL."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from sd_assets.schemas import CORPUS_FIELDS, RETRIEVED_IMAGE_URLS, text_id
from sd_assets.stages.stage import InputCounts, rows_of
from sd_assets.storage.table import Table

VERSION = "1"
# Hits that are grouped in memory at once, about: more are grouped in several passes over the (small) hits.
HITS_AT_ONCE = 500_000


def url_batches(retrieval_hits: Table, counts: InputCounts) -> Iterator[pa.RecordBatch]:
    """Rows of retrieved_image_urls, ordered by `url_id`. Fills `counts` as it goes: the input rows are the hits.

    What a URL's row says of the image is what its best hit says: the most similar, then the lowest rank, then the
    smallest query_id. So the result depends on the hits alone, not on their order.

    """
    hits = sum(len(batch.column("hits").flatten()) for batch in retrieval_hits.batches(["hits"]))
    counts.rows = hits
    passes = hits // HITS_AT_ONCE + 1
    for number in range(passes):
        grouped: dict[str, list[dict[str, Any]]] = {}
        for hit in _hits(retrieval_hits):
            identity = text_id(hit["url"])
            # url_ids are uniform, so ranges of them are passes of about equal size, and come in order.
            if int(identity[:8], 16) * passes >> 32 == number:
                grouped.setdefault(identity, []).append(hit)
        rows = [_row(identity, grouped[identity]) for identity in sorted(grouped)]
        counts.duplicates += sum(len(row["hits"]) - 1 for row in rows)
        for start in range(0, len(rows), 4_096):
            yield rows_of(RETRIEVED_IMAGE_URLS, rows[start : start + 4_096])


def _hits(retrieval_hits: Table) -> Iterator[dict[str, Any]]:
    for batch in retrieval_hits.batches(["query_id", "hits"]):
        for row in batch.to_pylist():
            for hit in row["hits"] or ():
                yield {**hit, "query_id": row["query_id"]}


def _row(identity: str, hits: list[dict[str, Any]]) -> dict[str, Any]:
    hits.sort(key=lambda hit: (-hit["similarity"], hit["rank"], hit["query_id"]))
    best = hits[0]
    return {
        "url_id": identity,
        "url": best["url"],
        "alt_text": best["alt_text"],
        "similarity": best["similarity"],
        "hits": [{name: hit[name] for name in ("query_id", "rank", "similarity")} for hit in hits],
        **{field.name: best[field.name] for field in CORPUS_FIELDS},
    }
