"""The best first, and how many are kept."""

import numpy as np
import pyarrow as pa

from sd_assets.curation.ranking import best_first, beyond, not_the_best

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


def test_a_cap_takes_the_best_of_each_group_and_nobody_twice() -> None:
    groups = [["x"], ["x", "y"], ["y"], [], ["x"]]
    ranked = np.array([1, 0, 2, 3, 4])
    everybody = np.ones(5, np.bool_)
    # Place 1 fills both groups.
    assert beyond(1, groups, ranked, everybody).tolist() == [True, False, True, False, True]
    assert beyond(2, groups, ranked, everybody).tolist() == [False, False, False, False, True]
    without = np.array([True, False, True, True, True])
    assert beyond(1, groups, ranked, without).tolist() == [False, False, False, False, True]
