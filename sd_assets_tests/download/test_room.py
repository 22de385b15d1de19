"""The bound on memory: reservations, and images that wait for the consumer."""

import asyncio
import time

import pytest

from sd_assets.download import downloader, finish
from sd_assets.download.downloader import Downloader
from sd_assets.download.finish import as_it_came
from sd_assets.download.request import Request
from sd_assets.download.room import Room
from sd_assets.settings import DownloadSettings
from sd_assets_tests.download.misbehaving import Server, answer

MEGABYTE = 1_000_000


def test_room_is_given_in_turn_and_whole() -> None:
    given: list[str] = []

    async def take(room: Room, name: str, size: int) -> None:
        await room.take(size)
        given.append(name)

    async def run() -> None:
        freed: list[bool] = []
        room = Room(10)
        room.available = lambda: freed.append(True)
        await take(room, "a", 6)
        tasks = [asyncio.create_task(take(room, name, size)) for name, size in (("b", 5), ("c", 1), ("d", 9))]
        await asyncio.sleep(0)
        assert (given, room.full) == (["a"], True)  # c would fit, but b was first
        tasks[0].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert given == ["a", "c"]
        assert not freed
        room.give(6)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (given, room.full) == (["a", "c", "d"], True)
        room.give(9)
        room.give(1)
        assert not room.full
        assert freed
        room.add(50)  # it is there already
        assert room.full

    asyncio.run(run())


def test_who_is_cancelled_as_he_is_given_room_gives_it_back() -> None:
    async def run() -> None:
        room = Room(10)
        await room.take(10)
        task = asyncio.create_task(room.take(10))
        await asyncio.sleep(0)
        room.give(10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await room.take(10)

    asyncio.run(asyncio.wait_for(run(), 5))


def test_who_is_cancelled_before_he_is_given_room_gives_none_back() -> None:
    """As it is when a stream is closed: its tasks are cancelled, and at once what it held is given back."""

    async def run() -> None:
        room = Room(10)
        await room.take(9)
        tasks = [asyncio.create_task(room.take(5)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        room.give(9)
        await asyncio.gather(*tasks, return_exceptions=True)
        await room.take(10)
        assert room.full  # of exactly these

    asyncio.run(asyncio.wait_for(run(), 5))


@pytest.mark.parametrize("announced", [True, False])
def test_large_images_in_flight_and_in_wait_are_bounded(
    server: Server, jpeg: bytes, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    """A consumer that stops for longer than the deadline finds all the images, and no more in memory than there may be."""
    held: list[int] = []
    take = Room.take

    async def watched(self: Room, size: int) -> None:
        await take(self, size)
        held.append(self._held)

    monkeypatch.setattr(Room, "take", watched)
    monkeypatch.setattr(downloader, "_ROOM_BYTES", 10 * MEGABYTE)
    image = jpeg + bytes(3 * MEGABYTE)
    paths = [f"/{number}" for number in range(40)]
    server.paths = dict.fromkeys(paths, answer(body=image, length=-1 if announced else None))
    settings = DownloadSettings(
        allow_addresses=("127.0.0.1",),
        timeout_s=1,
        retries=0,
        max_bytes=4 * MEGABYTE,
        connections_per_host=20,
        robots_txt=False,
    )
    with Downloader(settings, as_it_came) as running:
        results = running.stream((path, Request(server.url(path))) for path in paths)
        rows = [next(results)[1]]
        time.sleep(2)
        # 20 megabytes are uncounted, 10 counted: of 40 images of 3 megabytes that is less than a half.
        assert server.requests.total() < 30
        rows += [row for _, row in results]
    assert [row.error for row in rows] == [None] * 40
    assert len(held) == 40
    assert max(held) <= 30 * MEGABYTE


def test_images_of_very_many_pixels_are_made_one_at_a_time(
    server: Server, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "_MANY_PIXELS", 96 * 64 - 1)
    busy = [0]

    def make(*_: object) -> tuple[bytes, int, int]:
        busy.append(busy[-1] + 1)
        time.sleep(0.02)
        busy.append(busy[-1] - 1)
        return b"", 1, 1

    server.paths = {f"/{number}": answer(body=jpeg) for number in range(8)}
    with Downloader(DownloadSettings(allow_addresses=("127.0.0.1",)), make) as running:
        rows = list(running.stream((path, Request(server.url(path))) for path in list(server.paths)))
    assert [row.error for _, row in rows] == [None] * 8
    assert max(busy) == 1
