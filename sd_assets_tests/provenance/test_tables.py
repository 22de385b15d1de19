"""Rows of a table, held in memory and found by a text."""

from typing import Any

import pyarrow as pa
import pytest

from sd_assets.provenance.tables import HeldRows


@pytest.mark.parametrize("count", [0, 1, 100])
def test_all_rows_with_a_text_are_found_in_order(count: int) -> None:
    keys = [f"key {number % 7}" for number in range(count)]
    held = HeldRows(
        pa.table({"key": pa.array(keys, pa.string()), "number": pa.array(range(count), pa.int64())}), "key"
    )
    for key in {*keys, "another"}:
        assert [row["number"] for row in held.of(key)] == [
            number for number, it in enumerate(keys) if it == key
        ]


def test_texts_of_one_hash_are_told_apart() -> None:
    minus_one: Any = -1
    assert hash(minus_one) == hash(-2)
    assert HeldRows(pa.table({"key": [-1, -2, -1]}), "key").of(minus_one) == [{"key": -1}, {"key": -1}]
