"""The real clip-retrieval 2.45: its `back` serves our index to our client, and we read what its `index` writes.

It runs in an environment of its own (`make test-clip-retrieval`), which these tests find from either environment.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import transformers

from sd_assets.errors import RetrievalError, RowError
from sd_assets.retrieval import KnnIndex, open_index
from sd_assets.retrieval.build import build_index
from sd_assets.retrieval.corpora.memory import memory_corpus
from sd_assets.retrieval.layout import INDEX_FILE, METADATA_FOLDER, write_index
from sd_assets.retrieval.service.results import results_of
from sd_assets.settings import FaissIndexSettings, IndexBuildSettings, RetrievalSettings, ServiceIndexSettings
from sd_assets_tests.optional import missing
from sd_assets_tests.retrieval.answers import Hit, asked
from sd_assets_tests.retrieval.conftest import normalised

pytestmark = [pytest.mark.clip_retrieval, pytest.mark.timeout(300)]

Vectors = npt.NDArray[np.float32]

PROJECT = Path(__file__).parents[2]
ROWS = 200
DIM = 16
# Kinds of index that we build, by the name that `back` serves them under.
BUILT = {"graph": "HNSW8", "lists": "IVF4,Flat", "mapped": "IVF4,Flat", "halved": "IVF4,SQfp16"}

# `back` listens on all addresses and has no option for one.
ON_LOOPBACK = """
import sys
import flask

run = flask.Flask.run
flask.Flask.run = lambda app, host=None, **options: run(app, host="127.0.0.1", **options)

from clip_retrieval.cli import main

sys.argv[0] = "clip-retrieval"
main()
"""


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter that has clip-retrieval: this one, or that of `make test-clip-retrieval`."""
    if importlib.util.find_spec("clip_retrieval") is not None:
        return sys.executable
    other = PROJECT / ".venv-clip-retrieval" / "bin" / "python"
    if not other.exists():
        missing("environment with clip-retrieval", "run `make setup-clip-retrieval`")
    return str(other)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Of a process that has no Hub to ask, and no proxy between it and us."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def corpus() -> Vectors:
    return normalised(np.random.default_rng(3).standard_normal((ROWS, DIM)))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP as `back` loads one at its start: it encodes no query of ours, which come as embeddings."""
    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 49_408},  # it tokenizes with OpenAI's words, whatever the model
        vision_config={**tower, "image_size": 224, "patch_size": 112},
        projection_dim=DIM,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory,
    python: str,
    environment: dict[str, str],
    corpus: Vectors,
    clip: Path,
) -> Iterator[str]:
    """The URL of a `clip-retrieval back` that serves the index `rooms`, which we wrote."""
    folder = tmp_path_factory.mktemp("back")
    metadata = pa.table(
        {
            "url": [f"http://h/{i}.jpg" for i in range(ROWS)],
            "caption": [f"text {i}" for i in range(ROWS)],
            "width": pa.array([None if i == 3 else 100 + i for i in range(ROWS)], pa.int32()),
            "licence": ["cc-by"] * ROWS,
        }
    )
    write_index(folder / "index", corpus, metadata)
    for name, factory in BUILT.items():
        settings = IndexBuildSettings(factory=factory)
        build_index(memory_corpus(corpus, metadata), settings, folder / name, lambda line: None)
    indices = {
        name: {
            "indice_folder": str(folder / name.replace("rooms", "index")),
            "columns_to_return": ["url", "caption", "width", "licence"],
            "clip_model": f"hf_clip:{clip}",
            "enable_mclip_option": False,
            "provide_aesthetic_embeddings": False,
            "enable_faiss_memory_mapping": name == "mapped",
        }
        for name in ("rooms", *BUILT)
    }
    (folder / "indices.json").write_text(json.dumps(indices))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "back.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, "-c", ON_LOOPBACK, "back", "--indices_paths", "indices.json", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 180
        while not _listens(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        print(log.read_text())


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def client(url: str | list[str], **settings: Any) -> KnnIndex:
    defaults = {"kind": "clip-retrieval", "url": url, "indice_name": "rooms", "retries": 0}
    index = open_index(
        "laion", ServiceIndexSettings.model_validate({**defaults, **settings}), RetrievalSettings()
    )
    index.open()
    return index


def hits(answer: list[Hit] | RowError) -> list[Hit]:
    assert isinstance(answer, list), answer
    return answer


def test_our_client_finds_in_their_service_what_we_wrote(service: str, corpus: Vectors) -> None:
    answers = asked(client(service), corpus[:20], 5)
    for i, answer in enumerate(answers):
        expected = np.argsort(-(corpus @ corpus[i]))[:5]
        assert [hit.url for hit in hits(answer)] == [f"http://h/{row}.jpg" for row in expected]
        assert [hit.rank for hit in hits(answer)] == list(range(5))
        similarities = [hit.similarity for hit in hits(answer)]
        assert similarities == pytest.approx((corpus @ corpus[i])[expected].tolist(), abs=1e-5)
    best = [hits(answer)[0] for answer in answers]
    assert [hit.alt_text for hit in best] == [f"text {i}" for i in range(20)]
    # One row without a width makes their column a float one, and the missing value a bare NaN.
    assert [hit.width for hit in best] == [None if i == 3 else 100 + i for i in range(20)]
    assert {hit.licence for hit in best} == {"cc-by"}


def test_it_answers_as_the_index_itself_does(service: str, corpus: Vectors, tmp_path: Path) -> None:
    urls = pa.table({"url": [f"http://h/{i}.jpg" for i in range(ROWS)]})
    write_index(tmp_path, corpus, urls)
    local = open_index("mine", FaissIndexSettings(kind="faiss", path=str(tmp_path)), RetrievalSettings())
    queries = normalised(np.random.default_rng(4).standard_normal((10, DIM)))
    for theirs, ours in zip(asked(client(service), queries, 8), asked(local, queries, 8), strict=True):
        assert [hit.url for hit in hits(theirs)] == [hit.url for hit in hits(ours)]


@pytest.mark.parametrize("name", BUILT)
def test_every_kind_that_we_build_is_served(service: str, corpus: Vectors, name: str) -> None:
    answers = asked(client(service, indice_name=name), corpus[:20], 3)
    assert [hits(answer)[0].url for answer in answers] == [f"http://h/{i}.jpg" for i in range(20)]
    assert [hits(answer)[0].alt_text for answer in answers] == [f"text {i}" for i in range(20)]
    similarities = [hits(answer)[0].similarity for answer in answers]
    assert similarities == pytest.approx([1.0] * 20, abs=1e-3)


def test_more_than_it_holds_and_what_it_refuses(service: str, corpus: Vectors) -> None:
    assert len(hits(asked(client(service), corpus[:1], 10 * ROWS)[0])) == ROWS
    assert len(hits(asked(client(service, indice_name=None), corpus[:1], 3)[0])) == 3
    with pytest.raises(
        RetrievalError, match=r"answers a text, but fails every vector of 17 dimensions.*HTTP 500"
    ):
        client(service).search(np.ones((1, DIM + 1), np.float32), 3)
    with pytest.raises(RetrievalError, match=r"no index 'other'; it has: rooms"):
        client(service, indice_name="other")


def test_an_answer_ends_where_their_index_does(service: str, corpus: Vectors) -> None:
    index = client(service)
    assert index.search(corpus[:2], ROWS).exhausted.tolist() == [False, False]
    answers = index.search(corpus[:2], ROWS + 50)
    assert (answers.counts.tolist(), answers.exhausted.tolist()) == ([ROWS, ROWS], [True, True])
    # Of these, all but the first ten come without metadata, as of those that their flags leave out.
    body = {"modality": "image", "indice_name": "rooms", "embedding_input": corpus[0].tolist()}
    rows = requests.post(
        f"{service}/knn-service", json={**body, "num_images": 10, "num_result_ids": 30}
    ).json()
    results = results_of(rows, 30)
    assert (len(results.hits), results.exhausted, dict(results.dropped)) == (
        10,
        False,
        {"results_without_url": 20},
    )


def test_several_of_them(service: str, corpus: Vectors, caplog: pytest.LogCaptureFixture) -> None:
    """One that is reached by two names, and one that is dead."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        index = client([service, dead, service.replace("127.0.0.1", "localhost")], connections=2)
        with ThreadPoolExecutor(index.calls_at_once) as threads:
            answers = list(
                threads.map(lambda place: asked(index, corpus[place : place + 1], 3)[0], range(60))
            )
    assert [hits(answer)[0].url for answer in answers] == [f"http://h/{i}.jpg" for i in range(60)]
    assert [dead in line for line in caplog.messages if "left out" in line] == [True]
    shares = index.facts()["requests_by_service"]
    assert shares[dead] == 0 and min(share for url, share in shares.items() if url != dead) >= 20
    index.close()


@pytest.mark.parametrize(
    ("rows", "memory", "kind"),
    [(ROWS, "100M", "IndexFlat"), (2_000, "100M", "IndexHNSWFlat"), (12_000, "1.2M", "IndexIVFFlat")],
)
def test_we_read_what_their_index_writes(
    python: str, environment: dict[str, str], tmp_path: Path, rows: int, memory: str, kind: str
) -> None:
    corpus = normalised(np.random.default_rng(3).standard_normal((rows, DIM)))
    embeddings = tmp_path / "embeddings"
    (embeddings / "img_emb").mkdir(parents=True)
    (embeddings / METADATA_FOLDER).mkdir()
    np.save(embeddings / "img_emb" / "img_emb_0.npy", corpus.astype(np.float16))
    metadata = pa.table({"url": [f"http://h/{i}.jpg" for i in range(rows)], "caption": ["text"] * rows})
    pq.write_table(metadata, embeddings / METADATA_FOLDER / "metadata_0.parquet")
    folders = ["--embeddings_folder", "embeddings", "--index_folder", "index"]
    limits = ["--max_index_memory_usage", memory, "--current_memory_available", "500M", "--nb_cores", "2"]
    made = subprocess.run(
        [python, "-m", "clip_retrieval.cli", "index", *folders, *limits],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "index" / INDEX_FILE).is_file(), made.stdout + made.stderr
    assert type(faiss.read_index(str(tmp_path / "index" / INDEX_FILE))).__name__.startswith(kind)
    settings = FaissIndexSettings(kind="faiss", path=str(tmp_path / "index"))
    index = open_index("theirs", settings, RetrievalSettings())
    index.open()
    answers = asked(index, corpus[:20], 3)
    assert [hits(answer)[0].url for answer in answers] == [f"http://h/{i}.jpg" for i in range(20)]
