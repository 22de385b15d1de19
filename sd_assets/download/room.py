"""How much memory images may take between the wire and the consumer."""

import asyncio
from collections import deque
from collections.abc import Callable

# Of each image so much is uncounted: most are smaller, and need not be counted at all.
FREE_BYTES = 1_000_000


class Room:
    """A number of bytes that may be held at once. Of the event loop's thread.

    Who needs some asks for all of it at once, and asks once: nobody holds a part while he waits for the rest.

    Args:
        size: bytes.

    Attributes:
        available: called when there is room again after there was none.
    """

    def __init__(self, size: int) -> None:
        self.available: Callable[[], None] = lambda: None
        self._size = size
        self._held = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def full(self) -> bool:
        """Whether nothing new should be begun."""
        return self._held >= self._size or bool(self._waiting)

    async def take(self, size: int) -> None:
        """Waits until there is room for `size` bytes, at most the whole size; first come, first served."""
        if not self._waiting and self._held + size <= self._size:
            self._held += size
            return
        place = asyncio.get_running_loop().create_future()
        entry = (place, size)
        self._waiting.append(entry)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was given at the same moment
                self.give(size)
            else:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                self.give(0)  # those behind may have waited for this one only
            raise

    def add(self, size: int) -> None:
        """Counts bytes that are there already, room or none."""
        self._held += size

    def give(self, size: int) -> None:
        """Gives bytes back."""
        self._held -= size
        while self._waiting and self._held + self._waiting[0][1] <= self._size:
            place, wanted = self._waiting.popleft()
            if not place.done():
                self._held += wanted
                place.set_result(None)
        if not self.full:
            self.available()
