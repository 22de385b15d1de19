"""`python -m benchmarks.report` runs, and says what it measured in its last line."""

import shutil
from pathlib import Path

import pytest

from benchmarks.report import measure
from sd_assets_tests.optional import missing
from sd_assets_tests.pipeline.browser import NAMES

pytestmark = pytest.mark.browser


def test_what_is_measured(tmp_path: Path) -> None:
    if not any(map(shutil.which, NAMES)):
        missing("Chromium", "apt-get install --no-install-recommends chromium")
    figures = measure(tmp_path, 100)
    assert figures["pairs"] == 101
    assert 0 < figures["refresh_mb"] < figures["report_mb"]
    # Only the first packs of thumbnails were read.
    assert 0 < figures["opened_mb"] <= figures["report_mb"]
    assert figures["first_view"] > 0 and figures["all_pairs"] > 0
    assert {"write", "refresh", "search", "filter", "heap_mb"} <= figures.keys()
