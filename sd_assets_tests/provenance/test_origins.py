"""What exported metadata says of where images come from."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from sd_assets.provenance import ORIGIN_FIELDS, Origins
from sd_assets.provenance.origins import origins_of_kept
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.small_partition import (
    CAPTIONER,
    FETCHED_AT,
    PARTITION,
    PROMPT,
    PROMPT_ID,
    SmallPartition,
    write_partition,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallPartition:
    return write_partition(tmp_path_factory.mktemp("data"), captions=2)


def test_a_retrieved_image(small: SmallPartition) -> None:
    number = small.seeds
    url = f"https://a.example.org/{number}.png"
    assert Origins(small.store, PARTITION, small.images).of(small.images[number]) == {
        "source": None,
        "source_revision": None,
        "source_row": None,
        "fetched_at": FETCHED_AT,
        "found_by": [
            {
                "query_id": PROMPT_ID,
                "kind": "text",
                "prompt": PROMPT,
                "rank": number,
                "similarity": 0.75,
                "url": url,
            }
        ],
        "caption_models": [CAPTIONER, CAPTIONER],
    }


def test_a_seed(small: SmallPartition) -> None:
    row = Origins(small.store, PARTITION, small.images).of(small.images[1])
    assert (row["source"], row["source_revision"], row["source_row"]) == ("somebody/rooms", "c0ffee", 1)
    assert row["fetched_at"] is None and row["found_by"] is None


def test_a_seed_that_was_retrieved_from_two_urls(small: SmallPartition) -> None:
    row = Origins(small.store, PARTITION, small.images).of(small.images[0])
    assert row["source_row"] == 0
    found = [(hit["kind"], hit["similarity"], hit["url"].split("/")[2]) for hit in row["found_by"]]
    assert found == [
        ("image", 1.0, "a.example.org"),
        ("image", 1.0, "b.example.org"),
        ("text", 0.75, "a.example.org"),
        ("text", 0.75, "b.example.org"),
    ]


def test_rows_are_of_the_fields(small: SmallPartition) -> None:
    origins = Origins(small.store, PARTITION, small.images)
    rows = [origins.of(image) for image in small.images]
    table = pa.Table.from_pylist(rows, pa.schema(ORIGIN_FIELDS))
    assert table.to_pylist() == rows


def test_without_any_table_all_is_null(tmp_path: Path) -> None:
    origins = Origins(TableStore(LocalFiles(tmp_path)), PARTITION, ["0" * 64])
    assert set(origins.of("0" * 64).values()) == {None}


def test_as_text_it_is_json_of_what_is_known(small: SmallPartition) -> None:
    origins = origins_of_kept(small.store, PARTITION, small.store.open("curated_pairs", PARTITION))
    seed = json.loads(origins.text(small.images[1]))
    assert seed == {"source": "somebody/rooms", "source_revision": "c0ffee", "source_row": 1}
    retrieved = json.loads(origins.text(small.images[small.seeds]))
    assert retrieved["fetched_at"] == "2026-01-02T03:04:05+00:00"
    assert retrieved["found_by"][0]["prompt"] == PROMPT
    assert origins.text(small.images[-1]) == ""  # it is not kept
