"""The asset dataset_report in real runs."""

from pathlib import Path

import dagster as dg

from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.definitions import build_definitions
from sd_assets.resources.storage import StorageResource
from sd_assets_tests.report.dataset import PARTITION, Dataset


def test_a_run_writes_the_report_and_says_where(tmp_path: Path) -> None:
    dataset = Dataset.of(tmp_path / "data", 40)
    defs = build_definitions({"storage": StorageResource(base=str(dataset.base))})
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:

        def run() -> dg.AssetMaterialization:
            result = defs.resolve_job_def(BUILD_DATASET).execute_in_process(
                instance=instance,
                partition_key=PARTITION,
                asset_selection=[dg.AssetKey("dataset_report")],
            )
            (event,) = result.get_asset_materialization_events()
            return event.step_materialization_data.materialization

        dataset.commit()
        first = run()
        page = Path(str(first.metadata["path"].value))
        assert page == dataset.base / "reports" / PARTITION / "index.html" and page.is_file()
        assert first.metadata["pairs"].value == 40
        again = run()
        assert again.metadata["bytes_written"].value == 0
        assert again.tags == first.tags  # the data version is one
        dataset.remove(3)
        dataset.commit()
        changed = run()
        assert changed.metadata["changed"].value == {"removed": 1}
        assert changed.tags != first.tags
