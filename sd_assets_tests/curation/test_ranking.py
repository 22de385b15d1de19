"""The best first, and how many are kept."""

import numpy as np
import pyarrow as pa

from sd_assets.curation.ranking import Cap, best_first, not_the_best, without_room
from sd_assets.retrieval.filters import Mask

IDS = pa.array(["e", "d", "c", "b", "a"])
NAN = float("nan")


def test_the_first_score_decides_then_the_next_then_the_id() -> None:
    scores = {
        "resolution": np.array([512.0, 512, 256, 512, 512]),
        "alignment": np.array([0.1, 0.3, 0.9, NAN, 0.3]),
    }
    ranked = best_first(IDS, scores, ["resolution", "alignment"])
    assert [IDS[place].as_py() for place in ranked] == ["a", "d", "e", "b", "c"]


def test_of_some_scores_less_is_better_and_unknown_is_the_worst() -> None:
    scores = {"nsfw": np.array([0.9, 0.1, NAN, 0.5, 0.1])}
    ranked = best_first(IDS, scores, ["nsfw"])
    assert [IDS[place].as_py() for place in ranked] == ["a", "d", "b", "e", "c"]


def test_of_a_cluster_the_best_clean_member_stays_and_if_none_is_clean_the_best() -> None:
    clusters = np.array([0, 0, 0, 1, 1])
    ranked = np.array([2, 1, 0, 4, 3])
    clean = np.array([True, True, False, False, False])
    assert not_the_best(clusters, ranked, clean).tolist() == [True, False, True, True, False]


ALONE = np.arange(5)
GROUPS = [["x"], ["x", "y"], ["y"], [], ["x"]]
EVERYBODY = np.ones(5, np.bool_)
RANKED = np.array([1, 0, 2, 3, 4])


def refused(most: int, clean: Mask = EVERYBODY) -> list[bool]:
    near, (no_room,) = without_room([Cap(most, GROUPS)], ALONE, RANKED, clean)
    assert not near.any()
    return list(no_room.tolist())


def test_a_cap_takes_the_best_of_each_group_and_nobody_twice() -> None:
    # Place 1 fills both groups.
    assert refused(1) == [True, False, True, False, True]
    assert refused(2) == [False, False, False, False, True]
    assert refused(1, np.array([True, False, True, True, True])) == [False, False, False, False, True]


def test_what_one_cap_refuses_takes_no_room_of_another() -> None:
    hosts, queries = [["a"], ["b"], ["b"]], [["q"], ["q"], ["r"]]
    _, masks = without_room(
        [Cap(1, hosts), Cap(1, queries)], np.arange(3), np.arange(3), np.ones(3, np.bool_)
    )
    assert [mask.tolist() for mask in masks] == [[False, False, False], [False, True, False]]


def test_where_a_cap_refuses_the_best_of_a_cluster_the_next_is_asked() -> None:
    # 0 fills x; 1 leads the cluster 1, 2, 3, 4, of which 4 is not clean.
    groups = [["x"], ["x"], ["y"], ["z"], ["z"]]
    clean = np.array([True, True, True, True, False])
    clusters = np.array([0, 1, 1, 1, 1])
    near, (no_room,) = without_room([Cap(1, groups)], clusters, np.arange(5), clean)
    assert near.tolist() == [False, False, False, True, True]
    assert no_room.tolist() == [False, True, False, False, False]
