"""`python -m benchmarks.one_retrieval WHAT ...`: one run of `benchmarks.retrieval`; prints a JSON line.

build CORPUS INDEX FACTORY              our index folder of a corpus: `seconds`
probes CORPUS INDEX LEAST               of the numbers of cells to look into the least with at least this recall@10, which
                                        is written into the index: `nprobe`, `recall`, `recall_of_one`
ours CORPUS INDEX                       our search of all queries, with metadata: `qps`, `recall`, and `anonymous_mb`, what
                                        was in memory that the system could not read from the files again
faiss CORPUS INDEX                      FAISS alone, with all queries in one call: `qps`
stage CORPUS INDEX FOLDER               100 hits of each query, from the stored embeddings to the committed table, in this
                                        folder: `seconds`, `queries`, `hits`

The recall of `probes` is that of the first half of the queries whose nearest are known, by which it chooses; that of `ours` is of
the other half.
"""

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from benchmarks.vectors import K, recall
from sd_assets.compute.run import run_stage, write_rows
from sd_assets.retrieval.build import build_index
from sd_assets.retrieval.corpora import open_corpus
from sd_assets.retrieval.faiss_index import FaissIndex
from sd_assets.retrieval.layout import INDEX_FILE
from sd_assets.schemas import RETRIEVAL_HITS, SEED_EMBEDDINGS
from sd_assets.settings import ClipRetrievalCorpus, IndexBuildSettings, RetrievalSettings
from sd_assets.stages.retrieve import RetrieveStage, embedding_batches
from sd_assets.stages.stage import rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore

_CELLS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 384, 512)
_WARM_UP = 256
_STAGE_HITS = 100
_PARTITION = "benchmark"


def build(corpus: Path, index: Path, factory: str) -> dict[str, Any]:
    """See the module."""
    settings = ClipRetrievalCorpus(kind="clip-retrieval", path=str(corpus))
    started = time.perf_counter()
    build_index(open_corpus("benchmark", settings), IndexBuildSettings(factory=factory), index, print)
    return {"seconds": round(time.perf_counter() - started, 2)}


def probes(corpus: Path, index: Path, least: float) -> dict[str, Any]:
    """See the module."""
    file = str(index / INDEX_FILE)
    searched: Any = faiss.read_index(file)
    truth, _ = _halves(np.load(corpus / "truth.npy"))
    queries = np.load(corpus / "queries.npy")[: len(truth)]
    recalls = {}
    for cells in _CELLS:
        searched.nprobe = cells
        recalls[cells] = recall(searched.search(queries, K)[1], truth)
        if recalls[cells] >= least:
            break
    else:
        raise RuntimeError(f"no number of cells has a recall of {least}: {recalls}")
    faiss.write_index(searched, file)
    return {"nprobe": cells, "recall": recalls[cells], "recall_of_one": recalls[1]}


def ours(corpus: Path, index: Path) -> dict[str, Any]:
    """See the module."""
    queries = np.load(corpus / "queries.npy")
    searched = FaissIndex("benchmark", index)
    searched.search(queries[:_WARM_UP], K)
    size = RetrieveStage.batch_rows
    started = time.perf_counter()
    answers = [searched.search(queries[start : start + size], K) for start in range(0, len(queries), size)]
    seconds = time.perf_counter() - started
    found = np.concatenate([answer.ids for answer in answers if answer.ids is not None]).reshape(-1, K)
    if any(None in answer.hits.column(name).to_pylist() for answer in answers for name in ("url", "sha256")):
        raise RuntimeError("a hit has no metadata")
    truth = np.load(corpus / "truth.npy")
    _, known = _halves(truth)
    _, found = _halves(found[: len(truth)])
    anonymous = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return {
        "qps": round(len(queries) / seconds, 1),
        "recall": recall(found, known),
        "anonymous_mb": round(int(anonymous[1]) * 1024 / 1e6, 1) if anonymous else None,
    }


def bare(corpus: Path, index: Path) -> dict[str, Any]:
    """See the module."""
    queries = np.load(corpus / "queries.npy")
    flags = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY
    searched: Any = faiss.read_index(str(index / INDEX_FILE), flags)
    searched.search(queries[:_WARM_UP], K)
    started = time.perf_counter()
    searched.search(queries, K)
    return {"qps": round(len(queries) / (time.perf_counter() - started), 1)}


def stage(corpus: Path, index: Path, folder: Path) -> dict[str, Any]:
    """See the module."""
    store = TableStore(LocalFiles(folder))
    rows = rows_of(
        SEED_EMBEDDINGS,
        (
            {"query_id": f"{number:06}", "kind": "text", "embedding": query, "model": "benchmark"}
            for number, query in enumerate(np.load(corpus / "queries.npy"))
        ),
    )
    write_rows(SEED_EMBEDDINGS, [rows], store.area(SEED_EMBEDDINGS.name, _PARTITION), "run").commit()
    embeddings = store.open(SEED_EMBEDDINGS.name, _PARTITION)
    settings = RetrievalSettings(index="benchmark", images_per_query=_STAGE_HITS)
    retrieve = RetrieveStage(FaissIndex("benchmark", index), settings)
    area = store.area(RETRIEVAL_HITS.name, _PARTITION)
    started = time.perf_counter()
    run_stage(retrieve, embedding_batches(embeddings), area, "run", print, [embeddings]).commit()
    seconds = time.perf_counter() - started
    counts = np.concatenate(
        [
            pc.list_value_length(batch.column("hits")).to_numpy(zero_copy_only=False)
            for batch in store.open(RETRIEVAL_HITS.name, _PARTITION).batches(["hits"])
        ]
    )
    if len(counts) != len(rows) or not (counts == _STAGE_HITS).all():
        raise RuntimeError(f"not all of {len(rows)} queries have {_STAGE_HITS} hits in the table")
    return {"seconds": round(seconds, 2), "queries": len(counts), "hits": int(counts.sum())}


def _halves(rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    middle = len(rows) // 2
    return rows[:middle], rows[middle:]


def main(arguments: Sequence[str]) -> None:
    """Do what the command line says, and print it."""
    what, corpus, index, *more = arguments
    folders = (Path(corpus), Path(index))
    match what:
        case "build":
            measured = build(*folders, more[0])
        case "probes":
            measured = probes(*folders, float(more[0]))
        case "ours":
            measured = ours(*folders)
        case "faiss":
            measured = bare(*folders)
        case "stage":
            measured = stage(*folders, Path(more[0]))
        case _:
            raise SystemExit(f"there is no {what!r}: see the module")
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1:])
