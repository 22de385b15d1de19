"""Runs of img2dataset for `benchmarks.download`: an unmodified release, in an environment of its own."""

import json
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tree_memory import Done, run_watched

PROJECT = Path(__file__).parents[1]
# Where `make setup-clip-retrieval` puts it.
PROGRAM = PROJECT / ".venv-clip-retrieval" / "bin" / "img2dataset"
PROCESSES = 2
# After so long a run hangs.
_LIMIT_S, _LIMIT_S_PER_IMAGE = 60.0, 0.2
# It does without torch, which the environment has for clip-retrieval. Where torch is installed, though, its image library
# loads it, and each of its processes is three times as large and slow to start: that is not to be held against it.
_WITHOUT_TORCH = "import sys; sys.modules['torch'] = None"


def run(
    program: Path, folder: Path, urls: Path, mode: str, size: str, threads: int
) -> tuple[dict[str, Any], Done]:
    """Download the URLs that a file lists, one a line, to Parquet files in a new folder.

    Returns:
        `seconds`, from the start of the first shard to the end of the last one by its own statistics: the start of its
            processes, their imports and the cutting of the list do not count; `rows`; `failed`, those of them without
            success; `written`, bytes of its Parquet files. And what the whole program took.

    Raises:
        RuntimeError: img2dataset is not there, or it failed.
    """
    if not program.exists():
        raise RuntimeError(f"there is no {program}: run `make setup-clip-retrieval`")
    count = len(urls.read_text().split())
    options = {
        "url_list": urls,
        "output_folder": folder,
        "output_format": "parquet",
        "resize_mode": mode,
        "image_size": size,
        "encode_quality": 95,
        "processes_count": PROCESSES,
        "thread_count": threads,
        # Each process has one shard: between two it would have nothing under way.
        "number_sample_per_shard": math.ceil(count / PROCESSES),
        "retries": 0,
        "enable_wandb": False,
    }
    with tempfile.TemporaryDirectory() as site:
        (Path(site) / "sitecustomize.py").write_text(_WITHOUT_TORCH)
        command = [str(program), *(f"--{name}={value}" for name, value in options.items())]
        # Else its image library asks the web for a newer version of itself at each start.
        own = {**os.environ, "PYTHONPATH": site, "NO_ALBUMENTATIONS_UPDATE": "1", "NO_PROXY": "*"}
        done = None
        while done is None:
            try:
                done = run_watched(command, PROJECT, own, _LIMIT_S + count * _LIMIT_S_PER_IMAGE)
            except subprocess.TimeoutExpired:  # now and then it never ends: that run does not count
                print("img2dataset hung, and is run again", flush=True)
                shutil.rmtree(folder, ignore_errors=True)
    shards = [json.loads(path.read_text()) for path in folder.glob("*_stats.json")]
    if not shards:
        raise RuntimeError(f"img2dataset finished no shard:\n{done.output}")
    rows, successes = (sum(shard[what] for shard in shards) for what in ("count", "successes"))
    begun, ended = min(shard["start_time"] for shard in shards), max(shard["end_time"] for shard in shards)
    written = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    return {"seconds": ended - begun, "rows": rows, "failed": rows - successes, "written": written}, done


def version(program: Path) -> str:
    """Of the release in the program's environment."""
    code = "from importlib.metadata import version; print(version('img2dataset'))"
    done = subprocess.run(
        [program.parent / "python", "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()
