"""An unmodified `clip-retrieval back`, in an environment of its own, and autofaiss there, for `benchmarks.retrieval`.

`python -m benchmarks.clip_back PORT CORPUS CLIENTS FIRST COUNT` asks it queries of a corpus (`benchmarks.vectors`), from the one
with the number FIRST on, and prints queries a second and the recall of the answers as a JSON line.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
# Where `make setup-clip-retrieval` puts it.
PYTHON = PROJECT / ".venv-clip-retrieval" / "bin" / "python"
COLUMNS = ["url", "caption", "width", "height", "license", "NSFW", "similarity", "sha256"]
_START_S = 300

# `back` listens on all addresses and has no option for one.
_ON_LOOPBACK = """
import sys
import flask

run = flask.Flask.run
flask.Flask.run = lambda app, host=None, **options: run(app, host="127.0.0.1", **options)

from clip_retrieval.cli import main

sys.argv[0] = "clip-retrieval"
main()
"""
# A CLIP as `back` loads one at its start; it encodes no query of ours, which come as embeddings.
_CLIP = """
import json, sys
import transformers
from pathlib import Path

folder, dim = Path(sys.argv[1]), int(sys.argv[2])
tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
config = transformers.CLIPConfig(
    text_config={**tower, "vocab_size": 49_408},
    vision_config={**tower, "image_size": 224, "patch_size": 112},
    projection_dim=dim,
)
transformers.CLIPModel(config).save_pretrained(folder)
transformers.CLIPImageProcessor().save_pretrained(folder)
(folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
(folder / "merges.txt").write_text("#version: 0.2\\n")
"""
# With less memory it refuses.
_AUTOFAISS = """
import json, sys, time
import autofaiss

corpus, out, factory = sys.argv[1:]
started = time.perf_counter()
index, about = autofaiss.build_index(
    corpus + "/img_emb", out + "/image.index", out + "/image.json", index_key=factory, index_param="nprobe=16",
    metric_type="ip", max_index_memory_usage="5G", current_memory_available="16G",
)
if index is None:
    raise SystemExit("autofaiss built nothing")
print(json.dumps({"seconds": round(time.perf_counter() - started, 2)}))
"""


def autofaiss(python: Path, corpus: Path, folder: Path, factory: str) -> dict[str, Any]:
    """Have autofaiss build the same kind of index; without its search for good parameters, which takes time, too.

    Returns:
        `seconds`, without the start of Python and the imports.

    Raises:
        RuntimeError: it failed.
    """
    said = _python(python, _AUTOFAISS, str(corpus), str(folder), factory)
    measured: dict[str, Any] = json.loads(said.splitlines()[-1])
    return measured


@contextmanager
def serving(python: Path, index: Path, room: Path, dim: int) -> Iterator[int]:
    """The port of a `back` that serves an index folder, which it has read into memory.

    Args:
        python: of its environment.
        index: the folder.
        room: for its settings.
        dim: of the vectors.

    Raises:
        RuntimeError: it is not there, or does not start.
    """
    if not python.exists():
        raise RuntimeError(f"there is no {python}: run `make setup-clip-retrieval`")
    _python(python, _CLIP, str(room / "clip"), str(dim))
    options = {
        "indice_folder": str(index),
        "columns_to_return": COLUMNS,
        "clip_model": f"hf_clip:{room / 'clip'}",
        "enable_mclip_option": False,
        "provide_aesthetic_embeddings": False,
    }
    (room / "indices.json").write_text(json.dumps({"benchmark": options}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = room / "back.log"
    command = [
        str(python),
        "-c",
        _ON_LOOPBACK,
        "back",
        "--indices_paths",
        "indices.json",
        "--port",
        str(port),
    ]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=room, env=_environment(), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"clip-retrieval back did not start:\n{log.read_text()}")
            time.sleep(0.2)
        yield port
    finally:
        process.kill()
        process.wait()


def ask(port: int, queries: Sequence[Sequence[float]], k: int, clients: int) -> dict[str, Any]:
    """Send each query in a request of its own, from so many threads, each with a connection.

    Returns:
        `qps`, and `numbers`: the found of each query.

    Raises:
        RuntimeError: an answer is not the `k` results with their metadata.
    """
    bodies = [
        json.dumps(
            {
                "modality": "image",
                "indice_name": "benchmark",
                "embedding_input": query,
                "num_images": k,
                "deduplicate": False,
                "use_safety_model": False,
                "use_violence_detector": False,
            }
        )
        for query in queries
    ]
    answers: list[bytes] = [b""] * len(bodies)

    def client(first: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        for place in range(first, len(bodies), clients):
            connection.request("POST", "/knn-service", bodies[place], {"Content-Type": "application/json"})
            answers[place] = connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=client, args=(first,)) for first in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    numbers = []
    for answer in answers:
        rows = json.loads(answer or b"null")
        if not isinstance(rows, list) or len(rows) != k or any(not row.get("url") for row in rows):
            raise RuntimeError(f"clip-retrieval back answered {answer[:200]!r}")
        numbers.append([row["id"] for row in rows])
    return {"qps": round(len(bodies) / seconds, 1), "numbers": numbers}


def versions(python: Path) -> dict[str, str]:
    """Of what is measured in that environment."""
    names = ("clip-retrieval", "autofaiss", "faiss-cpu", "numpy")
    code = f"import json; from importlib.metadata import version; print(json.dumps({{n: version(n) for n in {names}}}))"
    said: dict[str, str] = json.loads(_python(python, code))
    return said


def _python(python: Path, code: str, *arguments: str) -> str:
    if not python.exists():
        raise RuntimeError(f"there is no {python}: run `make setup-clip-retrieval`")
    done = subprocess.run(
        [str(python), "-c", code, *arguments], env=_environment(), capture_output=True, text=True, cwd=PROJECT
    )
    if done.returncode:
        raise RuntimeError(f"{python} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Of a process that has no Hub to ask, and no proxy."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "CUDA_VISIBLE_DEVICES": ""}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main(port: int, corpus: Path, clients: int, first: int, count: int) -> None:
    """Ask, and say how it went."""
    import numpy as np

    from benchmarks.vectors import K, recall

    places = np.arange(first, first + count) % len(truth := np.load(corpus / "truth.npy"))
    queries = np.load(corpus / "queries.npy")[places]
    asked = ask(port, queries.tolist(), K, clients)
    print(json.dumps({"qps": asked["qps"], "recall": recall(np.array(asked["numbers"]), truth[places])}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
