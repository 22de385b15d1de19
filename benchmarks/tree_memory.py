"""The memory of a process and of all that it starts, while it runs. Linux only.

Counted is the proportional set size (PSS) that the kernel tells in `/proc/PID/smaps_rollup`: resident pages, where one that
several processes share counts once, by parts. A page that is shared with a process outside the tree counts in part only, so
who measures should not have the same libraries loaded.
"""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.1
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Done:
    """What a program took.

    Attributes:
        output: what it said on its standard output.
        seconds: from its start to its end.
        peak_mb: the most that it and its descendants had in memory, PSS, 10^6 bytes.
    """

    output: str
    seconds: float
    peak_mb: float


def run_watched(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], limit_s: float | None = None
) -> Done:
    """Run a program to its end.

    Raises:
        RuntimeError: it failed; with all that it said.
        subprocess.TimeoutExpired: it took longer than `limit_s` seconds; it and its descendants are ended.
    """
    started = time.monotonic()
    with subprocess.Popen(
        command, cwd=cwd, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watch = _Watch(process.pid)
        try:
            output, errors = process.communicate(timeout=limit_s)
        except BaseException:
            for each in descendants(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            raise
        finally:
            watch.stop()
    seconds = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output}{errors}")
    return Done(output, seconds, round(watch.peak / 1e6, 1))


class _Watch:
    """Samples the memory of a tree of processes, in a thread."""

    def __init__(self, root: int) -> None:
        self.peak = 0
        self._root = root
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            self.peak = max(self.peak, sum(map(resident, descendants(self._root))))


def descendants(root: int) -> list[int]:
    """A process and all that came of it, as far as their parents are alive."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name of the program stands in parentheses, and may have any characters.
            parent = path.read_bytes().rpartition(b")")[2].split()[1]
        except OSError:  # ended meanwhile
            continue
        children.setdefault(int(parent), []).append(int(path.parent.name))
    tree = [root]
    for process in tree:  # which grows meanwhile
        tree.extend(children.get(process, ()))
    return tree


def resident(process: int) -> int:
    """Bytes of PSS; 0 if it has ended."""
    try:
        match = _PSS.search(Path(f"/proc/{process}/smaps_rollup").read_bytes())
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0
