"""near_duplicates: clusters, the nearest, and what is nearly elsewhere or held out."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.curation import near
from sd_assets.curation.clusters import nearest_first
from sd_assets.curation.near import Pairs
from sd_assets.errors import SdAssetsError, TableError
from sd_assets.schemas import CURATED_PAIRS, HELD_OUT_IMAGES, IMAGE_QUALITY
from sd_assets.settings import NearDuplicateSettings
from sd_assets.stages import near_duplicates
from sd_assets.stages.near_duplicates import MAX_NAMED, near_duplicate_rows, not_in_both
from sd_assets.storage.table import Table
from sd_assets_tests.curation.tables import Tables, pair

OTHER = "other"


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def hash_of(*bits: int) -> str:
    return f"{sum(1 << bit for bit in bits):016x}"


def test_hashes_that_embeddings_bear_out_and_near_embeddings_make_clusters(tables: Tables) -> None:
    tables.given(
        [
            pair("b", degrees=20, perceptual_hash=hash_of(0, 1, 2)),
            pair("a", degrees=0, perceptual_hash=hash_of()),
            pair("c", degrees=140, perceptual_hash=hash_of(0)),  # its embedding is of something else
            pair("d", degrees=150, perceptual_hash=hash_of(*range(64))),
            pair("e"),  # nothing is known of it
            pair("f", perceptual_hash=hash_of()),  # nothing bears out what its hash says
        ]
    )
    found = tables.near_duplicates()
    told = {name: (row["cluster"], row["cluster_size"], row["nearest"]) for name, row in found.items()}
    assert told == {
        "b": ("a", 2, "a"),
        "a": ("a", 2, "b"),
        "c": ("c", 2, "d"),
        "d": ("c", 2, "c"),
        "e": ("e", 1, None),
        "f": ("f", 1, None),
    }
    assert list(told) == ["b", "a", "c", "d", "e", "f"]
    assert found["a"]["hash_distance"] == 3
    assert found["a"]["cosine"] == pytest.approx(np.cos(np.radians(20)))
    assert found["d"]["hash_distance"] == 63
    assert found["e"]["hash_distance"] is found["e"]["cosine"] is None
    assert {name for name, row in tables.near_duplicates(min_cosine=None).items() if row["nearest"]} == {
        "a",
        "b",
    }
    assert {
        name for name, row in tables.near_duplicates(max_hash_distance=None).items() if row["nearest"]
    } == {"c", "d"}
    by_hash = tables.near_duplicates(min_cosine_of_hashes=None, min_cosine=None)
    assert {name for name, row in by_hash.items() if row["cluster"] == "a"} == {"a", "b", "c", "f"}


def test_images_elsewhere_are_named_the_nearest_first(tables: Tables) -> None:
    tables.given([pair(f"there-{degrees}", degrees=degrees) for degrees in range(9)], OTHER)
    tables.given([pair("here", degrees=2.2), pair("there-3"), pair("new", degrees=45)])
    found = {name: row["elsewhere"] for name, row in tables.near_duplicates(OTHER).items()}
    nearest = [f"{OTHER}/there-{degrees}" for degrees in (2, 3, 1, 4, 0)]
    assert len(nearest) == MAX_NAMED
    # The same image is found though its embedding failed.
    assert found == {"here": nearest, "there-3": [f"{OTHER}/there-3"], "new": []}


def found_elsewhere(tables: Tables, blocked: Blocked = NOTHING, **changed: Table) -> dict[str, list[str]]:
    theirs = tables.images(OTHER)._replace(**changed)
    settings = NearDuplicateSettings()
    held_out = tables.table(HELD_OUT_IMAGES)
    batches = near_duplicate_rows(tables.images(), settings, {OTHER: theirs}, held_out, blocked)
    return {row["image_id"]: row["elsewhere"] for batch in batches for row in batch.to_pylist()}


def test_of_elsewhere_only_what_is_kept_there_and_not_blocked_wins(tables: Tables) -> None:
    tables.given([pair("kept", degrees=0), pair("dropped", degrees=40), pair("new", degrees=80)], OTHER)
    tables.given([pair("a", degrees=1), pair("dropped", degrees=41), pair("c", degrees=81)])
    everything = {"a": [f"{OTHER}/kept"], "dropped": [f"{OTHER}/dropped"], "c": [f"{OTHER}/new"]}
    assert found_elsewhere(tables) == everything
    decided = [{"image_id": "kept", "keep": True}, {"image_id": "dropped", "keep": False}]
    curated = tables.write(CURATED_PAIRS, decided, OTHER)
    assert found_elsewhere(tables, curated=curated) == {**everything, "dropped": []}
    assert found_elsewhere(tables, Blocked(images=["kept"])) == {**everything, "a": []}


def test_a_partition_that_is_being_refreshed_is_compared_by_what_is_known(tables: Tables) -> None:
    tables.given([pair("old", degrees=0), pair("new", degrees=40)], OTHER)
    tables.given([pair("a", degrees=1), pair("b", degrees=41)])
    assert not_in_both(tables.images(OTHER)) == 0
    hashes = tables.write(IMAGE_QUALITY, [pair("old"), pair("gone"), pair("gone, too")], OTHER)
    assert found_elsewhere(tables, hashes=hashes) == {"a": [f"{OTHER}/old"], "b": [f"{OTHER}/new"]}
    assert not_in_both(tables.images(OTHER)) == 3


def test_no_more_are_named_than_the_nearest_few_the_same_one_among_them(tables: Tables) -> None:
    there = [pair(f"there-{degrees}", degrees=degrees) for degrees in range(9)]
    tables.given(there, OTHER)
    # The same image, far away as its embedding is of something else.
    tables.given([pair("there-8", degrees=0)])
    (named,) = (row["elsewhere"] for row in tables.near_duplicates(OTHER).values())
    assert named == [f"{OTHER}/there-{degrees}" for degrees in (8, 0, 1, 2, 3)]


def test_what_is_found_is_not_sorted_again_with_all_that_was_found_before(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 40
    tables.given([pair(f"there-{number}", degrees=number / 100) for number in range(count)], OTHER)
    tables.given([pair(f"here-{number}", degrees=number / 100) for number in range(count)])
    expected = tables.near_duplicates(OTHER)
    judged: list[int] = []

    def counted(pairs: Pairs, rank: npt.NDArray[np.int64]) -> Pairs:
        judged.append(len(pairs))
        return nearest_first(pairs, rank)

    monkeypatch.setattr(near, "_PAIRS_AT_ONCE", 8)
    monkeypatch.setattr(near_duplicates, "_PAIRS_HELD", 16)
    monkeypatch.setattr(near_duplicates, "nearest_first", counted)
    assert tables.near_duplicates(OTHER) == expected
    assert len(judged) > 2
    assert sum(judged) < 3 * count**2


def test_images_to_keep_out_are_named_by_where_they_are_from(tables: Tables) -> None:
    tables.given(
        [pair("same"), pair("near", degrees=10, perceptual_hash=hash_of(7)), pair("far", degrees=90)]
    )
    held_out = [
        pair("same", source="a/one.png", source_row=0),
        pair(
            "other",
            source="two.png",
            source_row=1,
            perceptual_hash=hash_of(),
            embedding=[1.0, 0.0],
            model="m",
        ),
        {"image_id": "broken", "source": "three.png", "source_row": 2, "error": "corrupt_image"},
        {"source": "four.png", "source_row": 3, "error": "unreadable"},
    ]
    tables.write(HELD_OUT_IMAGES, held_out)
    assert {name: row["held_out"] for name, row in tables.near_duplicates().items()} == {
        "same": ["a/one.png, row 0"],
        "near": ["two.png, row 1"],
        "far": [],
    }


def test_embeddings_of_different_models_are_not_compared(tables: Tables) -> None:
    tables.given([pair("there", degrees=0, perceptual_hash=hash_of())], OTHER, model="another")
    tables.given([pair("here", degrees=2, perceptual_hash=hash_of(1))])
    with pytest.raises(SdAssetsError, match=r"different models \(another, m\).*min_cosine"):
        tables.near_duplicates(OTHER)
    by_hash = tables.near_duplicates(OTHER, min_cosine=None, min_cosine_of_hashes=None)
    assert by_hash["here"]["elsewhere"] == [f"{OTHER}/there"]


def test_hashes_of_other_images_are_a_clear_error(tables: Tables) -> None:
    tables.given([pair("a"), pair("b")])
    tables.write(IMAGE_QUALITY, [pair("a")])
    with pytest.raises(TableError, match="no row for 1 of 2 images"):
        tables.near_duplicates()


def test_of_no_images_there_are_no_rows(tables: Tables) -> None:
    tables.given([])
    assert tables.near_duplicates() == {}
