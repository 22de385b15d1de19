"""Giving back to the system what a run has freed.

Arrow's own allocator, and the C library's with many threads, keep a good part of what was freed for the next time; a
run that streams a hundred gigabytes would hold hundreds of megabytes that nobody uses.
"""

import os

import pyarrow as pa

_ARROW_POOL_VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"


def use_system_allocator() -> None:
    """Let Arrow allocate by the C library, which gives back what is large; unless the user has chosen otherwise."""
    if _ARROW_POOL_VARIABLE not in os.environ:
        pa.set_memory_pool(pa.system_memory_pool())


def release_freed() -> None:
    """Give back what is free, of Python's objects and Arrow's. Takes milliseconds."""
    pa.system_memory_pool().release_unused()  # malloc_trim, where there is one
    pa.default_memory_pool().release_unused()
