"""Which URLs of hits are the same image, as far as the corpus has its sha256."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.schemas import text_id
from sd_assets.storage.table import Table

# Of the digest of a sha256, and of a url_id: half of the digits tell all images apart.
_DIGITS = 32
# Hits of one image, or of several that are the same.
BEST_FIRST = [("similarity", "descending"), ("rank", "ascending"), ("query_id", "ascending")]


def same_images(retrieval_hits: Table) -> dict[str, str]:
    """For the url_id of each URL whose image has other URLs among the hits, too, the url_id that stands for all of them.

    That is the one of the best of their hits: the most similar, then the lowest rank, then the smallest query_id. URLs are the same
    image also by way of a third one. 64 bytes a hit with a sha256 are kept in memory meanwhile.
    """
    group_of = _groups(retrieval_hits)
    if not group_of:
        return {}
    members: dict[str, str] = {}
    best: list[pa.Table] = []
    for batch in retrieval_hits.batches(["query_id", "hits"]):
        lists = batch.column("hits")
        hits = lists.flatten()
        identities = _identities(hits)
        groups = [group_of.get(identity[:_DIGITS]) for identity in identities]
        found = pa.table(
            {
                "group": pa.array(groups, pa.string()),
                "similarity": hits.field("similarity"),
                "rank": hits.field("rank"),
                "query_id": batch.column("query_id").take(pc.list_parent_indices(lists)),
                "url_id": pa.array(identities, pa.string()),
            }
        ).drop_null()
        members.update(zip(found["url_id"].to_pylist(), found["group"].to_pylist(), strict=True))
        best.append(_first_of_groups(found))
    first = _first_of_groups(pa.concat_tables(best))
    leader = dict(zip(first["group"].to_pylist(), first["url_id"].to_pylist(), strict=True))
    return {identity: leader[group] for identity, group in members.items()}


def _first_of_groups(found: pa.Table) -> pa.Table:
    """The best hit of each group."""
    ordered = found.sort_by([("group", "ascending"), *BEST_FIRST])
    return ordered.take(pa.array(starts_of_runs(ordered["group"])))


def starts_of_runs(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Where another value begins, in a column without nulls."""
    values = column.combine_chunks()
    is_first = np.ones(len(values), np.bool_)
    is_first[1:] = pc.not_equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False)
    return np.flatnonzero(is_first)


def _groups(retrieval_hits: Table) -> dict[str, str]:
    """The first digits of the url_ids that are the same image as another one, and a name for each group of them."""
    pairs = np.unique(np.concatenate([np.empty(0, f"S{2 * _DIGITS}"), *_pairs(retrieval_hits)]))
    halves = pairs.view(f"S{_DIGITS}").reshape(-1, 2)
    next_is_same = np.flatnonzero(halves[1:, 0] == halves[:-1, 0])
    leaders: dict[str, str] = {}

    def leader(name: str) -> str:
        while (above := leaders.setdefault(name, name)) != name:
            leaders[name] = leaders[above]  # so that the way is shorter the next time
            name = above
        return name

    for place in next_is_same.tolist():
        one, other = (leader(halves[place + step, 1].decode()) for step in (0, 1))
        leaders[max(one, other)] = min(one, other)
    return {name: leader(name) for name in list(leaders)}


def _pairs(retrieval_hits: Table) -> Iterator[npt.NDArray[np.bytes_]]:
    """The distinct (sha256, url_id) of the hits of each batch, the first digits of both as one text."""
    for batch in retrieval_hits.batches(["hits"]):
        hits = batch.column("hits").flatten()
        hits = hits.filter(hits.field("sha256").is_valid())
        if len(hits):
            hashes = [text_id(sha256.lower()) for sha256 in hits.field("sha256").to_pylist()]
            texts = [
                sha256[:_DIGITS] + identity[:_DIGITS]
                for sha256, identity in zip(hashes, _identities(hits), strict=True)
            ]
            yield np.unique(np.array(texts, f"S{2 * _DIGITS}"))


def _identities(hits: pa.StructArray) -> list[str]:
    return [text_id(url) for url in hits.field("url").to_pylist()]
