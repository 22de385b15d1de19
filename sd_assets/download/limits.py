"""What the platform gives to whoever has many connections: a fast event loop, and leave to open so many files."""

import asyncio
import sys


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where it is installed (it is not to be had for Windows), or asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def allow_open_files(connections: int) -> None:
    """Raise the process's own limit on open files, as far as it may, if so many connections do not fit it."""
    if sys.platform == "win32":  # there is no such limit
        return
    import resource

    # Each connection may have another one kept open beside it; then there are the files of everything else.
    wanted = 2 * connections + 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
