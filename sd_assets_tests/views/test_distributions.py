"""The distributions of real tables: what is measured, and that the numbers are right."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sd_assets.schemas import (
    DOWNLOADED_IMAGES,
    RETRIEVAL_HITS,
    RETRIEVED_IMAGE_URLS,
    SEED_EMBEDDINGS,
    TEXT_IMAGE_PAIRS,
    TableSchema,
    table,
)
from sd_assets.storage.table import Table
from sd_assets.views import distributions as module
from sd_assets.views.distributions import distributions
from sd_assets_tests.tables import table_of
from sd_assets_tests.views.hostile import HOSTILE
from sd_assets_tests.views.seen import cells_in, inline_tokens, picture_in

SCORES = TableSchema(
    "scores",
    ("name",),
    table("", ["name"], [pa.field("name", pa.string()), pa.field("score", pa.float64())]).arrow,
    shard_rows=16,
    row_group_rows=4,
)


def numbers(markdown: str | None) -> dict[str, list[str]]:
    """The table of a view: n, min, 5%, median, 95%, max by what is measured."""
    assert markdown is not None
    return {cells[0]: cells[1:] for cells in cells_in(markdown)}


def scores(values: Sequence[float | None]) -> Iterator[dict[str, Any]]:
    return ({"name": f"{number:05}", "score": value} for number, value in enumerate(values))


def test_what_is_measured_of_our_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Sequence[str] | None] = []
    batches = Table.batches

    def noted(self: Table, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        read.append(columns)
        return batches(self, columns)

    monkeypatch.setattr(Table, "batches", noted)
    hits = [{"url": f"http://x/{n}", "rank": n, "similarity": 0.5 + n / 10} for n in range(4)]
    tables: dict[TableSchema, list[dict[str, Any]]] = {
        TEXT_IMAGE_PAIRS: [
            {
                "image_id": str(n),
                "image": b"not looked at",
                "width": 100 + n,
                "height": 100,
                "original_width": 200 + n,
                "original_height": 100,
                "captions": ["a red sofa", "a sofa"],
                "text": "one" if n else None,
                "similarity": n / 4,
                "query_ids": ["q"] * n,
            }
            for n in range(5)
        ],
        DOWNLOADED_IMAGES: [
            {
                "url_id": "a",
                "original_width": 300,
                "original_height": 200,
                "original_bytes": 4000,
                "http_status": 200,
            },
            {"url_id": "b", "original_width": 90_000, "original_height": 1, "error": "aspect_ratio"},
        ],
        RETRIEVAL_HITS: [
            {"query_id": "a", "hits": hits},
            {"query_id": "b", "hits": hits[:1]},
            {"query_id": "c", "hits": []},
            {"query_id": "d", "error": "query_failed"},
        ],
        RETRIEVED_IMAGE_URLS: [
            {"url_id": "a", "alt_text": " a  sofa ", "hits": [{"query_id": "q", "similarity": 0.5}]}
        ],
        SEED_EMBEDDINGS: [{"query_id": "a", "embedding": [0.6, 0.8]}],
    }
    found = {
        schema.name: numbers(view)
        for schema, rows in tables.items()
        if (view := distributions(table_of(tmp_path, schema, rows), schema))
    }
    assert found == {
        "text_image_pairs": {
            "width (px)": ["5", "100", "100", "102", "104", "104"],
            "height (px)": ["5", "100", "100", "100", "100", "100"],
            "original_width (px)": ["5", "200", "200", "202", "204", "204"],
            "original_height (px)": ["5", "100", "100", "100", "100", "100"],
            "captions (words)": ["10", "2", "2", "2.5", "3", "3"],
            "text (words)": ["4", "1", "1", "1", "1", "1"],
            "similarity": ["5", "0", "0.05", "0.5", "0.95", "1"],
            "captions (a row)": ["5", "2", "2", "2", "2", "2"],
            "query_ids (a row)": ["5", "0", "0.2", "2", "3.8", "4"],
            "width / height": ["5", "2", "2", "2.02", "2.04", "2.04"],  # of what came
        },
        # The row that failed does not count.
        "downloaded_images": {
            "original_width (px)": ["1", "300", "300", "300", "300", "300"],
            "original_height (px)": ["1", "200", "200", "200", "200", "200"],
            "original_bytes": ["1", "4,000", "4,000", "4,000", "4,000", "4,000"],
            "width / height": ["1", "1.5", "1.5", "1.5", "1.5", "1.5"],
        },
        "retrieval_hits": {
            "hits (a row)": ["3", "0", "0.1", "1", "3.7", "4"],
            "similarity of hits": ["5", "0.5", "0.5", "0.6", "0.78", "0.8"],
        },
        "retrieved_image_urls": {
            "alt_text (words)": ["1", "2", "2", "2", "2", "2"],
            "hits (a row)": ["1", "1", "1", "1", "1", "1"],
            "similarity of hits": ["1", "0.5", "0.5", "0.5", "0.5", "0.5"],
        },
    }
    assert read and not any(
        columns is None or "image" in columns or "embedding" in columns for columns in read
    )


def test_histograms_are_drawn_of_what_varies(tmp_path: Path) -> None:
    sizes = [
        {"width": 64, "height": 64, "original_width": 256, "original_height": 200 + n} for n in range(50)
    ]
    rows = [{"image_id": str(n), **size, "captions": ["a"]} for n, size in enumerate(sizes)]
    markdown = distributions(table_of(tmp_path, TEXT_IMAGE_PAIRS, rows), TEXT_IMAGE_PAIRS)
    assert markdown is not None and markdown.startswith("50 rows\n")
    texts = picture_in(markdown).texts
    assert texts == [
        *("original_height (px)", "n = 50", "200", "median 224", "249"),
        *("width / height", "n = 50", "1.03", "median 1.14", "1.28"),
    ]
    constant = distributions(table_of(tmp_path / "c", TEXT_IMAGE_PAIRS, rows[:1]), TEXT_IMAGE_PAIRS)
    assert constant is not None and "image" not in {token.type for token in inline_tokens(constant)}


def test_bars_are_as_high_as_there_are_numbers(tmp_path: Path) -> None:
    values = [0.0] * 10 + [1.0] * 20 + [3.0] * 5
    markdown = distributions(table_of(tmp_path, SCORES, scores(values)), SCORES)
    assert markdown is not None
    picture_in(markdown)
    # Whole numbers have a bar each, 0 to 3; the highest is 112 pixels, from the bottom at 140.
    assert "V84.0h72.00V28.0h72.00V140.0h72.00V112.0h72.00V140z" in markdown


def test_what_lies_far_out_does_not_squeeze_the_others(tmp_path: Path) -> None:
    values = [*np.linspace(1, 2, 998).tolist(), 1000.5, -1000.5]
    view = distributions(table_of(tmp_path, SCORES, scores(values)), SCORES)
    assert view is not None
    assert picture_in(view).texts == ["score", "n = 1,000", "≤ 0.0721", "median 1.5", "≥ 2.93"]
    assert numbers(view)["score"][1::4] == ["-1,000", "1,000"]


def test_what_is_no_number_does_not_count(tmp_path: Path) -> None:
    values = [1.0, None, float("nan"), float("inf"), float("-inf"), 2.0]
    assert numbers(distributions(table_of(tmp_path / "a", SCORES, scores(values)), SCORES))["score"][0] == "2"
    assert distributions(table_of(tmp_path / "b", SCORES, scores([None, float("nan")])), SCORES) is None
    assert distributions(table_of(tmp_path / "c", SCORES, []), SCORES) is None


def test_of_a_large_table_a_sample_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 100)
    large = table_of(tmp_path, SCORES, scores(np.arange(1000, dtype=float).tolist()))
    view = distributions(large, SCORES)
    assert view is not None
    said, n = view.split("\n")[0], numbers(view)["score"][0]
    assert said == f"{n} rows, a sample of 1,000" and 20 < int(n) < 200
    least, median, most = (float(numbers(view)["score"][place]) for place in (1, 3, 5))
    assert least < 200 < median < 800 < most


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_columns_are_text(tmp_path: Path, name: str) -> None:
    name = name.encode("utf-8", "replace").decode().replace("\0", "")
    own = table("own", ["key"], [pa.field("key", pa.string()), pa.field(name, pa.float32())])
    markdown = distributions(table_of(tmp_path, own, [{"key": str(n), name: n / 3} for n in range(9)]), own)
    assert markdown is not None
    picture_in(markdown)
    kinds = {token.type for token in inline_tokens(markdown)}
    assert kinds == {"text", "code_inline", "image"}
