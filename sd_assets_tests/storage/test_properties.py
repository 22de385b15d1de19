"""Any sequence of refreshes, crashes, races, sweeps and reads leaves what a plain model of the storage says.

The model is a few Python collections: the rows of each kept version, and the finished work of runs that did not commit.
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sd_assets.compute.run import run_stage
from sd_assets.errors import TableError
from sd_assets.storage import staging as staging_module
from sd_assets.storage.area import KEPT_VERSIONS, LEASE_SECONDS, Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.staging import Judge, Staged
from sd_assets.storage.table import Table, TableStore
from sd_assets_tests.toy import TOY, ToyStage

ASSET, PARTITION = "toy", "p"
FOLDER = f"{ASSET}/{PARTITION}"
HIDDEN = f"_sd_assets/{FOLDER}"


class Row(NamedTuple):
    """A row of the source: its key, what the stage reads, and whether an earlier stage failed it."""

    name: str | None
    number: int
    failed: bool = False


class Work(NamedTuple):
    """A row of the table: what its result depends on."""

    name: str | None
    number: int
    factor: int

    @property
    def result(self) -> tuple[str | None, int | None, str | None]:
        """Name, square and error, as the table is to hold them."""
        if self.number % 10 == 0:
            return self.name, None, "not_finite"
        return self.name, self.number**2 * self.factor, None


def planned(source: Sequence[Row], factor: int) -> list[Work]:
    """The rows of the next version: those that are not failed, the first of each key."""
    names = set()
    works = []
    for row in source:
        if not row.failed and row.name not in names:
            works.append(Work(row.name, row.number, factor))
            names.update({row.name} - {None})
    return works


class Crash(BaseException):
    """The process ends here: nothing that comes after it may touch a file."""


class CrashingFiles(LocalFiles):
    """Files of a process that is killed at one of its operations, and a look at the work in progress that it keeps.

    Args:
        base: of the tables.
        machine: that is told of each change of the work in progress.
        crash_at: the number of the operation, from 1; 0: none.
    """

    def __init__(self, base: Path, machine: "StorageMachine", crash_at: int = 0) -> None:
        super().__init__(base)
        self._machine = machine
        self._left = crash_at
        self._ends = crash_at > 0

    @property
    def crashed(self) -> bool:
        return self._ends and self._left <= 0

    def put(self, path: str, *data: bytes | pa.Buffer) -> None:
        self._tick()
        super().put(path, *data)
        if path.startswith(f"{HIDDEN}/wip/"):
            self._machine.recorded(path, json.loads(b"".join(map(bytes, data))))
        self._tick()

    def create(self, path: str, data: bytes | pa.Buffer) -> bool:
        self._tick()
        created = super().create(path, data)
        self._tick()
        return created

    def get(self, path: str) -> bytes:
        self._tick()
        return super().get(path)

    def open(self, path: str) -> pa.NativeFile:
        self._tick()
        return super().open(path)

    def names(self, folder: str) -> list[str]:
        self._tick()
        return super().names(folder)

    def project(self, source: str, target: str) -> None:
        self._tick()
        super().project(source, target)

    def delete(self, path: str) -> None:
        self._tick()
        if path.startswith(f"{HIDDEN}/wip/"):
            self._machine.forgotten(path)
        super().delete(path)

    @contextmanager
    def _written(self, *data: bytes | pa.Buffer) -> Iterator[Path]:
        with super()._written(*data) as path:
            try:
                self._tick()
            except Crash:
                path.rename(path.with_name(f"{path.name}0"))  # nobody is there who would delete it
                raise
            yield path

    def _tick(self) -> None:
        if self._ends:
            self._left -= 1
            if self._left <= 0:
                raise Crash


class Squares(ToyStage):
    """Squares that remember which work they were asked to do, and refuse what was stored of some names."""

    def __init__(self, factor: int, refused: frozenset[str | None]) -> None:
        super().__init__(factor=factor)
        self.works: Counter[Work] = Counter()
        if refused:
            self.judge = Judge(
                ("name",), lambda rows: [name not in refused for name in rows.column("name").to_pylist()]
            )

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        work = Work(row["name"], row["number"], self.factor)
        self.works[work] += 1
        return {**super()._row(row), "note": json.dumps(work)}


class Run(NamedTuple):
    """A refresh that is under way or over, and the state of the world when it began.

    Attributes:
        base: the rows of the version that was current; None before the first.
        at_hand: the work that need not be done again.
    """

    name: str
    stage: Squares
    source: list[Row]
    base: list[Work] | None
    at_hand: set[Work]
    refused: frozenset[str | None]

    @property
    def works(self) -> list[Work]:
        return planned(self.source, self.stage.factor)


NAMES = st.one_of(st.none(), st.integers(0, 120).map(lambda number: f"n{number}"))
ROWS = st.lists(st.builds(Row, NAMES, st.integers(0, 30), st.sampled_from([False] * 9 + [True])), max_size=30)
# The operations of a refresh; most are in the first half of a hundred.
MOMENTS = st.integers(1, 150)


class StorageMachine(RuleBasedStateMachine):
    """One partition, what happens to it, and the model of it."""

    steps: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory()
        self.base = Path(self._temporary.name).resolve()
        self.source: list[Row] = []
        self.factor = 1
        self.refused: frozenset[str | None] = frozenset()
        # The model.
        self.versions: dict[int, list[Work]] = {}
        self.newest = 0
        self.in_progress: dict[str, set[Work]] = {}  # by path of its record
        self.content: dict[str, frozenset[Any]] = {}  # by data version
        # Of runs: those that committed, those that died and seem alive, and those that are known to be dead.
        self.over: set[str] = set()
        self.seem_alive: set[str] = set()
        self.runs = 0
        self.handles: list[tuple[Table, list[Work]]] = []

    def teardown(self) -> None:
        try:
            self.nothing_superfluous_is_left()
        finally:
            self._temporary.cleanup()
        self.steps["examples"] += 1

    # --- what happens --------------------------------------------------------------------------------------------

    @initialize(rows=ROWS)
    def first_source(self, rows: list[Row]) -> None:
        self.source = rows

    @rule(place=st.sampled_from([0.0, 0.5, 1.0]), rows=ROWS)
    def rows_come(self, place: float, rows: list[Row]) -> None:
        at = round(place * len(self.source))
        self.source[at:at] = rows

    @rule(start=st.floats(0, 1), share=st.floats(0, 0.5))
    def rows_go(self, start: float, share: float) -> None:
        at = round(start * len(self.source))
        del self.source[at : at + round(share * len(self.source))]

    @rule(every=st.integers(1, 10), number=st.integers(0, 30), failed=st.booleans())
    def rows_change(self, every: int, number: int, failed: bool) -> None:
        self.source[::every] = [Row(row.name, number, failed) for row in self.source[::every]]

    @rule(random=st.randoms(use_true_random=False))
    def rows_change_places(self, random: Any) -> None:
        random.shuffle(self.source)

    @rule(factor=st.sampled_from([1, 2]), refused=st.frozensets(NAMES, max_size=10))
    def the_stage_changes(self, factor: int, refused: frozenset[str | None]) -> None:
        self.factor = factor
        self.refused = refused

    @rule(says_basis=st.booleans())
    def refresh(self, says_basis: bool) -> None:
        run, staged = self._staged(CrashingFiles(self.base, self), says_basis)
        self._commit(run, staged)
        self._settled()
        self.steps["refreshes"] += 1

    @rule(rows=ROWS, moment=MOMENTS, says_basis=st.booleans())
    def crash(self, rows: list[Row], moment: int, says_basis: bool) -> None:
        self.source = [*rows, *self.source]
        files = CrashingFiles(self.base, self, moment)
        # What it computed before is judged by the model too: see `recorded`.
        run = self._run()
        with suppress(Crash):
            staged = self._stage(run, files, says_basis)
            self._judge_run(run, staged)
            staged.commit()
        if not files.crashed:  # it had fewer operations
            self._committed(run)
            self._settled()
            return
        self._judge_computed(run)
        self._found_after_crash(run)
        if (self.base / HIDDEN / "leases" / f"{run.name}.json").exists():  # or it ended before it had one
            self.seem_alive.add(run.name)
        self.steps["crashes"] += 1

    @rule(rows=ROWS, moment=MOMENTS, says_basis=st.booleans())
    def crash_and_go_on(self, rows: list[Row], moment: int, says_basis: bool) -> None:
        self.crash(rows, moment, says_basis)
        self.refresh(says_basis)

    @rule(rows=ROWS, first_wins=st.booleans(), waits=st.booleans(), says_basis=st.booleans())
    def two_at_once(self, rows: list[Row], first_wins: bool, waits: bool, says_basis: bool) -> None:
        one, staged_one = self._staged(CrashingFiles(self.base, self), says_basis)
        self.seem_alive.add(one.name)
        self.source = [*rows, *self.source]
        two, staged_two = self._staged(CrashingFiles(self.base, self), says_basis)
        self.seem_alive.add(two.name)
        if waits:
            self._time_passes({one.name, two.name})
        winner, loser = ((one, staged_one), (two, staged_two))[:: 1 if first_wins else -1]
        newest = self.newest
        self._commit(*winner)
        if self.newest == newest:  # it had nothing to commit
            self._commit(*loser)
        else:
            with pytest.raises(
                TableError, match=f"run {winner[0].name} committed version {self.newest} .* run again"
            ):
                loser[1].commit()
            self.seem_alive.discard(loser[0].name)
            self.steps["lost races"] += 1
        self._settled()

    @rule(sweeps=st.booleans())
    def time_passes(self, sweeps: bool) -> None:
        self._time_passes(set())
        if sweeps:
            self._area().sweep("sweeper", ())
            self._swept()

    @precondition(lambda self: self.versions)
    @rule()
    def a_reader_opens(self) -> None:
        table = TableStore(LocalFiles(self.base)).open(ASSET, PARTITION)
        assert table.manifest.version == self.newest
        self.handles.append((table, self.versions[self.newest]))

    # --- what must be so after each of them ----------------------------------------------------------------------

    @invariant()
    def kept_versions_are_readable(self) -> None:
        area = self._area()
        assert area.versions() == sorted(self.versions)
        for number, works in self.versions.items():
            manifest = area.manifest(number)
            assert contents(Table(area, manifest)) == [work.result for work in works]
            found = frozenset(Counter(work.result for work in works).items())
            assert self.content.setdefault(manifest.data_version, found) == found
        assert len(set(self.content.values())) == len(self.content)

    @invariant()
    def the_folder_shows_the_current_version(self) -> None:
        if not self.newest:
            with pytest.raises(TableError, match="there is no committed version"):
                TableStore(LocalFiles(self.base)).open(ASSET, PARTITION)
            return
        table = TableStore(LocalFiles(self.base)).open(ASSET, PARTITION)
        assert contents(table) == [work.result for work in self.versions[self.newest]]
        in_folder = sorted(path.name for path in (self.base / FOLDER).iterdir())
        assert in_folder == sorted({shard.file for shard in table.manifest.shards})
        frame = pd.read_parquet(self.base / FOLDER)
        assert frame["name"].isna().sum() + frame["name"].nunique() == len(frame) == table.num_rows
        rows = pq.read_table(self.base / FOLDER).select(["name", "square", "error"]).to_pylist()
        assert Counter(tuple(row.values()) for row in rows) == Counter(
            work.result for work in self.versions[self.newest]
        )

    @invariant()
    def readers_keep_what_they_opened(self) -> None:
        kept = []
        for table, works in self.handles:
            if table.manifest.version in self.versions:
                assert contents(table) == [work.result for work in works]
                kept.append((table, works))
            else:  # all of it or an error, never less
                with suppress(TableError):
                    assert contents(table) == [work.result for work in works]
        self.handles = kept
        self.steps["steps"] += 1

    def nothing_superfluous_is_left(self) -> None:
        """Once all who may be alive are known to be dead, and it is swept."""
        self._time_passes(set())
        self._area().sweep("sweeper", ())
        self._swept()
        self.kept_versions_are_readable()
        self.the_folder_shows_the_current_version()
        kept = [shard for manifest in self._area().kept() for shard in manifest.shards]
        needed = {
            "versions": {f"{number:06d}.json" for number in self.versions},
            "shards": {shard.file for shard in kept},
            "index": {f"{shard.index}.parquet" for shard in kept},
        }
        for folder in ("versions", "shards", "index", "wip", "leases"):
            assert set(LocalFiles(self.base).names(f"{HIDDEN}/{folder}")) == needed.get(folder, set()), folder
        assert not LocalFiles(self.base).names("_sd_assets/tmp")

    # --- the model -----------------------------------------------------------------------------------------------

    def recorded(self, path: str, shard: dict[str, Any]) -> None:
        """A run has recorded a shard of finished rows: from now on they must not be computed again."""
        rows = pq.read_table(self.base / HIDDEN / "shards" / f"{shard['name']}.parquet").to_pylist()
        assert len(rows) == shard["rows"]
        self.in_progress[path] = {Work(*json.loads(row["note"])) for row in rows}

    def forgotten(self, path: str) -> None:
        """A run deletes such a record: its own, which it has committed, or that of one that is dead."""
        run = Path(path).name.rpartition("-")[0]
        assert run not in self.seem_alive or run == self._committing
        self.in_progress.pop(path, None)

    def _run(self) -> Run:
        self.runs += 1
        current = self.versions.get(self.newest)
        at_hand = {work for works in self.versions.values() for work in works}
        at_hand = at_hand.union(*self.in_progress.values())
        stage = Squares(self.factor, self.refused)
        self._committing = ""
        return Run(f"run{self.runs}", stage, list(self.source), current, at_hand, self.refused)

    def _stage(self, run: Run, files: LocalFiles, says_basis: bool) -> Staged:
        area = Area(files, ASSET, PARTITION)
        basis = [repr(run.source)] if says_basis else []
        return run_stage(run.stage, batches(run.source), area, run.name, lambda line: None, basis)

    def _staged(self, files: LocalFiles, says_basis: bool) -> tuple[Run, Staged]:
        run = self._run()
        staged = self._stage(run, files, says_basis)
        self._judge_run(run, staged)
        return run, staged

    def _judge_computed(self, run: Run) -> None:
        """No work was done that need not be done, and none twice."""
        done = set(run.stage.works)
        assert not [work for work, times in run.stage.works.items() if times > 1]
        assert done <= set(run.works)
        assert not {work for work in done & run.at_hand if work.name not in run.refused}

    def _judge_run(self, run: Run, staged: Staged) -> None:
        """All that had to be computed was, and the run says what it did."""
        self._judge_computed(run)
        self._committing = run.name
        report = staged.report
        works, done = run.works, set(run.stage.works)
        reused = [work for work in works if work not in done]
        assert {work for work in works if work.name in run.refused or work not in run.at_hand} == done
        failed = sum(work.result[2] is not None for work in works)
        assert (report["rows_ok"], report["rows_failed"]) == (len(works) - failed, failed)
        skipped = sum(row.failed for row in run.source)
        assert (report["rows_in"], report["rows_skipped"]) == (len(run.source), skipped)
        assert report["rows_duplicate"] == len(run.source) - skipped - len(works)
        computed = len(works) - len(reused)  # two equal rows without a key cost one computation
        assert (report["rows_reused"], report["rows_computed"]) == (len(reused), computed)
        assert contents(staged.table()) == [work.result for work in works]

    def _commit(self, run: Run, staged: Staged) -> None:
        self._committing = run.name
        assert staged.commit().version == self.newest + (run.works != run.base)
        self._committed(run)

    def _committed(self, run: Run) -> None:
        if run.works != run.base:
            self.newest += 1
            self.versions[self.newest] = run.works
        self.seem_alive.discard(run.name)
        assert not [path for path in self.in_progress if f"/{run.name}-" in path]
        self._swept()

    def _swept(self) -> None:
        if not self.seem_alive:
            self.versions = dict(sorted(self.versions.items())[-KEPT_VERSIONS:])

    def _found_after_crash(self, run: Run) -> None:
        """It committed or it did not, and it may have begun to sweep."""
        found = self._area().versions()
        if self.newest + 1 in found:
            assert run.works != run.base
            self.newest += 1
            self.versions[self.newest] = run.works
            self.steps["crashes after the commit"] += 1
        elif run.stage.works:
            self.steps["crashes in the middle of the work"] += 1
        must = sorted(self.versions)[-KEPT_VERSIONS:] if not self.seem_alive else sorted(self.versions)
        assert set(must) <= set(found) <= set(self.versions)
        self.versions = {number: self.versions[number] for number in found}

    def _settled(self) -> None:
        """After a run that was not disturbed the folder is in line, without a look by us."""
        in_folder = pq.read_table(self.base / FOLDER).select(["name", "square", "error"]).to_pylist()
        assert Counter(tuple(row.values()) for row in in_folder) == Counter(
            work.result for work in self.versions[self.newest]
        )

    def _time_passes(self, alive: set[str]) -> None:
        """So much that nobody takes a dead run for alive, and no file for new; those in `alive` renew their leases."""
        self.seem_alive &= alive
        long_ago = time.time() - 10 * LEASE_SECONDS
        hidden = self.base / "_sd_assets"
        for path in hidden.rglob("*"):
            if path.is_file():
                os.utime(path, (long_ago, long_ago))
        for lease in hidden.rglob("leases/*.json"):
            if lease.stem not in alive:
                lease.write_text(json.dumps({"expires_at": long_ago}))

    def _area(self) -> Area:
        self._committing = ""
        return Area(CrashingFiles(self.base, self), ASSET, PARTITION)


def batches(source: Sequence[Row]) -> Iterator[pa.RecordBatch]:
    """The source as the input of the stage."""
    schema = pa.schema([("name", pa.string()), ("number", pa.int64()), ("error", pa.string())])
    for start in range(0, len(source), 7):
        rows = [
            {"name": row.name, "number": row.number, "error": "earlier" if row.failed else None}
            for row in source[start : start + 7]
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=schema)


def contents(table: Table) -> list[tuple[Any, ...]]:
    """All rows in order, as `Work.result` gives them."""
    rows = table.read()
    assert rows.schema.equals(TOY.arrow)
    return [tuple(row.values()) for row in rows.select(["name", "square", "error"]).to_pylist()]


@pytest.mark.timeout(600)
def test_storage_is_what_its_model_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Every batch of finished rows is recorded at once, so that there is much that must not be done again.
    monkeypatch.setattr(staging_module, "FLUSH_SECONDS", -1.0)
    StorageMachine.steps.clear()
    run_state_machine_as_test(
        StorageMachine,
        settings=settings(
            max_examples=35,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # add Phase.shrink for a shorter example of what failed: minutes
        ),
    )
    with capsys.disabled():
        print(f"\n{dict(StorageMachine.steps)}")
    # It went where the promises are. How often depends on all modules that the process has loaded: Hypothesis takes constants of them.
    steps = StorageMachine.steps
    assert steps["refreshes"] > 10
    assert min(
        steps[name]
        for name in ("lost races", "crashes in the middle of the work", "crashes after the commit")
    )
