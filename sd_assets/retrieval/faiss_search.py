"""Search in a FAISS index: at the speed of a batch, and yet a query's result does not depend on its batch.

FAISS compares a batch with a Flat index by matrix products, and applies rotations (OPQ, PCA) so: the last bits of a result then
depend on which rows stood beside it. That would also let a query that lies between two cells of an inverted file look into
another one. So what goes by matrix products is here done for more than is wanted, and then measured pair by pair; what remains,
the scanning of lists and the walk through graphs, FAISS does query by query anyway.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

# Queries whose cells a thread scans at a time: so few that all threads end at about the same time.
_QUERIES_A_THREAD = 16
# Of a Flat index so many more are looked at than are wanted, ...
_MARGIN = 16
# ... unless the last of these is as near to the last wanted one as matrix products err, and then some.
_ERROR = 1e-5
# So many times as many cells of an inverted file, where those before hold fewer vectors than are wanted.
_MORE_CELLS = 4


@dataclass(frozen=True)
class SearchOptions:
    """What overrides the options that an index file carries.

    Attributes:
        nprobe: cells of an inverted file that are looked into; more of them where these hold fewer vectors than are wanted.
        ef_search: candidates that the walk through an HNSW graph keeps, be it the index or what finds the cells.
    """

    nprobe: int | None = None
    ef_search: int | None = None


AS_THE_FILE_SAYS = SearchOptions()


def search(index: Any, queries: Vectors, k: int, options: SearchOptions) -> tuple[Vectors, Numbers]:
    """The most similar vectors by inner product, best first.

    Args:
        index: a FAISS index, which is left as it is.
        queries: float32, finite, shape (queries, dim).
        k: how many for each query; at least 1.
        options: of the search.

    Returns:
        Similarities and numbers, both of the shape (queries, k); where the index has no more, the numbers at the end are -1.
    """
    import faiss

    # Not under the name of the index, which it does not keep alive.
    exact: Any = faiss.downcast_index(index)
    if isinstance(exact, faiss.IndexFlat):
        return _flat(exact, queries, k)
    if isinstance(exact, faiss.IndexPreTransform):
        return search(exact.index, _transformed(exact, queries), k, options)
    if isinstance(exact, faiss.IndexIVF):
        return _inverted_file(exact, queries, k, options)
    if isinstance(exact, faiss.IndexHNSW):
        walk: Any = faiss.SearchParametersHNSW  # type: ignore[attr-defined]  # which the stubs forget
        found: tuple[Vectors, Numbers] = exact.search(
            queries, k, params=walk(efSearch=options.ef_search or exact.hnsw.efSearch)
        )
        return found
    if isinstance(exact, faiss.IndexRefineFlat):
        candidates = min(int(k * exact.k_factor), int(exact.ntotal))
        _, numbers = search(exact.base_index, queries, max(k, candidates), options)
        return _measured(faiss.downcast_index(exact.refine_index), queries, numbers, k)
    if isinstance(exact, faiss.IndexScalarQuantizer):
        plain: tuple[Vectors, Numbers] = exact.search(queries, k)
        return plain
    return _alone(exact, queries, k)


def inverted_file_in(index: Any) -> Any:
    """The inverted file in an index, itself perhaps; None if it has none."""
    import faiss

    exact: Any = faiss.downcast_index(index)
    if isinstance(exact, faiss.IndexIVF):
        return exact
    if isinstance(exact, faiss.IndexPreTransform):
        return inverted_file_in(exact.index)
    if isinstance(exact, faiss.IndexRefine):
        return inverted_file_in(exact.base_index)
    return None


def transforms_in(index: Any) -> list[Any]:
    """What is done to vectors before they come into an index (rotations, say), in order."""
    import faiss

    exact: Any = faiss.downcast_index(index)
    if isinstance(exact, faiss.IndexRefine):
        return transforms_in(exact.base_index)
    if not isinstance(exact, faiss.IndexPreTransform):
        return []
    chain: Any = exact.chain
    return [faiss.downcast_VectorTransform(chain.at(place)) for place in range(chain.size())]


def _inverted_file(index: Any, queries: Vectors, k: int, options: SearchOptions) -> tuple[Vectors, Numbers]:
    """In more and more cells, and each time only for the queries whose cells held fewer than k vectors together."""
    cells = min(options.nprobe or int(index.nprobe), int(index.nlist))
    similarities, numbers = _in_cells(index, queries, k, cells, options)
    while cells < index.nlist and len(few := np.flatnonzero(numbers[:, -1] < 0)):
        cells = min(_MORE_CELLS * cells, int(index.nlist))
        similarities[few], numbers[few] = _in_cells(index, queries[few], k, cells, options)
    return similarities, numbers


def _in_cells(
    index: Any, queries: Vectors, k: int, nprobe: int, options: SearchOptions
) -> tuple[Vectors, Numbers]:
    """In so many cells of each query; in threads of ours, as FAISS takes only those of `search`, and no more than one here."""
    import faiss

    parameters: Any = faiss.SearchParametersIVF
    coarse, cells = map(np.ascontiguousarray, search(index.quantizer, queries, nprobe, options))
    similarities = np.empty((len(queries), k), np.float32)
    numbers = np.empty((len(queries), k), np.int64)

    def scan(start: int) -> None:
        some = slice(start, start + _QUERIES_A_THREAD)
        index.search_preassigned_c(
            len(queries[some]),
            faiss.swig_ptr(queries[some]),
            k,
            faiss.swig_ptr(cells[some]),
            faiss.swig_ptr(coarse[some]),
            faiss.swig_ptr(similarities[some]),
            faiss.swig_ptr(numbers[some]),
            False,
            parameters(nprobe=nprobe, max_codes=index.max_codes),
        )

    with ThreadPoolExecutor(faiss.omp_get_max_threads()) as pool:
        list(pool.map(scan, range(0, len(queries), _QUERIES_A_THREAD)))
    return similarities, numbers


def _flat(index: Any, queries: Vectors, k: int) -> tuple[Vectors, Numbers]:
    if not len(queries):
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    wide = min(k + _MARGIN, int(index.ntotal))
    _, numbers = index.search(queries, max(k, wide))
    similarities, numbers = _measured(index, queries, numbers, max(k, wide))
    if k < wide < index.ntotal:
        # Many that are all but equal, as copies of one image are: which of them came along may hang on the batch.
        crowded = np.flatnonzero(similarities[:, k - 1] - similarities[:, -1] < _ERROR)
        if len(crowded):
            _, again = _alone(index, queries[crowded], wide)
            similarities[crowded], numbers[crowded] = _measured(index, queries[crowded], again, wide)
    return np.ascontiguousarray(similarities[:, :k]), np.ascontiguousarray(numbers[:, :k])


def _measured(index: Any, queries: Vectors, numbers: Numbers, k: int) -> tuple[Vectors, Numbers]:
    """The best k of these candidates, each compared with its query alone; of equal ones the lower number goes first."""
    import faiss

    numbers = np.ascontiguousarray(numbers)
    similarities = np.empty(numbers.shape, np.float32)
    index.compute_distance_subset(
        len(queries),
        faiss.swig_ptr(queries),
        numbers.shape[1],
        faiss.swig_ptr(similarities),
        faiss.swig_ptr(numbers),
    )
    similarities[numbers < 0] = -np.inf
    order = np.lexsort((numbers, -similarities), axis=1)[:, :k]
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(numbers, order, axis=1)


def _alone(index: Any, queries: Vectors, k: int) -> tuple[Vectors, Numbers]:
    """Query by query, for what has no better way here."""
    similarities = np.empty((len(queries), k), np.float32)
    numbers = np.empty((len(queries), k), np.int64)
    for place in range(len(queries)):
        similarities[place], numbers[place] = (row[0] for row in index.search(queries[place : place + 1], k))
    return similarities, numbers


def _transformed(index: Any, queries: Vectors) -> Vectors:
    """What the steps before an index make of each query, of each alone."""
    for transform in transforms_in(index):
        out = np.empty((len(queries), transform.d_out), np.float32)
        for place in range(len(queries)):
            out[place] = transform.apply(queries[place : place + 1])[0]
        queries = out
    return queries
