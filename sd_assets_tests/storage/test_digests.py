"""Equal values have equal digests wherever they lie; different ones do not."""

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sd_assets.storage.digests import row_digests

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "a": st.none() | st.text(max_size=4),
            "b": st.none() | st.binary(max_size=4),
            "v": st.none() | st.lists(st.floats(width=32, allow_nan=False), max_size=2),
            "s": st.none()
            | st.lists(
                st.none()
                | st.fixed_dictionaries(
                    {
                        "x": st.none() | st.integers(0, 3),
                        "y": st.none() | st.text(max_size=2),
                        "z": st.none() | st.lists(st.integers(0, 2), max_size=2),
                    }
                ),
                max_size=2,
            ),
        }
    ),
    max_size=8,
)
SCHEMA = pa.schema(
    [
        pa.field("a", pa.string()),
        pa.field("b", pa.binary()),
        pa.field("v", pa.list_(pa.float32())),
        pa.field(
            "s", pa.list_(pa.struct([("x", pa.int64()), ("y", pa.string()), ("z", pa.list_(pa.int8()))]))
        ),
    ]
)


@given(ROWS, st.integers(0, 8))
def test_digests_follow_the_values_alone(rows: list[dict[str, Any]], cut: int) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    digests = row_digests(batch, SCHEMA.names)
    parts = [batch.slice(0, cut), batch.slice(cut)]
    assert digests == [digest for part in parts for digest in row_digests(part, SCHEMA.names)]
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            assert (digests[i] == digests[j]) == (_text(one) == _text(other))


def _text(row: dict[str, Any]) -> str:
    """Differs where the values do; 0.0 and -0.0 are different values here."""
    structs = row["s"] and [item and (item["x"], item["y"], item["z"]) for item in row["s"]]
    return repr((row["a"], row["b"], row["v"], structs))


def test_columns_do_not_run_into_each_other() -> None:
    batch = pa.RecordBatch.from_pydict({"a": ["ab", "a", None, ""], "b": ["c", "bc", "", None]})
    assert len(set(row_digests(batch, ["a", "b"]))) == 4
