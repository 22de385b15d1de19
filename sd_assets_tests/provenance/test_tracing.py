"""From an image of the dataset back to where it came from, over tables of the real store."""

import json
from pathlib import Path

import pytest

from sd_assets.__main__ import main
from sd_assets.errors import TableError
from sd_assets.provenance import told, trace
from sd_assets.resources.storage import DATA_VARIABLE
from sd_assets_tests.small_partition import (
    CAPTIONER,
    CLIP,
    FETCHED_AT,
    PARTITION,
    PROMPT,
    PROMPT_ID,
    SmallPartition,
    write_partition,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallPartition:
    return write_partition(tmp_path_factory.mktemp("data"))


def test_a_retrieved_image_goes_back_to_its_prompt(small: SmallPartition) -> None:
    image = small.images[small.seeds]
    found = trace(small.store, PARTITION, image)
    assert found.seed is None
    (download,) = found.downloads
    assert download.row["url"] == f"https://a.example.org/{small.seeds}.png"
    assert (download.row["fetched_at"], download.row["http_status"]) == (FETCHED_AT, 200)
    assert download.known is not None and download.known["licence"] == "CC-BY-4.0"
    (query,) = download.queries
    assert (query.query_id, query.kind, query.prompt, query.seed) == (PROMPT_ID, "text", PROMPT, None)
    assert (query.rank, query.similarity, query.index, query.model) == (small.seeds, 0.75, "rooms", CLIP)
    assert [(row["variant"], row["model"]) for row in found.captions] == [("v0", CAPTIONER)]
    assert found.pair is not None and found.pair["origin"] == "retrieved"
    assert found.judged["alignment_scores"]["alignment"] == 0.25
    assert found.judged["image_embeddings"]["model"] == CLIP
    assert "aesthetic_scores" not in found.judged
    assert found.near_duplicates is not None and found.near_duplicates["cluster_size"] == 1
    assert found.curation is not None and found.curation["keep"]


def test_an_image_that_is_a_seed_and_was_retrieved_twice_has_all_of_it(small: SmallPartition) -> None:
    found = trace(small.store, PARTITION, small.images[0])
    assert found.seed is not None
    assert (found.seed["source"], found.seed["source_revision"], found.seed["source_row"]) == (
        "somebody/rooms",
        "c0ffee",
        0,
    )
    hosts = {download.row["url"].split("/")[2] for download in found.downloads}
    assert hosts == {"a.example.org", "b.example.org"}
    for download in found.downloads:
        by_image, by_prompt = download.queries  # the most similar first
        assert (by_image.kind, by_image.similarity, by_image.prompt) == ("image", 1.0, None)
        assert by_image.seed is not None and by_image.seed["source_row"] == 0
        assert by_prompt.prompt == PROMPT


def test_the_reasons_against_an_image_are_told(small: SmallPartition) -> None:
    found = trace(small.store, PARTITION, small.images[-1])
    assert found.curation is not None
    assert found.curation["reasons"] == ["low_sharpness", "near_duplicate"]
    assert "left out: low_sharpness, near_duplicate" in "\n".join(told(found))


def test_it_says_which_versions_it_read(small: SmallPartition) -> None:
    found = trace(small.store, PARTITION, small.images[0])
    pairs = small.store.open("text_image_pairs", PARTITION).manifest
    assert found.versions["text_image_pairs"].data_version == pairs.data_version
    assert "nsfw_scores" not in found.versions


def test_no_images_or_embeddings_are_in_it(small: SmallPartition) -> None:
    text = json.dumps(trace(small.store, PARTITION, small.images[0]).as_json())
    assert '"image":' not in text and '"embedding":' not in text


def test_an_image_that_has_no_pair_is_traced_too(tmp_path: Path) -> None:
    small = write_partition(tmp_path)
    for name in ("text_image_pairs", "curated_pairs", "image_captions"):
        for folder in (tmp_path / "_sd_assets" / name / PARTITION / "versions").iterdir():
            folder.unlink()
    lines = list(told(trace(small.store, PARTITION, small.images[small.seeds])))
    assert any("text_image_pairs has no such image" in line for line in lines)


def test_what_is_not_there_is_an_error(small: SmallPartition) -> None:
    with pytest.raises(TableError, match="no table of a partition 'q'"):
        trace(small.store, "q", small.images[0])
    with pytest.raises(TableError, match="has an image 'abc': give the whole image_id"):
        trace(small.store, PARTITION, "abc")


def test_the_command_line(
    small: SmallPartition, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(small.base))
    image = small.images[small.seeds]
    assert main(["trace", PARTITION, image.upper()]) == 0
    text = capsys.readouterr().out
    for fact in (
        image,
        PROMPT,
        f"https://a.example.org/{small.seeds}.png",
        "HTTP 200",
        "0.7500",
        CAPTIONER,
        "kept, ",
    ):
        assert fact in text
    assert main(["trace", PARTITION, image, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == trace(small.store, PARTITION, image).as_json()
    assert main(["trace", PARTITION, "0" * 64]) == 1
    assert "error: " in capsys.readouterr().err
