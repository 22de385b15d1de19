"""The checks of near_duplicates and curated_pairs."""

from pathlib import Path

import pytest

from sd_assets.quality.curation import LEAST_JUDGED, judge_clusters, judge_kept
from sd_assets.quality.finding import Finding
from sd_assets.schemas import CURATED_PAIRS, NEAR_DUPLICATES
from sd_assets.settings import CheckSettings
from sd_assets_tests.tables import table_of


def clusters(base: Path, images: int, largest: int) -> Finding:
    """Of so many images, of which the first few are one cluster."""
    rows = [
        {
            "image_id": f"{number:04}",
            "cluster": f"{0 if number < largest else number:04}",
            "cluster_size": largest if number < largest else 1,
        }
        for number in range(images)
    ]
    (found,) = judge_clusters(table_of(base, NEAR_DUPLICATES, rows), CheckSettings(max_in_one_cluster=0.1))
    return found


@pytest.mark.parametrize(
    ("images", "largest", "passed"),
    [(LEAST_JUDGED, 5, True), (LEAST_JUDGED, 6, False), (LEAST_JUDGED - 1, 40, True), (0, 0, True)],
    ids=["at the limit", "beyond it", "few images", "none"],
)
def test_a_cluster_is_a_small_share_of_many_images(
    tmp_path: Path, images: int, largest: int, passed: bool
) -> None:
    found = clusters(tmp_path, images, largest)
    assert found.passed == passed
    assert (found.numbers["largest"], found.numbers["in_clusters"]) == (largest, largest)
    assert found.numbers["clusters"] == (1 if largest else 0)
    assert ("raise `min_cosine`" in found.description) == (not passed)


@pytest.mark.parametrize(
    ("kept", "pairs", "least", "passed"),
    [(5, 10, 0.5, True), (4, 10, 0.5, False), (0, 10, 0, False), (1, 10, 0, True), (0, 0, 0, False)],
)
def test_some_pairs_are_kept_and_as_many_as_are_wanted(
    tmp_path: Path, kept: int, pairs: int, least: float, passed: bool
) -> None:
    rows = [
        {
            "image_id": str(number),
            "keep": number < kept,
            "reasons": [] if number < kept else ["low_sharpness"],
        }
        for number in range(pairs)
    ]
    (found,) = judge_kept(table_of(tmp_path, CURATED_PAIRS, rows), CheckSettings(min_kept=least))
    assert (found.passed, found.numbers["kept"], found.numbers["pairs"]) == (passed, kept, pairs)
    assert f"low_sharpness {pairs - kept}" in found.description or kept == pairs
