"""Looking names up, in threads that nobody has to wait for.

`socket.getaddrinfo` cannot be given up, and takes half a minute for a name whose servers do not answer. A
`ThreadPoolExecutor` would be waited for when the process ends.
"""

import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

Found = list[Any]  # as `socket.getaddrinfo` has it


class Lookups:
    """Up to `most` threads, which are begun as they are needed. To be used by one thread.

    Args:
        most: names that are looked up at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: list[threading.Thread] = []
        self._wanted: queue.SimpleQueue[tuple[Future[Found], Callable[[], Found]] | None] = (
            queue.SimpleQueue()
        )
        self._under_way: set[Future[Found]] = set()

    def find(self, host: str, port: int, family: socket.AddressFamily) -> Future[Found]:
        """What there will be to a name. Cancelled before it is its turn, it is not looked up."""
        future: Future[Found] = Future()
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        self._wanted.put(
            (future, lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM))
        )
        if len(self._threads) < min(self._most, len(self._under_way)):
            thread = threading.Thread(target=self._work, name="sd-assets-lookup", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Ends the threads. Those that are looking up a name end when they have it, or with the process."""
        for _ in self._threads:
            self._wanted.put(None)
        if not self._under_way:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            future, look_up = wanted
            if not future.set_running_or_notify_cancel():
                continue
            try:
                found = look_up()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(found)
