"""Events lose the views that showed what was taken down: those of assets without partitions, too."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
import yaml
from dagster_shared.serdes import serialize_value

from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.redaction import redact_events
from sd_assets.resources.storage import ParquetIOManager, StorageResource
from sd_assets.resources.views import SHOW_ROWS

# A catalogue has one at least; what is tested here has nothing to do with it.
ENTRY = {
    "indices": {"mine": {"kind": "faiss", "path": "index"}},
    "seed_datasets": {
        "some": {
            "prompts": {"texts": ["a lamp"]},
            "clip": {"model": "local-dir:clip"},
            "retrieval": {"index": "mine"},
        }
    },
}
URL = "http://host.example/secret.jpg"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def events(instance: dg.DagsterInstance, run_id: str, asset: str) -> list[str]:
    """What a run put out for an asset, from the run's own log and from the index of all runs, as it is stored."""
    key = dg.AssetKey(asset)
    indexed = instance.fetch_materializations(key, limit=99).records
    entries = [record.event_log_entry for record in indexed if record.run_id == run_id]
    kinds = {dg.DagsterEventType.STEP_OUTPUT, dg.DagsterEventType.ASSET_MATERIALIZATION}
    entries += [it for it in instance.all_logs(run_id, of_type=kinds) if it.step_key == asset]
    found = [serialize_value(entry) for entry in entries]
    assert len(found) == 3
    return found


def test_events_of_an_asset_without_partitions(instance: dg.DagsterInstance) -> None:
    views = {name: dg.MetadataValue.md("secret") for name in SHOW_ROWS}

    def materialized() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={**views, "distributions": dg.MetadataValue.md("numbers")})

    @dg.asset
    def mine() -> dg.MaterializeResult[None]:
        return materialized()

    @dg.asset
    def other() -> dg.MaterializeResult[None]:
        return materialized()

    run_id = dg.materialize([mine, other], instance=instance).run_id
    before = events(instance, run_id, "other")
    assert all("secret" in event for event in (*before, *events(instance, run_id, "mine")))
    assert redact_events(instance, dg.AssetKey("mine"), "mine", None) == 3
    after = events(instance, run_id, "mine")
    assert not any("secret" in event or name in event for event in after for name in SHOW_ROWS)
    assert all("numbers" in event for event in after)
    assert events(instance, run_id, "other") == before
    assert redact_events(instance, dg.AssetKey("mine"), "mine", None) == 0


def test_a_table_without_partitions_of_which_something_is_blocked(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    catalogue = tmp_path / "catalogue.yaml"
    manager = ParquetIOManager(
        storage=StorageResource(base=str(tmp_path / "data")), catalog=CatalogResource(path=str(catalogue))
    )

    def run(*urls: str, blocked: list[str]) -> str:
        @dg.asset
        def mine() -> pd.DataFrame:
            names = [url.rpartition("/")[2] for url in urls]
            return pd.DataFrame({"name": names, "url": urls, "error": "not_found"})

        catalogue.write_text(yaml.safe_dump({**ENTRY, "blocked": {"urls": blocked}}))
        return dg.materialize([mine], instance=instance, resources={"io_manager": manager}).run_id

    first = run(URL, "http://host.example/fine.jpg", blocked=[])
    assert any("secret" in event for event in events(instance, first, "mine"))
    second = run("http://host.example/fine.jpg", blocked=[URL])
    assert not any("secret" in event or "fine.jpg" in event for event in events(instance, first, "mine"))
    # What the run itself shows is as it was.
    assert any("fine.jpg" in event for event in events(instance, second, "mine"))
