"""`python -m benchmarks.scale`: what a Ray cluster makes of more nodes, and what it costs.

Image embeddings by CLIP ViT-B/32 with random weights, JPEGs of 512 x 512 px from a Parquet table to a committed one
(`benchmarks.one_scale`), three ways that take turns, three times each (`--runs`):

    local   in one process, on two cores
    two     on a Ray cluster of two nodes, each with one core, on the same two cores
    one     on a Ray cluster of one node, with one core

Nodes are processes of this machine that are pinned to their core, with all that Ray starts there; the driver is pinned to the
cores that its cluster has. Time counts from when all workers have loaded the model ("once started") to the commit.

Prints a line a run, a line `detail` with all that was measured, and one JSON line last, medians of the runs:

    ray_vs_local        images a second, two nodes over local; goal 0.9
    two_nodes_vs_one    images a second, two nodes over one; goal 1.7
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.turns import PROJECT

_START_S = 60.0


def last_line(command: Sequence[object], cores: Sequence[int]) -> dict[str, Any]:
    """What a Python module says last, pinned to cores."""
    done = subprocess.run(
        [*_pinned(cores), sys.executable, "-m", *map(str, command)],
        cwd=PROJECT,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@contextmanager
def nodes(cores: Sequence[int]) -> Iterator[str]:
    """A Ray cluster with a node on each of these cores; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    common = ["--num-cpus=1", "--object-store-memory=200000000", "--disable-usage-stats", "--block"]
    head = ["--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"]
    running = []
    try:
        for number, core in enumerate(cores):
            where = head if number == 0 else [f"--address={address}"]
            ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *common]
            running.append(
                subprocess.Popen(
                    [*_pinned([core]), *ray],
                    cwd=PROJECT,
                    env=_environment(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            _wait_for(address, number + 1)
        yield address
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait()


def _wait_for(address: str, count: int) -> None:
    """Raises SystemExit if there are not so many nodes after a while."""
    look = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        done = subprocess.run(
            [sys.executable, "-c", look, address],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
        )
        if done.returncode == 0 and int(done.stdout.split()[-1]) >= count:
            return
        time.sleep(0.5)
    raise SystemExit(f"{count} nodes of Ray did not start within {_START_S:g} s")


def _pinned(cores: Sequence[int]) -> list[str]:
    return ["taskset", "--cpu-list", ",".join(map(str, cores))]


def _environment() -> dict[str, str]:
    """Ours, with this project where workers look for modules, and as many threads as there are cores."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "OMP_NUM_THREADS")
    }
    return {**kept, "PYTHONPATH": str(PROJECT)}


def measure(
    folder: Path, room: Path, rows: int, runs: int, cores: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """What each way took, run by run."""
    task = ["benchmarks.one_scale", folder, room, rows]
    last_line(task, cores)  # writes the table
    found: dict[str, list[dict[str, Any]]] = {"local": [], "two": [], "one": []}
    for _ in range(runs):
        for way, where in (("local", None), ("two", cores), ("one", cores[:1])):
            if where is None:
                answer = last_line(task, cores)
            else:
                with nodes(where) as address:
                    answer = last_line([*task, address], where)
            answer["images_s"] = round(answer["rows"] / answer["seconds"], 2)
            found[way].append(answer)
            print(way, json.dumps(answer), flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rows", type=int, default=2048, help="images of the partition")
    parser.add_argument("--runs", type=int, default=3, help="of each")
    parser.add_argument("--clip", default="ViT-B-32", help="architecture of open_clip, or `tiny`")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "sd_assets-benchmark-models",
        help="where models and pictures are kept, and where there is room for tables",
    )
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("two cores are needed")
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder / f"{options.clip}-{options.rows}"
    made = last_line(["benchmarks.model_folders", folder, options.clip, options.rows], cores)
    print("folder", json.dumps(made), flush=True)
    with tempfile.TemporaryDirectory(prefix="runs-", dir=options.folder) as room:
        found = measure(folder, Path(room), options.rows, options.runs, cores)
    print("detail", json.dumps(found))
    speed = {way: statistics.median(run["images_s"] for run in runs) for way, runs in found.items()}
    print(
        json.dumps(
            {
                "ray_vs_local": round(speed["two"] / speed["local"], 3),
                "two_nodes_vs_one": round(speed["two"] / speed["one"], 3),
                "images_s": speed,
            }
        )
    )


if __name__ == "__main__":
    main()
