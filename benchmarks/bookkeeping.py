"""`python -m benchmarks.bookkeeping`: what storage and stages take per row and shard, whatever is in the rows.

A table of 100,000 rows (`--rows`), and one of ten times as many, of a few bytes each, cut into shards of as many rows
as images of 60 KB fill one: a first run, refreshes, the reading of all, and a first run of a hundredth of the rows
with 60 KB each, every one in a process of its own (`benchmarks.one_bookkeeping`), by a stage that does nothing, on a
local disk. Then text_image_pairs and curated_pairs of 20,000 rows (`--pairs`) and of ten times as many, and the
near-duplicates of 20,000 embeddings (`--near`) and of twice as many (`benchmarks.one_reduction`).

Where the work grows with the rows, the growth between both sizes is told, so that what a process takes anyway does
not count. Prints a line a run, and one JSON line last:

    row_cpu_us          by run, processor microseconds (user and system) a row
    row_memory_bytes    by run, memory a row, of the process that runs the stage
    rows_per_shard      in the larger table
    shard_requests      by run, what S3 would be asked a shard, by kind (`open`: to read some of a shard, in two
                        requests or more); of `spread` a shard that it wrote. Fewer than one for a hundred shards are
                        a run's own, and not told
    kept                of a refresh that reads nothing, `shard_cpu_us` and `shard_bytes` of memory a shard
    shards_written      of `together` and `spread`, 1% new rows, the share of all shards
    manifest_bytes      a shard
    index_bytes         a row
    objects             a shard: itself, its index, its second name
    near_cpu_s          processor seconds, over the square of the number of images

With `--plan ROWS PARTITIONS ...` (say 100e6 100 10 1) there are lines `plan` before it, with what follows for as many
rows in as many equal partitions, by the formulas of `plan`; docs/scale.md is made of it. The default run takes five
minutes on two cores, and 1 GB of the folder `--folder`, which it gives back. Linux only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.one_bookkeeping import RUNS
from benchmarks.one_reduction import STAGES
from benchmarks.world import PROJECT

# Prices of S3 Standard in us-east-1, dollars a request; deletes cost nothing (aws.amazon.com/s3/pricing).
_DOLLARS = {"put": 5e-6, "get": 0.4e-6, "list": 5e-6, "copy": 5e-6, "delete": 0.0, "open": 0.8e-6}
# What `Files` is asked, and the request that it is on S3.
_KINDS = {"create": "put", "project": "copy"}
# Requests of a shard that is opened for one row group: its end, and the row group (docs/s3.md).
_GETS_OF_AN_OPEN = 2
# Seconds a request: "roughly 100-200 milliseconds" for small objects (AWS, "Performance design patterns for Amazon S3").
_LATENCY_S = 0.1
# Of fewer requests a shard, they are those of a run.
_LEAST_SHARE = 0.01
# Runs of which the memory grows with buffers alone, or as another one's does.
_BUFFERS_ONLY = ("scan", "images", "together")

Measured = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bookkeeping", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rows", type=int, default=100_000, help="of the smaller table")
    parser.add_argument("--pairs", type=int, default=20_000, help="of the smaller table of pairs")
    parser.add_argument("--near", type=int, default=20_000, help="of the smaller number of embeddings")
    parser.add_argument("--plan", type=float, nargs="+", metavar="NUMBER", help="rows, partitions ...")
    parser.add_argument("--folder", type=Path, help="where there is room for the tables")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sd_assets-bookkeeping-", dir=options.folder) as folder:
        runs = measure(Path(folder), options.rows, options.pairs, options.near)
    figures = summary(runs)
    for partitions in (options.plan or ())[1:]:
        print("plan", json.dumps(plan(figures, options.plan[0], partitions)))
    print(json.dumps(figures), flush=True)


def measure(folder: Path, rows: int, pairs: int, near: int) -> dict[str, list[Measured]]:
    """By run or stage, what was measured of the smaller and of the larger number of rows."""
    sizes = {
        "one_bookkeeping": (RUNS, (rows, 10 * rows)),
        "one_reduction": (STAGES[:-1], (pairs, 10 * pairs)),
    }
    measured: dict[str, list[Measured]] = {}
    for module, (names, counts) in sizes.items():
        for count in counts:
            for name in names:
                measured.setdefault(name, []).append(_run(module, folder / f"{module}-{count}", count, name))
    measured["near"] = [_run("one_reduction", folder / "near", count, "near") for count in (near, 2 * near)]
    return measured


def _run(module: str, folder: Path, rows: int, name: str) -> Measured:
    """What a process says in its last line. Raises RuntimeError if it failed; with all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", str(folder), str(rows), name],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{module} {rows} {name} failed:\n{done.stdout}{done.stderr}")
    last = done.stdout.splitlines()[-1]
    print(f"{rows:>9} {name:<10} {last}", flush=True)
    said: Measured = json.loads(last)
    return said


def summary(runs: Mapping[str, Sequence[Measured]]) -> Measured:
    """The figures: see the module."""
    tables = [name for name in runs if name != "near"]
    of_rows = [name for name in tables if name not in ("kept", "tables")]
    large = {name: both[1] for name, both in runs.items()}
    first = large["first"]
    return {
        "row_cpu_us": {name: round(_growth(runs[name], "cpu_s", "rows") * 1e6, 2) for name in of_rows},
        "row_memory_bytes": {
            name: round(_growth(runs[name], "peak_mb", "rows") * 1e6)
            for name in of_rows
            if name not in _BUFFERS_ONLY
        },
        "rows_per_shard": round(first["rows"] / first["shards"], 1),
        "shard_requests": {
            name: _requests(large[name], "shards_new" if name == "spread" else "shards")
            for name in ("first", "read", "spread", "scan")
        },
        "kept": {
            "shard_cpu_us": round(_growth(runs["kept"], "cpu_s", "shards") * 1e6, 1),
            "shard_bytes": round(_growth(runs["kept"], "peak_mb", "shards") * 1e6),
        },
        "shards_written": {
            name: round(large[name]["shards_new"] / large[name]["shards"], 3)
            for name in ("together", "spread")
        },
        "manifest_bytes": round(first["manifest_bytes"] / first["shards"]),
        "index_bytes": round(first["index_bytes"] / first["rows"], 1),
        "objects": round(first["files"] / first["shards"], 2),
        "near_cpu_s": (runs["near"][1]["cpu_s"] - runs["near"][0]["cpu_s"])
        / (runs["near"][1]["rows"] ** 2 - runs["near"][0]["rows"] ** 2),
    }


def _growth(both: Sequence[Measured], what: str, by: str) -> float:
    small, large = both
    return float((large[what] - small[what]) / (large[by] - small[by]))


def _requests(run: Measured, by: str) -> dict[str, float]:
    """Requests of a run a shard, by kind."""
    counts: Counter[str] = Counter()
    for name, count in run["requests"].items():
        kind = name.partition(" ")[0]
        counts[_KINDS.get(kind, kind)] += count
    shares = {kind: round(count / run[by], 2) for kind, count in sorted(counts.items())}
    return {kind: share for kind, share in shares.items() if share >= _LEAST_SHARE}


def plan(figures: Measured, rows: float, partitions: float) -> Measured:
    """What follows for a table of images of so many rows in so many equal partitions: for one of them, if nothing else is said.

    Formulas, with n = rows / partitions and s = n / rows_per_shard:

        shards, objects     s; s * objects
        manifest_mb         s * manifest_bytes
        index_gb            n * index_bytes
        memory_gb           n * the most that any run or stage takes a row
        cpu_h               n * row_cpu_us of `images`; `read_cpu_h` of a refresh that reads
        kept_s              processor seconds of a refresh that reads nothing: s * shard_cpu_us
        requests_h          hours of the first run's requests one after the other, at 0.1 s each; an `open` is two
        read_requests_h     of a refresh that reads; `spread_requests_h` of one with 1% new rows anywhere, and its sweep
        dollars             of the first run's requests; `spread_dollars`, of all partitions
        near_cpu_h          n * n * near_cpu_s; `near_all_cpu_h`: all rows in one, or each partition against all others
    """
    n = rows / partitions
    shards = n / figures["rows_per_shard"]
    asked = figures["shard_requests"]
    written = figures["shards_written"]["spread"]
    numbers = {
        "rows": n,
        "shards": shards,
        "objects": shards * figures["objects"],
        "manifest_mb": shards * figures["manifest_bytes"] / 1e6,
        "index_gb": n * figures["index_bytes"] / 1e9,
        "memory_gb": n * max(figures["row_memory_bytes"].values()) / 1e9,
        "cpu_h": n * figures["row_cpu_us"]["images"] / 3.6e9,
        "read_cpu_h": n * figures["row_cpu_us"]["read"] / 3.6e9,
        "kept_s": shards * figures["kept"]["shard_cpu_us"] / 1e6,
        "requests_h": shards * _hours(asked["first"]),
        "read_requests_h": shards * _hours(asked["read"]),
        "spread_requests_h": shards * written * _hours(asked["spread"]),
        "dollars": partitions * shards * _dollars(asked["first"]),
        "spread_dollars": partitions * shards * written * _dollars(asked["spread"]),
        "near_cpu_h": n**2 * figures["near_cpu_s"] / 3600,
        "near_all_cpu_h": rows**2 * figures["near_cpu_s"] / 3600,
    }
    return {name: float(f"{number:.3g}") for name, number in numbers.items()}


def _hours(requests: Mapping[str, float]) -> float:
    """Of requests one after the other."""
    return (sum(requests.values()) + (_GETS_OF_AN_OPEN - 1) * requests.get("open", 0)) * _LATENCY_S / 3600


def _dollars(requests: Mapping[str, float]) -> float:
    return sum(count * _DOLLARS[kind] for kind, count in requests.items())


if __name__ == "__main__":
    main()
