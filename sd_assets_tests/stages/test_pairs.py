"""text_image_pairs from the tables before it."""

from pathlib import Path
from typing import Any

import pytest

from sd_assets import schemas
from sd_assets.compute.run import run_stage
from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema
from sd_assets.stages.pairs import PairStage, pair_rows
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore
from sd_assets_tests.tables import table_of

SEEDS: list[dict[str, Any]] = [
    {"image_id": "a", "image": b"A", "width": 1, "height": 2, "text": "own"},
    {"image_id": "b", "image": b"B"},
    {"image_id": "broken", "error": "corrupt_image"},
    {"image_id": "speechless", "image": b"S"},
]
URLS = [
    {
        "url_id": f"{n}",
        "url": f"http://h/{n}",
        "alt_text": f"alt {n}",
        "similarity": 0.75 if n == 3 else 0.5,
        "licence": "CC0",
        "hits": hits,
    }
    for n, hits in enumerate(
        [[{"query_id": "q2"}, {"query_id": "q1"}], [], [{"query_id": "q1"}], [{"query_id": "q3"}]]
    )
]
DOWNLOADS: list[dict[str, Any]] = [
    {
        "url_id": "0",
        "url": "http://h/0",
        "image_id": "c",
        "image": b"C",
        "width": 3,
        "height": 4,
        "original_width": 30,
        "original_height": 40,
    },
    {"url_id": "1", "url": "http://h/1", "error": "not_found"},
    {"url_id": "2", "url": "http://h/2", "image_id": "a", "image": b"resized A"},
    {"url_id": "3", "url": "http://h/3", "image_id": "c", "image": b"C"},
]
CAPTIONS = [
    {"image_id": "a", "variant": "default", "caption": "own", "origin": "seed"},
    {"image_id": "b", "variant": "long", "caption": "a long b", "origin": "seed"},
    {"image_id": "b", "variant": "short", "caption": "b", "origin": "seed"},
    {"image_id": "c", "variant": "default", "caption": "a c", "origin": "retrieved"},
    {"image_id": "speechless", "variant": "default", "error": "empty_caption"},
]


def tables(base: Path, **changed: list[dict[str, Any]]) -> tuple[Table, Table, Table, Table]:
    def table(schema: TableSchema, rows: list[dict[str, Any]]) -> Table:
        return table_of(base, schema, changed.get(schema.name, rows))

    return (
        table(schemas.SEED_IMAGES, SEEDS),
        table(schemas.RETRIEVED_IMAGE_URLS, URLS),
        table(schemas.DOWNLOADED_IMAGES, DOWNLOADS),
        table(schemas.IMAGE_CAPTIONS, CAPTIONS),
    )


def test_one_pair_for_each_distinct_image_with_a_caption(tmp_path: Path) -> None:
    area = TableStore(LocalFiles(tmp_path)).area("text_image_pairs", "p")
    staged = run_stage(PairStage(), pair_rows(*tables(tmp_path)), area, "run", print)
    pairs = {row["image_id"]: row for row in staged.table().read().to_pylist()}
    assert list(pairs) == ["a", "b", "c"]
    assert pairs["b"]["captions"] == ["a long b", "b"]
    # A seed that was found, too, keeps its bytes and its text.
    a = pairs["a"]
    assert (a["origin"], a["image"], a["text"], a["url"], a["query_ids"]) == (
        "seed",
        b"A",
        "own",
        "http://h/2",
        ["q1"],
    )
    assert (pairs["b"]["url"], pairs["b"]["text"], pairs["b"]["query_ids"]) == (None, None, None)
    c = pairs["c"]
    # Found under two URLs: the more similar one, and the queries of both.
    assert (c["origin"], c["url"], c["text"], c["licence"]) == ("retrieved", "http://h/3", "alt 3", "CC0")
    assert (c["similarity"], c["query_ids"], c["captions"]) == (0.75, ["q1", "q2", "q3"], ["a c"])
    # What came, before it was resized; a seed is kept as it came.
    sizes = ("width", "height", "original_width", "original_height")
    assert [c[name] for name in sizes] == [3, 4, 30, 40]
    assert [a[name] for name in sizes] == [1, 2, 1, 2]
    # Eight images came in: two failed, one has no caption; one seed was retrieved too, one image has two URLs.
    counts = {name: staged.report[f"rows_{name}"] for name in ("in", "ok", "failed", "duplicate", "skipped")}
    assert counts == {"in": 8, "ok": 3, "failed": 0, "duplicate": 2, "skipped": 3}


def test_tables_of_different_runs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="materialize downloaded_images again"):
        list(pair_rows(*tables(tmp_path, retrieved_image_urls=URLS[:2])))
