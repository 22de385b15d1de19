"""Working ahead in threads, with a bound on what is held."""

import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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


def map_by_turns(
    function: Callable[[In], Out], items: Iterable[In], threads: int
) -> Generator[Out, None, None]:
    """`map` in threads, in order, of as many items as there are threads, and then not before all results are taken.

    For who computes on the same cores: two that share them wait for one another more than they gain.
    """
    rest = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        while some := list(itertools.islice(rest, threads)):
            yield from list(pool.map(function, some))


def map_as_done(
    function: Callable[[In], Out], items: Iterable[In], threads: int, idle_s: float
) -> Generator[list[Out], None, None]:
    """`map` in threads, in the order in which they are done, those together that were done together.

    `items` is read in the caller's thread, no further ahead than there are threads. When one of them fails, what is done
    then, or a moment later, is handed out first. What is still under way, also when the generator is closed, is not waited for.

    Args:
        function: of an item.
        items: that it is called with.
        threads: that call it.
        idle_s: seconds without a result after which an empty list is handed out; the moment after a failure.
    """
    rest = iter(items)
    pool = ThreadPoolExecutor(threads)
    under_way: set[Future[Out]] = set()
    try:
        while True:
            for item in itertools.islice(rest, threads - len(under_way)):
                under_way.add(pool.submit(function, item))
            if not under_way:
                return
            done, under_way = wait(under_way, idle_s, FIRST_COMPLETED)
            if any(future.exception() for future in done):
                later, under_way = wait(under_way, idle_s)
                done |= later
            failed = [future for future in done if future.exception()]
            yield [future.result() for future in done if future not in failed]
            for future in failed:
                future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
