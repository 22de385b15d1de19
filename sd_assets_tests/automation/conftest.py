"""The project whose automation is tested."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sd_assets.catalog import CATALOG_VARIABLE
from sd_assets.resources.storage import DATA_VARIABLE
from sd_assets_tests.automation.project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setenv(CATALOG_VARIABLE, str(tmp_path / "catalog.yaml"))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    with Project.opened(tmp_path) as project:
        yield project
