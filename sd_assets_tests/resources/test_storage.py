"""The store as a resource: how many versions it keeps, and reading older ones."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from sd_assets.compute.run import run_stage
from sd_assets.errors import SdAssetsError, TableError
from sd_assets.resources.storage import KEPT_VERSIONS_VARIABLE, StorageResource
from sd_assets_tests.toy import ToyStage, toy_input


def versions(storage: StorageResource) -> list[int]:
    """What is kept after five commits."""
    for last in range(10, 15):
        area = storage.store().area("toy", "p")
        run_stage(ToyStage(), toy_input(range(last)), area, f"run-{last}", print).commit()
    return storage.store().area("toy", "p").versions()


def test_three_versions_are_kept(tmp_path: Path) -> None:
    assert versions(StorageResource(base=str(tmp_path))) == [3, 4, 5]


def test_the_environment_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEPT_VERSIONS_VARIABLE, "1")
    assert versions(StorageResource(base=str(tmp_path / "a"))) == [5]
    # The configuration of the resource comes first.
    assert versions(StorageResource(base=str(tmp_path / "b"), kept_versions=4)) == [2, 3, 4, 5]


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "²"])
def test_a_wrong_number_is_an_error(value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEPT_VERSIONS_VARIABLE, value)
    with pytest.raises(
        SdAssetsError, match=f"SD_ASSETS_KEPT_VERSIONS is '{value}': it must be a whole number"
    ):
        StorageResource(base=str(tmp_path)).store()


def test_none_kept_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        StorageResource(kept_versions=0)


def test_older_versions_are_read(tmp_path: Path) -> None:
    storage = StorageResource(base=str(tmp_path))
    versions(storage)
    older = storage.table("toy", "p", version=4)
    assert (older.num_rows, storage.table("toy", "p").num_rows) == (13, 14)
    same = storage.table("toy", "p", data_version=older.manifest.data_version)
    assert same.read().column("name").to_pylist() == [f"n{number}" for number in range(13)]
    with pytest.raises(
        TableError, match=r"version 1 is not kept \(any more\). Kept are:\n  version 3, data version"
    ):
        storage.table("toy", "p", version=1)
    with pytest.raises(TableError, match="there is no committed version; materialize toy for 'q' first"):
        storage.table("toy", "q", version=1)
