"""The memory of a process counts with that of its descendants, and at its peak."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tree_memory import descendants, resident, run_watched

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Holds so many MB for a while, and so does its child, if it is to have one.
HOLD = """
import subprocess, sys, time
megabytes, generations = map(int, sys.argv[1:])
held = b"x" * (megabytes * 1_000_000)
if generations:
    subprocess.run([sys.executable, "-c", {code!r}, sys.argv[1], str(generations - 1)], check=True)
else:
    time.sleep(0.6)
print("held")
"""


def watched(megabytes: int, generations: int) -> float:
    inner = HOLD.format(code="")
    done = run_watched(
        [sys.executable, "-c", HOLD.format(code=inner), str(megabytes), str(generations)],
        Path.cwd(),
        os.environ,
    )
    assert done.output.splitlines()[-1] == "held"
    assert done.seconds > 0.6
    return done.peak_mb


def test_a_child_counts() -> None:
    nothing, alone, together = watched(0, 0), watched(60, 0), watched(60, 1)
    assert 55 < alone - nothing < 80
    assert 115 < together - nothing < 150


def test_a_failure_says_what_the_program_said() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    with pytest.raises(RuntimeError, match=r"(?s)failed:.*out.*err"):
        run_watched([sys.executable, "-c", code], Path.cwd(), os.environ)


def test_what_has_ended_takes_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process.pid in descendants(os.getpid())
        assert process.pid not in descendants(1_000_000_000)
    assert process.pid not in descendants(os.getpid())
    assert resident(process.pid) == 0
    assert resident(os.getpid()) > 1_000_000


def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "child"
    command = ["bash", "-c", f"sleep 60 & echo $! > {note}; sleep 60"]
    with pytest.raises(subprocess.TimeoutExpired):
        run_watched(command, tmp_path, os.environ, limit_s=1)
    assert not Path(f"/proc/{note.read_text().strip()}/exe").exists()
