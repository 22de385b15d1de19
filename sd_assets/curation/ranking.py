"""Which of several pairs is the best, and how many of a group are kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.curation.near import Places
from sd_assets.curation.thresholds import Scores
from sd_assets.retrieval.filters import Mask

# Scores of which less is better.
_LESS_IS_BETTER = frozenset({"aspect_ratio", "blockiness", "flat_border", "nsfw"})


def best_first(image_ids: pa.Array, scores: Scores, order: Sequence[str]) -> Places:
    """All pairs by their places, the best first.

    Args:
        image_ids: n distinct ids; between equals the least comes first.
        scores: by name, shape (n,).
        order: names of scores, the most important first. What is not known is the worst.
    """
    keys = [np.asarray(pc.rank(image_ids), np.float64)]
    for name in reversed(order):
        values = scores[name] if name in _LESS_IS_BETTER else -scores[name]
        keys.append(np.where(np.isnan(values), np.inf, values))
    return np.lexsort(keys)


def not_the_best(clusters: Places, ranked: Places, clean: Mask) -> Mask:
    """All members of a cluster but one: the best of those that are `clean`; if none is, the best of all.

    Args:
        clusters: a number for each pair, the same for members of a cluster; shape (n,).
        ranked: all places, the best first.
        clean: pairs against which there is nothing else, shape (n,).
    """
    order = np.concatenate([ranked[clean[ranked]], ranked[~clean[ranked]]])
    _, first = np.unique(clusters[order], return_index=True)
    others = np.ones(len(clusters), np.bool_)
    others[order[first]] = False
    return others


@dataclass(frozen=True)
class Cap:
    """How many pairs of a group are kept.

    Attributes:
        most: of each group.
        groups: of each pair, perhaps none; it counts for all of them.
    """

    most: int
    groups: Sequence[Sequence[str]]


def without_room(
    caps: Sequence[Cap], clusters: Places, ranked: Places, clean: Mask
) -> tuple[Mask, list[Mask]]:
    """`not_the_best` under caps: once through all, best first, and one is kept if nobody of its cluster is yet, and there is room.

    So where a cap refuses the best of a cluster, the next of it is asked, who may be of another group.

    Args:
        caps: each of which must have room.
        clusters: see `not_the_best`; likewise `ranked` and `clean`.
        ranked: ...
        clean: ...

    Returns:
        pairs with a better one of their cluster, as of `not_the_best`; and for each cap those that it has no room for.
    """
    near = not_the_best(clusters, ranked, clean)
    near[clean] = False
    refused = [np.zeros(len(clean), np.bool_) for _ in caps]
    taken: list[dict[str, int]] = [{} for _ in caps]
    kept: set[int] = set()
    numbers = clusters.tolist()
    for place in ranked[clean[ranked]].tolist():
        if numbers[place] in kept:
            near[place] = True
            continue
        full = [
            any(counts.get(group, 0) >= cap.most for group in cap.groups[place])
            for cap, counts in zip(caps, taken, strict=True)
        ]
        for mask, no_room in zip(refused, full, strict=True):
            mask[place] = no_room
        if not any(full):
            kept.add(numbers[place])
            for cap, counts in zip(caps, taken, strict=True):
                for group in cap.groups[place]:
                    counts[group] = counts.get(group, 0) + 1
    return near, refused
