"""curated_pairs: all that speaks against a pair, and what is kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sd_assets.curation.funnel import Step, funnel
from sd_assets.curation.reading import curated_rows
from sd_assets.errors import SdAssetsError, TableError
from sd_assets.schemas import (
    AESTHETIC_SCORES,
    CURATED_PAIRS,
    HELD_OUT_IMAGES,
    IMAGE_QUALITY,
    TEXT_IMAGE_PAIRS,
)
from sd_assets.schemas import table as schema_of
from sd_assets.views.funnel import funnel_view
from sd_assets_tests.curation.tables import Tables, pair


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


SEED: dict[str, Any] = {"origin": "seed", "url": None, "similarity": None, "query_ids": None}


def test_without_settings_all_is_kept_but_near_duplicates(tables: Tables) -> None:
    tables.given(
        [
            pair("a", degrees=0),
            pair("b", degrees=5, resolution=512),
            pair("c", sharpness=None),
            pair("d", **SEED),
        ]
    )
    assert tables.curated() == {"a": ["near_duplicate"], "b": [], "c": [], "d": []}


def test_a_pair_that_failed_is_skipped(tables: Tables) -> None:
    tables.given([pair("a"), pair("broken", error="not_an_image"), pair("b")])
    assert tables.curated() == {"a": [], "b": []}
    for rows in curated_rows(tables.table(TEXT_IMAGE_PAIRS), tables.table(CURATED_PAIRS), ["image"]):
        assert rows.take([1]).to_pylist() == [{"image_id": "b", "image": b"b"}]


def test_every_reason_that_holds_is_told(tables: Tables) -> None:
    tables.given(
        [
            pair("fine"),
            pair("blurred", sharpness=0.1, alignment=0.1, licence="CC0"),
            pair("unknown", sharpness=None),
            pair("refused", url="http://sub.bad.test/x.jpg", licence="all rights reserved"),
            pair("seed", **SEED),
            pair("strange", similarity=0.99),
            pair("at the limits", sharpness=0.25, similarity=0.875),
        ]
    )
    found = tables.curated(
        min={"sharpness": 0.25, "alignment": 0.2, "similarity": 0.3},
        max={"similarity": 0.875},
        licences=["cc*"],
        unknown_passes=["licence"],
        refused_hosts=["bad.test"],
    )
    assert found == {
        "fine": [],
        "blurred": ["low_alignment", "low_sharpness"],
        "unknown": ["unknown_sharpness"],
        "refused": ["licence", "host"],
        "seed": [],
        "strange": ["high_similarity"],
        "at the limits": [],
    }
    told = funnel(tables.table(CURATED_PAIRS))
    assert (told.pairs, told.kept, told.splits) == (7, 3, {"train": 3})
    assert told.steps == (
        Step("high_similarity", against=1, lost=1, left=6, alone=1),
        Step("low_alignment", against=1, lost=1, left=5, alone=0),
        Step("low_sharpness", against=1, lost=0, left=5, alone=0),
        Step("unknown_sharpness", against=1, lost=1, left=4, alone=1),
        Step("licence", against=1, lost=1, left=3, alone=0),
        Step("host", against=1, lost=0, left=3, alone=0),
    )
    assert "3 of 7 pairs are kept: train 3" in funnel_view(told)
    assert "| `licence` | 1 | 0 | 1 | 3 |" in funnel_view(told)


def test_what_is_unknown_passes_only_where_it_is_said(tables: Tables) -> None:
    tables.given([pair("a", sharpness=None, similarity=None, url="http://good.test/a.jpg")])
    asked: dict[str, Any] = {
        "min": {"sharpness": 0.2, "similarity": 0.3},
        "licences": ["cc*"],
        "hosts": ["good.test"],
    }
    assert tables.curated(**asked) == {"a": ["unknown_sharpness", "unknown_similarity", "unknown_licence"]}
    assert tables.curated(**asked, unknown_passes=["sharpness", "similarity", "licence"]) == {"a": []}


def test_of_a_cluster_the_best_that_nothing_else_is_against_is_kept(tables: Tables) -> None:
    tables.given(
        [
            pair("large", degrees=0, resolution=1024, sharpness=0.1),
            pair("small", degrees=1, resolution=100, alignment=0.9),
            pair("middle", degrees=2, resolution=200),
        ]
    )
    large, near = ["low_sharpness", "near_duplicate"], ["near_duplicate"]
    asked: dict[str, Any] = {"min": {"sharpness": 0.2}}
    assert tables.curated(**asked) == {"large": large, "small": near, "middle": []}
    assert tables.curated(**asked, best=["alignment"]) == {"large": large, "small": [], "middle": near}


def test_caps_take_the_best_of_what_is_left(tables: Tables) -> None:
    tables.given(
        [
            pair("blurred", resolution=900, sharpness=0.1),
            pair("one", resolution=500),
            pair("two", resolution=400),
            pair("three", resolution=300, url="http://other.test/three.jpg"),
            pair("seed", origin="seed", url="http://host.test/seed.jpg"),
        ]
    )
    assert tables.curated(min={"sharpness": 0.2}, max_per_host=1, max_per_query=1) == {
        "blurred": ["low_sharpness"],
        "one": [],
        "two": ["per_host", "per_query"],
        "three": ["per_query"],
        "seed": [],
    }


def test_a_copy_on_another_host_is_kept_where_the_host_of_the_best_has_enough(tables: Tables) -> None:
    tables.given(
        [
            pair("best", resolution=900),
            pair("copy", degrees=0, resolution=500),
            pair("copied", degrees=1, resolution=400, url="http://other.test/copied.jpg"),
        ]
    )
    assert tables.curated(max_per_host=1) == {"best": [], "copy": ["per_host"], "copied": []}
    assert tables.curated() == {"best": [], "copy": [], "copied": ["near_duplicate"]}


@pytest.mark.parametrize("limit", [0.2, 0.7])
def test_a_score_at_its_threshold_passes(tables: Tables, limit: float) -> None:
    below, above = (float(np.nextafter(np.float32(limit), np.float32(to))) for to in (0, 1))
    tables.given(
        [pair("at", sharpness=limit), pair("above", sharpness=above), pair("below", sharpness=below)]
    )
    assert tables.curated(max={"sharpness": limit}) == {"at": [], "above": ["high_sharpness"], "below": []}
    assert tables.curated(min={"sharpness": limit}) == {"at": [], "above": [], "below": ["low_sharpness"]}


def test_an_image_that_cannot_be_decoded_is_not_kept(tables: Tables) -> None:
    tables.given([pair("fine", degrees=0), pair("cut", degrees=90)])
    tables.write(IMAGE_QUALITY, [pair("fine"), {"image_id": "cut", "error": "corrupt_image"}])
    assert tables.curated() == {"fine": [], "cut": ["unreadable"]}


def test_what_could_not_be_compared_with_what_is_to_be_kept_out_is_not_kept(tables: Tables) -> None:
    tables.given([pair("fine", degrees=0), pair("not embedded", perceptual_hash="0" * 16)])
    assert tables.curated() == {"fine": [], "not embedded": []}
    tables.write(HELD_OUT_IMAGES, [{"image_id": "x", "embedding": [0.0, 1.0], "model": "m"}])
    assert tables.curated() == {"fine": [], "not embedded": ["unknown_held_out"]}


SHINE = schema_of("shine", ["image_id"], [pa.field("image_id", pa.string()), pa.field("shine", pa.float64())])


def test_a_row_of_a_scorer_that_failed_has_no_score(tables: Tables) -> None:
    tables.given([pair("a"), pair("b")])
    rows = [{"image_id": "a", "shine": 9.0, "error": "x"}, {"image_id": "b", "shine": 9.0}]
    own = {"shine": tables.write(SHINE, rows)}
    assert tables.curated(own, min={"shine": 1}) == {"a": ["unknown_shine"], "b": []}


def test_a_scorer_whose_column_is_no_number_is_a_clear_error(tables: Tables) -> None:
    tables.given([pair("a")])
    shine = schema_of("shine", ["image_id"], [pa.field(name, pa.string()) for name in ("image_id", "shine")])
    own = {"shine": tables.write(shine, [{"image_id": "a", "shine": "much"}])}
    with pytest.raises(
        SdAssetsError, match="the scorer shine: its column shine is of type string, and must be numbers"
    ):
        tables.curated(own)


def test_own_scores_are_told_pair_by_pair(tables: Tables) -> None:
    glow = schema_of("glow", ["image_id"], [pa.field("image_id", pa.string()), pa.field("glow", pa.int32())])
    tables.given([pair("a"), pair("b")])
    own = {
        "shine": tables.write(SHINE, [{"image_id": name, "shine": ord(name)} for name in "ab"]),
        "glow": tables.write(glow, [{"image_id": "b", "glow": 3}]),
    }
    tables.curated(own)
    listed = tables.table(CURATED_PAIRS).read(["own_scores"]).column("own_scores").to_pylist()
    assert [[(it["score"], it["value"]) for it in row] for row in listed] == [
        [("glow", None), ("shine", 97.0)],
        [("glow", 3.0), ("shine", 98.0)],
    ]


def test_a_scorer_of_ones_own_counts_as_ours_do(tables: Tables) -> None:
    shine = schema_of(
        "shine", ["image_id"], [pa.field("image_id", pa.string()), pa.field("shine", pa.float64())]
    )
    tables.given([pair("none"), pair("high"), pair("low")])
    own = {
        "shine": tables.write(shine, [{"image_id": "low", "shine": 2.0}, {"image_id": "high", "shine": 8.0}])
    }
    assert tables.curated(own, min={"shine": 6}) == {
        "none": ["unknown_shine"],
        "high": [],
        "low": ["low_shine"],
    }
    rows = tables.table(CURATED_PAIRS).read(["own_scores"]).column("own_scores").to_pylist()
    assert rows == [[{"score": "shine", "value": value}] for value in (None, 8.0, 2.0)]
    with pytest.raises(SdAssetsError, match="the scorer shine: its table has no column shine"):
        tables.curated({"shine": tables.table(AESTHETIC_SCORES)})


def test_a_score_that_there_is_none_of_is_a_clear_error(tables: Tables) -> None:
    tables.given([pair("a")])
    with pytest.raises(SdAssetsError, match=r"curation\.min .*no score 'sharpnes'.*did you mean 'sharpness'"):
        tables.curated(min={"sharpnes": 1})
    # A licence is no score, though it may be unknown.
    with pytest.raises(SdAssetsError, match=r"curation\.best .*no score 'licence'"):
        tables.curated(unknown_passes=["licence"], best=["licence"])


def test_tables_of_other_pairs_are_a_clear_error(tables: Tables) -> None:
    tables.given([pair("a")])
    tables.write(AESTHETIC_SCORES, [{"image_id": "z", "aesthetic": 5.0}])
    with pytest.raises(TableError, match=r"aesthetic_scores.* has no row for 1 of 1 images"):
        tables.curated()


def test_the_kept_pairs_are_read_with_their_images(tables: Tables) -> None:
    tables.given([pair("a", sharpness=0.1), *(pair(name) for name in "bcd")])
    tables.curated(min={"sharpness": 0.2}, validation=1)
    pairs, decisions = tables.table(TEXT_IMAGE_PAIRS), tables.table(CURATED_PAIRS)
    read = curated_rows(pairs, decisions, ["split", "image", "captions", "sharpness"])
    rows = next(read)
    assert rows.known.schema.names == ["image_id", "split", "captions", "sharpness"]
    assert rows.take([2, 0]).to_pylist() == [
        {
            "image_id": name,
            "split": "validation",
            "captions": ["a room"],
            "sharpness": 0.5,
            "image": name.encode(),
        }
        for name in ("d", "b")
    ]
    assert next(read, None) is None
    (everything,) = curated_rows(pairs, decisions, ["keep"], dropped=True)
    assert everything.known.column("keep").to_pylist() == [False, True, True, True]
    with pytest.raises(TableError, match="has a column sharpnes"):
        list(curated_rows(pairs, decisions, ["sharpnes"]))
    for others in ("abce", "abc", "abcde"):
        newer = tables.write(TEXT_IMAGE_PAIRS, [pair(name) for name in others])
        with pytest.raises(TableError, match="materialize curated_pairs again"):
            list(curated_rows(newer, decisions, ["split"]))
