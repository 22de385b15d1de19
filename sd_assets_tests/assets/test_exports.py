"""The assets exports/<layout> in real runs."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from sd_assets.assets.exports import export_key
from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.definitions import build_definitions
from sd_assets.exports.export import LAYOUTS
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource
from sd_assets.schemas import DOWNLOADED_IMAGES, RETRIEVED_IMAGE_URLS, image_id
from sd_assets_tests.exports.kept import Kept, some, tables_of
from sd_assets_tests.tables import table_of

FETCHED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PARTITION = "demo_prompts"  # one of the catalogue that ships: partitions are read from there


def catalogue(path: Path, exports: str) -> CatalogResource:
    path.write_text(
        f"""
indices: {{mine: {{kind: faiss, path: index}}}}
defaults: {{exports: {{mds: {{}}}}}}
seed_datasets:
  {PARTITION}:
    prompts: {{texts: [a lamp]}}
    clip: {{model: "local-dir:clip"}}
    retrieval: {{index: mine}}
    exports: {exports}
"""
    )
    return CatalogResource(path=str(path))


class Project:
    """Tables, a catalogue, and runs of the assets."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "instance").mkdir()

    def write(self, pairs: Sequence[Kept]) -> None:
        tables_of(self.base / "data", pairs, PARTITION)

    def write_found(self, pairs: Sequence[Kept], host: str, fetched_at: datetime = FETCHED_AT) -> None:
        """The tables that say that each image was found under a URL of a host."""
        urls, downloads = [], []
        for image in (image_id(pair.image) for pair in pairs):
            url = f"https://{host}/{image[:8]}.png"
            hits = [{"query_id": "q1", "rank": 0, "similarity": 0.5, "url": url}]
            urls.append({"url_id": image, "url": url, "hits": hits})
            downloads.append({"url_id": image, "url": url, "image_id": image, "fetched_at": fetched_at})
        table_of(self.base / "data", RETRIEVED_IMAGE_URLS, urls, PARTITION)
        table_of(self.base / "data", DOWNLOADED_IMAGES, downloads, PARTITION)

    def run(self, exports: str, *, succeeds: bool = True) -> dict[str, dg.AssetMaterialization]:
        """Materialize all layouts; those that were made, by name. The others say that they were not asked for."""
        resources = {
            "storage": StorageResource(base=str(self.base / "data")),
            "catalog": catalogue(self.base / "catalogue.yaml", exports),
        }
        with dg.DagsterInstance.ephemeral(tempdir=str(self.base / "instance")) as instance:
            result = (
                build_definitions(resources)
                .resolve_job_def(BUILD_DATASET)
                .execute_in_process(
                    instance=instance,
                    partition_key=PARTITION,
                    asset_selection=[export_key(layout) for layout in LAYOUTS],
                    raise_on_error=succeeds,
                )
            )
            assert result.success == succeeds
            events = [
                it.step_materialization_data.materialization
                for it in result.get_asset_materialization_events()
            ]
        made = {event.asset_key.path[-1]: event for event in events}
        if succeeds:  # or a backfill would count as failed
            assert made.keys() == LAYOUTS.keys()
        return {name: event for name, event in made.items() if "path" in event.metadata}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_layouts_that_are_chosen_are_made_and_say_which_version_they_are(project: Project) -> None:
    project.write(some(5))
    made = project.run("{kohya: , mds: false, webdataset: {captions: all}}")
    assert made.keys() == {"kohya", "webdataset"}
    metadata = made["kohya"].metadata
    folder = project.base / "data" / "exports" / "kohya" / PARTITION
    assert metadata["path"].value == str(folder) and (folder / "dataset.toml").is_file()
    assert {path.name for path in folder.parent.iterdir()} == {PARTITION, f"{PARTITION}.json"}
    assert (metadata["pairs_train"].value, metadata["pairs_validation"].value) == (4, 1)
    assert metadata["curated_pairs_version"].value == 1
    table = StorageResource(base=str(project.base / "data")).table("curated_pairs", PARTITION)
    assert metadata["curated_pairs_data_version"].value == table.manifest.data_version


def test_a_refresh_writes_what_changed_and_its_data_version_changes_with_it(project: Project) -> None:
    project.write(some(5))
    first = project.run("{imagefolder: {}, mds: false}")["imagefolder"]
    again = project.run("{imagefolder: {}, mds: false}")["imagefolder"]
    assert "note" in again.metadata and again.tags == first.tags
    project.write(some(6))
    changed = project.run("{imagefolder: {}, mds: false}")["imagefolder"]
    assert changed.tags != first.tags
    # An image, and the metadata of its split.
    assert (changed.metadata["files_written"].value, changed.metadata["files_kept"].value) == (2, 5)
    smaller = project.run("{imagefolder: {image_size: 16}, mds: false}")["imagefolder"]
    assert smaller.tags != changed.tags and smaller.metadata["files_deleted"].value == 6


def test_what_the_defaults_choose_is_made_elsewhere_if_the_catalogue_says_so(project: Project) -> None:
    project.write(some(4))
    made = project.run("{path: elsewhere}")
    assert made.keys() == {"mds"}
    assert (project.base / "elsewhere" / "mds" / PARTITION / "train" / "index.json").is_file()
    assert not (project.base / "data" / "exports").exists()


def test_an_export_that_is_not_chosen_any_more_is_warned_of(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write(some(4))
    project.run("{}")
    capsys.readouterr()
    assert project.run("{mds: false}") == {}
    said = capsys.readouterr().err
    assert "holds an earlier export, which is not kept up to date any more" in said


def test_an_export_that_was_made_elsewhere_is_warned_of_until_it_is_deleted(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write(some(4))
    project.run("{path: one}")
    said = f"{project.base}/one/mds/{PARTITION} holds an earlier export"
    capsys.readouterr()
    for _ in range(2):
        assert project.run("{path: two}").keys() == {"mds"}
        assert said in capsys.readouterr().err
    (project.base / "one" / "mds" / f"{PARTITION}.json").unlink()
    project.run("{path: two}")
    assert "holds an earlier export" not in capsys.readouterr().err


def test_a_path_that_is_not_set_is_no_matter_if_no_layout_is_chosen(project: Project) -> None:
    project.write(some(2))
    assert project.run("{path: '${SD_ASSETS_NOT_SET}', mds: false}") == {}


def test_what_is_said_of_where_images_come_from_follows_the_tables(project: Project) -> None:
    """A host that is blocked goes; that an image was fetched again writes nothing."""
    pairs = some(3)
    project.write(pairs)
    lines = project.base / "data" / "exports" / "imagefolder" / PARTITION / "train" / "metadata.jsonl"
    project.write_found(pairs, "gone.example.org")
    first = project.run("{imagefolder: {}, mds: false}")["imagefolder"]
    assert "gone.example.org" in lines.read_text()
    project.write_found(pairs, "gone.example.org", FETCHED_AT + timedelta(days=1))
    again = project.run("{imagefolder: {}, mds: false}")["imagefolder"]
    assert "note" in again.metadata and again.tags == first.tags
    project.write_found(pairs, "kept.example.org")
    changed = project.run("{imagefolder: {}, mds: false}")["imagefolder"]
    assert "gone.example.org" not in lines.read_text() and "kept.example.org" in lines.read_text()
    assert changed.tags != first.tags and changed.metadata["files_kept"].value == 3


def test_a_layout_that_fails_does_not_keep_the_others_from_being_made(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write(some(4))
    mine = project.base / "data" / "exports" / "imagefolder" / PARTITION / "train" / "metadata.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert project.run("{imagefolder: {}}", succeeds=False).keys() == {"mds"}
    assert "holds what no export of demo_prompts wrote" in capsys.readouterr().err
