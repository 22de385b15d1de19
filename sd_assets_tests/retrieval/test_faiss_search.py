"""Search in real FAISS indices of many kinds: as FAISS finds, and independent of the batch."""

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from sd_assets.retrieval.faiss_search import AS_THE_FILE_SAYS, SearchOptions, inverted_file_in, search
from sd_assets_tests.retrieval.conftest import normalised

Vectors = npt.NDArray[np.float32]

# So wide that FAISS's matrix products show in the last bits.
DIM, ROWS, LISTS, K = 96, 3_000, 16, 10
KINDS = [
    "Flat",
    "SQ8",
    f"IVF{LISTS},Flat",
    f"IVF{LISTS},SQ8",
    f"IVF{LISTS},PQ8x4",
    f"IVF{LISTS},PQ8x4fs",
    f"IVF{LISTS},PQ8x4fs,RFlat",
    f"IVF{LISTS}_HNSW8,Flat",
    f"RR32,IVF{LISTS},PQ8x4",
    f"PCA32,IVF{LISTS},Flat",
    "HNSW8",
    "PQ8x4",
    "PQ8x4fs",
]


@pytest.fixture(scope="module")
def corpus() -> Vectors:
    rows = np.random.default_rng(1).standard_normal((ROWS, DIM))
    rows[500:560] = rows[500]  # copies of one image: more than are looked at besides the wanted
    return normalised(rows)


@pytest.fixture(scope="module")
def queries(corpus: Vectors) -> Vectors:
    return normalised(corpus[470:530] + 0.1 * np.random.default_rng(2).standard_normal((60, DIM)))


def made(kind: str, corpus: Vectors) -> Any:
    index: Any = faiss.index_factory(DIM, kind, faiss.METRIC_INNER_PRODUCT)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # it is little, and slower if each thread waits for its core
    index.train(corpus)
    index.add(corpus)
    faiss.omp_set_num_threads(threads)
    return index


@pytest.mark.parametrize("kind", KINDS)
def test_as_faiss_finds_and_the_same_in_any_batch(kind: str, corpus: Vectors, queries: Vectors) -> None:
    index = made(kind, corpus)
    options = SearchOptions(nprobe=4, ef_search=40)
    similarities, numbers = search(index, queries, K, options)
    for part in (slice(0, 1), slice(3, 40), slice(59, 60)):
        again = search(index, queries[part], K, options)
        np.testing.assert_array_equal(again[0], similarities[part])
        np.testing.assert_array_equal(again[1], numbers[part])

    inverted = inverted_file_in(index)
    if inverted is not None:
        assert inverted.nprobe == 1  # as it was
        inverted.nprobe = 4
        coarse: Any = faiss.downcast_index(inverted.quantizer)
        if hasattr(coarse, "hnsw"):
            coarse.hnsw.efSearch = 40
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = 40
    bare, _ = index.search(queries, K)
    np.testing.assert_allclose(similarities, bare, atol=2e-6)


def test_of_copies_the_lower_numbers_are_found(corpus: Vectors) -> None:
    alone = search(made("Flat", corpus), corpus[500:501], K, AS_THE_FILE_SAYS)[1]
    among = search(made("Flat", corpus), corpus[480:530], K, AS_THE_FILE_SAYS)[1]
    np.testing.assert_array_equal(alone[0], among[20])
    assert set(alone[0]) <= set(range(500, 560))


@pytest.mark.parametrize("kind", [f"IVF{LISTS},Flat", f"PCA64,IVF{LISTS},Flat", f"IVF{LISTS},PQ8x4,RFlat"])
def test_more_cells_find_more(kind: str, corpus: Vectors, queries: Vectors) -> None:
    index = made(kind, corpus)
    one, some, more_than_all = (
        search(index, queries, K, SearchOptions(nprobe=nprobe))[0].sum() for nprobe in (1, 6, 1_000)
    )
    assert one < some < more_than_all
    inverted_file_in(index).nprobe = 6
    assert search(index, queries, K, AS_THE_FILE_SAYS)[0].sum() == some


def test_a_longer_walk_finds_more(corpus: Vectors, queries: Vectors) -> None:
    exact = np.sort(queries @ corpus.T, axis=1)[:, -K:].sum()
    index = made("HNSW8", corpus)
    short, long = (search(index, queries, K, SearchOptions(ef_search=ef))[0].sum() for ef in (10, 800))
    assert short < long == pytest.approx(exact, rel=1e-3)


def test_fewer_than_wanted(corpus: Vectors, queries: Vectors) -> None:
    for kind in ("Flat", "HNSW8", f"IVF{LISTS},Flat"):
        index = made(kind, corpus[: 20 * LISTS])
        numbers = search(index, queries[:2], ROWS, SearchOptions(nprobe=LISTS))[1]
        assert numbers.shape == (2, ROWS)
        assert (numbers[:, 20 * LISTS :] == -1).all()
        if kind != "HNSW8":
            assert [sorted(row[: 20 * LISTS]) for row in numbers.tolist()] == [list(range(20 * LISTS))] * 2


@pytest.mark.parametrize(
    "kind", [f"IVF{LISTS},Flat", f"PCA64,IVF{LISTS},SQ8", f"IVF{LISTS},PQ8x4,RFlat", f"IVF{LISTS}_HNSW8,Flat"]
)
def test_where_cells_hold_too_few_more_are_looked_into(kind: str, corpus: Vectors, queries: Vectors) -> None:
    index = made(kind, corpus)
    wanted = ROWS // 2  # no cell holds so many
    numbers = search(index, queries, wanted, SearchOptions(nprobe=1))[1]
    assert (numbers >= 0).all()
    alone = np.concatenate(
        [search(index, query[None], wanted, SearchOptions(nprobe=1))[1] for query in queries]
    )
    np.testing.assert_array_equal(alone, numbers)  # each is widened for itself
    everything = search(index, queries[:3], ROWS, SearchOptions(nprobe=1))[1]
    assert [len(set(row) - {-1}) for row in everything.tolist()] == [ROWS] * 3


def test_who_has_enough_is_not_asked_further(corpus: Vectors, queries: Vectors) -> None:
    index = made(f"IVF{LISTS},Flat", corpus)
    options = SearchOptions(nprobe=2)
    index.nprobe = 2
    wanted = int(np.median((index.search(queries, ROWS)[1] >= 0).sum(axis=1)))
    similarities, numbers = search(index, queries, wanted, options)
    bare_similarities, bare = index.search(queries, wanted)
    enough = bare[:, -1] >= 0
    assert 0 < enough.sum() < len(queries)
    np.testing.assert_allclose(similarities[enough], bare_similarities[enough], atol=2e-6)
    assert (numbers[~enough] >= 0).all()
