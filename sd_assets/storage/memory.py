"""Giving back to the system what a run has freed.

Arrow's own allocator, and the C library's with many threads, keep a good part of what was freed for the next time; a
run that streams a hundred gigabytes would hold hundreds of megabytes that nobody uses.
"""

import ctypes
import functools
import os
import sys

import pyarrow as pa

_ARROW_POOL_VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"
_LARGE_VARIABLE = "MALLOC_MMAP_THRESHOLD_"
# glibc gives back at once what is as large. Left alone it raises that to the largest piece that was ever freed, up to 32
# MiB: each thread that decodes then keeps a few photographs' worth.
_LARGE_BYTES = 2 * 1024 * 1024
_M_MMAP_THRESHOLD = -3  # malloc.h


def use_system_allocator() -> None:
    """Let Arrow allocate by the C library, which gives back what is large; unless the user has chosen otherwise."""
    if _ARROW_POOL_VARIABLE not in os.environ:
        pa.set_memory_pool(pa.system_memory_pool())
    if _LARGE_VARIABLE not in os.environ:
        _give_back_what_is_large()


@functools.cache
def _give_back_what_is_large() -> None:
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def release_freed() -> None:
    """Give back what is free, of Python's objects and Arrow's. Takes milliseconds."""
    pa.system_memory_pool().release_unused()  # malloc_trim, where there is one
    pa.default_memory_pool().release_unused()
