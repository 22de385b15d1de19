"""Working ahead in threads, with a bound on what is held."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def map_ahead(function: Callable[[In], Out], items: Iterable[In], threads: int) -> Generator[Out, None, None]:
    """`map` in threads, in order, with at most `threads + 1` results under way or waiting."""
    with ThreadPoolExecutor(threads) as pool:
        under_way: list[Future[Out]] = []
        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                # What is ready does not wait for the next item, which may take its time.
                while len(under_way) > threads or (under_way and under_way[0].done()):
                    yield under_way.pop(0).result()
            while under_way:
                yield under_way.pop(0).result()
        finally:
            for future in under_way:
                future.cancel()
