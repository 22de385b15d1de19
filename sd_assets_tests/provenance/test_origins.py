"""What exported metadata says of where images come from."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sd_assets.provenance.origins import ORIGIN_TABLES, Origins, origins_of_kept
from sd_assets.schemas import DOWNLOADED_IMAGES, RETRIEVED_IMAGE_URLS, SEED_IMAGES, TableSchema
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.small_partition import (
    CLIP,
    PARTITION,
    PROMPT,
    PROMPT_ID,
    SmallPartition,
    write_partition,
)
from sd_assets_tests.tables import table_of


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallPartition:
    return write_partition(tmp_path_factory.mktemp("data"), captions=2)


def origins_of(small: SmallPartition) -> Origins:
    return Origins(small.store, PARTITION, lambda: pa.array(small.images))


def test_a_retrieved_image(small: SmallPartition) -> None:
    number = small.seeds
    url = f"https://a.example.org/{number}.png"
    assert origins_of(small).of(small.images[number]) == {
        "found_by": [
            {
                "query_id": PROMPT_ID,
                "kind": "text",
                "prompt": PROMPT,
                "index": "rooms",
                "model": CLIP,
                "rank": number,
                "similarity": 0.75,
                "url": url,
            }
        ],
    }


def test_a_seed(small: SmallPartition) -> None:
    row = origins_of(small).of(small.images[1])
    assert row == {"source": "somebody/rooms", "source_revision": "c0ffee", "source_row": 1}


def test_a_seed_that_was_retrieved_from_two_urls(small: SmallPartition) -> None:
    row = origins_of(small).of(small.images[0])
    assert row["source_row"] == 0
    found = [(hit["kind"], hit["similarity"], hit["url"].split("/")[2]) for hit in row["found_by"]]
    assert found == [
        ("image", 1.0, "a.example.org"),
        ("image", 1.0, "b.example.org"),
        ("text", 0.75, "a.example.org"),
        ("text", 0.75, "b.example.org"),
    ]


def test_without_any_table_nothing_is_known(tmp_path: Path) -> None:
    origins = Origins(TableStore(LocalFiles(tmp_path)), PARTITION, lambda: pa.array(["0" * 64]))
    assert origins.of("0" * 64) == {} and origins.text("0" * 64) == ""
    assert origins.data_versions == dict.fromkeys(ORIGIN_TABLES)


def test_as_text_it_is_json_of_the_kept(small: SmallPartition) -> None:
    origins = origins_of_kept(small.store, PARTITION, small.store.open("curated_pairs", PARTITION))
    retrieved = json.loads(origins.text(small.images[small.seeds]))
    assert retrieved["found_by"][0]["prompt"] == PROMPT
    assert origins.text(small.images[-1]) == ""  # it is not kept


def rewritten(small: SmallPartition, schema: TableSchema, changes: dict[str, Any]) -> None:
    """Commit a table with another value in some columns of every row."""
    rows = small.store.open(schema.name, PARTITION).read().to_pylist()
    table_of(small.base, schema, [{**row, **changes} for row in rows], PARTITION)


def test_the_data_versions_are_of_what_is_said_and_not_of_when_it_was_fetched(tmp_path: Path) -> None:
    small = write_partition(tmp_path)
    before = origins_of(small).data_versions
    assert None not in before.values()
    rewritten(small, DOWNLOADED_IMAGES, {"fetched_at": None, "etag": "another"})
    assert origins_of(small).data_versions == before
    rewritten(small, RETRIEVED_IMAGE_URLS, {"hits": []})
    assert {name for name, it in origins_of(small).data_versions.items() if it != before[name]} == {
        RETRIEVED_IMAGE_URLS.name
    }


def test_the_models_that_scores_come_from(small: SmallPartition) -> None:
    assert origins_of(small).models == {"image_embeddings": [CLIP], "alignment_scores": [CLIP]}


def test_secrets_of_addresses_are_left_out(tmp_path: Path) -> None:
    small = write_partition(tmp_path)
    url = "https://me:hunter2@a.example.org/1.png?X-Amz-Signature=0123456789"
    hit = {"query_id": PROMPT_ID, "rank": 1, "similarity": 0.5, "url": url}
    rewritten(small, RETRIEVED_IMAGE_URLS, {"hits": [hit]})
    rewritten(small, SEED_IMAGES, {"source": "https://me:hunter2@b.example.org/rooms?token=0123456789"})
    said = origins_of(small).text(small.images[0])
    assert "hunter2" not in said and "0123456789" not in said
    assert "//a.example.org/1.png?" in said and "//b.example.org/rooms?" in said
