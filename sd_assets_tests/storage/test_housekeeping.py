"""What is there, and is it as it was written: tables and versions listed and read again, with faults made by hand."""

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sd_assets.compute.run import run_stage, write_rows
from sd_assets.errors import TableError
from sd_assets.schemas import ERROR_FIELDS, IMAGE_CAPTIONS, SEED_EMBEDDINGS, TableSchema
from sd_assets.stages.stage import rows_of
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.housekeeping import TEMPORARY, find_areas, inventory
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import TableStore
from sd_assets.storage.verify import Fault, half_written, verify
from sd_assets_tests.toy import ToyStage, toy_input


class Toy:
    """The table `toy` of partition `p`, with three versions of 60, 100 and 120 rows, of which the first rows are the same."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = TableStore(LocalFiles(base))
        self.area = self.store.area("toy", "p")
        self.hidden = base / "_sd_assets" / "toy" / "p"
        self.folder = base / "toy" / "p"
        for last in (60, 100, 120):
            self.refresh(range(last))

    def refresh(self, numbers: range, stop_after: int | None = None) -> None:
        stage = ToyStage(stop_after=stop_after)
        run_id = f"run-{len(numbers)}"
        run_stage(stage, toy_input(numbers), self.area, run_id, lambda line: None).commit()

    def only_in(self, version: int) -> Path:
        """A shard that no older version has."""
        older = {
            shard for manifest in self.area.kept() if manifest.version < version for shard in manifest.shards
        }
        shard = next(it for it in self.area.manifest(version).shards if it not in older)
        return self.hidden / "shards" / shard.file

    def shared(self) -> Path:
        """A shard that all versions have."""
        shards = [set(manifest.shards) for manifest in self.area.kept()]
        return self.hidden / "shards" / sorted(shard.file for shard in set.intersection(*shards))[0]

    def faults(self) -> list[Fault]:
        return verify(self.area).faults

    def fault(self) -> Fault:
        (fault,) = self.faults()
        return fault

    def path(self, path: Path) -> str:
        return str(path.relative_to(self.base))


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path)
    yield toy
    # To look at it has changed nothing: what others read is still what is there.
    assert toy.area.versions()


def unlinked(path: Path, data: bytes) -> None:
    """Other bytes at a path, and not at its other names."""
    path.unlink()
    path.write_bytes(data)


# --- listing ---------------------------------------------------------------------------------------------------------


def test_versions_rows_and_sizes(toy: Toy) -> None:
    (found,) = [inventory(area) for area in find_areas(toy.store)]
    assert (found.asset, found.partition, found.uri) == ("toy", "p", str(toy.folder))
    assert [(version.number, version.rows, version.rows_failed) for version in found.versions] == [
        (3, 120, 12),
        (2, 100, 10),
        (1, 60, 6),
    ]
    newest = found.versions[0]
    assert newest.data_version == toy.area.manifest(3).data_version and newest.run_id == "run-120"
    assert newest.shards == len(list(toy.folder.iterdir()))
    assert newest.bytes == sum(path.stat().st_size for path in toy.folder.iterdir())
    # All is counted once: the files in the folder are those of the current version under a second name.
    files = {path.stat().st_ino: path.stat().st_size for path in toy.base.rglob("*") if path.is_file()}
    assert found.bytes == sum(files.values())
    assert (found.wip_rows, found.wip_bytes) == (0, 0)
    assert json.loads(json.dumps(found.versions[0].__dict__))


def test_a_partition_whose_first_run_was_stopped(tmp_path: Path) -> None:
    store = TableStore(LocalFiles(tmp_path))
    area = store.area("toy", "p")
    with pytest.raises(KeyboardInterrupt):
        run_stage(ToyStage(stop_after=50), toy_input(range(100)), area, "run", lambda line: None)
    (found,) = [inventory(area) for area in find_areas(store)]
    assert found.versions == () and found.wip_rows == 50
    assert found.wip_bytes == sum(
        path.stat().st_size for path in (tmp_path / area.hidden / "shards").iterdir()
    )
    assert verify(area).faults == [] and verify(area).rows == 50


def test_partitions_are_found_by_table_and_by_key(tmp_path: Path) -> None:
    store = TableStore(LocalFiles(tmp_path))
    names = [
        ("toy", "b"),
        ("image_captions", "b"),
        ("my/own/table", "a"),
        ("seed_embeddings", "b"),
        ("toy", "a"),
    ]
    for asset, partition in names:
        write_rows(IMAGE_CAPTIONS, [], store.area(asset, partition), "run").commit()

    def found(asset: str | None = None, partition: str | None = None) -> list[tuple[str, str]]:
        return [(area.asset, area.partition) for area in find_areas(store, asset, partition)]

    assert found() == [names[3], names[1], names[2], names[4], names[0]]
    assert found("toy") == [("toy", "a"), ("toy", "b")]
    assert found("my/own/table") == [("my/own/table", "a")]
    assert found(partition="a") == [("my/own/table", "a"), ("toy", "a")]
    with pytest.raises(
        TableError, match=r"no table 'tay'; there are: seed_embeddings, image_captions, my/own/table, toy$"
    ):
        found("tay")
    with pytest.raises(TableError, match=r"no partition 'c'; there are: a, b$"):
        found("toy", "c")


def test_nothing_is_there(tmp_path: Path) -> None:
    store = TableStore(LocalFiles(tmp_path / "nowhere"))
    assert find_areas(store) == []
    with pytest.raises(TableError, match="no table 'toy'; there are: none"):
        find_areas(store, "toy")


# --- older versions --------------------------------------------------------------------------------------------------


def test_an_older_version_is_read_by_its_number_and_by_its_data_version(toy: Toy) -> None:
    versions = {number: toy.area.manifest(number).data_version for number in (1, 2, 3)}
    for number, rows in ((1, 60), (2, 100), (3, 120)):
        assert toy.store.open("toy", "p", version=number).read().num_rows == rows
        assert toy.store.open("toy", "p", data_version=versions[number]).read().num_rows == rows
    with pytest.raises(TableError) as caught:
        toy.store.open("toy", "p", data_version="feed")
    said = str(caught.value)
    assert "toy/p: data version feed is not kept (any more). Kept are:" in said
    for number, rows in ((1, 60), (2, 100), (3, 120)):
        created = toy.area.manifest(number).created_at
        assert f"\n  version {number}, data version {versions[number]}, {created}, {rows} rows" in said
    with pytest.raises(TableError, match=f"version 2 with data version {versions[1]} is not kept"):
        toy.store.open("toy", "p", version=2, data_version=versions[1])


def test_of_versions_with_the_same_data_version_the_newest_is_read(tmp_path: Path) -> None:
    area = TableStore(LocalFiles(tmp_path)).area("toy", "p")
    for note in ("one", "two"):
        rows = [{"name": "a", "square": 1, "note": note}]
        write_rows(ToyStage().schema, [rows_of(ToyStage().schema, rows)], area, note).commit()
    first, second = area.kept()
    assert first.data_version == second.data_version
    assert area.find(data_version=first.data_version).version == 2
    assert area.find(data_version=first.data_version, version=1).version == 1


@pytest.mark.parametrize("kept", [1, 2, 5])
def test_as_many_versions_are_kept_as_was_asked_for(tmp_path: Path, kept: int) -> None:
    store = TableStore(LocalFiles(tmp_path), kept)
    area = store.area("toy", "p")
    for last in range(10, 17):
        run_stage(ToyStage(), toy_input(range(last)), area, f"run-{last}", lambda line: None).commit()
    assert area.versions() == list(range(8 - kept, 8))
    assert store.open("toy", "p").read().num_rows == 16
    assert verify(area).faults == []


# --- verifying -------------------------------------------------------------------------------------------------------


def test_all_is_well(toy: Toy) -> None:
    found = verify(toy.area)
    shards = {shard for manifest in toy.area.kept() for shard in manifest.shards}
    assert found.faults == [] and found.notes == []
    assert found.versions == [1, 2, 3]
    assert (found.shards, found.rows) == (len(shards), sum(shard.rows for shard in shards))
    assert found.bytes == sum(path.stat().st_size for path in (toy.hidden / "shards").iterdir())


def test_a_damaged_byte_of_the_current_version(toy: Toy) -> None:
    path = toy.only_in(3)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)  # and so in the folder: the two are one file
    fault = toy.fault()
    assert fault.where == toy.path(path)
    assert "is damaged: its sha256 is" in fault.what and "(version 3)" in fault.what
    assert fault.remedy == (
        "Version 2 is whole: to go back to it delete _sd_assets/toy/p/versions/000003.json; the next run computes what it "
        "lacks"
    )
    # The remedy is one.
    (toy.hidden / "versions" / "000003.json").unlink()
    assert toy.store.open("toy", "p").num_rows == 100
    toy.refresh(range(120))
    assert toy.faults() == [] and toy.store.open("toy", "p").read().num_rows == 120


def test_a_damaged_byte_of_all_versions(toy: Toy) -> None:
    path = toy.shared()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    fault = toy.fault()
    assert "(version 1, 2, 3)" in fault.what
    assert fault.remedy.startswith("No version is whole: delete _sd_assets/toy/p and toy/p, and materialize")


def test_a_damaged_byte_of_an_older_version(toy: Toy) -> None:
    toy.refresh(range(50, 80))  # shares little with those before
    older = {shard.file for shard in toy.area.manifest(3).shards}
    others = {shard.file for number in (2, 4) for shard in toy.area.manifest(number).shards}
    path = toy.hidden / "shards" / sorted(older - others)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    fault = toy.fault()
    assert "(version 3)" in fault.what
    assert fault.remedy == (
        "The current version is whole: delete _sd_assets/toy/p/versions/000003.json, and with it the older version"
    )
    (toy.hidden / "versions" / "000003.json").unlink()
    assert toy.faults() == []


def test_a_truncated_shard(toy: Toy) -> None:
    path = toy.only_in(3)
    size = path.stat().st_size
    os.truncate(path, size - 100)
    assert f"has {size - 100} bytes, and {size} were written" in toy.fault().what


def test_a_shard_that_cannot_be_read(toy: Toy) -> None:
    path = toy.only_in(3)
    (toy.folder / path.name).unlink()
    path.unlink()
    path.mkdir()
    fault = toy.fault()
    assert fault.where == toy.path(path) and fault.what.startswith("cannot be read: ")


def test_a_deleted_shard_that_the_folder_still_has(toy: Toy) -> None:
    path = toy.only_in(3)
    path.unlink()
    fault = toy.fault()
    copy = toy.folder / path.name
    assert (fault.where, fault.what) == (toy.path(path), "is missing")
    assert fault.remedy == f"Copy {toy.path(copy)} to there: that one is whole"
    path.hardlink_to(copy)
    assert toy.faults() == []


def test_a_shard_that_was_deleted_everywhere(toy: Toy) -> None:
    path = toy.only_in(3)
    path.unlink()
    (toy.folder / path.name).unlink()
    fault = toy.fault()
    assert fault.where == toy.path(path) and fault.what == "is missing (version 3)"
    assert fault.remedy.startswith("Version 2 is whole: to go back to it delete")


@pytest.mark.parametrize("damage", ["missing", "truncated", "of another shard"])
def test_a_row_index(toy: Toy, damage: str) -> None:
    shards = {toy.hidden / "shards" / shard.file: shard for shard in toy.area.manifest(3).shards}
    shard = shards.pop(toy.only_in(3))
    path = toy.hidden / "index" / f"{shard.index}.parquet"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        os.truncate(path, 50)
    else:
        other = next(iter(shards.values()))
        path.write_bytes((path.parent / f"{other.index}.parquet").read_bytes())
    fault = toy.fault()
    said = {"missing": "is missing", "truncated": "is damaged", "of another shard": "is not the row index"}
    assert fault.where == toy.path(path)
    assert said[damage] in fault.what and "(version 3)" in fault.what
    assert "Version 2 is whole" in fault.remedy


def test_a_row_index_that_is_gone_is_said_to_be(toy: Toy) -> None:
    shard = toy.area.manifest(3).shards[-1]
    (toy.hidden / "index" / f"{shard.index}.parquet").unlink()
    said = f"the index of shard {shard.file} is gone: `python -m sd_assets verify` says what can be done"
    table = toy.store.open("toy", "p")
    with pytest.raises(TableError, match=said):
        _ = table.errors
    with pytest.raises(TableError, match=said):
        list(table.rows(["name"]))
    with pytest.raises(TableError, match=said):
        toy.refresh(range(130))
    assert not list((toy.hidden / "leases").iterdir())


def test_rows_that_are_not_those_of_the_index(tmp_path: Path) -> None:
    """As a mistake of ours would write them: bytes, checksum and names fit, what is in them does not."""
    base = tmp_path / "data"
    toy = Toy(base)
    path = toy.only_in(3)
    other = toy.shared().read_bytes()
    path.write_bytes(other)
    manifest = toy.hidden / "versions" / "000003.json"
    body = json.loads(manifest.read_text())
    source = next(shard for shard in body["shards"] if shard["name"] == toy.shared().stem)
    for shard in body["shards"]:
        if shard["name"] == path.stem:
            shard.update(bytes=source["bytes"], sha256=source["sha256"])
    unlinked(manifest, json.dumps(body).encode())
    fault = toy.fault()
    assert fault.where == toy.path(path)
    assert "row 0 is not the one of its index, by its key" in fault.what


def test_a_data_version_that_is_not_that_of_the_rows(toy: Toy) -> None:
    path = toy.hidden / "versions" / "000003.json"
    right = toy.area.manifest(3).data_version
    path.write_text(path.read_text().replace(right, "0" * 32))
    fault = toy.fault()
    assert fault.where == toy.path(path)
    assert fault.what == f"says data version {'0' * 32}, and its rows have {right} (version 3)"


@pytest.mark.parametrize("content", [b"", b'{"format": 2, "ver', b"[]", b'{"format": 99}'])
def test_a_damaged_manifest(toy: Toy, content: bytes) -> None:
    path = toy.hidden / "versions" / "000003.json"
    path.write_bytes(content)
    found = verify(toy.area)
    faults = [fault for fault in found.faults if fault.where == toy.path(path)]
    assert len(faults) == 1 and "cannot be read" in faults[0].what
    assert faults[0].remedy.startswith(
        "Version 2 is whole: to go back to it delete _sd_assets/toy/p/versions/000003"
    )
    listed = inventory(toy.area)
    assert ([version.number for version in listed.versions], listed.unreadable) == ([2, 1], (3,))
    with pytest.raises(TableError, match=r"000003\.json is (damaged|of format 99)"):
        toy.store.open("toy", "p")


def test_the_folder_is_to_hold_the_current_version(toy: Toy) -> None:
    first, second, *_ = sorted(toy.folder.iterdir())
    first.unlink()
    unlinked(second, b"of somebody else")
    old = next(
        it
        for it in (toy.hidden / "shards").iterdir()
        if it.name not in {path.name for path in toy.folder.iterdir()} | {first.name}
    )
    (toy.folder / old.name).hardlink_to(old)
    found = {fault.where: fault for fault in toy.faults()}
    assert set(found) == {toy.path(first), toy.path(second), toy.path(toy.folder / old.name)}
    assert found[toy.path(first)].what == "is missing, so other readers miss its rows"
    assert "has 16 bytes" in found[toy.path(second)].what and found[toy.path(second)].remedy.startswith(
        "Delete it."
    )
    assert "is not of the current version" in found[toy.path(toy.folder / old.name)].what
    # As the remedies say.
    second.unlink()
    assert toy.store.open("toy", "p").num_rows == 120
    assert toy.faults() == []


def test_a_foreign_file_in_the_folder_is_only_mentioned(toy: Toy) -> None:
    (toy.folder / "notes.txt").write_text("mine")
    found = verify(toy.area)
    assert found.faults == []
    assert found.notes == [
        "toy/p/notes.txt: is not one of our files; it is left alone, and readers of the folder read it"
    ]


def test_half_written_files_are_only_mentioned(toy: Toy) -> None:
    assert half_written(toy.store.files, TEMPORARY) is None
    (toy.base / TEMPORARY / "0123").write_bytes(b"half")
    assert verify(toy.area).faults == []
    said = half_written(toy.store.files, TEMPORARY)
    assert said is not None and said.startswith("_sd_assets/tmp: 1 temporary files (4 bytes)")


def test_work_in_progress_is_read_too(toy: Toy) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy.refresh(range(200), stop_after=60)
    assert verify(toy.area).rows > 120 and toy.faults() == []
    record = sorted((toy.hidden / "wip").iterdir())[0]
    path = toy.hidden / "shards" / f"{json.loads(record.read_text())['name']}.parquet"
    os.truncate(path, 10)
    fault = toy.fault()
    assert fault.where == toy.path(path) and fault.what.endswith("(work in progress)")
    assert fault.remedy == f"Delete {toy.path(record)}: the next run computes its rows again"
    record.unlink()
    assert toy.faults() == []
    record.write_text("{")
    assert toy.fault().where == toy.path(record)


def test_tables_of_all_kinds_have_their_rows_recomputed(tmp_path: Path) -> None:
    """With what is nested, null or bookkeeping; of ours and of users."""
    store = TableStore(LocalFiles(tmp_path))
    fields = [pa.field(name, pa.list_(pa.struct([("a", pa.list_(pa.string()))]))) for name in ("x", "y", "z")]
    own = TableSchema("own", ("z", "x"), pa.schema([*fields, *ERROR_FIELDS]), frozenset({"y"}))
    nested: list[dict[str, Any]] = [{"x": [{"a": ["b", None]}], "y": None, "z": [{"a": None}]}, {"x": []}]
    vectors: list[dict[str, Any]] = [
        {"query_id": f"q{n}", "embedding": [n, 0.5] if n else None} for n in range(3)
    ]
    for schema, rows in ((SEED_EMBEDDINGS, vectors), (own, nested)):
        write_rows(schema, [rows_of(schema, rows)], store.area(schema.name, "p"), "run").commit()
    for area in find_areas(store):
        found = verify(area)
        assert (found.shards, found.faults, found.notes) == (1, [], [])
    # Of a manifest that does not name the key, as of a first run that was stopped.
    path = tmp_path / "_sd_assets" / "own" / "p" / "versions" / "000001.json"
    body = json.loads(path.read_text())
    assert (body.pop("key"), body.pop("bookkeeping")) == (["z", "x"], ["y"])
    path.write_text(json.dumps(body))
    found = verify(store.area("own", "p"))
    assert found.faults == [] and "the schema of its rows is not known" in found.notes[0]


def test_a_sweep_meanwhile_is_no_fault(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version goes while it is looked at."""
    manifest = Area.manifest

    def swept(area: Area, version: int) -> object:
        found = manifest(area, version)
        if version == 1:
            (toy.hidden / "versions" / "000001.json").unlink()
            newer = {shard for number in (2, 3) for shard in manifest(area, number).shards}
            for shard in set(found.shards) - newer:
                (toy.hidden / "shards" / shard.file).unlink()
                (toy.hidden / "index" / f"{shard.index}.parquet").unlink()
        return found

    monkeypatch.setattr(Area, "manifest", swept)
    assert verify(toy.area).faults == []


# --- what the last run reported --------------------------------------------------------------------------------------


class Based:
    """The table `toy`, of numbers that are named: whoever makes it of the same name again need not read them."""

    def __init__(self, base: Path) -> None:
        self.store = TableStore(LocalFiles(base))
        self.hidden = base / "_sd_assets" / "toy" / "p"
        self.area = self.store.area("toy", "p")
        self.read = 0

    def stage(self, count: int) -> Staged:
        def rows() -> Iterator[pa.RecordBatch]:
            for batch in toy_input(range(count)):
                self.read += len(batch)
                yield batch

        self.read = 0
        run_id = uuid.uuid4().hex
        return run_stage(ToyStage(), rows(), self.area, run_id, lambda line: None, [f"{count} numbers"])

    def refresh(self, count: int) -> int:
        """How many rows were read; the table must have what was asked for."""
        self.stage(count).commit()
        assert self.store.open("toy", "p").num_rows == count
        return self.read


def test_a_version_whose_number_was_used_before_is_not_taken_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    based = Based(tmp_path)
    based.refresh(10)
    based.refresh(20)
    assert based.refresh(20) == 0
    # As `verify` says where a manifest is damaged.
    (based.hidden / "versions" / "000002.json").unlink()
    with monkeypatch.context() as killed:
        put = LocalFiles.put

        def killed_at(self: LocalFiles, path: str, *data: bytes | pa.Buffer) -> None:
            if path.endswith("last_run.json"):
                raise KeyboardInterrupt
            put(self, path, *data)

        staged = based.stage(30)
        killed.setattr(LocalFiles, "put", killed_at)
        with pytest.raises(KeyboardInterrupt):
            staged.commit()
    # What is known of the last run is that of the one that made the deleted version, of the same number.
    assert based.store.open("toy", "p").num_rows == 30 and based.area.last_run()["version"] == 2
    assert based.refresh(20) == 20


@pytest.mark.parametrize("content", [b"", b'{"run_id": "x', b"\xff\xfe"])
def test_a_damaged_report_of_the_last_run_is_as_none(tmp_path: Path, content: bytes) -> None:
    based = Based(tmp_path)
    based.refresh(20)
    assert based.area.last_run()["rows_in"] == 20
    (based.hidden / "last_run.json").write_bytes(content)
    assert based.area.last_run() == {}
    # It costs a look at all rows, and writes a new one.
    assert based.refresh(20) == 20
    assert based.area.last_run()["rows_reused"] == 20
    assert based.refresh(20) == 0
