"""Parts of a version: rows by their places, a sample, error codes; before its commit and after it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sd_assets.compute.run import write_rows
from sd_assets.schemas import ERROR_FIELDS, TableSchema
from sd_assets.schemas import table as schema_of
from sd_assets.stages.stage import rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore, spread

NUMBERS = TableSchema(
    "numbers",
    ("name",),
    pa.schema([pa.field("name", pa.string()), pa.field("number", pa.int64()), *ERROR_FIELDS]),
    shard_rows=16,
    row_group_rows=4,
)
COUNT = 200
# An error code of a table of one's own may be anything.
CODES = {7: "not_found", 11: "nicht gefunden, schön", 13: "写" * 30, 199: "timeout"}


def rows() -> Iterator[dict[str, Any]]:
    return ({"name": f"n{n}", "number": n, "error": CODES.get(n)} for n in range(COUNT))


@pytest.fixture(params=["staged", "committed"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Table]:
    store = TableStore(LocalFiles(tmp_path))
    staged = write_rows(NUMBERS, [rows_of(NUMBERS, rows())], store.area("numbers", "p"), "run")
    if request.param == "staged":
        yield staged.table()
        assert staged.commit().shards == staged.shards
    else:
        staged.commit()
        yield store.open("numbers", "p")


def test_rows_by_their_places(table: Table) -> None:
    places = [150, 3, 199, 0, 3, 77]
    assert table.take(places).column("number").to_pylist() == places
    assert table.take(places, ["name"]).to_pydict() == {"name": [f"n{place}" for place in places]}
    assert table.take([], ["number"]).to_pydict() == {"number": []}
    assert table.read().column("number").to_pylist() == list(range(COUNT))


def test_error_codes(table: Table) -> None:
    found = {place: code.decode() for place, code in enumerate(table.errors.tolist()) if code}
    # What is longer than the index has room for is cut, between characters.
    assert found == {**CODES, 13: "写" * 16}
    assert len(table.errors) == COUNT


def test_a_sample_is_whole_shards_of_all_parts(table: Table) -> None:
    part = table.thinned(50)
    numbers = part.read().column("number").to_pylist()
    assert len(numbers) == part.num_rows and 10 <= len(numbers) <= 100
    assert numbers == sorted(numbers) and numbers[0] < 80 and numbers[-1] > 120
    assert table.thinned(COUNT) is table
    assert 0 < table.thinned(1).num_rows < 65


def test_an_empty_table(tmp_path: Path) -> None:
    store = TableStore(LocalFiles(tmp_path))
    write_rows(NUMBERS, [], store.area("numbers", "p"), "run").commit()
    empty = store.open("numbers", "p")
    assert (len(empty.errors), empty.thinned(10).num_rows) == (0, 0)
    assert empty.take([]).column_names == NUMBERS.arrow.names


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
@pytest.mark.parametrize("columns", [["name", "image"], ["image"]], ids=str)
def test_images_are_fetched_by_row(tmp_path: Path, kind: pa.DataType, columns: list[str]) -> None:
    """As the same type, whatever the type of the column: what joins them wants one."""
    schema = schema_of("own", ["name"], [pa.field("name", pa.string()), pa.field("image", kind)], images=True)
    store = TableStore(LocalFiles(tmp_path))
    images = [b"a", b"bb", None, b"a", b"dddd"]
    batch = rows_of(schema, ({"name": f"n{n}", "image": image} for n, image in enumerate(images)))
    write_rows(schema, [batch], store.area("own", "p"), "run").commit()
    places = [4, 2, 0]
    found = 0
    for rows in store.open("own", "p").rows(columns):
        assert rows.lazy == ("image",) and "image" not in rows.known.schema.names
        assert rows.digests is not None and len(rows.digests) == len(rows.known) == len(images)
        assert rows.digests[0] == rows.digests[3] and len(set(rows.digests)) == 4
        taken = rows.take(places)
        assert taken.schema.field("image").type == pa.binary()
        assert taken.column("image").to_pylist() == [images[place] for place in places]
        if "name" in columns:
            assert taken.column("name").to_pylist() == [f"n{place}" for place in places]
        found += 1
    assert found == 1


def test_places_at_even_distances() -> None:
    assert spread(3, 9) == [1, 4, 7]
    assert spread(9, 3) == [0, 1, 2]
    assert spread(1, 1_000_000) == [500_000]
    assert spread(5, 0) == spread(0, 5) == []
