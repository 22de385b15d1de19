"""What the C library gives back to the system, and what it keeps for a model."""

import subprocess
import sys

import pytest

# Pages that the system had to fetch while pieces were taken, written to and freed again; larger ones each time, as what
# is free is used first.
_FETCHED = """
import ctypes, resource
from contextlib import nullcontext
from sd_assets.storage.memory import kept_for_reuse, use_system_allocator

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def fetched(mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        piece = ctypes.c_void_p(libc.malloc(mib * 2**20))
        ctypes.memset(piece, 1, mib * 2**20)
        libc.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

use_system_allocator()
for mib, context in ((3, nullcontext()), (4, kept_for_reuse()), (8, nullcontext())):
    with context:
        print(fetched(mib))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="speaks of glibc")
def test_what_a_model_frees_is_kept_for_it_and_for_nobody_else() -> None:
    done = subprocess.run([sys.executable, "-c", _FETCHED], capture_output=True, text=True, check=True)
    before, during, after = map(int, done.stdout.split())
    assert during < before / 4
    assert after > 4 * during
