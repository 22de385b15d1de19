"""A small table and a small stage, for tests of what carries them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from sd_assets.errors import ErrorCode, RowError
from sd_assets.schemas import ERROR_FIELDS, TableSchema
from sd_assets.stages.stage import Stage, failure, rows_of

TOY = TableSchema(
    "toy",
    ("name",),
    pa.schema(
        [
            pa.field("name", pa.string()),
            pa.field("square", pa.int64()),
            pa.field("note", pa.string()),
            *ERROR_FIELDS,
        ]
    ),
    frozenset({"note", "error_detail"}),
    shard_rows=16,
    row_group_rows=4,
)


def toy_input(
    numbers: Sequence[int], *, failed: Sequence[int] = (), batch: int = 7
) -> Iterator[pa.RecordBatch]:
    """Numbers as the input of `ToyStage`; those in `failed` failed at an earlier stage."""
    for start in range(0, len(numbers), batch):
        part = numbers[start : start + batch]
        yield pa.RecordBatch.from_pydict(
            {
                "name": pa.array([f"n{number}" for number in part]),
                "number": pa.array(part, pa.int64()),
                "error": pa.array(["earlier" if number in failed else None for number in part], pa.string()),
            }
        )


class ToyStage(Stage):
    """Squares; numbers that divide by ten fail. Counts what it computes."""

    version = "1"
    reads: ClassVar[tuple[str, ...]] = ("number",)
    batch_rows = 5

    def __init__(self, *, factor: int = 1, stop_after: int | None = None) -> None:
        self.factor = factor
        self.stop_after = stop_after
        self.computed: Counter[int] = Counter()
        self.opened = 0

    @property
    def schema(self) -> TableSchema:
        return TOY

    def settings(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def open(self) -> None:
        self.opened += 1

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        if self.stop_after is not None and self.computed.total() >= self.stop_after:
            raise KeyboardInterrupt
        return rows_of(TOY, map(self._row, rows.to_pylist()))

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        self.computed[row["number"]] += 1
        if row["number"] % 10 == 0:
            return {"name": row["name"], **failure(RowError(ErrorCode.NOT_FINITE, "divides by ten"))}
        return {"name": row["name"], "square": row["number"] ** 2 * self.factor, "note": "computed"}
