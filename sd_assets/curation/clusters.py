"""Images that are near-duplicates of each other, also by way of others, as clusters; and of each image the nearest one."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.curation.near import Pairs, Places, joined


class Clusters:
    """Clusters of n images, and for each image its nearest near-duplicate. Neither depends on the order of images or pairs.

    Args:
        ids: n distinct texts.

    Attributes:
        nearest: places; -1: none. The nearest has the highest cosine, of equal ones the least distance of the hashes, then the
            least id.
        cosine: of the embeddings to it; NaN: not known.
        distance: of the hashes to it, bits; -1: not known.
    """

    def __init__(self, ids: pa.Array) -> None:
        count = len(ids)
        # By rank, so that the least id of a cluster leads it.
        self._order = np.asarray(pc.sort_indices(ids)).astype(np.int64)
        self._rank = np.empty(count, np.int64)
        self._rank[self._order] = np.arange(count)
        self._leaders = np.arange(count)
        self.nearest = np.full(count, -1, np.int64)
        self.cosine = np.full(count, np.nan, np.float32)
        self.distance = np.full(count, -1, np.int32)

    def add(self, pairs: Iterable[Pairs]) -> None:
        """Pairs of places; both of a pair come into one cluster."""
        for some in pairs:
            self._unite(self._rank[some.left], self._rank[some.right])
            both = Pairs(
                np.concatenate([some.left, some.right]),
                np.concatenate([some.right, some.left]),
                np.tile(some.cosine, 2),
                np.tile(some.distance, 2),
            )
            self._note_nearest(both)

    def leaders(self) -> Places:
        """For each image the place of the one that names its cluster."""
        return self._order[self._found(np.arange(len(self._order)))][self._rank]

    def _unite(self, left: Places, right: Places) -> None:
        left, right = self._found(left), self._found(right)
        apart = left != right
        for one, other in np.unique(np.stack([left[apart], right[apart]], axis=1), axis=0).tolist():
            first, second = sorted(self._found(np.array([one, other])).tolist())
            self._leaders[second] = first

    def _found(self, ranks: Places) -> Places:
        """The leaders of images, by rank; the ways to them become short."""
        leaders = self._leaders[ranks]
        while not np.array_equal(above := self._leaders[leaders], leaders):
            leaders = above
        self._leaders[ranks] = leaders
        return leaders

    def _note_nearest(self, pairs: Pairs) -> None:
        touched = np.unique(pairs.left)
        touched = touched[self.nearest[touched] >= 0]
        known = Pairs(touched, self.nearest[touched], self.cosine[touched], self.distance[touched])
        best = nearest_of_each(nearest_first(joined([known, pairs]), self._rank))
        self.nearest[best.left] = best.right
        self.cosine[best.left] = best.cosine
        self.distance[best.left] = best.distance


def nearest_first(pairs: Pairs, rank: Places) -> Pairs:
    """In the order of `left`, and of these the nearest first.

    Args:
        pairs: any.
        rank: of the images at `right`, which decides between those that are equally near.
    """
    cosine = np.where(np.isnan(pairs.cosine), -2, pairs.cosine)
    distance = np.where(pairs.distance < 0, np.iinfo(np.int32).max, pairs.distance)
    return pairs.chosen(np.lexsort([rank[pairs.right], distance, -cosine, pairs.left]))


def nearest_of_each(pairs: Pairs, count: int = 1) -> Pairs:
    """Of pairs in the order of `nearest_first` the first so many of each `left`, each pair once."""
    again = np.zeros(len(pairs), np.bool_)
    again[1:] = (pairs.left[1:] == pairs.left[:-1]) & (pairs.right[1:] == pairs.right[:-1])
    pairs = pairs.chosen(~again)
    starts = np.searchsorted(pairs.left, pairs.left)
    return pairs.chosen(np.arange(len(pairs)) - starts < count)
