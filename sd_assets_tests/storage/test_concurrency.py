"""Several runs and readers of one partition at once: one wins, the others say why, and nothing is lost."""

import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sd_assets.compute.run import run_stage
from sd_assets.errors import TableError
from sd_assets.schemas import SEED_IMAGES
from sd_assets.storage import area as area_module
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.shards import Cutter
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import TableStore
from sd_assets_tests.toy import ToyStage, toy_input


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(LocalFiles(tmp_path))


def staged(store: TableStore, numbers: range, run_id: str) -> Staged:
    return run_stage(ToyStage(), toy_input(numbers), store.area("toy", "p"), run_id, lambda line: None)


def names(store: TableStore) -> list[str]:
    found: list[str] = store.open("toy", "p").read(["name"]).column("name").to_pylist()
    return found


def expected(numbers: range) -> list[str]:
    return [f"n{number}" for number in numbers]


def test_a_run_that_was_taken_for_dead_does_not_commit(
    store: TableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged(store, range(20), "first").commit()
    late = staged(store, range(50, 90), "late")
    monkeypatch.setattr(area_module, "LEASE_SECONDS", -1.0)
    with pytest.raises(TableError, match=r"lease .* could not be renewed in time: run again"):
        late.commit()
    assert names(store) == expected(range(20))


def test_a_run_whose_shards_were_swept_does_not_commit(store: TableStore, tmp_path: Path) -> None:
    staged(store, range(20), "first").commit()
    late = staged(store, range(50, 90), "late")
    for shard in late.shards:
        (tmp_path / "_sd_assets" / "toy" / "p" / "shards" / shard.file).unlink()
    with pytest.raises(TableError, match="shards are gone before they were committed: run again"):
        late.commit()
    assert names(store) == expected(range(20))


def test_an_old_version_number_is_not_used_again(store: TableStore) -> None:
    staged(store, range(20), "first").commit()
    late = staged(store, range(50, 90), "late")
    late.lease.close()  # so that the sweeps of the others take it for dead
    for number in range(5):
        staged(store, range(20 + number + 1), f"other{number}").commit()
    assert store.area("toy", "p").versions()[0] > 2
    with pytest.raises(TableError, match="run other4 committed version 6"):
        late.commit()
    assert names(store) == expected(range(25))


def test_an_unchanged_run_does_not_report_a_version_that_is_not_current(store: TableStore) -> None:
    staged(store, range(20), "first").commit()
    unchanged = staged(store, range(20), "unchanged")
    staged(store, range(30), "other").commit()
    with pytest.raises(TableError, match="run other committed version 2"):
        unchanged.commit()


def test_a_commit_whose_answer_was_lost_is_a_commit(
    store: TableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = LocalFiles.create

    def answer_lost(self: LocalFiles, path: str, data: bytes) -> bool:
        create(self, path, data)
        return create(self, path, data)

    monkeypatch.setattr(LocalFiles, "create", answer_lost)
    assert staged(store, range(20), "first").commit().version == 1


def test_a_sweep_spares_the_work_of_a_live_run_and_the_next_takes_it(store: TableStore) -> None:
    live = staged(store, range(40), "live")
    staged(store, range(10), "quick").commit()
    with pytest.raises(TableError):
        live.commit()
    stage = ToyStage()
    run_stage(stage, toy_input(range(40)), store.area("toy", "p"), "next", lambda line: None).commit()
    assert stage.computed.total() == 0
    assert names(store) == expected(range(40))


def aged(base: Path) -> list[Path]:
    """All shards, made so old that a sweep may delete them."""
    shards = sorted((base / "_sd_assets" / "toy" / "p" / "shards").iterdir())
    long_ago = time.time() - 2 * area_module.LEASE_SECONDS
    for path in (*shards, *(base / "_sd_assets" / "toy" / "p" / "index").iterdir()):
        os.utime(path, (long_ago, long_ago))
    return shards


def test_a_sweep_that_meets_a_new_run_stops(tmp_path: Path) -> None:
    """The run begins when the sweep has looked for others already, and takes over what the sweep is about to delete."""
    store = TableStore(LocalFiles(tmp_path), kept_versions=1)
    staged(store, range(20), "first").commit()
    old_shards = aged(tmp_path)
    newcomers: list[Staged] = []

    class Interrupted(LocalFiles):
        def delete(self, path: str) -> None:
            if "/versions/" in path and not newcomers:
                newcomers.append(staged(store, range(20), "newcomer"))
                assert newcomers[0].report["rows_computed"] == 0
            super().delete(path)

    second = staged(store, range(50, 90), "second")
    second.area.files = Interrupted(tmp_path)
    second.commit()
    assert store.area("toy", "p").versions() == [2] and all(path.exists() for path in old_shards)
    newcomers[0].commit()
    assert names(store) == expected(range(20))
    # The next sweep makes up for it.
    gone = set(aged(tmp_path)) - set(old_shards)
    staged(store, range(21), "third").commit()
    assert gone and not any(path.exists() for path in gone)


def test_a_sweep_that_cannot_read_a_manifest_deletes_nothing(store: TableStore, tmp_path: Path) -> None:
    staged(store, range(20), "first").commit()
    needed = aged(tmp_path)
    staged(store, range(50, 90), "second").commit()
    manifest = tmp_path / "_sd_assets" / "toy" / "p" / "versions" / "000001.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:100])
    staged(store, range(50, 95), "third").commit()
    assert all(path.exists() for path in needed)
    manifest.write_bytes(whole)
    found = store.open("toy", "p", version=1).read(["name"]).column("name").to_pylist()
    assert found == expected(range(20))


def test_two_who_settle_in_opposite_directions_lose_nothing(store: TableStore, tmp_path: Path) -> None:
    """A reader that saw the old version brings the folder back to it, in the middle of a writer's commit."""
    staged(store, range(20), "first").commit()
    reader = store.area("toy", "p")
    project = LocalFiles.project
    interrupted: list[bool] = []

    class Interrupted(LocalFiles):
        def project(self, source: str, target: str) -> None:
            if not interrupted:
                interrupted.append(True)
                project(self, source, target)
                staged(store, range(100, 140), "second").commit()
            else:
                project(self, source, target)

    for path in (tmp_path / "toy" / "p").iterdir():
        path.unlink()  # as if the first commit had not got there
    reader.files = Interrupted(tmp_path)
    current = reader.latest()
    assert interrupted and current is not None and current.version == 2
    assert names(store) == expected(range(100, 140))
    in_folder = {path.name for path in (tmp_path / "toy" / "p").iterdir()}
    assert in_folder == {shard.file for shard in current.shards}


def test_files_of_others_in_the_folder_stay(store: TableStore, tmp_path: Path) -> None:
    staged(store, range(20), "first").commit()
    (tmp_path / "toy" / "p" / "README.md").write_text("mine")
    (tmp_path / "_sd_assets" / "toy" / "p" / "versions" / ".nfs0001").write_text("")
    staged(store, range(30), "second").commit()
    assert (tmp_path / "toy" / "p" / "README.md").read_text() == "mine"


def test_a_shard_that_comes_back_is_the_file_that_was_kept(store: TableStore) -> None:
    first = staged(store, range(20), "first")
    first.commit()
    staged(store, range(50), "second").commit()
    third = staged(store, range(20), "third")
    third.commit()
    assert [shard.sha256 for shard in third.shards] == [shard.sha256 for shard in first.shards]
    assert not [shard for shard in third.own if shard.name in {known.name for known in first.shards}]


@pytest.mark.parametrize("sizes", [(60_000, 60_000), (500_000, 1_500_000), (5_000_000, 5_000_000)])
def test_after_a_row_at_the_front_cuts_fall_where_they_fell(sizes: tuple[int, int]) -> None:
    rewritten = []
    for seed in range(20):
        rng = random.Random(seed)
        rows = [(rng.randbytes(16), rng.randint(*sizes)) for _ in range(2_000)]

        def shards(rows: list[tuple[bytes, int]]) -> set[tuple[bytes, ...]]:
            cutter, found, current = Cutter(SEED_IMAGES.shard_rows), set(), list[bytes]()
            for key, size in rows:
                current.append(key)
                if cutter.ends_after(key, size):
                    found.add(tuple(current))
                    current = []
            return found

        rewritten.append(len(shards([(rng.randbytes(16), sizes[0]), *rows]) - shards(rows)))
    assert statistics.median(rewritten) <= 2
    assert max(rewritten) <= 4


def test_a_changed_schema_writes_its_rows_anew(tmp_path: Path) -> None:
    from sd_assets.compute.run import write_rows
    from sd_assets.schemas import ERROR_FIELDS, TableSchema

    store = TableStore(LocalFiles(tmp_path))

    def write(kind: pa.DataType, run_id: str) -> pa.Table:
        schema = TableSchema("own", ("name",), pa.schema([("name", pa.string()), ("n", kind), *ERROR_FIELDS]))
        rows: dict[str, Any] = {
            "name": ["a", "b"],
            "n": [1, 2],
            "error": [None] * 2,
            "error_detail": [None] * 2,
        }
        batch = pa.RecordBatch.from_pydict(rows, schema=schema.arrow)
        write_rows(schema, [batch], store.area("own", "p"), run_id).commit()
        return store.open("own", "p").read()

    assert write(pa.int32(), "first").schema.field("n").type == pa.int32()
    assert write(pa.int64(), "second").schema.field("n").type == pa.int64()
