"""How a shard's file is put together, from pieces and from rows of other shards."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.compute.run import run_stage
from sd_assets.schemas import SEED_IMAGES
from sd_assets.stages.stage import rows_of
from sd_assets.storage import staging
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.shards import MAX_ROW_GROUP_BYTES, ShardFile, ShardRows, take_rows
from sd_assets.storage.table import TableStore
from sd_assets_tests.toy import ToyStage, toy_input


def images(count: int, size: int) -> pa.Table:
    rng = random.Random(0)
    rows = [{"image_id": f"{row:03d}", "image": rng.randbytes(size)} for row in range(count)]
    return pa.Table.from_batches([rows_of(SEED_IMAGES, rows)])


def encoded(rows: pa.Table, size: int, pieces: list[int]) -> bytes:
    """The file of these rows when they come in pieces that end at these places."""
    file = ShardFile(SEED_IMAGES)
    for start, end in zip([0, *pieces], [*pieces, len(rows)], strict=True):
        file.add(rows.slice(start, end - start), [size] * (end - start))
    assert file.rows == len(rows)
    return b"".join(file.finish())


@pytest.mark.parametrize("size", [100, 300_000])
def test_the_file_depends_on_the_rows_alone_not_on_the_pieces_they_came_in(size: int) -> None:
    rows = images(70, size)
    whole = encoded(rows, size, [])
    for pieces in ([1], [35, 36], list(range(1, 70))):
        assert encoded(rows, size, pieces) == whole
    file = pq.ParquetFile(pa.BufferReader(whole))
    assert file.read().equals(rows)
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    assert max(group.num_rows for group in groups) <= SEED_IMAGES.row_group_rows
    # The row that fills a group belongs to it.
    assert max(group.total_byte_size for group in groups) < MAX_ROW_GROUP_BYTES + 2 * size
    assert len(groups) == (3 if size == 100 else 10)


def test_a_file_without_rows_has_no_row_group() -> None:
    file = pq.ParquetFile(pa.BufferReader(b"".join(ShardFile(SEED_IMAGES).finish())))
    assert (file.num_row_groups, file.schema_arrow.names) == (0, SEED_IMAGES.arrow.names)


@pytest.mark.parametrize("order", ["as they are", "backwards", "shuffled", "a few"])
def test_rows_come_in_the_order_asked_for(order: str) -> None:
    rows = images(70, 100)
    data = encoded(rows, 100, [])
    wanted = np.arange(70)
    if order == "backwards":
        wanted = wanted[::-1]
    elif order == "shuffled":
        wanted = np.random.default_rng(0).permutation(70)
    elif order == "a few":
        wanted = np.array([69, 3, 3, 31, 32])
    assert take_rows(pq.ParquetFile(pa.BufferReader(data)), wanted).equals(rows.take(pa.array(wanted)))
    assert (
        ShardRows(lambda _: pa.BufferReader(data), [0, 70]).take(wanted).equals(rows.take(pa.array(wanted)))
    )


def test_rows_of_unfinished_work_are_put_together_a_few_at_a_time_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[int] = []

    class Noted(ShardRows):
        def take(self, rows: npt.NDArray[np.int64]) -> pa.Table:
            gathered.append(len(rows))
            return super().take(rows)

    numbers = list(range(300))
    random.Random(0).shuffle(numbers)
    store = TableStore(LocalFiles(tmp_path))
    monkeypatch.setattr(staging, "FLUSH_SECONDS", 0.0)  # a shard of work in progress a batch
    monkeypatch.setattr(staging, "ShardRows", Noted)
    monkeypatch.setattr(staging, "GATHER_BYTES", 600)
    area = store.area("toy", "p")
    run_stage(ToyStage(), toy_input(numbers), area, "run", lambda line: None).commit()
    names = store.open("toy", "p").read(["name"]).column("name").to_pylist()
    assert names == [f"n{number}" for number in numbers]
    assert 0 < sum(gathered) < 300  # the last rows of each shard came when it ended
    assert max(gathered) < 12


def count_row_groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each row group that is read from now on."""
    read: list[int] = []
    whole = pq.ParquetFile.read_row_group

    def read_row_group(file: pq.ParquetFile, group: int, **how: Any) -> pa.Table:
        read.append(group)
        return whole(file, group, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    return read


@pytest.mark.parametrize("held_bytes", [0, 20_000, 1_000_000])
def test_rows_of_many_shards_are_read_about_once(held_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = images(300, 100)
    # Every third row lies in the same shard, in order: as what came in turns from three places.
    data = [encoded(rows.take(pa.array(range(start, 300, 3))), 100, []) for start in range(3)]
    opened: list[int] = []

    def open_shard(number: int) -> pa.NativeFile:
        opened.append(number)
        return pa.BufferReader(data[number])

    read = count_row_groups(monkeypatch)
    found = ShardRows(open_shard, [0, 100, 200, 300], ["image"], held_bytes)
    wanted = np.array([100 * (number % 3) + number // 3 for number in range(300)])
    pieces = [found.take(wanted[start : start + 7]) for start in range(0, 300, 7)]
    assert pa.concat_tables(pieces).combine_chunks().equals(rows.select(["image"]).combine_chunks())
    groups = pq.read_metadata(pa.BufferReader(data[0])).num_row_groups
    assert groups > 3
    assert sorted(opened) == [0, 1, 2]
    # Each once, if so much may be held.
    assert (len(read) == 3 * groups) is (held_bytes > 0)


def test_few_shards_are_held_open(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(images(2, 100), 100, [])
    opened: list[pa.NativeFile] = []

    def open_shard(number: int) -> pa.NativeFile:
        opened.append(pa.BufferReader(data))
        return opened[-1]

    found = ShardRows(open_shard, np.arange(0, 82, 2))
    assert len(found.take(np.arange(80))) == 80
    assert len(opened) == 40 and sum(not file.closed for file in opened) == 16
    found.close()
    assert all(file.closed for file in opened)
