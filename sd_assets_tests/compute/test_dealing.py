"""Who computes which rows: every row is dealt once, to where it belongs, and again if its worker dies."""

from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import pytest

from sd_assets.compute.ray.dealing import PARCEL_ROWS, Dealer, Parcel
from sd_assets.compute.reading import Part
from sd_assets.errors import SdAssetsError
from sd_assets.storage.rows import Rows
from sd_assets_tests.toy import ToyStage


class ByNumber(ToyStage):
    """Rows with the same last digit belong together."""

    def groups(self, rows: pa.RecordBatch) -> list[int]:
        return [number % 10 for number in rows.column("number").to_pylist()]


def work(number: int) -> bytes:
    return number.to_bytes(16, "big")


def parts(numbers: Sequence[int], size: int = 100) -> Iterator[Part]:
    for start in range(0, len(numbers), size):
        some = numbers[start : start + size]
        works = [work(number) for number in some]
        known = pa.RecordBatch.from_pydict({"number": some})
        fetched = Rows(known, ("image",), fetch=partial(_images, some))
        # Every second row is at hand.
        places = list(range(0, len(some), 2))
        yield Part(fetched, places, [works[place] for place in places], [works[place] for place in places])


def _images(numbers: Sequence[int], places: Sequence[int]) -> pa.Table:
    return pa.table({"image": [f"image {numbers[place]}".encode() for place in places]})


def numbers_of(parcels: Sequence[Parcel]) -> list[int]:
    found = [parcel.part.work().rows for parcel in parcels]
    for rows in found:
        assert [f"image {number}".encode() for number in rows["number"].to_pylist()] == rows[
            "image"
        ].to_pylist()
    return [number for rows in found for number in rows["number"].to_pylist()]


def dealer(stage: ToyStage, numbers: range, seats: int) -> Dealer:
    return Dealer(parts(numbers), stage, lambda works: {}, seats)


def test_every_row_is_dealt_once() -> None:
    dealt = dealer(ToyStage(), range(1000), 3)
    found: list[int] = []
    for turn in range(100):
        parcels = dealt.deal(turn % 3, 40)
        assert all(len(parcel.part) <= PARCEL_ROWS for parcel in parcels)
        found += numbers_of(parcels)
        assert not dealt.is_done
        for parcel in parcels:
            dealt.finished(turn % 3, parcel.part.works)
        if dealt.is_over(0):
            break
    assert sorted(found) == list(range(0, 1000, 2))
    assert dealt.is_done and dealt.is_over(1) and not dealt.has_more(2)


def test_rows_that_belong_together_have_one_seat() -> None:
    dealt = dealer(ByNumber(), range(2000), 4)
    for seat in range(4):
        found = numbers_of(dealt.deal(seat, 10_000))
        assert found == [number for number in range(0, 2000, 2) if number % 10 % 4 == seat]


def test_what_a_dead_worker_had_is_dealt_again() -> None:
    dealt = dealer(ToyStage(), range(400), 2)
    first = dealt.deal(0, 64)
    numbers = numbers_of(first)
    dealt.finished(0, [work(number) for number in numbers[:10]])
    assert dealt.take_back(0, "gone") == len(numbers) - 10
    again = numbers_of(dealt.deal(1, len(numbers) - 10))
    assert again[: len(numbers) - 10] == numbers[10:]


def test_rows_that_workers_die_of() -> None:
    dealt = dealer(ToyStage(), range(400), 1)
    for _ in range(2):
        dealt.deal(0, 32)
        dealt.take_back(0, "gone")
    dealt.deal(0, 32)
    with pytest.raises(
        SdAssetsError, match=r"3 workers died while they had the same rows .*: node 7: out of memory"
    ):
        dealt.take_back(0, "node 7: out of memory")


def test_input_is_not_read_for_a_seat_that_others_block() -> None:
    read: list[int] = []

    def endless() -> Iterator[Part]:
        for start in range(0, 10_000_000, 1000):
            read.append(start)
            yield from parts(range(start, start + 1000), 1000)

    class OfOneHost(ToyStage):
        def groups(self, rows: pa.RecordBatch) -> list[int]:
            return [0] * len(rows)

    dealt = Dealer(endless(), OfOneHost(), lambda works: {}, 2)
    assert not dealt.has_more(1) and dealt.waits_for_others(1) and not dealt.is_over(1)
    assert len(read) < 200
    assert len(numbers_of(dealt.deal(0, 100))) >= 100
