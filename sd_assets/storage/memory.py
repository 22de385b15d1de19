"""Giving back to the system what a run has freed.

Arrow's own allocator, and the C library's with many threads, keep a good part of what was freed for the next time; a
run that streams a hundred gigabytes would hold hundreds of megabytes that nobody uses.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa

_ARROW_POOL_VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"
# glibc gives back at once what is as large. Left alone it raises that to the largest piece that was ever freed, up to 32
# MiB: each thread that decodes then keeps a few photographs' worth. What is free at the end of its memory it keeps up to
# so much: to fetch it anew from the system costs a tenth of the time of a download. (Constants: malloc.h.)
_GLIBC = {"MALLOC_MMAP_THRESHOLD_": (-3, 2 * 1024 * 1024), "MALLOC_TRIM_THRESHOLD_": (-1, 16 * 1024 * 1024)}

_GLIBC_FOR_MODELS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 * 1024 * 1024),  # the most that it takes
    "MALLOC_TRIM_THRESHOLD_": (-1, 256 * 1024 * 1024),
}


def use_system_allocator() -> None:
    """Let Arrow allocate by the C library, which gives back what is large; unless the user has chosen otherwise."""
    if _ARROW_POOL_VARIABLE not in os.environ:
        pa.set_memory_pool(pa.system_memory_pool())
    _tune_glibc()


@contextmanager
def kept_for_reuse() -> Iterator[None]:
    """For a model that computes on the CPU: what it frees it wants again at its next step.

    A quarter more time is what it costs to fetch it from the system each time.
    """
    _set_glibc(_GLIBC_FOR_MODELS)
    try:
        yield
    finally:
        _set_glibc(_GLIBC)


@functools.cache
def _tune_glibc() -> None:
    _set_glibc(_GLIBC)


def _set_glibc(settings: Mapping[str, tuple[int, int]]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        for variable, setting in settings.items():
            if variable not in os.environ:
                mallopt(*setting)


def release_freed() -> None:
    """Give back what is free, of Python's objects and Arrow's. Takes milliseconds."""
    pa.system_memory_pool().release_unused()  # malloc_trim, where there is one
    pa.default_memory_pool().release_unused()
