"""Which of several pairs is the best, and how many of a group are kept."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.curation.thresholds import Mask, Scores

Places = npt.NDArray[np.int64]

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


def beyond(most: int, groups: Sequence[Sequence[str]], ranked: Places, candidates: Mask) -> Mask:
    """Candidates for which there is no room: best first, one is taken if each group that it is in has fewer than `most`.

    Args:
        most: that are taken of a group.
        groups: of each pair, perhaps none; it counts for all of them.
        ranked: all places, the best first.
        candidates: who wants to be taken, shape (n,).
    """
    taken: dict[str, int] = {}
    left_out = np.zeros(len(candidates), np.bool_)
    for place in ranked[candidates[ranked]].tolist():
        if any(taken.get(group, 0) >= most for group in groups[place]):
            left_out[place] = True
        else:
            for group in groups[place]:
                taken[group] = taken.get(group, 0) + 1
    return left_out
