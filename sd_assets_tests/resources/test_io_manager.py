"""The IO manager: what an asset may return, and what it may ask for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from sd_assets.resources import storage as storage_module
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import KEY_METADATA, ParquetIOManager, StorageResource
from sd_assets.storage.table import Table

PARTS = dg.StaticPartitionsDefinition(["p"])


def materialized(base: Path, *assets: dg.AssetsDefinition, catalogue: str = "") -> dg.ExecuteInProcessResult:
    storage = StorageResource(base=str(base))
    manager = ParquetIOManager(storage=storage, catalog=CatalogResource(path=catalogue))
    return dg.materialize(assets, partition_key="p", resources={"io_manager": manager})


def producer(value: Callable[[], Any]) -> dg.AssetsDefinition:
    @dg.asset(partitions_def=PARTS, metadata={KEY_METADATA: ["name"]})
    def numbers() -> Any:
        return value()

    return numbers


FRAME = pd.DataFrame({"name": ["a", "b", "a"], "number": [1, 2, 3]})
# A catalogue has one at least.
ENTRY = """
indices:
  mine: {kind: faiss, path: index}
seed_datasets:
  some:
    prompts: {texts: [a lamp]}
    clip: {model: "local-dir:clip"}
    retrieval: {index: mine}
"""


@pytest.mark.parametrize(
    "value", [lambda: FRAME, lambda: pa.Table.from_pandas(FRAME)], ids=["pandas", "pyarrow"]
)
def test_an_asset_of_one_s_own_returns_a_table_and_reads_it_as_it_likes(
    tmp_path: Path, value: Callable[[], Any]
) -> None:
    seen: dict[str, Any] = {}

    @dg.asset(partitions_def=PARTS)
    def reader(numbers: Table) -> pd.DataFrame:
        seen["lazy"] = [row["name"] for batch in numbers.batches(["name"]) for row in batch.to_pylist()]
        return numbers.to_pandas()

    @dg.asset(partitions_def=PARTS)
    def pandas_reader(numbers: pd.DataFrame, reader: pa.Table) -> pd.DataFrame:
        seen["pandas"], seen["arrow"] = numbers["number"].tolist(), reader.column("number").to_pylist()
        return numbers

    result = materialized(tmp_path, producer(value), reader, pandas_reader)
    assert result.success
    # The second `a` repeats the key: dropped, and counted.
    assert seen == {"lazy": ["a", "b"], "pandas": [1, 2], "arrow": [1, 2]}
    metadata = result.asset_materializations_for_node("numbers")[0].metadata
    counts = {name: metadata[name].value for name in ("rows_in", "rows_ok", "rows_duplicate")}
    assert counts == {"rows_in": 3, "rows_ok": 2, "rows_duplicate": 1}
    assert pd.read_parquet(tmp_path / "numbers" / "p")["number"].tolist() == [1, 2]


def test_anything_else_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"numbers returned list; the IO manager takes"):
        materialized(tmp_path, producer(lambda: [1, 2]))


def test_a_key_that_is_no_column_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"names columns it does not have: \['name'\]"):
        materialized(tmp_path, producer(lambda: pd.DataFrame({"number": [1]})))


def assert_no_run_counts_as_alive(base: Path) -> None:
    assert not list(base.glob("_sd_assets/numbers/p/leases/*"))


def test_a_catalogue_that_cannot_be_read_when_all_is_computed(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(f"{ENTRY}blocked: {{file: nowhere.txt}}\n")
    base = tmp_path / "data"
    with pytest.raises(Exception, match=r"nowhere\.txt"):
        materialized(base, producer(lambda: FRAME), catalogue=str(catalogue))
    assert list(base.glob("_sd_assets/numbers/p/shards/*")) and not (base / "numbers").exists()
    assert_no_run_counts_as_alive(base)
    # Nothing of it was lost.
    catalogue.write_text(ENTRY)
    result = materialized(base, producer(lambda: FRAME), catalogue=str(catalogue))
    assert result.asset_materializations_for_node("numbers")[0].metadata["version"].value == 1


def test_a_run_that_is_stopped_while_its_views_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage_module, "view_metadata", stopped)
    with pytest.raises(KeyboardInterrupt):
        materialized(tmp_path, producer(lambda: FRAME))
    assert_no_run_counts_as_alive(tmp_path)
