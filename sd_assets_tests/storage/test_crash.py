"""A process that is killed at any file operation leaves the old version or the new one, and its finished work."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sd_assets.compute.run import run_stage
from sd_assets.errors import TableError
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.toy import ToyStage, toy_input

OLD = list(range(60))
NEW = [500, *range(10, 60), *range(70, 90)]
# The audit events of everything that changes or reads a file.
EVENTS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.scandir"}
KILLED = 137


def refresh(base: Path, numbers: list[int], run_id: str) -> ToyStage:
    stage = ToyStage()
    area = TableStore(LocalFiles(base)).area("toy", "p")
    run_stage(stage, toy_input(numbers), area, run_id, lambda line: None).commit()
    return stage


def killed_at(operation: int, base: Path, work: Callable[[], Any]) -> bool:
    """Run `work` in a process of its own that ends, without any clean-up, before its n-th file operation under `base`.

    Returns False if it had fewer.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event in EVENTS and str(base) in str(arguments[0]):
                count += 1
                if count == operation:
                    os._exit(KILLED)

        sys.addaudithook(hook)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def content(base: Path) -> dict[str, Any]:
    """The table through its handle, as numbers by name; and what a reader of the folder sees must be the same."""
    table = TableStore(LocalFiles(base)).open("toy", "p")
    rows = {row["name"]: row["square"] for row in table.read().to_pylist()}
    assert len(rows) == table.num_rows
    in_folder = sorted(path.name for path in (base / "toy" / "p").iterdir())
    assert in_folder == sorted(shard.file for shard in table.manifest.shards)
    return rows


def expected(numbers: list[int]) -> dict[str, int | None]:
    return {f"n{number}": number**2 if number % 10 else None for number in numbers}


@pytest.mark.timeout(600)
def test_a_kill_at_every_file_operation(tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    refresh(clean, OLD, "first")
    refresh(clean, NEW, "second")
    whole = (clean / "toy" / "p").iterdir()
    clean_shards = {path.name: path.read_bytes() for path in whole}

    outcomes = set()
    operation = 0
    while True:
        operation += 1
        base = tmp_path / f"{operation}"
        refresh(base, OLD, "first")
        if not killed_at(operation, base, partial(refresh, base, NEW, "second")):
            break
        found = content(base)
        assert found in (expected(OLD), expected(NEW)), f"killed at operation {operation}"
        outcomes.add("new" if found == expected(NEW) else "old")

        computed = refresh(base, NEW, "third").computed
        assert max(computed.values(), default=0) <= 1
        assert content(base) == expected(NEW)
        shards = {path.name: path.read_bytes() for path in (base / "toy" / "p").iterdir()}
        assert shards == clean_shards, f"killed at operation {operation}"
    assert operation > 40
    assert outcomes == {"old", "new"}


def test_work_that_was_recorded_is_not_computed_again(tmp_path: Path) -> None:
    """At the last operation before the commit nothing is left to compute; before it, ever less."""
    left = []
    for operation in range(1, 10_000, 4):
        base = tmp_path / f"{operation}"
        if not killed_at(operation, base, partial(refresh, base, NEW, "first")):
            break
        left.append(refresh(base, NEW, "next").computed.total())
    assert left == sorted(left, reverse=True)
    assert (left[0], left[-1]) == (len(NEW), 0)


def test_a_full_disk_is_a_clear_error_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh(tmp_path, OLD, "first")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(TableError, match=r"No space left.*make room"):
        refresh(tmp_path, NEW, "second")
    monkeypatch.undo()
    assert content(tmp_path) == expected(OLD)
