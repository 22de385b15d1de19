"""Who may be asked, and when: connections in all and a host, fair turns, and hosts that are left alone.

A host is a name (or an address), whatever the scheme and the port: that is whom many connections would trouble. Whether
there is anybody at all is a question of the port, too.
"""

import asyncio
import heapq
import zlib
from collections import deque
from dataclasses import dataclass, field

from sd_assets.download.codes import NO_ANSWER, FetchError
from sd_assets.download.room import Room
from sd_assets.errors import ErrorCode
from sd_assets.settings import DownloadSettings

# A server that wants to be left alone for longer is asked again by a later run, not by this one.
LONGEST_WAIT_S = 30.0
# So long, all in all, a host may have us wait; and a second longer for every answer in between.
_PATIENCE_S = 120.0
# Each of a host's connections is used about so often before it is another host's turn: to change hosts after every
# image would be to spend the time on handshakes, or to keep connections to all of them. That can be done where there are few:
# then it is the turn of who began first, so images come about in the order of the table, and are written once.
_IN_A_ROW = 16
# More hosts than these are never few: who of them began first is looked for at each turn.
_MOST_FEW = 64
# Ports of hosts whose failures are remembered; the oldest are forgotten.
_MOST_REMEMBERED = 50_000


@dataclass(eq=False, slots=True)
class _Host:
    name: str
    most: int  # connections at a time
    busy: int = 0  # connections
    # For a turn: a heap of the numbers of the flights, with the ports.
    waiting: list[tuple[int, int, asyncio.Future[bool]]] = field(default_factory=list)
    listed: bool = False  # among those whose turn it may be
    in_a_row: int = 0  # turns until it is another host's turn
    held_until: float | None = None  # of the loop's clock
    patience: float = field(default_factory=lambda: _PATIENCE_S)
    asked_for: str | None = None  # why it is left alone for good

    @property
    def forgettable(self) -> bool:
        in_use = self.busy or self.waiting or self.listed or self.held_until is not None
        return not in_use and self.patience == _PATIENCE_S


class Hosts:
    """Gives turns at hosts. Of the event loop's thread.

    Args:
        settings: `connections`, `connections_per_host`, `host_failures`.
        room: of the images in memory; while there is none, nobody has a turn, and as soon as there is, turns are given.
        seat: the number of who asks, and how many ask the same hosts elsewhere: each is given the URLs of hosts of its own, by
            `number_of_host`. Redirects lead to those of others: of these it takes its share of the connections, at least one.
    """

    def __init__(self, settings: DownloadSettings, room: Room, seat: tuple[int, int] = (0, 1)) -> None:
        self.room = room
        room.available = self.give_turns
        self._free = settings.connections
        self._per_host = settings.connections_per_host
        self._seat, self._seats = seat
        self._most_at_once = min(settings.connections, settings.connections_per_host)
        self._most_failures = settings.host_failures
        self._hosts: dict[str, _Host] = {}
        self._failures: dict[tuple[str, int], int] = {}  # in a row, by host and port
        self._next: deque[_Host] = deque()  # those with URLs that wait, and a connection to spare
        self._begun = 0  # flights
        # So many hosts have no more connections in all, in use or kept, than twice those that may be in use.
        self._few = min(max(1, 2 * settings.connections // settings.connections_per_host), _MOST_FEW)

    def give_turns(self) -> None:
        """Gives the turns that can be given; the host that was used last goes on, for a while, unless there are few."""
        while self._free and self._next and not self.room.full:
            few = len(self._hosts) <= self._few
            host = min(self._next, key=_first_number) if few else self._next[0]
            place = _first_waiting(host)
            if place is not None:
                self._free -= 1
                host.busy += 1
                host.in_a_row -= 1
                alone = few or len(self._next) == 1
                left = len(host.waiting) if alone else min(len(host.waiting), host.in_a_row)
                # Those that come next have new connections, until there are as many as may be; then they use these again.
                place.set_result(left >= self._most_at_once)
            if not host.waiting or host.busy >= host.most:
                self._unlist(host)
                self._forget(host)
            elif not few and host.in_a_row <= 0:
                host.in_a_row = _IN_A_ROW * self._per_host
                self._next.rotate(-1)

    def next_number(self) -> int:
        """Of a flight: those with lower numbers began earlier."""
        self._begun += 1
        return self._begun

    async def turn(self, name: str, port: int, number: int) -> tuple[_Host, bool]:
        """Waits for a turn; also whether the connection should be kept for the next one."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name, self._most_of(name))
        refusal = self._refusal(host, port)
        if refusal is not None:
            self._forget(host)
            raise refusal
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(host.waiting, (number, port, place))
        self._list(host)
        self.give_turns()
        try:
            return host, await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave(host)
                self.end()
            raise

    def _most_of(self, name: str) -> int:
        own = number_of_host(name) % self._seats == self._seat
        return self._per_host if own else max(1, self._per_host // self._seats)

    def _list(self, host: _Host, *, first: bool = False) -> None:
        """Has a host among those whose turn it may be, if it is one."""
        if host.listed or not host.waiting or host.busy >= host.most or host.held_until is not None:
            return
        host.listed = True
        if first and host.in_a_row > 0:
            self._next.appendleft(host)
        else:
            host.in_a_row = _IN_A_ROW * self._per_host
            self._next.append(host)

    def _unlist(self, host: _Host) -> None:
        if host.listed:
            host.listed = False
            self._next.remove(host)

    def leave(self, host: _Host) -> None:
        """The host's connection is free."""
        host.busy -= 1
        self._list(host, first=True)
        self._forget(host)

    def end(self) -> None:
        """What came is in flight no more."""
        self._free += 1
        self.give_turns()

    def _forget(self, host: _Host) -> None:
        if host.forgettable:
            self._hosts.pop(host.name, None)

    # --- what became of a turn -----------------------------------------------------------------------------------

    def answered(self, host: _Host, port: int) -> None:
        """Somebody is there, and ends his answers."""
        self._failures.pop((host.name, port), None)
        host.patience = min(host.patience + 1, _PATIENCE_S)

    def failed(self, host: _Host, port: int) -> None:
        """Once more, nobody did."""
        if self._most_failures is None:
            return
        self._failures[host.name, port] = self._failures.get((host.name, port), 0) + 1
        if len(self._failures) > _MOST_REMEMBERED:
            del self._failures[next(iter(self._failures))]
        if self._refusal(host, port) is not None:
            self._send_away(host)

    def hold_off(self, host: _Host, port: int, seconds: float, why: str) -> None:
        """The host asked to be left alone for so many seconds."""
        self._failures.pop((host.name, port), None)
        loop = asyncio.get_running_loop()
        until, held_until = loop.time() + seconds, host.held_until or loop.time()
        if until <= held_until:
            return
        host.patience -= until - held_until
        host.held_until = until
        self._unlist(host)
        if seconds > LONGEST_WAIT_S or host.patience <= 0:
            host.asked_for = why
            self._send_away(host)
        else:
            loop.call_at(until, self._resume, host, until)

    def _resume(self, host: _Host, until: float) -> None:
        if host.held_until == until and host.asked_for is None:
            host.held_until = None
            self._list(host)
            self.give_turns()
            self._forget(host)

    def _send_away(self, host: _Host) -> None:
        """Those that wait for a host, or a port of it, that is left alone."""
        waiting, host.waiting = sorted(host.waiting), []
        for number, port, place in waiting:
            refusal = self._refusal(host, port)
            if refusal is None:
                host.waiting.append((number, port, place))
            elif not place.done():
                place.set_exception(refusal)
        if not host.waiting:
            self._unlist(host)
        self._forget(host)

    def _refusal(self, host: _Host, port: int) -> FetchError | None:
        failures = self._failures.get((host.name, port), 0)
        if self._most_failures is not None and failures >= self._most_failures:
            detail = f"not asked: {host.name} at port {port} failed {failures} times in a row"
            return FetchError(ErrorCode.HOST_UNAVAILABLE, detail, again=False, asked=False)
        if host.asked_for is None:
            return None
        left = max(0.0, (host.held_until or 0.0) - asyncio.get_running_loop().time())
        detail = f"not asked: {host.name} wants to be left alone ({host.asked_for})"
        return FetchError(ErrorCode.RATE_LIMITED, detail, retry_after=left, again=False, asked=False)


def number_of_host(name: str | None) -> int:
    """The same for the same host, everywhere."""
    return zlib.crc32((name or "").rstrip(".").lower().encode())


def _first_waiting(host: _Host) -> "asyncio.Future[bool] | None":
    while host.waiting:
        _, _, place = heapq.heappop(host.waiting)
        if not place.done():  # it may have been cancelled
            return place
    return None


def _first_number(host: _Host) -> int:
    return host.waiting[0][0] if host.waiting else 0


class Flight:
    """What one URL holds while it is in flight: a turn at one host after the other, and room in memory.

    Attributes:
        keep: whether the connection that the turn is for should be kept for the next turn.
    """

    def __init__(self, hosts: Hosts) -> None:
        self.keep = False
        self._number = hosts.next_number()
        self._hosts = hosts
        self._counts = False  # among all that is in flight
        self._host: _Host | None = None
        self._port = 0
        self._reserved = 0

    async def turn(self, host: str, port: int) -> None:
        """Waits for a turn at a host, with nothing in hand: another turn must be over.

        Raises:
            FetchError: HOST_UNAVAILABLE or RATE_LIMITED: the host is left alone.
        """
        self._host, self.keep = await self._hosts.turn(host, port, self._number)
        self._port, self._counts = port, True

    async def reserve(self, size: int, deadline: asyncio.Timeout) -> None:
        """Waits for room for so many bytes; that is no time of the deadline's."""
        if size <= 0:
            return
        loop = asyncio.get_running_loop()
        left = (deadline.when() or loop.time()) - loop.time()
        if not deadline.expired():
            deadline.reschedule(None)
        await self._hosts.room.take(size)
        self._reserved += size
        if not deadline.expired():
            deadline.reschedule(loop.time() + left)

    def leave(self, error: FetchError | None = None) -> None:
        """The host has answered, or failed with `error`; its connection is free. What came is in flight still."""
        host, self._host = self._host, None
        if host is None:
            return
        if error is not None and error.code in NO_ANSWER:
            self._hosts.failed(host, self._port)
        elif error is not None and error.status in (429, 503) and error.retry_after is not None:
            self._hosts.hold_off(host, self._port, error.retry_after, error.detail)
        else:
            self._hosts.answered(host, self._port)
        self._hosts.leave(host)

    def end(self) -> None:
        """Nothing is in flight any more. Without `leave`, that says nothing of the host."""
        reserved, self._reserved = self._reserved, 0
        counts, self._counts = self._counts, False
        if self._host is not None:
            self._hosts.leave(self._host)
            self._host = None
        if reserved:
            self._hosts.room.give(reserved)
        if counts:
            self._hosts.end()
