"""All pairs of images that are near each other, by hash or by embedding, without looking at each pair in Python.

Both are inner products of unit vectors: the cosine of two embeddings is one, and two hashes of 64 bits that differ in d of them
have, as vectors of +1/8 and -1/8, the inner product 1 - d / 32. So blocks of both are multiplied by BLAS, and only what is above
a bound is looked at. For long vectors the product is first bounded from above: with P a projection on some orthonormal directions
and r the length of what it leaves out, <x, y> <= <Px, Py> + r(x) r(y) (Cauchy and Schwarz), which is an inner product of far
shorter vectors. So the result is exact, and does not depend on the order of the images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sd_assets.curation.signatures import Signatures
from sd_assets.measures.perceptual_hash import HASH_BITS
from sd_assets.settings import NearDuplicateSettings

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

# Images a block: a product of two takes 16 MB.
_BLOCK = 2_048
# Directions that bound an inner product, and of how many vectors they are found.
_DIRECTIONS = 63
_SAMPLE = 4_096
# What rounding may take from a product that is found in blocks; pairs that reach the bound without it are computed one by one.
_ROUNDING = 1e-4
# Likewise from a sum of squares.
_ROUNDING_OF_SQUARES = 4e-6
_PAIRS_AT_ONCE = 8_192
# From this share of a block on it is quicker to multiply it in full than pair by pair.
_DENSE = 0.01


@dataclass(frozen=True)
class Pairs:
    """Pairs of near-duplicates.

    Attributes:
        left: places in the first set of images.
        right: places in the second.
        cosine: of their embeddings; NaN: one has none.
        distance: of their hashes, bits; -1: one has none.
    """

    left: Places
    right: Places
    cosine: Floats
    distance: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.left)

    def chosen(self, which: npt.NDArray[np.bool_] | Places) -> "Pairs":
        return Pairs(self.left[which], self.right[which], self.cosine[which], self.distance[which])


NO_PAIRS = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int32))


def joined(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of several."""
    return Pairs(
        np.concatenate([part.left for part in parts]),
        np.concatenate([part.right for part in parts]),
        np.concatenate([part.cosine for part in parts]),
        np.concatenate([part.distance for part in parts]),
    )


def near_pairs(
    ours: Signatures, nearness: NearDuplicateSettings, theirs: Signatures | None = None
) -> Iterator[Pairs]:
    """Near-duplicates among some images, each pair in one order only; or those that some have among others.

    Args:
        ours: some images.
        nearness: what counts.
        theirs: others; None: the same ones.

    Yields:
        Pairs, some of them perhaps twice.
    """
    others = ours if theirs is None else theirs
    if nearness.max_hash_distance is not None:
        least = 1 - nearness.max_hash_distance / (HASH_BITS / 2)
        found = _candidates(_signs_of(ours), _signs_of(others), least, same=theirs is None)
        for left, right in found:
            yield from _judged(ours, others, left, right, nearness)
    if nearness.min_cosine is not None and ours.vectors.shape[1] and others.vectors.shape[1]:
        bound = _Bound(ours.vectors)
        sides = bound.of(ours.vectors), bound.of(others.vectors)
        whole = _Factor(len(ours), _rows_of(ours.vectors)), _Factor(len(others), _rows_of(others.vectors))
        found = _candidates(*sides, nearness.min_cosine, same=theirs is None, whole=whole)
        for left, right in found:
            yield from _judged(ours, others, left, right, nearness)


@dataclass(frozen=True)
class _Factor:
    """A matrix of which blocks of rows are made as they are needed."""

    rows: int
    block: Callable[[int], Floats]


def _rows_of(matrix: Floats) -> Callable[[int], Floats]:
    return lambda start: matrix[start : start + _BLOCK]


def _signs_of(images: Signatures) -> _Factor:
    """Hashes as unit vectors of +1/8 and -1/8; zeros where there is none."""

    def block(start: int) -> Floats:
        end = start + _BLOCK
        bits = np.unpackbits(images.hashes[start:end].view(np.uint8).reshape(-1, 8), axis=1)
        return np.where(images.has_hash[start:end, None], bits / np.float32(4) - np.float32(0.125), 0).astype(
            np.float32
        )

    return _Factor(len(images), block)


class _Bound:
    """Short vectors whose inner products are at least those of the vectors that they stand for.

    Args:
        vectors: float32, shape (n, dim); a sample of them says which directions leave the least out.
    """

    def __init__(self, vectors: Floats) -> None:
        sample = vectors[:: max(1, len(vectors) // _SAMPLE)]
        _, directions = np.linalg.eigh(sample.T @ sample)
        self._directions = np.ascontiguousarray(directions[:, -_DIRECTIONS:])

    def of(self, vectors: Floats) -> _Factor:
        short = np.empty((len(vectors), self._directions.shape[1] + 1), np.float32)
        for start in range(0, len(vectors), _BLOCK):
            block = vectors[start : start + _BLOCK]
            projected = block @ self._directions
            left_out = np.square(block).sum(axis=1) - np.square(projected).sum(axis=1)
            short[start : start + _BLOCK, :-1] = projected
            short[start : start + _BLOCK, -1] = np.sqrt(np.maximum(left_out, 0) + _ROUNDING_OF_SQUARES)
        return _Factor(len(vectors), _rows_of(short))


def _candidates(
    left: _Factor,
    right: _Factor,
    least: float,
    *,
    same: bool,
    whole: tuple[_Factor, _Factor] | None = None,
) -> Iterator[tuple[Places, Places]]:
    """Places of rows whose inner product is at least `least`, or nearly.

    Args:
        left: rows.
        right: rows.
        least: the bound.
        same: both are the same; each pair is wanted in one order, and no row with itself.
        whole: if products only bound others from above, what these are of: they are asked where many pass.
    """
    for one in range(0, left.rows, _BLOCK):
        rows = left.block(one)
        for other in range(one if same else 0, right.rows, _BLOCK):
            near = rows @ right.block(other).T >= least - _ROUNDING
            if same and one == other:
                near = np.triu(near, 1)
            if whole is not None and np.count_nonzero(near) > _DENSE * near.size:
                near &= whole[0].block(one) @ whole[1].block(other).T >= least - _ROUNDING
            places = np.flatnonzero(near)
            if len(places):
                yield one + places // near.shape[1], other + places % near.shape[1]


def _judged(
    ours: Signatures, others: Signatures, left: Places, right: Places, nearness: NearDuplicateSettings
) -> Iterator[Pairs]:
    """Of candidates those that are near-duplicates."""
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        pairs = measured(ours, others, left[some], right[some])
        near = np.zeros(len(pairs), np.bool_)
        if nearness.max_hash_distance is not None:
            near |= (pairs.distance >= 0) & (pairs.distance <= nearness.max_hash_distance)
        if nearness.min_cosine_of_hashes is not None:
            near &= pairs.cosine >= nearness.min_cosine_of_hashes  # not where it is unknown
        if nearness.min_cosine is not None:
            near |= pairs.cosine >= nearness.min_cosine
        if near.any():
            yield pairs.chosen(near)


def measured(ours: Signatures, others: Signatures, left: Places, right: Places) -> Pairs:
    """Pairs of places, with what is between them, near or not."""
    distance = np.bitwise_count(ours.hashes[left] ^ others.hashes[right]).astype(np.int32)
    distance[~(ours.has_hash[left] & others.has_hash[right])] = -1
    cosine = np.full(len(left), np.nan, np.float32)
    if ours.vectors.shape[1] == others.vectors.shape[1]:
        # One by one: a product of blocks differs in the last bits with the place in the block.
        cosine[:] = (ours.vectors[left] * others.vectors[right]).sum(axis=1)
        cosine[~(ours.has_vector[left] & others.has_vector[right])] = np.nan
    return Pairs(left, right, cosine, distance)
