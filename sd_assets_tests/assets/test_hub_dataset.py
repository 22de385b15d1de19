"""The asset hub_dataset: made where the catalogue says so, and not made where it does not."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from sd_assets.assets.common import SEEDS
from sd_assets.assets.hub_dataset import hub_dataset
from sd_assets.publishing.places import Places
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource
from sd_assets.schemas import TABLES
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.hub.server import WRITER, Hub
from sd_assets_tests.small_partition import write_partition

# Partitions are those of the catalogue that ships.
PARTITION = SEEDS.get_partition_keys()[0]
REPO = "me/rooms"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("data")
    write_partition(base, partition=PARTITION)
    return base


def materialized(base: Path, folder: Path, **entry: Any) -> dg.ExecuteInProcessResult:
    path = folder / "catalog.yaml"
    catalog = {
        "indices": {"toy": {"kind": "faiss", "path": "index"}},
        "seed_datasets": {
            PARTITION: {
                "prompts": {"texts": ["a sofa"]},
                "clip": {"model": "toy", "pretrained": "toy"},
                "retrieval": {"index": "toy"},
                **entry,
            }
        },
    }
    path.write_text(yaml.safe_dump(catalog))
    resources = {
        "catalog": CatalogResource(path=str(path)),
        "storage": StorageResource(base=str(base)),
    }
    return dg.materialize([hub_dataset], partition_key=PARTITION, resources=resources, raise_on_error=False)


def test_it_is_pushed_where_the_catalogue_says_so(
    hub: Hub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    (made,) = materialized(base, tmp_path, push_to_hub={"repo_id": REPO}).get_asset_materialization_events()
    shown = made.materialization.metadata
    repo = hub.repo("datasets", REPO)
    assert shown["commit"].value == repo.refs["main"]
    assert (shown["pairs_train"].value, shown["pairs_validation"].value) == (6, 2)
    assert str(shown["dataset"].value).endswith(f"/datasets/{REPO}") and "note" not in shown
    (again,) = materialized(base, tmp_path, push_to_hub={"repo_id": REPO}).get_asset_materialization_events()
    assert again.materialization.metadata["commit"].value == repo.refs["main"]
    assert again.materialization.metadata["note"].value == "nothing has changed: no commit was made"
    versions = [event.materialization.tags or {} for event in (made, again)]
    assert versions[0]["dagster/data_version"] == versions[1]["dagster/data_version"]


def test_it_is_not_made_where_the_catalogue_does_not(hub: Hub, base: Path, tmp_path: Path) -> None:
    result = materialized(base, tmp_path)
    # Or a backfill would count as failed.
    (made,) = result.get_asset_materialization_events()
    assert str(made.materialization.metadata["note"].value).endswith("nothing is pushed")
    assert hub.requests == []


def test_where_it_was_pushed_once_is_not_forgotten(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    base = tmp_path / "data"
    write_partition(base, partition=PARTITION)

    def warned(**entry: Any) -> list[str]:
        """The datasets that a run warns of."""
        assert materialized(base, tmp_path, **entry).success
        return re.findall(r"the Hub dataset '(\S+)' holds an earlier push", capsys.readouterr().err)

    assert warned(push_to_hub={"repo_id": REPO}) == []
    assert warned(push_to_hub={"repo_id": REPO}) == []
    assert warned(push_to_hub={"repo_id": "me/others"}) == [REPO]
    assert warned() == ["me/others", REPO]
    assert warned(push_to_hub={"repo_id": REPO}) == ["me/others"]
    # As the warning says.
    Path(Places(TableStore(LocalFiles(base)), PARTITION).uri).unlink()
    assert warned() == []


def test_it_is_made_after_every_table_that_it_speaks_of() -> None:
    assert {dg.AssetKey(schema.name) for schema in TABLES} <= set(hub_dataset.dependency_keys)


def test_a_push_that_is_refused_fails_the_step(hub: Hub, base: Path, tmp_path: Path) -> None:
    result = materialized(base, tmp_path, push_to_hub={"repo_id": REPO})
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "set HF_TOKEN to a token that may write to it" in str(failure.event_specific_data)


def test_a_variable_that_is_not_set_is_named(hub: Hub, base: Path, tmp_path: Path) -> None:
    result = materialized(base, tmp_path, push_to_hub={"repo_id": "${MY_HUB_DATASET}"})
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "MY_HUB_DATASET is not set" in str(failure.event_specific_data)
    assert hub.requests == []
