"""A model that is loaded once for each device, and lent to as many threads as it can serve."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from sd_assets.models.loading import LazyModel


class Toy(LazyModel[str]):
    """Whose parts are the name of its device; two threads may use one of a GPU."""

    LANES_PER_GPU = 2
    identity = "toy@1"
    name = "toy"

    def __init__(self, device: str = "auto") -> None:
        super().__init__(device, "float32")
        self.loaded: list[str] = []

    def _load(self, device: str, precision: str) -> str:
        time.sleep(0.02)  # time for another thread to come
        self.loaded.append(device)
        return device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda what: nullcontext())


def test_threads_load_it_once_for_each_device(gpus: None) -> None:
    toy = Toy()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: toy.load(), range(8)))
    assert toy.loaded == ["cuda:0", "cuda:1"]
    assert toy.facts() == {"model": "toy@1", "device": "cuda:0, cuda:1", "precision": "float32"}


def test_every_gpu_is_used_by_as_many_threads_as_it_serves(gpus: None) -> None:
    toy = Toy()
    toy.load()
    assert toy.lanes == 4
    under_way: list[str] = []
    streams: set[Any] = set()
    all_there = threading.Barrier(4, timeout=10)

    def use(_: int) -> None:
        with toy._lane() as lane:
            under_way.append(lane.device)
            streams.add(lane.stream)
            all_there.wait()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(12)))
    assert sorted(under_way[:4]) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    # Each has a memory of its own, so they are made once.
    assert len(streams) == 4


def test_a_cpu_serves_one_at_a_time() -> None:
    toy = Toy("cpu")
    now, most = 0, 0

    def use(_: int) -> None:
        nonlocal now, most
        with toy._lane():
            now += 1
            most = max(most, now)
            time.sleep(0.002)
            now -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(12)))
    assert (toy.lanes, most) == (1, 1)


def test_a_lane_is_given_back_after_an_error() -> None:
    toy = Toy("cpu")

    def fail() -> Any:
        with toy._lane():
            raise ValueError

    for _ in range(3):
        with pytest.raises(ValueError):
            fail()
