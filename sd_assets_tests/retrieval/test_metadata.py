"""Rows of metadata by number, of real files: `metadata.arrow`, and Parquet where it is missing."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.errors import RetrievalError
from sd_assets.retrieval import metadata as metadata_module
from sd_assets.retrieval.columns import KNOWN
from sd_assets.retrieval.layout import METADATA_ARROW, METADATA_FOLDER
from sd_assets.retrieval.metadata import edges_digest, open_metadata, write_metadata_arrow

ROWS = 100
NUMBERS = np.array([99, 0, 41, 41, 7, 0, 63], np.int64)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index folder whose metadata lies in files of 30 rows, in row groups of 8."""
    table = pa.table(
        {
            "URL": [f"http://h/{i}" if i != 7 else "" for i in range(ROWS)],
            "TEXT": [None if i % 3 == 0 else f"text {i}" for i in range(ROWS)],
            "WIDTH": [float("nan") if i == 41 else float(i) for i in range(ROWS)],
            "other": ["x"] * ROWS,
        }
    )
    (tmp_path / METADATA_FOLDER).mkdir()
    for number, start in enumerate(range(0, ROWS, 30)):
        path = tmp_path / METADATA_FOLDER / f"metadata_{number}.parquet"
        pq.write_table(table.slice(start, 30), path, row_group_size=8)
    return tmp_path


def expected(number: int) -> dict[str, object]:
    return {
        **dict.fromkeys(KNOWN.names),
        "url": f"http://h/{number}" if number != 7 else None,
        "alt_text": None if number % 3 == 0 else f"text {number}",
        "width": None if number in (0, 41) else number,
    }


def test_both_ways_give_the_rows_in_the_order_asked(
    index: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        parquet = open_metadata("rooms", index)
    assert "metadata is read from Parquet, which is slower" in caplog.text
    monkeypatch.setattr(metadata_module, "_BATCH_ROWS", 25)
    monkeypatch.setattr(metadata_module, "_READ_ROWS", 10)
    assert write_metadata_arrow(index) == index / METADATA_ARROW
    with pa.ipc.open_file(pa.memory_map(str(index / METADATA_ARROW))) as reader:
        assert reader.num_record_batches == 5
    caplog.clear()
    arrow = open_metadata("rooms", index)
    assert not caplog.records
    for metadata in (parquet, arrow):
        assert metadata.rows == ROWS
        assert metadata.fields == {"url", "alt_text", "width"}
        taken = metadata.take(NUMBERS)
        assert taken.schema.equals(KNOWN)
        assert taken.to_pylist() == [expected(number) for number in NUMBERS.tolist()]
        assert metadata.take(NUMBERS[:0]).to_pylist() == []
        assert metadata.take(np.arange(ROWS)).to_pylist() == [expected(number) for number in range(ROWS)]


def test_batches_are_bounded_by_their_text_too(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_module, "_BATCH_BYTES", 1)
    monkeypatch.setattr(metadata_module, "_READ_ROWS", 10)
    write_metadata_arrow(index)
    with pa.ipc.open_file(pa.memory_map(str(index / METADATA_ARROW))) as reader:
        assert reader.num_record_batches == 10  # three of ten rows of each file of thirty, one of the last
    assert open_metadata("rooms", index).take(NUMBERS).to_pylist() == list(map(expected, NUMBERS.tolist()))


def test_one_of_other_parquet_files_is_left_aside(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_metadata_arrow(index)
    file = index / METADATA_FOLDER / "metadata_0.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(0, "URL", pa.array(["http://new"] * len(table))), file)
    metadata = open_metadata("rooms", index)
    assert "left aside" in caplog.text
    assert metadata.take(NUMBERS[1:2])["url"].to_pylist() == ["http://new"]
    write_metadata_arrow(index)
    caplog.clear()
    assert open_metadata("rooms", index).take(NUMBERS[1:2])["url"].to_pylist() == ["http://new"]
    assert not caplog.records


def test_one_with_other_columns_is_left_aside(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    older = pa.table({"url": ["http://old"] * ROWS})
    with pa.ipc.new_file(str(index / METADATA_ARROW), older.schema) as writer:
        writer.write_table(older)
    assert open_metadata("rooms", index).take(NUMBERS[:1])["url"].to_pylist() == ["http://h/99"]
    assert "left aside" in caplog.text


def no_folder(index: Path) -> None:
    for path in (index / METADATA_FOLDER).iterdir():
        path.unlink()


def no_url(index: Path) -> None:
    path = index / METADATA_FOLDER / "metadata_2.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["URL"]), path)


def garbage(index: Path) -> None:
    (index / METADATA_FOLDER / "metadata_1.parquet").write_bytes(b"garbage" * 50)


def garbage_arrow(index: Path) -> None:
    (index / METADATA_ARROW).write_bytes(b"garbage" * 50)


def cut_arrow(index: Path) -> None:
    path = write_metadata_arrow(index)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_folder, "no Parquet files in"),
        (no_url, "no column of URLs that all files share"),
        (garbage, "cannot read .*metadata_1.parquet"),
        (garbage_arrow, "metadata.arrow is damaged .*: delete it"),
        (cut_arrow, "metadata.arrow is damaged .*: delete it"),
    ],
)
def test_broken_files_are_one_clear_error(index: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(index)
    with pytest.raises(RetrievalError, match=message) as error:
        open_metadata("rooms", index)
    assert "'rooms'" in str(error.value)


def test_a_writing_that_fails_leaves_nothing(index: Path) -> None:
    # The footers are good, the pages are not: it goes wrong in the middle.
    path = index / METADATA_FOLDER / "metadata_3.parquet"
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(bytes(data))
    with pytest.raises(RetrievalError, match=r"cannot read .*metadata_3.parquet"):
        write_metadata_arrow(index)
    assert sorted(child.name for child in index.iterdir()) == [METADATA_FOLDER]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_of_many_files_the_edges_are_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_module, "_EDGES_BYTES", 1 << 20)
    monkeypatch.setattr(metadata_module, "_LEAST_EDGE_BYTES", 1 << 10)
    files = [tmp_path / f"{number}.parquet" for number in range(40)]
    for file in files:
        file.write_bytes(bytes(400_000))

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read()
    digest = edges_digest(tmp_path, files)
    assert 1_500_000 < read() - before < 2_500_000  # of 16,000,000
    files[30].write_bytes(bytes(399_999) + b"x")
    assert edges_digest(tmp_path, files) != digest
