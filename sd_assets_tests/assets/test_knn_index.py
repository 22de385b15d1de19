"""The asset knn_index, materialized: built, kept, built anew, and somebody else's."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sd_assets.assets.knn_index import knn_index
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource

# An index of the catalogue that ships, whose names are the partitions; of which this one's folder is another.
INDEX = "demo"
ROWS = 30


class Project:
    """A catalogue with one index of a corpus in Parquet, and an instance to materialize it on."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder = folder
        self.instance = instance
        self.settings: dict[str, Any] = {
            "kind": "faiss",
            "path": "index",
            "corpus": {"kind": "parquet", "path": "corpus"},
            "clip": {"model": "ViT-B-32", "pretrained": "openai"},
        }
        (folder / "corpus").mkdir()
        self.add("a")

    def add(self, name: str) -> None:
        """Another file of the corpus."""
        vectors = np.random.default_rng(len(name)).standard_normal((ROWS, 8)).astype(np.float32)
        urls = [f"http://h/{name}/{row}.jpg" for row in range(ROWS)]
        rows = pa.table({"url": urls, "vector": list(vectors)})
        pq.write_table(rows, self.folder / "corpus" / f"{name}.parquet")

    def materialize(self) -> dg.AssetMaterialization:
        written = {
            "indices": {INDEX: self.settings},
            "seed_datasets": {"a": {"prompts": {"texts": ["a"]}, "retrieval": {"index": INDEX}}},
            "defaults": {"clip": {"model": "ViT-B-32", "pretrained": "openai"}},
        }
        (self.folder / "catalog.yaml").write_text(yaml.safe_dump(written))
        resources = {
            "catalog": CatalogResource(path=str(self.folder / "catalog.yaml")),
            "storage": StorageResource(base=str(self.folder / "data")),
        }
        result = dg.materialize(
            [knn_index],
            instance=self.instance,
            partition_key=INDEX,
            resources=resources,
            raise_on_error=False,
        )
        if not result.success:
            (failure,) = [event for event in result.all_events if event.is_step_failure]
            raise AssertionError(str(failure.step_failure_data.error))
        (made,) = result.asset_materializations_for_node("knn_index")
        return made


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Project(tmp_path, instance)


def said(made: dg.AssetMaterialization, *names: str) -> list[Any]:
    return [made.metadata[name].value for name in names]


def version(made: dg.AssetMaterialization) -> str:
    assert made.tags
    return made.tags["dagster/data_version"]


def test_it_is_built_and_what_has_not_changed_is_kept(project: Project) -> None:
    made = project.materialize()
    assert said(made, "vectors", "dim", "kind", "model") == [ROWS, 8, "Flat", "ViT-B-32/openai"]
    assert said(made, "rows", "note") == [ROWS, "built"]
    assert said(made, "path") == [str(project.folder / "index")]
    files = [path for path in (project.folder / "index").rglob("*") if path.name != "sd_assets.json"]
    assert said(made, "bytes") == [sum(path.stat().st_size for path in files if path.is_file())]
    before = {path: path.stat().st_mtime_ns for path in files}
    again = project.materialize()
    assert said(again, "note") == ["nothing has changed: not built again"]
    assert version(again) == version(made)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    # It is a folder at its path, and no table.
    assert not (project.folder / "data").exists()


def test_another_corpus_or_setting_is_another_version(project: Project) -> None:
    versions = [version(project.materialize())]
    project.add("bb")
    made = project.materialize()
    assert said(made, "vectors", "note") == [2 * ROWS, "built"]
    versions.append(version(made))
    project.settings["build"] = {"factory": "IVF2,Flat"}
    made = project.materialize()
    assert said(made, "kind", "note") == ["IVF2,Flat", "built"]
    versions.append(version(made))
    assert len(set(versions)) == 3


def test_the_model_may_be_said_later(project: Project) -> None:
    clip = project.settings.pop("clip")
    made = project.materialize()
    assert said(made, "model")[0].startswith("unknown: say it under `clip:`")
    project.settings["clip"] = clip
    again = project.materialize()
    assert said(again, "model", "note") == ["ViT-B-32/openai", "nothing has changed: not built again"]
    assert version(again) == version(made)


def test_somebody_else_s_folder_is_checked_and_its_version_is_of_its_files(project: Project) -> None:
    built = project.materialize()
    for name in ("sd_assets.json", "metadata.arrow"):
        (project.folder / "index" / name).unlink()
    del project.settings["corpus"], project.settings["clip"]
    made = project.materialize()
    assert said(made, "vectors", "dim", "kind", "metadata_rows") == [ROWS, 8, "IndexFlatIP", ROWS]
    assert said(made, "note") == ["metadata.arrow was written"]
    assert said(made, "model")[0].startswith("unknown: say it under `clip:`")
    # What we built says besides what it was made from.
    assert version(built).startswith(f"{version(made)}#made_from=")
    shutil.rmtree(project.folder / "index" / "metadata")
    with pytest.raises(AssertionError, match="there are no Parquet files in"):
        project.materialize()
