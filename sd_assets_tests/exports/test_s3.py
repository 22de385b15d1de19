"""Exports in a bucket: the same files, and the same refresh."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sd_assets.exports.export import LAYOUTS, Exported, export
from sd_assets.exports.folder import ExportFolder
from sd_assets.settings import ExportsSettings
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table
from sd_assets_tests.exports.kept import some, tables_of
from sd_assets_tests.s3 import S3Server, s3_server

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as s3:
        yield s3


def exported(folder: ExportFolder, tables: dict[str, Table]) -> Exported:
    settings = ExportsSettings.model_validate({folder.layout: {}}).layout(folder.layout)
    assert settings is not None
    return export(LAYOUTS[folder.layout](settings), folder, tables, lambda line: None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bucket_holds_what_a_folder_does(s3: S3Server, tmp_path: Path, layout: str) -> None:
    bucket = ExportFolder(s3.files("s3://data/exports"), layout, "p")
    local = ExportFolder(LocalFiles(tmp_path / "exports"), layout, "p")
    for pairs in (some(6), some(5, start=2)):  # one came, two went
        tables = tables_of(tmp_path / "data", pairs)
        for folder in (bucket, local):
            assert exported(folder, tables).written is not None
        assert exported(bucket, tables).written is None
        assert bucket.listing() == local.listing()
        for split, name in bucket.listing():
            if name == "dataset.toml":  # sd-scripts reads no bucket: of a copy, in whose folder it is started
                toml = tomllib.loads((bucket.get(split, name) or b"").decode())
                assert toml["datasets"][0]["subsets"][0]["image_dir"] == "train"
            else:
                assert bucket.get(split, name) == local.get(split, name)
