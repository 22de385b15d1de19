"""An edit of one entry of the catalogue shows that partition's affected assets, and no other, as stale."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sd_assets.assets.catalog_entry import SECTIONS, section_metadata
from sd_assets.assets.common import section_key
from sd_assets.automation.sensors import catalog_edits
from sd_assets.settings import BlockedSettings
from sd_assets_tests.automation.project import PARTITIONS, Project

BUILT = PARTITIONS[:2]
built_first = pytest.mark.usefixtures("built")


@pytest.fixture
def built(project: Project) -> None:
    """Two partitions are built; the sensor runs without being started."""
    project.sensor_tick(catalog_edits.name)
    project.build(*BUILT)


def told(project: Project) -> int:
    """How many sections a tick tells Dagster of."""

    def events() -> int:
        return sum(
            len(project.instance.fetch_materializations(section_key(name), limit=1_000).records)
            for name in SECTIONS
        )

    before = events()
    tick = project.sensor_tick(catalog_edits.name)
    assert tick.error is None and not tick.run_ids
    return events() - before


EDITS: list[tuple[dict[str, Any], set[str]]] = [
    ({"captioner": {"max_new_tokens": 7}}, {"image_captions"}),
    ({"retrieval": {"images_per_query": 2}}, {"retrieval_hits"}),
    ({"download": {"image_size": 64}}, {"downloaded_images"}),
    (
        {"clip": {"model": "other", "pretrained": "toy"}},
        {"seed_embeddings", "image_embeddings", "alignment_scores", "held_out_images"},
    ),
    ({"prompts": {"texts": ["a chair"]}}, {"seed_prompts"}),
]


@built_first
def test_edits_show_as_stale_where_they_count(project: Project, tmp_path: Path) -> None:
    head = tmp_path / "head.safetensors"
    save_file({"weight": torch.zeros(1, 2)}, head)
    of_scores = ({"scores": {"aesthetic": {"head": str(head)}}}, {"aesthetic_scores", "nsfw_scores"})
    assert project.stale() == set()
    assert {partition for _, partition in project.missing()} == set(PARTITIONS) - set(BUILT)
    assert told(project) == 0
    edited = BUILT[1]
    for edit, assets in [*EDITS, of_scores]:
        project.catalog["seed_datasets"][edited].update(edit)
        project.write()
        assert told(project) == 1
        assert project.stale() == {(asset, edited) for asset in assets}
        project.build(edited)
        assert project.stale() == set(), edit


@built_first
def test_settings_that_change_nothing_show_nothing(project: Project) -> None:
    project.catalog["defaults"]["download"]["timeout_s"] = 2
    project.catalog["defaults"]["clip"]["batch_size"] = 2
    project.write()
    assert told(project) == 0
    assert project.stale() == set()


@built_first
def test_an_edit_of_the_index_counts_for_who_asks_it(project: Project) -> None:
    project.catalog["indices"]["other"] = {"kind": "faiss", "path": "elsewhere"}
    project.write()
    assert told(project) == 0
    project.catalog["seed_datasets"][BUILT[0]]["retrieval"] = {"index": "other"}
    project.write()
    assert told(project) == 1
    assert project.stale() == {("retrieval_hits", BUILT[0])}


@built_first
def test_an_edit_of_what_is_blocked_counts_for_all(project: Project) -> None:
    project.catalog["blocked"] = {"hosts": ["evil.example"], "urls": ["http://x.example/secret-name.jpg"]}
    project.write()
    assert told(project) == len(PARTITIONS)
    of_the_web = ("seed_images", "retrieval_hits", "downloaded_images")
    touched = (*of_the_web, "held_out_images", "near_duplicates")
    assert project.stale() == {(asset, partition) for asset in touched for partition in BUILT}


@built_first
def test_an_entry_that_is_gone_stops_nobody(project: Project) -> None:
    del project.catalog["seed_datasets"][BUILT[0]]
    project.write()
    assert told(project) == 0


def test_what_is_blocked_is_not_shown() -> None:
    section = BlockedSettings(urls=("http://x.example/secret-name.jpg",)).effects()
    assert "secret-name" not in str(section_metadata(section))


def test_what_is_shown_of_a_section_holds_no_secret() -> None:
    section = {"index_definition": {"url": "https://me:hunter2@knn.example/knn-service", "k": [1, "a"]}}
    shown = section_metadata(section)["settings"].data
    assert "hunter2" not in str(shown)
    assert "knn.example/knn-service" in shown["index_definition"]["url"]
    assert shown["index_definition"]["k"] == [1, "a"]
