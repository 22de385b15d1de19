"""An event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for any number of threads at once, also for such as are inside a loop of their own.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # What is begun before `close` is cancelled by it, and nothing is begun after.
        self._beginning = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns or raises. Whoever is interrupted while it waits takes its work along.

        Raises:
            concurrent.futures.CancelledError: the loop was closed meanwhile, or before.
        """
        with self._beginning:
            if self._closed:
                work.close()
                raise concurrent.futures.CancelledError
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what is under way, do what is to be done last, and end the thread; once."""
        with self._beginning:
            self._closed = True
            ended = asyncio.run_coroutine_threadsafe(self._end(last), self._loop)
        if threading.current_thread() is self._thread:
            # Collected here, of all threads: it cannot wait for itself.
            ended.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
            return
        ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self, last: Coroutine[Any, Any, None]) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await last
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()
