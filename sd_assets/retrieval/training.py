"""Training an index on a sample of its corpus."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sd_assets.retrieval.corpora import Corpus
from sd_assets.retrieval.faiss_search import inverted_file_in, transforms_in
from sd_assets.retrieval.vectors import normalised

Floats = npt.NDArray[np.float32]

# Parts are read for the sample until they hold so many times what is wanted: not all of a large corpus is read twice.
_READ_FOR_SAMPLE = 8
# From so many lists on, the centroids of fewer are found first, and then those within each.
_TWO_LEVELS_FROM = 256
_ROUNDS = 10
_ROUNDS_OVER_ALL = 2
_TUNING_QUERIES = 256
_TUNING_BASE = 262_144
_NEIGHBOURS = 10


def sampled(corpus: Corpus, dim: int, rows: int, seed: int) -> Floats:
    """Random vectors of a corpus, L2-normalised, in their order there; the same for the same seed.

    Args:
        corpus: to sample.
        dim: of the vectors.
        rows: that are wanted; there are fewer where the corpus has fewer good ones.
        seed: of the choice.

    Returns:
        float32, shape (at most rows, dim).
    """
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    count = 0
    for number in rng.permutation(len(corpus.parts)).tolist():
        if count >= _READ_FOR_SAMPLE * rows:
            break
        chosen.append(number)
        count += corpus.parts[number].rows
    parts = [corpus.parts[number] for number in sorted(chosen)]
    places = np.sort(rng.choice(count, min(rows, count), replace=False, shuffle=False))
    sample = np.empty((len(places), dim), np.float32)
    start = filled = 0
    for part in parts:
        first, behind = np.searchsorted(places, [start, start + part.rows])
        vectors = part.sample(dim, places[first:behind] - start)
        good, _ = normalised(vectors, np.zeros(len(vectors), np.uint8))
        sample[filled : filled + len(good)] = good
        filled += len(good)
        start += part.rows
    return sample[:filled]


def train(index: Any, sample: Floats) -> None:
    """Train a FAISS index; one with inverted lists in a way that takes a fraction of the time of FAISS's own.

    Args:
        index: of the index factory, untrained; changes.
        sample: float32, shape (rows, dim), L2-normalised.
    """
    import faiss

    ivf = inverted_file_in(index)
    # What measures again has vectors of its own, which may want training, too.
    refined = isinstance(faiss.downcast_index(index), faiss.IndexRefine)
    if ivf is None or ivf.nlist < _TWO_LEVELS_FROM or not _is_plain(ivf.quantizer) or refined:
        index.train(sample)
        return
    inner = sample
    for step in transforms_in(index):
        step.train(inner)
        inner = step.apply(inner)
    ivf.quantizer.train(inner)
    ivf.quantizer.add(centroids(inner, ivf.nlist))
    ivf.train(inner)
    index.is_trained = True


def centroids(vectors: Floats, count: int) -> Floats:
    """Centroids of k-means on the sphere: about sqrt(count) first, then those within each, then two rounds over all.

    Ten rounds over all, as FAISS has them, take several times as long, and lead to lists that are hardly better.
    """
    first = _kmeans(vectors, round(math.sqrt(count)), _ROUNDS)
    owners = first.assign(vectors)[1]
    order = np.argsort(owners, kind="stable")
    sizes = np.bincount(owners, minlength=first.k)
    # As many centroids within each as its share of the vectors, `count` in all.
    behind = np.cumsum(sizes)
    shares = np.diff(behind * count // len(vectors), prepend=0)
    found = [
        _kmeans(vectors[order[end - size : end]], int(share), _ROUNDS).centroids
        for end, size, share in zip(behind, sizes, shares, strict=True)
        if share
    ]
    refined: Floats = _kmeans(vectors, count, _ROUNDS_OVER_ALL, np.concatenate(found)).centroids
    return refined


def _kmeans(vectors: Floats, count: int, rounds: int, start: Floats | None = None) -> Any:
    import faiss

    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": len(vectors)}
    found = faiss.Kmeans(vectors.shape[1], count, niter=rounds, spherical=True, seed=1_234, **limits)
    found.train(np.ascontiguousarray(vectors), init_centroids=start)
    return found


def probes_for(index: Any, sample: Floats, recall: float) -> int:
    """How many lists a query must look into to find that share of its 10 nearest, as estimated on the sample.

    The neighbours of a vector in a sample are farther than those in the corpus, and so lie in more lists: this is rather too many.

    Args:
        index: trained, with inverted lists.
        sample: float32, shape (rows, dim), L2-normalised.
        recall: from 0 to 1.
    """
    import faiss

    ivf = inverted_file_in(index)
    spread = np.unique(np.linspace(0, len(sample) - 1, min(_TUNING_QUERIES, len(sample))).astype(np.int64))
    base = sample[:: -(-len(sample) // _TUNING_BASE)]
    queries = sample[spread]
    # One more, as the nearest is most often the query itself.
    similarities, nearest = faiss.knn(
        queries, base, min(_NEIGHBOURS + 1, len(base)), metric=faiss.METRIC_INNER_PRODUCT
    )
    other = (similarities < 1 - 1e-6) & (nearest >= 0)
    if not other.any():
        return 1
    inner_queries, inner_base = transformed(index, queries), transformed(index, base[nearest[other]])
    lists = ivf.quantizer.assign(inner_base, 1)[:, 0]
    places = ivf.quantizer.reconstruct_n(0, ivf.nlist)
    ranks = np.argsort(np.argsort(-(inner_queries @ places.T), axis=1, kind="stable"), axis=1)
    needed = ranks[np.nonzero(other)[0], lists] + 1
    return int(np.quantile(needed, recall, method="higher"))


def graph_in(index: Any) -> Any:
    """The HNSW graph of an index: over all vectors, or over the centroids of its lists; None if it has none."""
    import faiss

    exact: Any = faiss.downcast_index(index)
    if isinstance(exact, faiss.IndexHNSW):
        return exact.hnsw
    if isinstance(exact, faiss.IndexIVF):
        return graph_in(exact.quantizer)
    if isinstance(exact, faiss.IndexPreTransform):
        return graph_in(exact.index)
    return graph_in(exact.base_index) if isinstance(exact, faiss.IndexRefine) else None


def transformed(index: Any, vectors: Floats) -> Floats:
    """Vectors as the inverted lists have them: behind the rotations that come first."""
    for step in transforms_in(index):
        vectors = step.apply(vectors)
    return vectors


def _is_plain(quantizer: Any) -> bool:
    import faiss

    return isinstance(faiss.downcast_index(quantizer), faiss.IndexFlat | faiss.IndexHNSWFlat)
