"""Batches: filled, halved where memory ends, split where an item is poison."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_assets.errors import ErrorCode, ModelError, RowError
from sd_assets.models.running import Batches


class Machine:
    """Squares numbers, as far as its memory reaches; -1 is poison."""

    def __init__(self, room: int = 10**6) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, batch: list[int]) -> list[int]:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if -1 in batch:
            raise ValueError("negative")
        return [number * number for number in batch]


def test_batches_are_filled_up_with_what_is_there() -> None:
    seen: list[list[int]] = []

    def run(batch: list[int]) -> list[int]:
        seen.append(batch)
        return batch

    results = Batches(4, "cpu", fill=4).run([1, 2, 3, 4, 5], run)
    assert results == [1, 2, 3, 4, 5]
    assert seen == [[1, 2, 3, 4], [5, 5, 5, 5]]


@settings(max_examples=30)  # memory is looked through each time that it ends
@given(
    count=st.integers(0, 60),
    size=st.integers(1, 40),
    fill=st.sampled_from([1, 4, 16]),
    room=st.integers(1, 64),
)
def test_nothing_is_lost_when_memory_ends(count: int, size: int, fill: int, room: int) -> None:
    machine = Machine(room)
    batches = Batches(size, "cpu", fill)
    assert batches.run(range(count), machine) == [number * number for number in range(count)]
    if count:
        assert machine.sizes[-1] <= room
        assert max(machine.sizes) < size + min(fill, size)


def test_what_has_no_room_is_not_tried_again() -> None:
    machine = Machine(room=5)
    batches = Batches(16, "cpu")
    batches.run(range(40), machine)
    assert batches.size == 4
    machine.sizes.clear()
    batches.run(range(16), machine)
    assert machine.sizes == [4, 4, 4, 4]


def test_no_room_for_a_single_item_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"does not fit cpu: there is no memory for a single item.*smaller"):
        Batches(8, "cpu").run([1, 2, 3], Machine(room=0))


def test_memory_that_ends_on_a_cpu_is_known_by_its_words() -> None:
    def run(batch: list[int]) -> list[int]:
        if len(batch) > 2:
            torch.empty(2**60, dtype=torch.uint8)  # what torch really says
        return batch

    batches = Batches(4, "cpu")
    assert batches.run([1, 2, 3], run) == [1, 2, 3]
    assert batches.size <= 2


@given(poisoned=st.sets(st.integers(0, 29), max_size=8), size=st.integers(1, 32))
def test_poison_costs_only_itself(poisoned: set[int], size: int) -> None:
    batches = Batches(size, "cpu", fill=4)
    batches.run([1], Machine())  # the model works
    items = [-1 if number in poisoned else number for number in range(30)]
    results = batches.run(items, Machine())
    for number, result in enumerate(results):
        if number in poisoned:
            assert isinstance(result, RowError)
            assert result.code == ErrorCode.MODEL_FAILED
            assert "negative" in result.detail
        else:
            assert result == number * number


def test_poison_in_the_first_batch_costs_only_itself() -> None:
    results = Batches(4, "cpu").run([-1, 2, 3, -1], Machine())
    assert [isinstance(result, RowError) for result in results] == [True, False, False, True]


@pytest.mark.parametrize("items", [[1], [1, 2, 3]])
def test_a_model_that_never_works_stops_the_asset(items: list[int]) -> None:
    def broken(batch: list[int]) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(ModelError, match="the model fails: shapes do not match"):
        Batches(2, "cpu").run(items, broken)


def test_what_a_model_says_itself_is_passed_on() -> None:
    def refused(batch: list[int]) -> list[int]:
        raise ModelError("the token was revoked")

    with pytest.raises(ModelError, match=r"^the token was revoked$"):
        Batches(2, "cpu").run([1, 2], refused)


def test_a_device_that_gave_up_stops_the_asset() -> None:
    lost = getattr(torch, "AcceleratorError", None)
    if lost is None:
        pytest.skip("this torch has no errors of the device")
    batches = Batches(2, "cuda:0")
    batches.run([1], Machine())

    def asserted(batch: list[int]) -> list[int]:
        raise lost("CUDA error: device-side assert triggered")

    with pytest.raises(ModelError, match=r"cuda:0 gave up.*what is finished is kept"):
        batches.run([1, 2], asserted)
