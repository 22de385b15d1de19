"""Hits chosen of what a real FAISS index finds, compared with going through all images one by one."""

from typing import Any

import hypothesis
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.errors import RetrievalError
from sd_assets.retrieval import open_index
from sd_assets.retrieval import selection as module
from sd_assets.retrieval.selection import Selected, Selection
from sd_assets.settings import HitFilters, RetrievalSettings, ServiceIndexSettings
from sd_assets_tests.retrieval.conftest import Backend, normalised
from sd_assets_tests.retrieval.memory_index import MemoryIndex

ROWS, DIM = 400, 12
RNG = np.random.default_rng(7)
VECTORS = normalised(RNG.standard_normal((ROWS, DIM)))
# Every tenth is all but the one before.
VECTORS[10::10] = normalised(VECTORS[9:-1:10] + 0.02 * RNG.standard_normal((len(VECTORS[10::10]), DIM)))
QUERIES = normalised(RNG.standard_normal((20, DIM)))
KINDS = pa.array(["text" if number % 3 else "image" for number in range(20)])


def named_as(n: int) -> int:
    """Some have the URL of another one."""
    return n - n % 5 if n % 5 < 2 else n


METADATA = pa.table(
    {
        "url": [f"http://host{n % 9}.example/{n}.jpg" for n in map(named_as, range(ROWS))],
        "width": pa.array([None if n % 11 == 0 else 100 + n for n in range(ROWS)], pa.int32()),
        "height": pa.array([200] * ROWS, pa.int32()),
        "nsfw": [(None, "UNLIKELY", "NSFW", "0.1", "0.9")[n % 5] for n in range(ROWS)],
        "licence": [(None, "cc-by", "?", "CC0")[n % 4] for n in range(ROWS)],
        "sha256": [None if n % 2 else f"{n // 8:064x}" for n in range(ROWS)],
    }
)


ROWS_OF_METADATA = METADATA.to_pylist()


def selection(index: MemoryIndex, k: int, blocked: Blocked = NOTHING, **settings: Any) -> Selection:
    chosen = Selection(index, RetrievalSettings(index="i", images_per_query=k, **settings), blocked)
    chosen.open()
    return chosen


def lists(selected: Selected) -> list[list[dict[str, Any]]]:
    hits: list[list[dict[str, Any]]] = selected.of_queries().to_pylist()
    return hits


def one_by_one(
    query: npt.NDArray[np.float32], kind: str, k: int, settings: RetrievalSettings, blocked: Blocked
) -> tuple[list[str], dict[str, int]]:
    """The URLs of the hits, and how many are left out by which of the reasons that `passes` knows: the meaning, without columns."""
    similarity = VECTORS @ query
    kept: list[int] = []
    urls: set[str] = set()
    hashes: set[str] = set()
    left_out: dict[str, int] = {}

    def reason(n: int) -> str | None:
        row, filters = ROWS_OF_METADATA[n], settings.filters
        least = filters.min_similarity_images if kind == "image" else filters.min_similarity_prompts
        if least is not None and similarity[n] < least:
            return "similarity"
        if filters.refused_hosts and any(f"//{host}/" in row["url"] for host in filters.refused_hosts):
            return "host"
        if filters.min_width is not None:
            if row["width"] is None:
                if "width" not in filters.unknown_passes:
                    return "width_unknown"
            elif row["width"] < filters.min_width:
                return "width"
        if filters.licences is not None:
            if row["licence"] in (None, "?"):
                return "licence_unknown"
            if row["licence"].lower() not in filters.licences:
                return "licence"
        if blocked.url(row["url"]) is not None or blocked.image(row["sha256"]) is not None:
            return "blocked"
        if row["url"] in urls:
            return "same_url"
        urls.add(row["url"])
        if row["sha256"] in hashes:
            return "same_sha256"
        hashes.update({row["sha256"]} - {None})
        if settings.near_duplicates is not None and any(
            VECTORS[other] @ VECTORS[n] >= settings.near_duplicates for other in kept
        ):
            return "near_duplicate"
        return None

    for n in np.argsort(-similarity).tolist():
        if len(kept) == k:
            break
        why = reason(n)
        if why is None:
            kept.append(n)
        elif why != "similarity":  # what is too far is not looked for
            left_out[why] = left_out.get(why, 0) + 1
    return [ROWS_OF_METADATA[n]["url"] for n in kept], left_out


@hypothesis.settings(max_examples=40)
@given(
    k=st.sampled_from([1, 3, 20, 150]),
    filters=st.fixed_dictionaries(
        {},
        optional={
            "min_similarity_images": st.sampled_from([-0.2, 0.3]),
            "min_similarity_prompts": st.sampled_from([0.1, 0.6]),
            "refused_hosts": st.just(["host1.example", "host4.example"]),
            "min_width": st.sampled_from([150, 450]),
            "licences": st.just(["cc-by", "cc0"]),
            "unknown_passes": st.just(["width"]),
        },
    ),
    near=st.sampled_from([None, 0.6, 0.95]),
    blocked=st.sampled_from([NOTHING, Blocked(hosts=["host2.example"], images=[f"{4:064x}"])]),
    at_once=st.sampled_from([1, 90, 100_000]),
)
def test_the_hits_are_those_that_one_by_one_would_be(
    k: int, filters: dict[str, Any], near: float | None, blocked: Blocked, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", at_once)
        settings = RetrievalSettings(
            index="i", images_per_query=k, filters=HitFilters(**filters), near_duplicates=near
        )
        chosen = Selection(MemoryIndex(VECTORS, METADATA), settings, blocked)
        selected = chosen.select(QUERIES[:7], KINDS[:7])
    assert not selected.cut_short.any() and not selected.errors
    for place, (hits, left_out) in enumerate(
        zip(lists(selected), selected.left_out.to_pylist(), strict=True)
    ):
        urls, numbers = one_by_one(QUERIES[place], KINDS[place].as_py(), k, settings, blocked)
        assert [hit["url"] for hit in hits] == urls
        assert [hit["rank"] for hit in hits] == list(range(len(urls)))
        counted = {entry["reason"]: entry["count"] for entry in left_out if entry["reason"] != "similarity"}
        if len(urls) == k or not any("similarity" in name for name in filters):
            assert counted == numbers


def test_bare_search_is_one_call_and_its_hits_as_they_are() -> None:
    index = MemoryIndex(VECTORS[1:], METADATA.slice(1).drop_columns(["sha256"]))
    selected = selection(index, 2).select(QUERIES, KINDS)
    assert index.asked == [(20, 2)]
    assert selected.hits.equals(index.search(QUERIES, 2).hits)
    assert selected.left_out.to_pylist() == [[]] * 20


def test_only_queries_that_lack_hits_are_asked_again_and_for_more() -> None:
    index = MemoryIndex(VECTORS, METADATA)
    selected = selection(index, 10, filters={"min_width": 350}).select(QUERIES, KINDS)
    assert (selected.counts == 10).all()
    queries, asked = zip(*index.asked, strict=True)
    assert asked[0] == 20 and list(asked) == sorted(set(asked)) and len(asked) > 1
    assert list(queries) == sorted(queries, reverse=True) and queries[0] == 20 > queries[-1]


def test_a_query_s_hits_do_not_depend_on_the_others() -> None:
    settings: dict[str, Any] = {"filters": {"min_width": 300}, "near_duplicates": 0.9}
    together = selection(MemoryIndex(VECTORS, METADATA), 10, **settings).select(QUERIES, KINDS)
    for place in (0, 7, 19):
        alone = selection(MemoryIndex(VECTORS, METADATA), 10, **settings).select(
            QUERIES[place : place + 1], KINDS.slice(place, 1)
        )
        assert lists(alone) == [lists(together)[place]]


@pytest.mark.parametrize(("kind", "nprobe"), [("IVF16,Flat", 3), ("HNSW16", 0)])
def test_an_index_that_finds_only_some_is_exhausted_where_it_ends(kind: str, nprobe: int) -> None:
    index = MemoryIndex(VECTORS, METADATA, kind=kind, nprobe=nprobe)
    selected = selection(index, ROWS, near_duplicates=0.97).select(QUERIES, KINDS)
    assert (selected.counts < ROWS).all() and (selected.counts > 20).all()
    assert not selected.cut_short.any()
    for hits in lists(selected):
        assert len({hit["url"] for hit in hits}) == len(hits)


def test_a_query_that_fails_says_so_whatever_the_others_do() -> None:
    queries = QUERIES.copy()
    queries[3, 0] = np.nan
    selected = selection(MemoryIndex(VECTORS, METADATA), 10, filters={"min_width": 300}).select(
        queries, KINDS
    )
    assert list(selected.errors) == [3]
    assert lists(selected)[3] is None and selected.counts[3] == 0
    assert (np.delete(selected.counts, 3) == 10).all()


def test_no_queries_have_no_hits() -> None:
    selected = selection(MemoryIndex(VECTORS, METADATA), 10).select(QUERIES[:0], KINDS.slice(0, 0))
    assert len(selected.counts) == len(selected.hits) == 0 and lists(selected) == []


def test_candidates_are_looked_at_up_to_a_limit_which_is_said() -> None:
    index = MemoryIndex(VECTORS, METADATA)
    selected = selection(index, 10, filters={"min_width": 480}, max_candidates=100).select(QUERIES, KINDS)
    assert max(k for _, k in index.asked) == 100
    assert selected.cut_short.any()
    assert (selected.cut_short == (selected.counts < 10)).all()
    # More hits than candidates are never meant.
    assert (selection(index, 30, max_candidates=5).select(QUERIES, KINDS).counts > 20).all()


def test_a_service_is_asked_for_no_more_than_it_can_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_OF_A_SERVICE", 50)
    index = MemoryIndex(VECTORS, METADATA, local=False)
    selected = selection(index, 10, filters={"min_width": 480}).select(QUERIES, KINDS)
    assert max(k for _, k in index.asked) == 50
    assert selected.cut_short.any()


def test_far_candidates_end_the_search_of_a_query() -> None:
    index = MemoryIndex(VECTORS, METADATA)
    filters = {"min_similarity_images": 0.5, "min_similarity_prompts": 0.5}
    selected = selection(index, 40, filters=filters).select(QUERIES, KINDS)
    assert index.asked == [(20, 80)]
    assert (selected.counts < 40).all() and not selected.cut_short.any()


def test_what_only_the_answers_of_an_index_tell_is_said_after_the_first(backend: Backend) -> None:
    for row in backend.rows:
        del row["WIDTH"]
    settings = RetrievalSettings.model_validate({"index": "i", "filters": {"min_width": 100}})
    service = ServiceIndexSettings(kind="clip-retrieval", url=(backend.url,))
    index = open_index("i", service, settings)
    asking = Selection(index, settings)
    asking.open()
    assert index.fields is None
    try:
        with pytest.raises(
            RetrievalError, match=r"'i' does not know the width of any .*unknown_passes: \[width\]"
        ):
            asking.select(backend.vectors[:1], KINDS[:1])
        assert index.fields == {"url", "alt_text", "height", "licence", "nsfw", "sha256"}
        # No query was asked for more and more.
        assert max(body["num_result_ids"] for body in backend.requests) == 40
    finally:
        index.close()


def test_bounds_are_those_of_the_query_s_kind() -> None:
    filters = {"min_similarity_images": 0.5, "max_similarity_prompts": 0.4}
    index = MemoryIndex(VECTORS, METADATA)
    for kind, hits in zip(
        KINDS.to_pylist(), lists(selection(index, 10, filters=filters).select(QUERIES, KINDS)), strict=True
    ):
        found = [hit["similarity"] for hit in hits]
        assert found and (min(found) >= 0.5 if kind == "image" else max(found) <= 0.4)


def test_what_the_index_cannot_do_is_said_before_the_first_query() -> None:
    index = MemoryIndex(VECTORS, METADATA.drop_columns(["width", "licence"]))
    with pytest.raises(
        RetrievalError,
        match=r"'i' does not know the licence or the width of any .*unknown_passes: \[licence, width\]",
    ):
        selection(index, 10, filters={"min_width": 5, "max_aspect_ratio": 2, "licences": ["cc0"]})
    selection(index, 10, filters={"min_width": 5, "unknown_passes": ["width"]})
    index.fields = None  # a service
    selection(index, 10, filters={"min_width": 5})
    with pytest.raises(RetrievalError, match=r"'i' is a service, and gives no vectors.*near_duplicates"):
        selection(MemoryIndex(VECTORS, METADATA, local=False), 10, near_duplicates=0.9)
    assert not index.asked


def test_a_service_is_asked_for_more_until_enough_pass(
    backend: Backend, vectors: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RetrievalSettings(index="web", images_per_query=5, filters=HitFilters(min_width=140))
    index = open_index("web", ServiceIndexSettings(kind="clip-retrieval", url=backend.url), settings)
    chosen = Selection(index, settings)
    chosen.open()
    try:
        selected = chosen.select(vectors[:3], pa.array(["image", "text", "image"]))
    finally:
        index.close()
    for query, hits in zip(vectors, lists(selected), strict=False):
        # Image n is 100 + n wide.
        order = [n for n in np.argsort(-(vectors @ query)).tolist() if n >= 40][:5]
        assert [hit["url"] for hit in hits] == [f"http://h/{n}.jpg" for n in order]
        assert [hit["rank"] for hit in hits] == list(range(5))
    assert len({request["num_images"] for request in backend.requests}) > 2  # a probe, and growing
    assert not selected.cut_short.any()


def test_what_an_index_does_not_give_is_cut_short() -> None:
    index = MemoryIndex(VECTORS, METADATA, most=30)
    few = selection(index, 3, filters={"min_width": 200}).select(QUERIES, KINDS)
    assert (few.counts == 3).all() and not few.cut_short.any()
    many = selection(index, 50).select(QUERIES, KINDS)
    assert (many.counts < 31).all() and many.cut_short.all()
    assert max(k for _, k in index.asked) == 30
