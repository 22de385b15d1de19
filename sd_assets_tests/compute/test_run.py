"""Running a stage: conservation, order, reuse, resumption."""

import re
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.ahead import map_ahead
from sd_assets.compute.run import run_stage, write_rows
from sd_assets.errors import TableError
from sd_assets.schemas import TableSchema, table
from sd_assets.stages.stage import Refused, Stage, Work, rows_of
from sd_assets.storage import staging
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.staging import Judge, Staged
from sd_assets.storage.table import Table, TableStore
from sd_assets_tests.toy import TOY, ToyStage, toy_input


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(LocalFiles(tmp_path))


def run(
    store: TableStore, stage: ToyStage, numbers: list[int], run_id: str = "run", failed: Sequence[int] = ()
) -> Staged:
    staged = run_stage(
        stage, toy_input(numbers, failed=failed), store.area("toy", "p"), run_id, lambda line: None
    )
    staged.commit()
    return staged


def names(table: Table) -> list[str]:
    column: list[str] = table.read(["name"]).column("name").to_pylist()
    return column


def test_every_input_row_is_accounted_for(store: TableStore) -> None:
    staged = run(store, ToyStage(), [*range(1, 101), 5, 7], failed=[50, 51])
    report = staged.report
    assert {name: report[name] for name in report if name.startswith("rows_") and name != "rows_per_s"} == {
        "rows_in": 102,
        "rows_ok": 89,
        "rows_failed": 9,
        "rows_duplicate": 2,
        "rows_skipped": 2,
        "rows_reused": 0,
        "rows_computed": 98,
    }
    assert report["failures"] == {"not_finite": 9}


def test_rows_keep_the_order_of_the_input(store: TableStore) -> None:
    run(store, ToyStage(), list(range(100, 0, -1)))
    assert names(store.open("toy", "p")) == [f"n{number}" for number in range(100, 0, -1)]


def test_an_unchanged_run_computes_nothing_and_commits_nothing(store: TableStore) -> None:
    first = run(store, ToyStage(), list(range(100)))
    stage = ToyStage()
    second = run(store, stage, list(range(100)), "again")
    assert (stage.opened, stage.computed.total()) == (0, 0)
    assert second.data_version == first.data_version
    assert second.report["rows_reused"] == 100
    assert store.open("toy", "p").manifest.version == 1


def test_a_refresh_computes_exactly_the_new_rows(store: TableStore) -> None:
    run(store, ToyStage(), list(range(200)))
    before = {shard.name for shard in store.open("toy", "p").manifest.shards}
    stage = ToyStage()
    run(store, stage, [1000, *range(200)], "front")
    assert dict(stage.computed) == {1000: 1}
    table = store.open("toy", "p")
    assert names(table) == ["n1000", *(f"n{number}" for number in range(200))]
    assert len({shard.name for shard in table.manifest.shards} - before) <= 2


def test_rows_that_are_gone_from_the_input_are_gone_from_the_table(store: TableStore) -> None:
    run(store, ToyStage(), list(range(100)))
    run(store, ToyStage(), list(range(50, 100)), "less")
    assert names(store.open("toy", "p")) == [f"n{number}" for number in range(50, 100)]


def test_the_order_of_the_input_is_not_in_the_data_version(store: TableStore) -> None:
    first = run(store, ToyStage(), list(range(100)))
    stage = ToyStage()
    second = run(store, stage, list(range(99, -1, -1)), "reversed")
    assert stage.computed.total() == 0
    assert second.data_version == first.data_version
    assert names(store.open("toy", "p"))[0] == "n99"


def test_a_setting_that_changes_results_recomputes_all(store: TableStore) -> None:
    first = run(store, ToyStage(), list(range(30)))
    stage = ToyStage(factor=2)
    second = run(store, stage, list(range(30)), "other")
    assert stage.computed.total() == 30
    assert second.data_version != first.data_version


def test_finished_work_of_an_unfinished_run_is_taken_over(store: TableStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(store, ToyStage(stop_after=60), list(range(200)), "killed")
    stage = ToyStage()
    staged = run(store, stage, list(range(200)), "next")
    assert stage.computed.total() <= 140
    assert staged.report["rows_reused"] >= 60
    assert names(store.open("toy", "p")) == [f"n{number}" for number in range(200)]


def test_an_interrupted_run_ends_in_the_same_shards_as_an_undisturbed_one(
    store: TableStore, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(store, ToyStage(stop_after=77), list(range(200)), "killed")
    resumed = run(store, ToyStage(), list(range(200)), "next")
    clean = run(TableStore(LocalFiles(tmp_path / "clean")), ToyStage(), list(range(200)))
    assert resumed.shards == clean.shards


def test_an_empty_table_is_one_shard_without_rows(store: TableStore) -> None:
    run(store, ToyStage(), [])
    table = store.open("toy", "p")
    assert (len(table.manifest.shards), table.num_rows) == (1, 0)
    assert table.schema.names == TOY.arrow.names


def test_of_two_runs_at_once_one_wins_and_the_other_says_why(store: TableStore) -> None:
    area = store.area("toy", "p")
    slow = run_stage(ToyStage(), toy_input(range(40)), area, "slow", lambda line: None)
    run(store, ToyStage(), list(range(50)), "quick")
    with pytest.raises(
        TableError, match=r"run quick committed version 1 .* while run slow was working on it"
    ):
        slow.commit()
    assert store.open("toy", "p").num_rows == 50


def test_a_handle_stays_readable_while_newer_versions_are_committed(store: TableStore) -> None:
    run(store, ToyStage(), list(range(100)))
    old = store.open("toy", "p")
    run(store, ToyStage(), list(range(500, 600)), "newer")
    assert names(old) == [f"n{number}" for number in range(100)]


def test_a_stage_that_answers_too_few_rows_is_stopped(store: TableStore) -> None:
    class Lossy(ToyStage):
        def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
            return super().process(rows, prepared).slice(1)

    with pytest.raises(TableError, match="answered 4 rows to 5"):
        run(store, Lossy(), list(range(20)))
    with pytest.raises(TableError, match="no committed version"):
        store.open("toy", "p")


def test_a_stage_that_answers_in_another_order_is_stopped(store: TableStore) -> None:
    class Shuffling(ToyStage):
        def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
            answer = super().process(rows, prepared)
            return answer.take(pa.array(range(len(answer) - 1, -1, -1)))

    with pytest.raises(TableError, match="answered other rows than it was given"):
        run(store, Shuffling(), list(range(20)))


def test_rows_without_a_key_keep_what_is_said_of_each(store: TableStore) -> None:
    class Nameless(ToyStage):
        def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
            return rows_of(
                TOY, ({"error": "empty", "error_detail": str(row["number"])} for row in rows.to_pylist())
            )

    batch = pa.RecordBatch.from_pydict(
        {"name": pa.nulls(3, pa.string()), "number": pa.array([1, 2, 2], pa.int64())}
    )
    staged = run_stage(Nameless(), [batch], store.area("toy", "p"), "run", lambda line: None)
    staged.commit()
    details = store.open("toy", "p").read(["error_detail"]).column("error_detail").to_pylist()
    assert details == ["1", "2", "2"]
    assert (staged.report["rows_in"], staged.report["rows_failed"], staged.report["rows_duplicate"]) == (
        3,
        3,
        0,
    )


# --- a stage that does its own work ------------------------------------------------------------------------------


class Backwards(ToyStage):
    """Answers all rows in one go, the last ones first, in other batches than they came in."""

    def run(self, missing: Iterator[Work], refused: Refused) -> Generator[Work, None, None]:
        self.stored: dict[bytes, Any] = {}
        rows: list[tuple[dict[str, Any], bytes, bytes]] = []
        for work in missing:
            self.stored.update(refused(work.works, None))
            assert all(set(row) == {"square"} for row in refused(work.works, ["square"]).values())
            rows += zip(work.rows.to_pylist(), work.keys, work.works, strict=True)
        while rows:
            some, rows = rows[-3:], rows[:-3]
            answers, keys, works = zip(*some, strict=True)
            yield Work(rows_of(TOY, map(self._row, answers)), keys, works)
            yield Work(rows_of(TOY, []), [], [])


def test_a_stage_may_answer_in_any_order_and_any_batches(store: TableStore, tmp_path: Path) -> None:
    staged = run(store, Backwards(), [*range(1, 101), 5, 7], failed=[50, 51])
    elsewhere = TableStore(LocalFiles(tmp_path / "elsewhere"))
    clean = run(elsewhere, ToyStage(), [*range(1, 101), 5, 7], failed=[50, 51])
    assert staged.shards == clean.shards
    assert names(store.open("toy", "p"))[:2] == ["n1", "n2"]
    assert staged.report["rows_computed"] == 98


def test_unfinished_work_lies_in_the_order_of_the_table(store: TableStore) -> None:
    class Dying(Backwards):
        def run(self, missing: Iterator[Work], refused: Refused) -> Generator[Work, None, None]:
            yield from super().run(missing, refused)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store, Dying(), list(range(200)), "killed")
    area = store.area("toy", "p")
    finished = set()
    for shard in area.wip():
        with area.open_shard(shard) as file:
            numbers = [int(name[1:]) for name in pq.read_table(file).column("name").to_pylist()]
        assert numbers == sorted(numbers)
        finished.update(numbers)
    assert finished == set(range(200))
    stage = ToyStage()
    run(store, stage, list(range(200)), "next")
    assert stage.computed.total() == 0
    assert names(store.open("toy", "p")) == [f"n{number}" for number in range(200)]


def test_a_stage_is_handed_the_stored_rows_that_its_judge_refused(store: TableStore) -> None:
    run(store, ToyStage(), list(range(40)))
    stage = Backwards()
    stage.judge = Judge(("square",), lambda rows: [(it or 0) < 900 for it in rows["square"].to_pylist()])
    staged = run(store, stage, list(range(50)), "again")
    assert sorted(row["name"] for row in stage.stored.values()) == [f"n{number}" for number in range(31, 40)]
    assert {row["square"] for row in stage.stored.values()} == {number**2 for number in range(31, 40)}
    assert set(stage.stored) <= set(staged_works(store))
    assert dict(stage.computed) == dict.fromkeys(range(31, 50), 1)
    assert (staged.report["rows_reused"], staged.report["rows_computed"]) == (31, 19)


def staged_works(store: TableStore) -> list[bytes]:
    area = store.area("toy", "p")
    manifest = area.latest()
    assert manifest is not None
    return [work for shard in manifest.shards for work in area.read_index_column(shard, "work").tolist()]


def test_what_is_finished_is_kept_while_a_stage_waits(
    store: TableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "FLUSH_SECONDS", 0.2)
    kept: list[int] = []

    class Waiting(ToyStage):
        def run(self, missing: Iterator[Work], refused: Refused) -> Generator[Work, None, None]:
            first = True
            for work in super().run(missing, refused):
                yield work
                while first and not sum(kept):
                    time.sleep(0.05)
                    yield Work(rows_of(TOY, []), [], [])
                    kept.append(sum(shard.rows for shard in store.area("toy", "p").wip()))
                first = False

    run(store, Waiting(), list(range(8)))
    assert kept[-1] == 5


def test_a_stage_without_a_map_says_so(store: TableStore) -> None:
    class Idle(Stage):
        @property
        def schema(self) -> TableSchema:
            return TOY

    with pytest.raises(NotImplementedError, match="Idle has neither `process` nor a `run` of its own"):
        run_stage(Idle(), toy_input([1]), store.area("toy", "p"), "run", lambda line: None)


PICTURES = table("pictures", ["name"], [pa.field("name", pa.string()), pa.field("image", pa.binary())])
SIZES = table("sizes", ["name"], [pa.field("name", pa.string()), pa.field("size", pa.int64())])


class Sizes(Stage):
    """How many bytes an image has."""

    reads = ("image",)

    @property
    def schema(self) -> TableSchema:
        return SIZES

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        return rows_of(SIZES, ({"name": row["name"], "size": len(row["image"])} for row in rows.to_pylist()))


@pytest.mark.parametrize("lazily", [True, False])
def test_rows_without_a_key_are_told_apart_by_their_images(store: TableStore, lazily: bool) -> None:
    def sizes(*images: bytes) -> tuple[list[int], int]:
        rows = rows_of(PICTURES, ({"image": image} for image in images))
        write_rows(PICTURES, [rows], store.area("pictures", "p"), f"write-{images}").commit()
        pictures = store.open("pictures", "p")
        columns = ["name", "image"]
        found = pictures.rows(columns) if lazily else pictures.batches(columns)
        staged = run_stage(Sizes(), found, store.area("sizes", "p"), f"run-{images}", lambda line: None)
        staged.commit()
        answer: list[int] = store.open("sizes", "p").read(["size"]).column("size").to_pylist()
        return answer, staged.report["rows_computed"]

    assert sizes(b"a", b"bbbb") == ([1, 4], 2)
    # Other images, of which the table knows no more than of those before.
    assert sizes(b"ccccccc", b"a") == ([7, 1], 1)


@pytest.mark.parametrize(("lacks", "has"), [("number", "name, error"), ("name", "number, error")])
def test_a_column_that_the_input_lacks_is_named(store: TableStore, lacks: str, has: str) -> None:
    said = f"table toy: the stage ToyStage reads {lacks}, and its input has only: {has}"
    rows = (batch.drop_columns([lacks]) for batch in toy_input([1]))
    with pytest.raises(TableError, match=re.escape(said)):
        run_stage(ToyStage(), rows, store.area("toy", "p"), "run", lambda line: None)


def test_an_image_that_the_input_lacks_is_named(store: TableStore) -> None:
    write_rows(PICTURES, [], store.area("pictures", "p"), "write").commit()
    rows = store.open("pictures", "p").rows(["name", "error"])
    said = "table sizes: the stage Sizes reads image, and its input has only: name, error"
    with pytest.raises(TableError, match=said):
        run_stage(Sizes(), rows, store.area("sizes", "p"), "run", lambda line: None)


def test_a_stage_that_fails_leaves_no_thread_and_no_lease_behind(store: TableStore, tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run(store, ToyStage(stop_after=30), list(range(200)), "killed")
    assert threading.active_count() == before
    assert not list((tmp_path / "_sd_assets" / "toy" / "p" / "leases").iterdir())


def test_map_ahead_keeps_the_order_and_reads_no_further_than_it_must() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for number in range(100):
            read += 1
            yield number

    results = map_ahead(lambda number: number * 2, items(), threads=3)
    assert [next(results) for _ in range(10)] == list(range(0, 20, 2))
    assert read <= 14
    results.close()
