"""`python -m benchmarks.retrieval`: how fast a local index answers, against FAISS alone and against `clip-retrieval back`.

A million vectors of 512 dimensions (`--vectors`; `benchmarks.vectors`) with what a corpus knows of an image (URL, caption, size,
licence, NSFW, sha256) become `IVF4096,Flat`, which is built by us and by autofaiss. Into ours is written the least `nprobe` with a
recall@10 of 0.95, of other queries than those that the recall is told of. This one file, with what it says, is asked for the 10 nearest of 10,000 queries that are not of the corpus.
The runs take turns, three of each (`--runs`), so that a machine that is busy for a while slows down all:

    ours        `FaissIndex`, which `retrieval_hits` asks, in batches as the stage has them; with metadata
    faiss       FAISS alone: all queries in one call, in the same mapped file; no metadata
    back        `clip-retrieval back` 2.45, unmodified, with index and metadata in memory, as is its default; so many queries as it
                answers in some seconds, of 1, 2, 4 and 8 clients at once, each with a connection that stays open
    stage       `RetrieveStage`, all that `retrieval_hits` does: 100 hits of each query, from the stored embeddings to the committed
                table, with opening the index and naming what it holds

Each is a process of its own. Not counted are the start of the process, imports, and the opening of the index.

Prints a line a run, a line `detail` with all that was measured, and one JSON line last; queries a second are medians:

    qps, back_qps, faiss_bound_qps      queries a second; of `back` with as many clients as were its best
    ratio                               ours over `back`
    recall_at_10                        of ours, against exact search
    build_seconds                       of our index folder, to its end: index, `metadata/` and `metadata.arrow`
    autofaiss_build_seconds             of the index alone, without the search for parameters that autofaiss does by default
    query_peak_rss_mb                   the most memory that ours had (`benchmarks.tree_memory`), imports included, and what it has
                                        mapped of the index; in `detail` also without what is mapped
    index_mb                            size of `image.index`
    stage_seconds                       of the stage: of 10,000 queries, 100 hits each
    stage_peak_rss_mb                   the most memory that it had, like `query_peak_rss_mb`

Goals: qps at least 0.9 of faiss_bound_qps, recall of at least 0.95, a ratio of at least 5, and a build no slower than autofaiss.
It needs Linux and `make setup-clip-retrieval`. The default run takes some 15 minutes on two cores, 10 GB on the disk, and 12 GB of
memory. The corpus is kept in `--folder`, where a later run finds it. This process itself loads the standard library only.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import clip_back
from benchmarks.tree_memory import run_watched

PROJECT = Path(__file__).parents[1]
DIM = 512
LISTS = 4_096
CLIENTS = (1, 2, 4, 8)
LEAST_RECALL = 0.95

Measured = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retrieval", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--back-queries", type=int, default=400, help="of each number of clients, in a run")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="of clip-retrieval back")
    parser.add_argument("--runs", type=int, default=3, help="of each")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "sd_assets-benchmark-retrieval",
        help="where the corpus is kept, and where there is room for the indices",
    )
    parser.add_argument("--python", type=Path, default=clip_back.PYTHON, help="that has clip-retrieval")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    corpus = options.folder / f"corpus-{options.vectors}-{options.queries}"
    made = corpus.with_suffix(".json")
    if not made.exists():
        shutil.rmtree(corpus, ignore_errors=True)
        made.write_text(json.dumps(module("vectors", corpus, options.vectors, options.queries)))
    print("corpus", made.read_text(), flush=True)
    with tempfile.TemporaryDirectory(prefix="runs-", dir=options.folder) as room:
        measured = measure(options, corpus, Path(room))
    about = {"machine": machine(options.python), "corpus": json.loads(made.read_text())}
    print("detail", json.dumps({**about, **measured}))
    print(json.dumps(summary(measured)), flush=True)


def measure(options: argparse.Namespace, corpus: Path, room: Path) -> Measured:
    """Build, and ask in turn: see the module."""
    # As many vectors a list, whatever their number.
    factory = f"IVF{max(1, round(LISTS * options.vectors / 1_000_000))},Flat"
    index = room / "index"
    built = told("build", module("one_retrieval", "build", corpus, index, factory))
    theirs = room / "autofaiss"
    theirs.mkdir()
    autofaiss = told("autofaiss", clip_back.autofaiss(options.python, corpus, theirs, factory))
    shutil.rmtree(theirs)
    probes = told("probes", module("one_retrieval", "probes", corpus, index, LEAST_RECALL))
    runs: dict[str, list[Measured]] = {}
    with clip_back.serving(options.python, index, room, DIM) as port:
        module("clip_back", port, corpus, 1, 0, 20)  # the first queries wait for what is loaded late
        for number in range(options.runs):
            measured = {
                "ours": module("one_retrieval", "ours", corpus, index),
                "faiss": module("one_retrieval", "faiss", corpus, index),
            }
            for clients in options.clients:
                first = number * options.back_queries
                asked = module("clip_back", port, corpus, clients, first, options.back_queries)
                measured[f"back {clients}"] = asked
            for name, run in measured.items():
                runs.setdefault(name, []).append(told(name, run))
            table = room / "stage"
            runs.setdefault("stage", []).append(
                told("stage", module("one_retrieval", "stage", corpus, index, table))
            )
            shutil.rmtree(table)
    size = (index / "image.index").stat().st_size
    return {
        "factory": factory,
        "build": built,
        "autofaiss": autofaiss,
        "probes": probes,
        "index_bytes": size,
        "runs": runs,
    }


def summary(measured: Mapping[str, Any]) -> Measured:
    """The figures: see the module."""
    runs = measured["runs"]
    rates = {
        name: statistics.median(run["qps"] for run in of_it)
        for name, of_it in runs.items()
        if name != "stage"
    }
    back = max(rate for name, rate in rates.items() if name.startswith("back"))
    return {
        "qps": round(rates["ours"], 1),
        "back_qps": round(back, 1),
        "ratio": round(rates["ours"] / back, 2),
        "recall_at_10": runs["ours"][0]["recall"],
        "faiss_bound_qps": round(rates["faiss"], 1),
        "build_seconds": measured["build"]["seconds"],
        "autofaiss_build_seconds": measured["autofaiss"]["seconds"],
        "query_peak_rss_mb": max(run["peak_mb"] for run in runs["ours"]),
        "index_mb": round(measured["index_bytes"] / 1e6, 1),
        "stage_seconds": statistics.median(run["seconds"] for run in runs["stage"]),
        "stage_peak_rss_mb": max(run["peak_mb"] for run in runs["stage"]),
    }


def machine(python: Path) -> Measured:
    """What the figures depend on besides the code."""
    names = ("faiss-cpu", "numpy", "pyarrow")
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
        "theirs": clip_back.versions(python),
    }


def module(name: str, *arguments: object) -> Measured:
    """What the last line of one of our modules says, and the most memory it had. Raises RuntimeError if it failed."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    done = run_watched(command, PROJECT, os.environ)
    return {**json.loads(done.output.splitlines()[-1]), "peak_mb": done.peak_mb}


def told(name: str, run: Measured) -> Measured:
    """The run, after a line that tells it."""
    print(f"{name:<12} {json.dumps(run)}", flush=True)
    return run


if __name__ == "__main__":
    main()
