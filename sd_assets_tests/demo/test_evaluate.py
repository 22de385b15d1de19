"""The evaluator, on tables whose figures are known."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets import schemas
from sd_assets.demo.evaluate import TABLES, evaluate
from sd_assets.demo.faults import FAULTS
from sd_assets.errors import SdAssetsError
from sd_assets.schemas import TableSchema, text_id

RED_SOFA = [["red", "sofa"], ["blue", "lamp"]]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Twelve pages with a red sofa, eight with a green bed, and three faults."""
    images: dict[str, Any] = {}
    for i in range(12):
        images[f"http://w/sofa{i}"] = {
            "items": RED_SOFA,
            "wall": "mint",
            "floor": "oak",
            "fault": None,
            "group": None,
            "flaw": None,
        }
    for i in range(8):
        images[f"http://w/bed{i}"] = {
            "items": [["green", "bed"]],
            "wall": "grey",
            "floor": "oak",
            "fault": None,
            "group": None,
            "flaw": None,
        }
    for kind in ("missing", "gone", "never_answers"):
        images[f"http://w/{kind}"] = {
            "items": RED_SOFA,
            "wall": "mint",
            "floor": "oak",
            "fault": kind,
            "group": None,
            "flaw": None,
        }
    folder = tmp_path / "world"
    folder.mkdir()
    (folder / "truth.json").write_text(json.dumps({"images": images, "seeds": {}}))
    return folder


def write(folder: Path, schema: TableSchema, rows: list[dict[str, Any]], shards: int = 1) -> Path:
    folder.mkdir(parents=True)
    full = [{name: row.get(name) for name in schema.arrow.names} for row in rows]
    for number in range(shards):
        part = pa.Table.from_pylist(full[number::shards], schema=schema.arrow)
        pq.write_table(part, folder / f"{number}.parquet")
    return folder


def hit(url: str, rank: int) -> dict[str, Any]:
    return {"url": url, "rank": rank, "similarity": 0.5}


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    prompts = ["a red sofa", "a green bed", "interior design", "a red sofa and a blue lamp"]
    sofas = [hit(f"http://w/sofa{i}", i) for i in range(12)]
    beds = [hit(f"http://w/bed{i}", i) for i in range(8)]  # eight of ten
    mixed = [hit(f"http://w/sofa{i}", i) for i in range(5)] + [
        hit(f"http://w/bed{i}", 5 + i) for i in range(7)
    ]
    found = [f"http://w/sofa{i}" for i in range(3)] + [
        "http://w/bed0",
        "http://w/missing",
        "http://w/never_answers",
        "http://w/bed1",
    ]
    downloads: list[dict[str, Any]] = [
        {"url_id": text_id(url), "url": url, "image_id": f"id:{url}"} for url in found
    ]
    for row, error in zip(downloads[4:], ["not_found", "connection_failed", "corrupt_image"], strict=True):
        row.update(image_id=None, error=error)
    captions = [
        ("http://w/sofa0", "retrieved", "a red sofa and a blue lamp in a room"),  # 2 of 2 true, 2 of 2 found
        ("http://w/sofa1", "retrieved", "a red sofa and a green lamp"),  # 1 of 2 true, 2 of 2 found
        ("http://w/sofa2", "retrieved", None),
        ("http://w/bed0", "retrieved", "a sofa"),  # names no pair; 0 of 1 found
        ("http://w/bed1", "seed", "a red sofa"),
    ]
    base = tmp_path / "data"
    return {
        "seed_prompts": write(
            base / "seed_prompts",
            schemas.SEED_PROMPTS,
            [{"prompt_id": text_id(it), "prompt": it} for it in prompts],
        ),
        "retrieval_hits": write(
            base / "retrieval_hits",
            schemas.RETRIEVAL_HITS,
            [
                {"query_id": text_id(prompts[0]), "kind": "text", "index": "rooms", "hits": sofas[::-1]},
                {"query_id": text_id(prompts[1]), "kind": "text", "index": "rooms", "hits": beds},
                {"query_id": text_id(prompts[2]), "kind": "text", "index": "rooms", "hits": beds},
                {"query_id": text_id(prompts[3]), "kind": "text", "index": "rooms", "hits": mixed},
                {"query_id": "an image", "kind": "image", "index": "rooms", "hits": beds},
            ],
            shards=2,
        ),
        "retrieved_image_urls": write(
            base / "retrieved_image_urls",
            schemas.RETRIEVED_IMAGE_URLS,
            [{"url_id": text_id(url), "url": url} for url in found],
        ),
        "downloaded_images": write(
            base / "downloaded_images", schemas.DOWNLOADED_IMAGES, downloads, shards=3
        ),
        "image_captions": write(
            base / "image_captions",
            schemas.IMAGE_CAPTIONS,
            [
                {"image_id": f"id:{url}", "variant": "0", "caption": caption, "origin": origin}
                for url, origin, caption in captions
            ],
        ),
        "curated_pairs": write(
            base / "curated_pairs",
            schemas.CURATED_PAIRS,
            [{"image_id": f"id:{found[0]}", "keep": True, "reasons": [], "split": "train"}],
        ),
    }


def test_every_figure(world: Path, tables: dict[str, Path]) -> None:
    assert set(tables) == set(TABLES)
    result = evaluate(world, tables)
    assert result.retrieval_precision_at_10 == pytest.approx((1.0 + 0.8 + 0.5) / 3)
    assert result.caption_pair_accuracy == pytest.approx(3 / 4)
    assert result.caption_object_recall == pytest.approx(4 / 5)
    assert (result.fault_kinds, result.faults_planted) == (3, 3)
    # `missing` is right, `never_answers` is not, `gone` was never retrieved; bed1 is broken though nothing was planted.
    assert (result.faults_classified_right, result.false_faults) == (1, 1)
    assert json.loads(json.dumps(result.as_dict()))["false_faults"] == 1
    assert FAULTS["never_answers"].expected == "timeout"


def test_what_cannot_be_measured_is_none(world: Path, tables: dict[str, Path]) -> None:
    for path in tables["image_captions"].iterdir():
        pq.write_table(schemas.IMAGE_CAPTIONS.arrow.empty_table(), path)
    result = evaluate(world, {name: path for name, path in tables.items() if name != "seed_prompts"})
    assert result.retrieval_precision_at_10 is None
    assert result.caption_pair_accuracy is None
    assert result.caption_object_recall is None


def test_a_failed_query_counts(world: Path, tables: dict[str, Path]) -> None:
    for path in tables["retrieval_hits"].iterdir():
        table = pq.read_table(path)
        failed = pa.array([None] * table.num_rows, schemas.RETRIEVAL_HITS.arrow.field("hits").type)
        pq.write_table(table.set_column(3, "hits", failed), path)
    assert evaluate(world, tables).retrieval_precision_at_10 == 0


def test_what_is_missing_is_named(world: Path, tables: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SdAssetsError, match=r"truth\.json"):
        evaluate(tmp_path / "nowhere", tables)
    with pytest.raises(SdAssetsError, match="no table image_captions"):
        evaluate(world, {**tables, "image_captions": tmp_path / "nowhere"})
