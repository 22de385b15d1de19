"""near_duplicates: clusters, the nearest, and what is nearly elsewhere or held out."""

from pathlib import Path

import numpy as np
import pytest

from sd_assets.errors import SdAssetsError, TableError
from sd_assets.schemas import HELD_OUT_IMAGES, IMAGE_QUALITY
from sd_assets.stages.near_duplicates import MAX_NAMED
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
