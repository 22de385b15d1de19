"""Handing work to the event loop and taking its results, in bunches: waking a thread for each would cost more."""

import asyncio
import queue
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from itertools import islice
from typing import Generic, TypeVar

from sd_assets.download.finish import Download
from sd_assets.download.room import Room

Key = TypeVar("Key")
Job = TypeVar("Job")

# Taken from the input, and not handed out yet. So many that the URLs of one slow host do not fill it.
_WINDOW = 4096
# Handed to the loop at once; and handed out, at most, before more is.
_BUNCH = 64
# What is done waits so long for others, so that they are handed out together.
_GATHER_S = 0.01


class Stream(Generic[Key, Job]):
    """Runs jobs on an event loop for a consumer in another thread.

    Args:
        run: one job, whose image has its room.
        room: that images have until the consumer takes them.
        call: has the loop's thread call a function; raises if nothing more may be begun.
    """

    def __init__(
        self, run: Callable[[Job], Awaitable[Download]], room: Room, call: Callable[..., None]
    ) -> None:
        self._run = run
        self._room = room
        self._call = call
        self._done: queue.SimpleQueue[list[tuple[Key, Download]] | BaseException] = queue.SimpleQueue()
        # Of the loop's thread.
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathered: list[tuple[Key, Download]] = []
        self._held = 0  # bytes of the room

    def results(
        self, jobs: Iterable[tuple[Key, Job | Download]], idle_s: float | None
    ) -> Generator[list[tuple[Key, Download]], None, None]:
        """What became of each job, as they are done, some at a time; none where nothing is for `idle_s` seconds.

        Where there is a Download instead of a job, that is what became of it.
        """
        left, exhausted = iter(jobs), False
        out = 0  # jobs that were taken, and not handed out
        ready: deque[tuple[Key, Download]] = deque()
        while True:
            if not exhausted and out < _WINDOW:
                taken = list(islice(left, min(_BUNCH, _WINDOW - out)))
                exhausted = not taken
                out += len(taken)
                begin: list[tuple[Key, Job]] = []
                for key, job in taken:
                    if isinstance(job, Download):
                        ready.append((key, job))
                    else:
                        begin.append((key, job))
                self._call(self._begin, begin)
            if not out:
                return
            waits = not ready and (exhausted or out == _WINDOW)
            if not ready:
                self._take(ready, idle_s, wait=waits)
            bunch = [ready.popleft() for _ in range(min(_BUNCH, len(ready)))]
            out -= len(bunch)
            if bunch or waits:
                yield bunch
            size = sum(len(download.image or b"") for _, download in bunch)
            if size:
                self._call(self._give, size)

    def _take(self, ready: deque[tuple[Key, Download]], idle_s: float | None, *, wait: bool) -> None:
        while True:
            try:
                done = self._done.get(block=wait, timeout=idle_s)
            except queue.Empty:
                return
            if isinstance(done, BaseException):
                raise done
            ready.extend(done)
            wait = False

    # --- in the loop's thread ------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Nobody wants the rest."""
        for task in self._tasks:
            task.cancel()
        self._give(self._held)

    def fail(self, error: BaseException) -> None:
        """The consumer gets an error instead of the rest."""
        self._done.put(error)

    def _begin(self, jobs: list[tuple[Key, Job]]) -> None:
        for key, job in jobs:
            task = asyncio.create_task(self._one(key, job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _one(self, key: Key, job: Job) -> None:
        try:
            download = await self._run(job)
        except Exception as error:  # a bug of ours; the consumer cancels the rest
            self.fail(error)
            return
        self._held += len(download.image or b"")
        if not self._gathered:
            asyncio.get_running_loop().call_later(_GATHER_S, self._hand_over)
        self._gathered.append((key, download))

    def _hand_over(self) -> None:
        self._done.put(self._gathered)
        self._gathered = []

    def _give(self, size: int) -> None:
        self._held -= size
        self._room.give(size)
