"""Presence and failures, from the counts that the storage keeps."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sd_assets.quality.finding import Finding, Severity, percent
from sd_assets.quality.rows import failures_by_code, judge_failures, judge_presence
from sd_assets.schemas import DOWNLOADED_IMAGES, SEED_PROMPTS
from sd_assets.storage.table import Table
from sd_assets_tests.tables import table_of


def downloads(base: Path, codes: list[str | None]) -> Table:
    rows = [{"url_id": f"u{number}", "error": code} for number, code in enumerate(codes)]
    return table_of(base, DOWNLOADED_IMAGES, rows)


def failures(table: Table, **limits: float) -> Finding:
    (found,) = judge_failures(table, "downloaded_images", limits)
    return found


CODES: list[str | None] = [None, "timeout", "timeout", "not_found", None]


def test_failures_are_those_of_the_rows(tmp_path: Path) -> None:
    table = downloads(tmp_path, CODES)
    assert failures_by_code(table) == Counter(code for code in CODES if code)
    assert dict(failures(table, total=1).numbers) == {
        "rows": 5,
        "rows_failed": 3,
        "share_failed": 0.6,
        "by_code": {"timeout": 2, "not_found": 1},
        "limits": {"total": 1},
    }


def test_what_was_taken_down_is_no_failure(tmp_path: Path) -> None:
    found = failures(downloads(tmp_path, [*CODES, *(["blocked"] * 95)]), total=0.6)
    assert found.passed
    assert dict(found.numbers)["rows"] == 5
    assert found.description.startswith("3 of 5 rows failed (timeout 2, not_found 1)")
    assert failures(downloads(tmp_path / "all", ["blocked"]), total=0.0).passed


@pytest.mark.parametrize(
    ("limits", "broken"),
    [
        ({"total": 0.6}, []),  # a limit that is reached is not passed
        ({"total": 0.59}, ["total"]),
        ({"total": 0.6, "timeout": 0.4, "not_found": 0.2}, []),
        ({"total": 1.0, "timeout": 0.39}, ["timeout"]),
        ({"total": 0.0, "timeout": 0.0, "tls_error": 0.0}, ["total", "timeout"]),
    ],
)
def test_each_limit_is_kept_or_named(tmp_path: Path, limits: dict[str, float], broken: list[str]) -> None:
    found = failures(downloads(tmp_path, CODES), **limits)
    assert found.passed == (not broken)
    assert found.check.severity is Severity.ERROR
    named = [code for code in limits if f"checks.max_failed.downloaded_images.{code} is" in found.description]
    assert named == broken
    assert found.description.startswith("3 of 5 rows failed (timeout 2, not_found 1)")
    assert ("raise the limit" in found.description) == bool(broken)


def test_tables_where_all_or_nothing_failed_or_nothing_is(tmp_path: Path) -> None:
    assert not failures(downloads(tmp_path / "all", ["timeout"] * 4), total=0.99).passed
    assert failures(downloads(tmp_path / "none", [None] * 4), total=0).passed
    empty = failures(downloads(tmp_path / "empty", []), total=0, timeout=0)
    assert empty.passed and empty.numbers["share_failed"] == 0


@pytest.mark.parametrize(
    ("rows", "wanted", "passed", "said"),
    [
        ([{"prompt_id": "a", "prompt": "x"}], True, True, "1 usable rows"),
        ([{"prompt_id": "a", "error": "unreadable"}], True, False, "all 1 rows failed"),
        ([], True, False, "no row at all"),
        ([], False, True, "asks for none"),
    ],
)
def test_a_table_has_rows_where_the_entry_asks_for_some(
    tmp_path: Path, rows: list[dict[str, Any]], wanted: bool, passed: bool, said: str
) -> None:
    (found,) = judge_presence(table_of(tmp_path, SEED_PROMPTS, rows), wanted=wanted)
    assert (found.passed, found.numbers["rows"]) == (passed, len(rows))
    assert said in found.description


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.999999, "99.99 %"), (0.1234, "12.3 %"), (1e-6, "0.0001 %")],
)
def test_a_share_for_a_person(share: float, text: str) -> None:
    assert percent(share) == text
