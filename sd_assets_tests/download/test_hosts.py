"""Politeness and fairness: turns at hosts, Retry-After, hosts that do not answer."""

import asyncio
import collections
import contextlib
import random
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sd_assets.download import downloader, hosts
from sd_assets.download.codes import FetchError
from sd_assets.download.downloader import Downloader
from sd_assets.download.finish import Download
from sd_assets.download.hosts import Flight, Hosts
from sd_assets.download.request import Request
from sd_assets.download.room import Room
from sd_assets.errors import ErrorCode
from sd_assets.settings import DownloadSettings
from sd_assets_tests.download.misbehaving import Behaviour, Server, answer, in_turn, raw

E = ErrorCode


@pytest.fixture
def other() -> Iterator[Server]:
    """A server at another address, hence another host."""
    with Server(host="127.0.0.2") as running:
        yield running


def settings(**options: Any) -> DownloadSettings:
    return DownloadSettings(
        **{
            "allow_addresses": ("127.0.0.0/8",),
            "retries": 0,
            "timeout_s": 5,
            "robots_txt": False,
            "image_size": 16,
            **options,
        }
    )


def fetched(urls: list[str], **options: Any) -> list[tuple[str, Download]]:
    """What became of URLs, as they came."""
    with Downloader(settings(**options)) as running:
        return list(running.stream((url, Request(url)) for url in urls))


def urls_of(server: Server, count: int, behaviour: Behaviour, host: str = "127.0.0.1") -> list[str]:
    server.paths |= {f"/{number}": behaviour for number in range(count)}
    return [server.url(f"/{number}", host) for number in range(count)]


# --- turns -------------------------------------------------------------------------------------------------------


def test_a_host_has_no_more_connections_than_it_may(server: Server, other: Server, jpeg: bytes) -> None:
    send = answer(body=jpeg)
    busy: dict[Server, list[int]] = {server: [0], other: [0]}

    def counted(where: Server) -> Behaviour:
        async def behave(writer: asyncio.StreamWriter, headers: dict[str, str]) -> None:
            busy[where].append(busy[where][-1] + 1)
            await asyncio.sleep(0.02)
            busy[where].append(busy[where][-1] - 1)
            await send(writer, headers)

        return behave

    urls = urls_of(server, 30, counted(server)) + urls_of(other, 30, counted(other), "127.0.0.2")
    rows = fetched(urls, connections=20, connections_per_host=3)
    assert [row.error for _, row in rows] == [None] * 60
    assert [max(counts) for counts in busy.values()] == [3, 3]


def test_a_slow_host_with_many_urls_holds_up_nobody(server: Server, other: Server, jpeg: bytes) -> None:
    slow = urls_of(other, 30, raw(0.15, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "127.0.0.2")
    fast = urls_of(server, 100, answer(body=jpeg))
    rows = fetched([*slow, *fast], connections=3, connections_per_host=2)
    order = [url for url, _ in rows]
    assert collections.Counter(row.error for _, row in rows) == {None: 100, E.NOT_FOUND: 30}
    # The slow host's take 2 s, those of the other one the connection that is left.
    assert max(order.index(url) for url in fast) < len(order) - 5


def test_turns_go_round_and_none_is_lost() -> None:
    """Flights of many hosts that end in every way, some cancelled at any moment."""
    chance = random.Random(0)
    free, per_host = 5, 2
    busy: collections.Counter[str] = collections.Counter()
    done: collections.Counter[str] = collections.Counter()

    async def fly(turns: Hosts, host: str) -> None:
        flight = Flight(turns)
        try:
            for _ in range(chance.randrange(1, 3)):  # a redirect, perhaps
                await flight.turn(host, 80)
                busy[host] += 1
                try:
                    assert busy[host] <= per_host
                    assert busy.total() <= free
                    await asyncio.sleep(chance.random() * 0.002)
                finally:
                    busy[host] -= 1
                flight.leave(FetchError(E.TIMEOUT, "") if chance.random() < 0.2 else None)
                flight.end()
            done[host] += 1
        except FetchError as error:
            done[error.code] += 1
        finally:
            flight.end()

    async def run() -> Hosts:
        chosen = settings(connections=free, connections_per_host=per_host, host_failures=5)
        turns = Hosts(chosen, Room(1_000))
        tasks = [
            asyncio.create_task(fly(turns, f"h{int(chance.paretovariate(1)) % 20}")) for _ in range(1_000)
        ]
        for _ in range(50):
            await asyncio.sleep(0.001)
            for task in chance.sample(tasks, 4):
                task.cancel()
        gathered = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert not [it for it in gathered if it is not None and not isinstance(it, asyncio.CancelledError)]
        return turns

    turns = asyncio.run(run())
    assert done.total() > 700
    assert turns._free == free
    assert turns._hosts == {}  # nothing is remembered of hosts that nobody wants anything of, but failures
    assert not turns._next


@pytest.mark.parametrize(("hosts", "in_order"), [(10, True), (11, False)])
def test_of_few_hosts_it_is_the_turn_of_who_began_first(hosts: int, in_order: bool) -> None:
    chance = random.Random(0)
    numbers = list(range(1_000))
    host_of = [f"h{chance.randrange(hosts)}" for _ in numbers]
    asked_robots = {host: asyncio.Event() for host in host_of}
    began: list[int] = []

    async def fly(turns: Hosts, number: int) -> None:
        flight = Flight(turns)
        await asked_robots[host_of[number]].wait()
        await flight.turn(host_of[number], 80)
        began.append(number)
        await asyncio.sleep(0)
        flight.leave()
        flight.end()

    async def run() -> None:
        turns = Hosts(settings(connections=10, connections_per_host=2), Room(1_000))
        flights = [asyncio.create_task(fly(turns, number)) for number in numbers[:900]]
        await asyncio.sleep(0)
        # Then all flights of a host go on, those of one host after those of another, and after those that begin only now.
        for asked in asked_robots.values():
            asked.set()
        flights += [asyncio.create_task(fly(turns, number)) for number in numbers[900:]]
        await asyncio.gather(*flights)

    asyncio.run(run())
    assert sorted(began) == numbers
    furthest = max(abs(place - number) for place, number in enumerate(began))
    assert (furthest < 50) == in_order


def test_a_turn_is_given_as_soon_as_there_is_room() -> None:
    async def run() -> None:
        room = Room(10)
        turns = Hosts(settings(), room)
        room.add(10)
        waiting = asyncio.create_task(Flight(turns).turn("h", 80))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        room.give(1)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(run())


# --- Retry-After -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["429 Slow down", "503 Busy"])
def test_retry_after_holds_off_the_whole_host_and_no_other(
    server: Server, other: Server, jpeg: bytes, status: str
) -> None:
    asked: list[float] = []

    def timed(behaviour: Behaviour) -> Behaviour:
        async def behave(writer: asyncio.StreamWriter, headers: dict[str, str]) -> None:
            asked.append(time.monotonic())
            await behaviour(writer, headers)

        return behave

    urls = urls_of(server, 5, timed(in_turn(answer(status, Retry_After="1"), answer(body=jpeg))))
    elsewhere = urls_of(other, 5, answer(body=jpeg), "127.0.0.2")
    rows = fetched([*urls, *elsewhere], retries=1, connections_per_host=1)
    assert [row.error for _, row in rows] == [None] * 10
    assert {url for url, _ in rows[:5]} == set(elsewhere)
    assert len(asked) == 6
    assert asked[1] - asked[0] >= 0.99
    assert sum(row.attempts for _, row in rows) == 11


def test_a_host_that_wants_to_be_left_alone_for_long_is_not_asked_again(server: Server) -> None:
    urls = urls_of(server, 20, answer("503 Busy", Retry_After="3600"))
    rows = [row for _, row in fetched(urls, retries=2, connections_per_host=1)]
    assert server.requests.total() == 1
    (asked,) = [row for row in rows if row.attempts]
    assert (asked.error, asked.http_status, asked.attempts, asked.retry_after) == (
        E.SERVER_ERROR,
        503,
        1,
        3600,
    )
    others = [row for row in rows if row is not asked]
    assert {(row.error, row.http_status, row.attempts) for row in others} == {(E.RATE_LIMITED, None, 0)}
    assert all(row.retry_after and 3_500 < row.retry_after <= 3_600 for row in others)
    detail = "not asked: 127.0.0.1 wants to be left alone (status 503 Busy)"
    assert {row.error_detail for row in others} == {detail}


def test_patience_with_a_host_has_an_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_PATIENCE_S", 1.5)
    monkeypatch.setattr(downloader, "_BACKOFF_S", 0.01)
    urls = urls_of(server, 50, answer("429 Slow down", Retry_After="1"))
    rows = [row for _, row in fetched(urls, retries=5, connections_per_host=1)]
    assert {row.error for row in rows} == {E.RATE_LIMITED}
    assert server.requests.total() == 2
    assert sum(row.attempts for row in rows) == 2


# --- hosts that do not answer ------------------------------------------------------------------------------------


def test_a_dead_host_costs_few_attempts(server: Server, jpeg: bytes) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = [f"http://127.0.0.1:{unused.getsockname()[1]}/{number}" for number in range(500)]
        alive = urls_of(server, 20, answer(body=jpeg))  # the same address, but another port
        rows = fetched([*dead, *alive], host_failures=7, connections_per_host=3)
    counts = collections.Counter((row.error, row.attempts) for _, row in rows)
    assert 7 <= counts.pop((E.CONNECTION_FAILED, 1)) <= 9
    assert counts.pop((None, 1)) == 20
    assert set(counts) == {(E.HOST_UNAVAILABLE, 0)}
    (detail,) = {row.error_detail for _, row in rows if row.error == E.HOST_UNAVAILABLE}
    assert detail and "failed" in detail and "times in a row" in detail


def test_an_attempt_that_was_made_is_not_forgotten_for_one_that_was_not(server: Server) -> None:
    urls = urls_of(server, 3, raw(b""))
    rows = [row for _, row in fetched(urls, retries=3, host_failures=3, connections_per_host=3)]
    assert [(row.error, row.attempts) for row in rows] == [(E.CONNECTION_FAILED, 1)] * 3


@pytest.mark.parametrize(
    "behaviour", [raw(30.0), raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", 30.0)]
)
def test_a_host_that_never_ends_an_answer_does_not_answer(server: Server, behaviour: Behaviour) -> None:
    urls = urls_of(server, 100, behaviour)
    rows = fetched(urls, timeout_s=0.2, host_failures=4, connections_per_host=4)
    counts = collections.Counter(row.error for _, row in rows)
    assert set(counts) == {E.TIMEOUT, E.HOST_UNAVAILABLE}
    assert 4 <= counts[E.TIMEOUT] <= 8


def test_any_answer_between_failures_shows_that_somebody_is_there(server: Server) -> None:
    urls = urls_of(server, 30, raw(b""))
    server.paths |= {f"/{number}": answer("500 Oops") for number in range(0, 30, 2)}
    rows = fetched(urls, host_failures=2, connections_per_host=1)
    assert collections.Counter(row.error for _, row in rows) == {E.CONNECTION_FAILED: 15, E.SERVER_ERROR: 15}


def test_who_is_left_little_time_by_slow_redirects_is_not_to_blame(server: Server, other: Server) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {other.url('/', '127.0.0.2')}\r\nContent-Length: 0\r\n\r\n"
    urls = urls_of(server, 6, raw(1.0, head.encode()))
    other.paths["/"] = raw(1.0, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    with Downloader(settings(timeout_s=1.5, host_failures=1)) as running:
        rows = [row for _, row in running.stream((url, Request(url)) for url in urls)]
        assert {(row.error, row.http_status) for row in rows} == {(E.TIMEOUT, 302)}
        for host in (server.url("/none"), other.url("/none", "127.0.0.2")):
            assert running.submit(Request(host)).result().error == E.NOT_FOUND


def test_who_redirects_to_himself_and_never_answers_there_does_not_answer(server: Server) -> None:
    server.paths |= {"/": answer("302 Found", Location="/never"), "/never": raw(30.0)}
    with Downloader(settings(timeout_s=0.6, host_failures=2)) as running:
        codes = [running.submit(Request(server.url("/"))).result().error for _ in range(8)]
    assert codes[0] == E.TIMEOUT
    assert codes[-1] == E.HOST_UNAVAILABLE


def test_an_answer_that_is_complete_excuses_those_that_were_not(server: Server) -> None:
    urls = urls_of(server, 12, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", 30.0))
    server.paths |= {f"/{number}": answer("404 Not Found") for number in range(0, 12, 2)}
    rows = fetched(urls, timeout_s=0.2, host_failures=2, connections_per_host=1)
    assert collections.Counter(row.error for _, row in rows) == {E.TIMEOUT: 6, E.NOT_FOUND: 6}


def test_hosts_need_not_be_given_up(server: Server) -> None:
    urls = urls_of(server, 30, raw(b""))
    assert {row.error for _, row in fetched(urls, host_failures=None)} == {E.CONNECTION_FAILED}
    assert set(server.requests.values()) == {1}  # an attempt is one request


def test_a_connection_that_was_closed_while_it_was_kept_costs_no_attempt(jpeg: bytes) -> None:
    class Forgetful(Server):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg)
            with contextlib.suppress(asyncio.IncompleteReadError):
                path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
                self.requests[path.decode()] += 1  # and not answered
            writer.close()

    with Forgetful() as server:
        rows = fetched([server.url(f"/{number}") for number in range(40)], connections_per_host=1)
        assert {(row.error, row.attempts) for _, row in rows} == {(None, 1)}
        assert server.requests  # there were such connections


def test_connections_to_very_many_hosts_are_not_all_kept(
    jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is an open file, of which a process may have 1,024, often."""

    class Lasting(Server):
        opened = most = 0

        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.opened += 1
            self.most = max(self.most, self.opened)
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg)
            writer.close()
            self.opened -= 1

    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    server = Lasting()
    with server:
        urls = [server.url(f"/{number}", f"host{number % 300}.test") for number in range(900)]
        rows = fetched(urls, connections=10)
        assert {row.error for _, row in rows} == {None}
        # Some of which it has not noticed yet that the client closed them.
        assert server.most <= 30
