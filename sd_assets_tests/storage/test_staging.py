"""What a run reads of the rows that are at hand."""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.compute.run import run_stage
from sd_assets.schemas import TableSchema
from sd_assets.storage import staging
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.shards import RowIndex, Shard, ShardFile, ShardRows
from sd_assets.storage.staging import Judge, Place, Staging
from sd_assets.storage.table import TableStore
from sd_assets_tests.storage.test_shards import count_row_groups
from sd_assets_tests.toy import TOY, ToyStage, toy_input

NONE_MAY_BE_TAKEN_OVER = Judge(("name",), lambda rows: [False] * len(rows))


@pytest.fixture
def area(tmp_path: Path) -> Area:
    """Of a table of 100 rows, in shards of about 16, in row groups of 4."""
    area = TableStore(LocalFiles(tmp_path)).area("toy", "p")
    run_stage(ToyStage(), toy_input(range(100)), area, "run", lambda line: None).commit()
    return area


def column(area: Area, name: str) -> list[bytes]:
    """A column of the index of the current version."""
    current = area.latest()
    assert current is not None
    return [it for shard in current.shards for it in area.read_index_column(shard, name).tolist()]


def about_in_order(works: Sequence[bytes]) -> list[list[bytes]]:
    """A few at a time, as answers from the web come: each within some places of its own."""
    late = np.arange(len(works)) + np.random.default_rng(0).integers(0, 12, len(works))
    order = np.argsort(late, kind="stable").tolist()
    return [[works[place] for place in order[start : start + 5]] for start in range(0, len(order), 5)]


def test_refused_rows_that_are_asked_for_a_few_at_a_time_are_read_once(
    area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = area.latest()
    assert current is not None
    groups = 0
    for shard in current.shards:
        with area.open_shard(shard) as file:
            groups += pq.read_metadata(file).num_row_groups
    assert len(current.shards) > 3 and groups > 20
    run = Staging(area, TOY, "again", NONE_MAY_BE_TAKEN_OVER)
    opened: list[Shard] = []
    whole = Area.open_shard

    def open_shard(area: Area, shard: Shard) -> pa.NativeFile:
        opened.append(shard)
        return whole(area, shard)

    monkeypatch.setattr(Area, "open_shard", open_shard)
    read = count_row_groups(monkeypatch)
    for columns, names in ((["name", "square"], {"name", "square"}), (None, set(TOY.arrow.names))):
        opened.clear()
        read.clear()
        found: dict[bytes, dict[str, Any]] = {}
        for works in about_in_order(column(area, "work")):
            found.update(run.refused(works, columns))
        assert {row["name"] for row in found.values()} == {f"n{number}" for number in range(100)}
        assert all(set(row) == names for row in found.values())
        assert (len(opened), len(read)) == (len(current.shards), groups)
    run.abandon()


def test_what_was_held_of_refused_rows_is_freed_before_the_version_is_put_together(
    area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[ShardRows] = weakref.WeakSet()
    readers: list[int] = []

    class Noted(ShardRows):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            alive.add(self)

        def take(self, rows: npt.NDArray[np.int64]) -> pa.Table:
            readers.append(len(alive))
            return super().take(rows)

    monkeypatch.setattr(staging, "ShardRows", Noted)
    monkeypatch.setattr(
        staging, "FLUSH_SECONDS", 0.0
    )  # so that the version's shards are put together from others
    run = Staging(area, TOY, "again", NONE_MAY_BE_TAKEN_OVER)
    keys, works = column(area, "key"), column(area, "work")
    assert {run.place(key, work) for key, work in zip(keys, works, strict=True)} == {Place.NEW}
    stored = run.refused(works, None)
    for start in range(0, 100, 5):
        some = slice(start, start + 5)
        changed = [{**stored[work], "square": -1} for work in works[some]]
        run.add(pa.Table.from_pylist(changed, TOY.arrow), keys[some], works[some])
    before = len(readers)
    run.finish(100).commit()
    assert set(readers[before:]) == {1}


def test_rows_that_come_about_in_order_are_written_once(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    put_shard = Area.put_shard

    def noted(area: Area, file: ShardFile, index: RowIndex, schema: TableSchema) -> Shard:
        written.append(len(index))
        return put_shard(area, file, index, schema)

    monkeypatch.setattr(Area, "put_shard", noted)
    run = Staging(area, TOY, "again", NONE_MAY_BE_TAKEN_OVER)
    keys, works = column(area, "key"), column(area, "work")
    key_of = dict(zip(works, keys, strict=True))
    assert {run.place(key_of[work], work) for work in works} == {Place.NEW}
    stored = run.refused(works, None)
    for some in about_in_order(works):
        changed = [{**stored[work], "square": -1} for work in some]
        run.add(pa.Table.from_pylist(changed, TOY.arrow), [key_of[work] for work in some], some)
    assert 100 > sum(written) > 60  # the version is put together meanwhile
    version = run.finish(100)
    assert sum(written) == 100
    version.commit()
    names = [row["name"] for row in stored.values()]
    assert TableStore(area.files).open("toy", "p").read(["name"]).column("name").to_pylist() == names
