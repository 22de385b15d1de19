"""Working ahead in threads, with a bound on what is held."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def map_ahead(
    function: Callable[[In], Out], items: Iterable[In], threads: int, *, ordered: bool = True
) -> Generator[Out, None, None]:
    """`map` in threads, with at most `threads + 1` results under way or waiting; in order, or as they are ready."""
    with ThreadPoolExecutor(threads) as pool:
        under_way: list[Future[Out]] = []

        def one() -> Out:
            if not ordered:
                wait(under_way, return_when=FIRST_COMPLETED)
            first = 0 if ordered else next(i for i, future in enumerate(under_way) if future.done())
            return under_way.pop(first).result()

        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                # What is ready does not wait for the next item, which may take its time.
                while len(under_way) > threads or (under_way and under_way[0].done()):
                    yield one()
            while under_way:
                yield one()
        finally:
            for future in under_way:
                future.cancel()
