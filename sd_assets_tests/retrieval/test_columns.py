"""Whole columns of metadata become what single values become."""

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from sd_assets.retrieval.columns import KNOWN, known_of, pixels_of, text_of

TEXTS = [
    pa.array(["a", "", None, "é"]),
    pa.array(["a", ""], pa.large_string()),
    # An older pyarrow (clip-retrieval's environment) knows no such type.
    *([pa.array(["a", None], pa.string_view())] if hasattr(pa, "string_view") else []),
    pa.array([b"a", b"\xff", None, b""], pa.binary()),
    pa.array(["x", "y", None, "x"]).dictionary_encode(),
    pa.array([0.25, 1.0, 1e-7, float("nan"), None, float("inf"), 1e22]),
    pa.array(np.array([0.1, 1], np.float32)),
    pa.array([1, None, -5]),
    pa.array([True, None]),
    pa.array([datetime.date(2020, 1, 1)]),
    pa.array([Decimal("1.50")]),
    pa.array([["a"], None]),
    pa.nulls(2),
]
SIZES = [
    pa.array(
        [0.25, 1.0, float("nan"), None, float("inf"), 1e22, 640.9, -3.0, 2_147_483_647.0, 2_147_483_648.0]
    ),
    pa.array([1, None, -5, 2**31 - 1, 2**31, 0], pa.int64()),
    pa.array([1, 200], pa.uint8()),
    pa.array([1, 2**63], pa.uint64()),
    pa.array([1, -4], pa.int16()),
    pa.array(np.array([640, np.nan], np.float16)),
    pa.array(["640", "x", None, "1e3", ""]),
    pa.array([640, None]).dictionary_encode(),
    pa.array([True, False]),
    pa.nulls(2),
]


@pytest.mark.parametrize("values", TEXTS, ids=lambda values: str(values.type))
def test_texts(values: pa.Array) -> None:
    columns = {"url": "u", "alt_text": "t"}
    rows = pa.RecordBatch.from_arrays([pa.array(["http://h"] * len(values)), values], ["u", "t"])
    assert known_of(rows, columns)["alt_text"].to_pylist() == [text_of(value) for value in values.to_pylist()]


@pytest.mark.parametrize("values", SIZES, ids=lambda values: str(values.type))
def test_sizes(values: pa.Array) -> None:
    columns = {"url": "u", "width": "w"}
    rows = pa.RecordBatch.from_arrays([pa.array(["http://h"] * len(values)), values], ["u", "w"])
    assert known_of(rows, columns)["width"].to_pylist() == [pixels_of(value) for value in values.to_pylist()]


def test_text_that_is_no_utf_8() -> None:
    # Parquet promises UTF-8, and nobody looks when it is written.
    offsets, data = pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"\xffab")
    broken = pa.StringArray.from_buffers(2, offsets, data)
    known = known_of(pa.RecordBatch.from_arrays([broken], ["url"]), {"url": "url"})
    assert known["url"].to_pylist() == ["\N{REPLACEMENT CHARACTER}", "ab"]


def test_fields_without_a_column_are_null() -> None:
    known = known_of(pa.RecordBatch.from_pydict({"URL": ["http://h"]}), {"url": "URL"})
    assert known.schema == KNOWN
    assert known.to_pylist() == [{**dict.fromkeys(KNOWN.names), "url": "http://h"}]


@pytest.mark.parametrize(
    ("value", "text", "pixels"),
    [
        ("a", "a", None),
        ("", None, None),
        (None, None, None),
        (float("nan"), None, None),
        ("\ud800x", "?x", None),
        (True, "True", None),
        ({"a": 1}, None, None),
        ([640], None, None),
        (640, "640", 640),
        (0.25, "0.25", None),
        ("640.0", "640.0", 640),
        ("1e3", "1e3", 1000),
        (10**400, str(10**400), None),
        (-3, "-3", None),
        (2**31, str(2**31), None),
    ],
)
def test_single_values(value: object, text: str | None, pixels: int | None) -> None:
    assert (text_of(value), pixels_of(value)) == (text, pixels)
