"""The evaluator of curation, on a table whose figures are known."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.demo.evaluate_curation import evaluate_curation
from sd_assets.demo.truth import Truth
from sd_assets.errors import SdAssetsError
from sd_assets.schemas import CURATED_PAIRS, DOWNLOADED_IMAGES, TableSchema, text_id

# Image -> (flaw, group, reasons, cluster, alignment).
PAGES: dict[str, tuple[str | None, str | None, list[str], str, float | None]] = {
    "blurred0": ("blurred", None, ["low_sharpness"], "a", 0.5),
    "blurred1": ("blurred", None, [], "b", 0.5),
    "tiny0": (
        "tiny",
        None,
        ["low_resolution", "low_sharpness"],
        "c",
        0.5,
    ),  # no mistake of the filter of blurs
    "well0": (None, None, ["low_sharpness"], "d", 0.6),
    "well1": (None, "g", [], "e", 0.2),
    "well2": (None, "g", ["near_duplicate"], "e", 0.6),
    "well3": (None, "g", [], "f", 0.6),
    "well4": (None, None, [], "f", None),
}


def write(folder: Path, schema: TableSchema, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    full = [{name: row.get(name) for name in schema.arrow.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(full, schema=schema.arrow), folder / "0.parquet")
    return folder


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    images: dict[str, dict[str, Any]] = {
        f"http://w/{name}": {"items": [], "fault": None, "flaw": flaw, "group": group}
        for name, (flaw, group, *_) in PAGES.items()
    }
    seeds = {
        "a.jpg": {"image_id": "seed0", "flaw": "mismatched"},
        "b.jpg": {"image_id": "seed1", "flaw": None},
    }
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "seeds": seeds}))
    return Truth(tmp_path)


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    downloads = [
        {"url_id": text_id(name), "url": f"http://w/{name}", "image_id": f"id:{name}"} for name in PAGES
    ]
    downloads.append({"url_id": "dead", "url": "http://w/dead", "error": "not_found"})
    pairs: list[dict[str, Any]] = [
        {"image_id": f"id:{name}", "reasons": reasons, "cluster": cluster, "alignment": alignment}
        for name, (_, _, reasons, cluster, alignment) in PAGES.items()
    ]
    pairs += [
        {"image_id": "seed0", "reasons": ["low_alignment"], "cluster": "seed0", "alignment": 0.3},
        {"image_id": "seed1", "reasons": [], "cluster": "seed1", "alignment": 0.6},
        {"image_id": "broken", "error": "corrupt_image"},
    ]
    return {
        "downloaded_images": write(tmp_path / "downloaded_images", DOWNLOADED_IMAGES, downloads),
        "curated_pairs": write(tmp_path / "curated_pairs", CURATED_PAIRS, pairs),
    }


def test_every_figure(truth: Truth, tables: dict[str, Path]) -> None:
    figures = evaluate_curation(truth, tables).as_dict()
    assert figures["filters"] == {
        "low_sharpness": {"precision": 1 / 2, "recall": 1 / 2, "planted": 2},
        "low_resolution": {"precision": 1, "recall": 1, "planted": 1},
        "high_flat_border": {"precision": None, "recall": None, "planted": 0},
        "low_alignment": {"precision": 1, "recall": 1, "planted": 1},
    }
    # Three pairs are of one picture, and one of them is found; a pair that is not is found, too.
    assert figures["duplicates"] == {"precision": 1 / 2, "recall": 1 / 3, "planted": 3}
    # One of the five pairs without a flaw has less than the false text's 0.3.
    assert figures["alignment_auc"] == pytest.approx(4 / 5)


def test_without_a_table_it_says_which(truth: Truth, tables: dict[str, Path]) -> None:
    del tables["curated_pairs"]
    with pytest.raises(SdAssetsError, match="no table curated_pairs"):
        evaluate_curation(truth, tables)
