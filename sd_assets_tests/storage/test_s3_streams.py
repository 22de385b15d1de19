"""Objects are read in ranges and sent in pieces: never whole, never twice in memory."""

import pickle
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.errors import GoneError
from sd_assets.storage.files import S3Files
from sd_assets.storage.files.streams import RangedFile, joined
from sd_assets.storage.shards import Pieces, read_batches, take_rows
from sd_assets_tests.s3 import S3Server
from sd_assets_tests.s3_faults import FaultProxy

pytestmark = pytest.mark.s3

ROWS, ROWS_OF_GROUP, IMAGE = 160, 20, 100_000


def shard(rows: int = ROWS) -> tuple[list[bytes], pa.Table]:
    """A file like a shard of images, 2 MB a row group, with columns on both sides of the images."""
    chance = np.random.default_rng(0)
    table = pa.table(
        {
            "id": pa.array([f"{number:032x}" for number in range(rows)]),
            "image": pa.array([chance.bytes(IMAGE) for _ in range(rows)]),
            **{f"number_{name}": chance.random(rows) for name in range(8)},
        }
    )
    sink = Pieces()
    pq.write_table(table, sink, row_group_size=ROWS_OF_GROUP, compression="none")
    return sink.pieces, table


def fetched(proxy: FaultProxy) -> int:
    """The bytes of all ranges that were asked for, but of the first of each file."""
    ranges = [request.range.removeprefix("bytes=") for request in proxy.requests]
    ends = [tuple(map(int, each.split("-"))) for each in ranges if each and not each.startswith("-")]
    return sum(end + 1 - start for start, end in ends)


def test_joined_pieces_are_one_file() -> None:
    chance = random.Random(0)
    pieces = [chance.randbytes(size) for size in (0, 3, 0, 0, 700_000, 1, 65_536, 0)]
    whole, file = b"".join(pieces), joined([*pieces[:3], *map(pa.py_buffer, pieces[3:5]), *pieces[5:]])
    assert file.read() == whole
    for _ in range(200):
        at, size = chance.randrange(len(whole) + 10), chance.randrange(200_000)
        assert file.seek(at) == at
        assert file.read(size) == whole[at : at + size]
    assert file.seek(0, 2) == len(whole) and file.read() == b""
    assert joined([]).read() == b""


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 20_000_000])
def test_any_range_is_what_lies_there(size: int) -> None:
    chance = random.Random(size)
    whole = chance.randbytes(size)
    asked: list[tuple[int, int]] = []

    def fetch(start: int, end: int) -> bytes:
        assert 0 <= start < end <= size
        asked.append((start, end))
        return whole[start:end]

    file = RangedFile(fetch, whole[-65_536:], size)
    for _ in range(100):
        at, wanted = chance.randrange(size + 1), chance.choice([0, 10, 1_000, 100_000, 3_000_000])
        file.seek(at)
        assert file.read(wanted) == whole[at : at + wanted]
    file.seek(0)
    assert file.read() == whole
    assert bool(asked) == (size > 65_536)


def test_a_file_read_from_front_to_back_is_asked_for_in_few_large_ranges() -> None:
    asked: list[int] = []

    def fetch(start: int, end: int) -> bytes:
        asked.append(end - start)
        return bytes(end - start)

    file = RangedFile(fetch, bytes(65_536), 48_000_000)
    while file.read(10_000):
        pass
    assert sum(asked) + 65_536 == 48_000_000
    assert len(asked) <= 18 and max(asked) <= 4 * 1024 * 1024


def test_columns_beside_images_are_read_without_them(proxy: FaultProxy) -> None:
    files = S3Files(proxy.connection, "s3://data/columns")
    pieces, table = shard()
    files.put("a", *pieces)
    columns = [name for name in table.column_names if name != "image"]
    proxy.requests.clear()
    with files.open("a") as file:
        assert pa.Table.from_batches(read_batches(file, columns)).equals(table.select(columns))
    groups = ROWS // ROWS_OF_GROUP
    # Those on both sides of the images by themselves.
    assert {request.kind for request in proxy.requests} == {"GET"} and len(proxy.requests) <= 2 * groups
    assert fetched(proxy) < 0.15 * table.nbytes


def test_a_whole_read_costs_few_requests_and_nothing_twice(proxy: FaultProxy) -> None:
    files = S3Files(proxy.connection, "s3://data/whole")
    pieces, table = shard()
    files.put("a", *pieces)
    proxy.requests.clear()
    with files.open("a") as file:
        assert pa.Table.from_batches(read_batches(file)).equals(table)
    assert len(proxy.requests) <= 1 + ROWS // ROWS_OF_GROUP
    assert fetched(proxy) <= sum(map(len, pieces))


def test_some_rows_cost_their_row_groups(proxy: FaultProxy) -> None:
    files = S3Files(proxy.connection, "s3://data/some")
    pieces, table = shard()
    files.put("a", *pieces)
    proxy.requests.clear()
    rows = np.array([45, 3, 41])
    with files.open("a") as file:
        assert take_rows(pq.ParquetFile(file), rows, ["image"]).equals(table.select(["image"]).take(rows))
    assert len(proxy.requests) <= 3
    assert fetched(proxy) < 2.2 * ROWS_OF_GROUP * IMAGE


def test_small_and_empty_objects_cost_one_request(proxy: FaultProxy) -> None:
    files = S3Files(proxy.connection, "s3://data/small")
    for name, data in (("a", b"0123456789"), ("empty", b"")):
        files.put(name, data)
        proxy.requests.clear()
        with files.open(name) as file:
            assert (file.size(), file.read()) == (len(data), data)
        assert len(proxy.requests) == 1
    with pytest.raises(FileNotFoundError, match="s3://data/small/b"):
        files.open("b")


def test_an_object_that_changes_while_it_is_read_is_an_error(proxy: FaultProxy) -> None:
    files = S3Files(proxy.connection, "s3://data/changed")
    pieces, _ = shard(60)
    files.put("a", *pieces)
    with files.open("a") as file:
        parquet = pq.ParquetFile(file)
        files.put("a", *reversed(pieces))
        with pytest.raises(GoneError, match=r"s3://data/changed/a: it was written anew while it was read"):
            parquet.read()
        files.delete("a")
        with pytest.raises(GoneError, match="s3://data/changed/a: it was deleted while it was read"):
            parquet.read()


# In a process of its own, as the server of the tests, too, holds what it is sent.
_MEASURED = """
import pickle, sys, tracemalloc
import pyarrow as pa
from sd_assets.storage.shards import read_batches
from sd_assets_tests.storage.test_s3_streams import shard
files = pickle.loads(bytes.fromhex(sys.argv[1]))
pieces, table = shard(480)
rows = len(table)
del table
files.put("warm", b"1")
tracemalloc.start()
files.put("a", *pieces)
print(sum(map(len, pieces)), tracemalloc.get_traced_memory()[1])
del pieces
tracemalloc.reset_peak()
before, arrow = tracemalloc.get_traced_memory()[0], pa.total_allocated_bytes()
most = 0
with files.open("a") as file:
    for batch in read_batches(file):
        rows -= len(batch)
        most = max(most, pa.total_allocated_bytes() - arrow)
print(rows, tracemalloc.get_traced_memory()[1] - before, most)
"""


def test_a_shard_is_never_twice_in_memory(s3: S3Server) -> None:
    files = pickle.dumps(s3.files("s3://data/memory")).hex()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, files], capture_output=True, text=True, check=True, timeout=120
    )
    size, sent, left, read, arrow = map(int, done.stdout.split())
    assert size > 48_000_000 and left == 0
    assert sent < 6_000_000
    assert read < 24_000_000 and arrow < 12_000_000
