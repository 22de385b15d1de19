"""Working ahead in threads: results as they are done."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from sd_assets.ahead import map_as_done, map_by_turns


def test_what_is_done_waits_for_nobody() -> None:
    others_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert others_done.wait(30)
        return number

    found: list[int] = []
    for done in map_as_done(work, range(20), threads=3, idle_s=30):
        found += done
        if len(found) == 19:
            others_done.set()
    assert found[-1] == 0
    assert sorted(found) == list(range(20))


def test_it_reads_no_further_ahead_than_there_are_threads() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for number in range(100):
            read += 1
            yield number

    handed_out = 0
    with closing(map_as_done(lambda number: number, items(), threads=3, idle_s=30)) as results:
        for done in results:
            handed_out += len(done)
            assert read - handed_out <= 3
    assert handed_out == 100


def test_while_nothing_is_done_it_says_so() -> None:
    go_on = threading.Event()
    results = map_as_done(lambda number: go_on.wait(30) and number, [7], threads=1, idle_s=0.01)
    assert next(results) == []
    go_on.set()
    assert [number for done in results for number in done] == [7]


def test_what_was_done_when_one_fails_is_handed_out_first() -> None:
    begun = threading.Barrier(3)

    def work(number: int) -> int:
        if number < 3:
            begun.wait(30)
        if number == 1:
            raise ValueError("number 1")
        return number

    found: list[int] = []
    with pytest.raises(ValueError, match="number 1"):
        for done in map_as_done(work, range(100), threads=3, idle_s=30):
            found += done
    assert {0, 2} <= set(found)
    assert len(found) < 99


def test_whoever_stops_waits_for_nothing() -> None:
    go_on = threading.Event()

    def work(number: int) -> int:
        if number:
            go_on.wait(60)
        return number

    results = map_as_done(work, range(100), threads=2, idle_s=30)
    assert next(results) == [0]
    results.close()  # would hang here
    go_on.set()


def test_by_turns_nothing_is_begun_before_all_is_taken() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        return number

    results = map_by_turns(work, iter(range(7)), threads=3)
    assert not begun
    for number in range(7):
        assert next(results) == number
        assert sorted(begun) == list(range(min(7, number // 3 * 3 + 3)))
    assert list(results) == []
