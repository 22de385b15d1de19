"""Rows at hand, found by a column: of the last version, of runs that did not commit, and of none."""

from pathlib import Path
from typing import Any

import pytest

from sd_assets.compute.run import write_rows
from sd_assets.schemas import DOWNLOADED_IMAGES, SEED_IMAGES
from sd_assets.stages.stage import rows_of
from sd_assets.storage.area import Area
from sd_assets.storage.digests import row_digests
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.lookup import RowsAtHand
from sd_assets.storage.staging import Staging


def row(number: int, source: str | None, error: str | None = None) -> dict[str, Any]:
    image = None if error else b"%d" % number
    return {"image_id": f"{number}", "image": image, "source": source, "source_row": number, "error": error}


def commit(area: Area, *rows: dict[str, Any]) -> None:
    write_rows(SEED_IMAGES, [rows_of(SEED_IMAGES, rows)], area, "committed").commit()


def leave_behind(area: Area, *rows: dict[str, Any]) -> None:
    """What a run does that ends before its commit."""
    batch = rows_of(SEED_IMAGES, rows)
    keys = row_digests(batch, SEED_IMAGES.key)
    staging = Staging(area, SEED_IMAGES, "left")
    for key in keys:
        staging.place(key, key)
    staging.add(batch, keys, keys)
    staging.abandon()


@pytest.fixture
def area(tmp_path: Path) -> Area:
    return Area(LocalFiles(tmp_path), "seed_images", "p")


def lookup(area: Area) -> RowsAtHand:
    return RowsAtHand(area, "source", ["image_id", "error"])


def test_nothing_is_at_hand(area: Area) -> None:
    rows = lookup(area)
    assert (len(rows), rows.get("a"), rows.read("a", "image")) == (0, None, None)
    rows.close()


def test_rows_of_a_version_over_many_shards_and_row_groups(area: Area) -> None:
    commit(area, *(row(number, f"u{number}") for number in range(3_000)), row(3_000, None))
    assert len(area.kept()[0].shards) > 1
    rows = lookup(area)
    assert len(rows) == 3_000
    for number in (0, 1, 2_999, 31, 32, 1_500, 0):
        assert rows.get(f"u{number}") == {"image_id": f"{number}", "error": None}
        assert rows.read(f"u{number}", "image") == b"%d" % number
        assert rows.read(f"u{number}", "source_row") == number
    rows.close()


def test_unfinished_runs_count_and_what_succeeded_counts_more(area: Area) -> None:
    commit(area, row(1, "a"), row(2, "b", "timeout"), row(3, "c", "timeout"))
    leave_behind(area, row(4, "a", "not_found"), row(5, "b"), row(6, "c", "not_found"), row(7, "d"))
    rows = lookup(area)
    found = {source: (rows.get(source) or {})["image_id"] for source in "abcd"}
    assert found == {"a": "1", "b": "5", "c": "6", "d": "7"}
    assert rows.read("d", "image") == b"7"


def test_a_row_whose_shard_is_swept_is_not_there(area: Area, tmp_path: Path) -> None:
    commit(area, row(1, "a"))
    rows = lookup(area)
    (shard,) = (tmp_path / "_sd_assets" / "seed_images" / "p" / "shards").iterdir()
    shard.unlink()
    assert rows.get("a") is not None
    assert rows.read("a", "image") is None


def test_shards_of_another_schema_are_passed_over(tmp_path: Path) -> None:
    area = Area(LocalFiles(tmp_path), "seed_images", "p")
    write_rows(DOWNLOADED_IMAGES, [rows_of(DOWNLOADED_IMAGES, [{"url_id": "a"}])], area, "other").commit()
    assert len(lookup(area)) == 0


def test_notes(area: Area) -> None:
    assert area.note("n.json") is None
    area.put_note("n.json", b"1")
    area.put_note("n.json", b"2")
    assert area.note("n.json") == b"2"
    commit(area, row(1, "a"))
    assert area.note("n.json") == b"2"
