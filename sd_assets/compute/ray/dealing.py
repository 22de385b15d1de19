"""Which worker computes which rows, and what is to be computed again as its worker died."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from sd_assets.compute.reading import Part
from sd_assets.errors import SdAssetsError
from sd_assets.stages.stage import Stage
from sd_assets.storage.rows import Rows
from sd_assets.storage.shards import Shard

# A parcel goes to one worker: small, so that at the end no worker has long to do when the others have nothing.
PARCEL_ROWS = 32
# Parcels that wait while one for a certain seat is looked for, and as many more as there are seats.
_MOST_WAITING = 2_000
# Workers that may die of the same rows.
_MOST_DEATHS = 3

# Of these work keys where the rows lie that are at hand, but that the judge of the stage refused.
Stored = Callable[[Sequence[bytes]], Mapping[bytes, tuple[Shard, int]]]


@dataclass(frozen=True)
class Parcel:
    """A few rows for a worker, which fetches their images itself.

    Attributes:
        part: the rows, and nothing of others.
        seat: where they have to be computed; None: anywhere.
        stored: see `Stored`.
    """

    part: Part
    seat: int | None
    stored: Mapping[bytes, tuple[Shard, int]]

    def some(self, rows: Sequence[int]) -> "Parcel":
        """Some of its rows."""
        return Parcel(_some(self.part, rows), self.seat, self.stored)


class Dealer:
    """Deals the input to seats, each of which has one worker at a time.

    Args:
        parts: the input.
        stage: whose `groups` says which rows have to be computed at the same seat.
        stored: see `Stored`.
        seats: how many there are.
    """

    def __init__(self, parts: Iterable[Part], stage: Stage, stored: Stored, seats: int) -> None:
        self._input = (
            Parcel(some, seat, stored(some.works))
            for part in parts
            for some, seat in _cut(part, stage, seats)
        )
        self._ended = False
        self._waiting: dict[int | None, deque[Parcel]] = {seat: deque() for seat in (None, *range(seats))}
        # By seat the rows that its worker has not finished: their parcels, by work key.
        self._dealt: dict[int, dict[bytes, Parcel]] = {seat: {} for seat in range(seats)}
        self._deaths: Counter[bytes] = Counter()

    def deal(self, seat: int, rows: int) -> list[Parcel]:
        """At least so many rows for the worker of a seat, if there are."""
        dealt: list[Parcel] = []
        while rows > 0 and (parcel := self._next(seat)):
            dealt.append(parcel)
            rows -= len(parcel.part)
            self._dealt[seat].update(dict.fromkeys(parcel.part.works, parcel))
        return dealt

    def has_more(self, seat: int) -> bool:
        """Whether there is a parcel for a seat."""
        parcel = self._next(seat)
        if parcel is not None:
            self._waiting[parcel.seat].appendleft(parcel)
        return parcel is not None

    def is_over(self, seat: int) -> bool:
        """Whether there will be no more parcels for a seat, unless a worker dies."""
        return not self.has_more(seat) and self._ended

    def waits_for_others(self, seat: int) -> bool:
        """Whether there is nothing for a seat before others have taken some of what waits for them."""
        return not self.has_more(seat) and self._is_full

    def finished(self, seat: int, works: Iterable[bytes]) -> None:
        """The worker of a seat has finished rows, and they are kept."""
        for work in works:
            self._dealt[seat].pop(work, None)

    def take_back(self, seat: int, why: str) -> int:
        """The worker of a seat died: what it has not finished will be dealt again. Returns how many rows that is.

        Raises:
            SdAssetsError: several died of the same rows.
        """
        dealt, self._dealt[seat] = self._dealt[seat], {}
        parcels = list({id(parcel): parcel for parcel in dealt.values()}.values())
        for parcel in reversed(parcels):
            left = parcel.some([row for row, work in enumerate(parcel.part.works) if work in dealt])
            first = left.part.works[0]
            self._deaths[first] += 1
            if self._deaths[first] >= _MOST_DEATHS:
                raise SdAssetsError(
                    f"{_MOST_DEATHS} workers died while they had the same rows to compute; the last one: {why}. If they ran "
                    "out of memory, have fewer on a node (`cpus_per_worker`). What was finished is kept: run again"
                )
            self._waiting[left.seat].appendleft(left)
        return len(dealt)

    @property
    def is_done(self) -> bool:
        """Whether every row of the input is finished."""
        return not any(self._dealt.values()) and not any(self._waiting.values()) and not self._read()

    def _next(self, seat: int) -> Parcel | None:
        """The next parcel for a seat, which waits no more; None: there is none now."""
        while True:
            for waiting in (self._waiting[seat], self._waiting[None]):
                if waiting:
                    return waiting.popleft()
            if self._is_full or not self._read():
                return None

    @property
    def _is_full(self) -> bool:
        return sum(map(len, self._waiting.values())) >= _MOST_WAITING + len(self._dealt)

    def _read(self) -> bool:
        """Read a parcel more; False: the input has ended."""
        parcel = None if self._ended else next(self._input, None)
        self._ended = parcel is None
        if parcel is not None:
            self._waiting[parcel.seat].append(parcel)
        return not self._ended


def _cut(part: Part, stage: Stage, seats: int) -> Iterator[tuple[Part, int | None]]:
    """A part in parcels, with the seats where they have to be computed."""
    groups = stage.groups(part.rows.known.take(pa.array(part.places, pa.int64())))
    of_seats: dict[int | None, list[int]] = {}
    for row in range(len(part)):
        of_seats.setdefault(None if groups is None else groups[row] % seats, []).append(row)
    for seat, rows in of_seats.items():
        for start in range(0, len(rows), PARCEL_ROWS):
            yield _some(part, rows[start : start + PARCEL_ROWS]), seat


def _some(part: Part, rows: Sequence[int]) -> Part:
    """Some rows of a part, with nothing of the others."""
    places = [part.places[row] for row in rows]
    keys, works = ([digests[row] for row in rows] for digests in (part.keys, part.works))
    known = part.rows.known.take(pa.array(places, pa.int64()))
    fetch = None if part.rows.fetch is None else partial(_fetched, part.rows.fetch, places)
    return Part(Rows(known, part.rows.lazy, fetch=fetch), range(len(places)), keys, works)


def _fetched(
    fetch: Callable[[Sequence[int]], pa.Table], places: Sequence[int], rows: Sequence[int]
) -> pa.Table:
    return fetch([places[row] for row in rows])
