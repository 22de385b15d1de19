"""The README's own indices, built and asked as it stands there, over small files in the layouts of the public corpora."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sd_assets import catalog
from sd_assets.demo.world import World
from sd_assets.models.clip import ClipEncoder
from sd_assets.retrieval.index import open_index
from sd_assets.retrieval.record import IndexRecord
from sd_assets.settings import FaissIndexSettings, RetrievalSettings
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore
from sd_assets_tests.pipeline.conftest import CLIP, PROJECT
from sd_assets_tests.readme import blocks, section

pytestmark = pytest.mark.timeout(600)

ROWS = 40
# Several commands in one process: most of the time of each is its start.
COMMANDS = (
    "import sys; from sd_assets.__main__ import main; sys.exit(max(main(it.split()) for it in sys.argv[1:]))"
)
TEXT = section("Your own index")


class Reader:
    """A reader who follows the section: the folder that the README calls `/data`, and a catalogue of what stands there.

    Attributes:
        data: that folder.
        home: for Dagster, and the tables.
        vectors: of the two public corpora, float16, by the name of their index.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.data = folder / "data"
        self.home = folder / "home"
        self.home.mkdir()
        self.vectors: dict[str, Any] = {}
        # Models that are here, instead of those of the Hub.
        written: dict[str, Any] = {
            "defaults": {
                "clip": {"model": f"local-dir:{CLIP}"},
                "captioner": {
                    "model": str(PROJECT / "sd_assets" / "demo" / "models" / "blip"),
                    "max_new_tokens": 5,
                },
                "download": {"image_size": 64},
            },
            "indices": {},
            "seed_datasets": {},
        }
        for block in blocks(TEXT, "yaml"):
            text = block.replace("/data/", f"{self.data}/").replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            for name, entries in yaml.safe_load(text).items():
                written[name] |= entries
        self.catalog = folder / "catalog.yaml"
        self.catalog.write_text(yaml.safe_dump(written))

    def run(self, *commands: str, status: int = 0) -> str:
        """What `python -m sd_assets ...` prints."""
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, *commands],
            cwd=PROJECT,
            env={
                **os.environ,
                "DAGSTER_HOME": str(self.home),
                "SD_ASSETS_DATA": str(self.home / "data"),
                catalog.CATALOG_VARIABLE: str(self.catalog),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def index(self, name: str) -> FaissIndexSettings:
        return catalog.load(self.catalog).folder_index(name)

    def urls(self, name: str, queries: Any, k: int) -> list[str]:
        """What an index answers, query by query."""
        index = open_index(name, self.index(name), RetrievalSettings())
        index.open()
        urls: list[str] = index.search(np.asarray(queries, np.float32), k).hits.column("url").to_pylist()
        return urls

    def table(self, asset: str, partition: str) -> Table:
        return TableStore(LocalFiles(self.home / "data")).open(asset, partition)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, world: World) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    photos = folder / "data" / "photos"
    shutil.copytree(world.seeds_folder, photos)
    handler = functools.partial(Quiet, directory=str(photos))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        reader = Reader(folder, server.server_port)
        laion400m(reader)
        commonpool(reader)
        yield reader
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


def laion400m(reader: Reader) -> None:
    """Two parts with a broken row in each, in LAION-400M's folders."""
    vectors = made_vectors(512)
    vectors[3], vectors[-1] = np.nan, 0
    reader.vectors["laion400m"] = vectors
    for part, rows in enumerate(np.array_split(np.arange(ROWS), 2)):
        for folder in ("images", "metadata"):
            (reader.data / "laion400m" / folder).mkdir(parents=True, exist_ok=True)
        np.save(reader.data / "laion400m" / "images" / f"img_emb_{part}.npy", vectors[rows])
        columns = {
            "SAMPLE_ID": pa.array(rows),
            "URL": [f"http://laion.example/{row}.jpg" for row in rows],
            "TEXT": [f"text {row}" for row in rows],
            "WIDTH": pa.array([640.0] * len(rows)),
        }
        pq.write_table(pa.table(columns), reader.data / "laion400m" / "metadata" / f"metadata_{part}.parquet")


def commonpool(reader: Reader) -> None:
    """Two pairs of Parquet and npz, as DataComp has them."""
    vectors = made_vectors(768)
    reader.vectors["commonpool"] = vectors
    (reader.data / "commonpool").mkdir()
    for name, rows in zip(("0a1b", "2c3d"), np.array_split(np.arange(ROWS), 2), strict=True):
        columns = {
            "uid": [f"{row:032x}" for row in rows],
            "url": [f"http://pool.example/{row}.jpg" for row in rows],
            "text": [f"text {row}" for row in rows],
            "original_width": pa.array([640] * len(rows)),
        }
        pq.write_table(pa.table(columns), reader.data / "commonpool" / f"{name}.parquet")
        np.savez(
            reader.data / "commonpool" / f"{name}.npz", l14_img=vectors[rows], b32_img=vectors[rows, :512]
        )


def made_vectors(dim: int) -> Any:
    vectors = np.random.default_rng(dim).standard_normal((ROWS, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def said(output: str, index: str) -> dict[str, str]:
    """What `make index` says of an index, line by line."""
    _, _, of_index = output.partition(f"\nindex {index}\n")
    lines = re.findall(r"^  ([a-z_]+): (.*)$", of_index.partition("\nindex ")[0], re.MULTILINE)
    return dict(lines)


def test_make_index_is_the_command() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    assert "make index INDEX=" in TEXT
    assert "@$(BIN)/python -m sd_assets index $(INDEX)" in makefile


def test_from_files_of_public_corpora(reader: Reader) -> None:
    output = reader.run("index laion400m", "index commonpool")
    laion, pool = said(output, "laion400m"), said(output, "commonpool")
    assert (laion["vectors"], laion["dim"], laion["model"]) == ("38", "512", "ViT-B-32/openai")
    assert (pool["vectors"], pool["dim"], pool["model"]) == ("40", "768", "ViT-L-14/openai")
    skipped = {name: count for name, count in laion.items() if name.startswith("skipped")}
    assert skipped == {"skipped_not_finite": "1", "skipped_zero": "1"}
    assert laion["path"] == str(reader.data / "indices" / "laion400m")
    for name, host in (("laion400m", "laion"), ("commonpool", "pool")):
        rows = [5, 20, 38]
        found = reader.urls(name, reader.vectors[name][rows], 1)
        assert found == [f"http://{host}.example/{row}.jpg" for row in rows]
    assert (laion["note"], pool["note"]) == ("built", "built")


def test_what_changed_is_built_again_and_nothing_else(reader: Reader) -> None:
    before = IndexRecord.read(Path(reader.index("commonpool").path))
    more = reader.data / "commonpool" / "4e5f"
    for kind in ("parquet", "npz"):
        shutil.copy(reader.data / "commonpool" / f"0a1b.{kind}", f"{more}.{kind}")
    output = reader.run("index laion400m", "index commonpool")
    assert "not built again" in said(output, "laion400m")["note"]
    now = said(output, "commonpool")
    assert before is not None and before.vectors == 40
    assert (now["vectors"], now["note"]) == ("60", "built")


def test_another_clip_fails_before_anything_is_embedded(reader: Reader) -> None:
    written = yaml.safe_load(reader.catalog.read_text())
    written["seed_datasets"]["other_clip"] = {
        "prompts": {"texts": ["a lamp"]},
        "retrieval": {"index": "laion400m"},
    }
    reader.catalog.write_text(yaml.safe_dump(written))
    output = reader.run("build other_clip", status=1)
    assert "seed_embeddings: index 'laion400m' was made with ViT-B-32/openai" in output
    assert "`clip:` of the entry is local-dir:" in output
    assert not (reader.home / "data" / "seed_embeddings" / "other_clip").exists()


def test_from_images_of_one_s_own(reader: Reader) -> None:
    output = reader.run("index photos", "build sofas")
    photos = said(output, "photos")
    images = len([path for path in (reader.data / "photos").iterdir() if path.suffix != ".jsonl"])
    assert photos["vectors"] == str(images)
    assert photos["model"].startswith("local-dir:")
    hits = reader.table("retrieval_hits", "sofas").read(["hits"]).column("hits").to_pylist()
    assert [len(found) for found in hits] == [min(images, 20)] * 2
    encoder = ClipEncoder(catalog.load(reader.catalog).entry("sofas").clip)
    nearest = reader.urls("photos", encoder.encode_texts(["a red sofa"]), 1)
    assert nearest == [hits[0][0]["url"]] or nearest == [hits[1][0]["url"]]
    downloaded = reader.table("downloaded_images", "sofas").read(["error"]).column("error").to_pylist()
    assert downloaded and set(downloaded) == {None}


def test_from_a_folder_that_somebody_built(reader: Reader) -> None:
    built = Path(reader.index("laion400m").path)
    brought = Path(reader.index("brought").path)
    shutil.copytree(built, brought, ignore=shutil.ignore_patterns("sd_assets.json", "metadata.arrow"))
    found = said(reader.run("index brought"), "brought")
    assert (found["vectors"], found["dim"], found["model"]) == ("38", "512", "ViT-B-32/openai")
    assert "metadata.arrow was written" in found["note"]
    assert reader.urls("brought", reader.vectors["laion400m"][[7]], 1) == ["http://laion.example/7.jpg"]


def test_from_a_service(reader: Reader) -> None:
    # How a service is asked is tested with a real one in `retrieval.test_clip_retrieval`.
    served = catalog.load(reader.catalog).index("served")
    assert open_index("served", served, RetrievalSettings(index="served")).dim is None
    assert json.loads(served.model_dump_json())["clip"]["model"] == "ViT-B-32"
