"""What Dagster's UI draws over time of an asset: the numbers of its materializations, as its GraphQL API gives them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sd_assets.assets.catalog_entry import catalog_entry
from sd_assets.assets.downloaded_images import downloaded_images
from sd_assets.assets.retrieval_hits import retrieval_hits
from sd_assets.assets.retrieved_image_urls import retrieved_image_urls
from sd_assets.assets.seed_embeddings import seed_embeddings
from sd_assets.assets.seed_images import seed_images
from sd_assets.assets.seed_prompts import seed_prompts
from sd_assets.catalog import CATALOG_VARIABLE
from sd_assets.resources.storage import DATA_VARIABLE
from sd_assets_tests.automation.project import PARTITIONS, Project
from sd_assets_tests.download.misbehaving import Server, answer
from sd_assets_tests.sources.conftest import picture

PARTITION = PARTITIONS[0]
BUILT = (
    catalog_entry,
    seed_images,
    seed_prompts,
    seed_embeddings,
    retrieval_hits,
    retrieved_image_urls,
    downloaded_images,
)
# The plots are of entries of these two types (`AssetMaterializationGraphs` of the webserver's page).
NUMBERS = """
query($asset: AssetKeyInput!) {
  assetOrError(assetKey: $asset) { ... on Asset { assetMaterializations {
    partition
    metadataEntries {
      __typename label ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue }
    }
  } } }
}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setenv(CATALOG_VARIABLE, str(tmp_path / "catalog.yaml"))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    with Project.opened(tmp_path) as project:
        yield project


def plotted(project: Project, asset: str) -> list[dict[str, Any]]:
    """By label the numbers of each materialization, the first one first."""
    found = project.ask(NUMBERS, asset={"path": [asset]})["assetOrError"]["assetMaterializations"]
    return [
        {
            entry["label"]: entry.get("intValue", entry.get("floatValue"))
            for entry in made["metadataEntries"]
            if entry["__typename"] in ("IntMetadataEntry", "FloatMetadataEntry")
        }
        for made in reversed(found)
    ]


def test_rates_and_failures_are_plotted_over_time(project: Project) -> None:
    with Server() as server:
        server.paths["/0.jpg"] = answer(body=picture(0), Content_Type="image/jpeg")
        project.index([server.url(f"/{number}.jpg") for number in range(3)])  # two of them are not there
        download = {"allow_addresses": ["127.0.0.1"], "retries": 0}
        project.write(**{PARTITION: {"prompts": {"texts": ["a lamp"]}, "download": download}})
        for _ in range(2):
            project.build(PARTITION, only=BUILT)
    first, again = plotted(project, "downloaded_images")
    for made in (first, again):
        assert made["failure_share"] == 0.666667
        assert (made["rows_ok"], made["rows_failed"]) == (1, 2)
        assert made["seconds"] > 0 and made["peak_memory_mb"] > 0
        assert not [label for label in made if label.startswith("gpu_")]
    assert first["rows_per_s"] > 0 and first["compute_seconds"] > 0 and first["rows_computed"] == 3
    # A refresh that computes nothing is a gap in the plot of the rate, and no record.
    assert again["rows_computed"] == 0 and not {"rows_per_s", "compute_seconds"} & set(again)
    assert {label: type(it) for label, it in again.items()}.items() <= {
        label: type(it) for label, it in first.items()
    }.items()
