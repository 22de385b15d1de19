"""The pipeline in a folder of its own, for benchmarks: a catalogue with the demo's models, an index, the tables."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.catalog import CATALOG_VARIABLE
from sd_assets.resources.storage import DATA_VARIABLE
from sd_assets.retrieval.layout import write_index
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore

PROJECT = Path(__file__).parents[1]
MODELS = PROJECT / "sd_assets" / "demo" / "models"
CLIP = f"local-dir:{MODELS / 'clip'}"
WARM_UP, PARTITION = "warm_up", "photographs"


class World:
    """All that the pipeline needs and makes, in one folder.

    Args:
        folder: that exists; `data/` of it is for the tables, `index/` for the index.
        sources: by partition, the `source:` of its entry.
        images_per_query: that the index finds.
        checks: limits that differ from the defaults.
    """

    def __init__(
        self,
        folder: Path,
        sources: Mapping[str, Mapping[str, Any]],
        images_per_query: int,
        checks: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.store = TableStore(LocalFiles(folder / "data"))
        entry = {
            "clip": {"model": CLIP},
            "captioner": {"model": str(MODELS / "blip"), "max_new_tokens": 10},
            "retrieval": {"index": "photographs", "images_per_query": images_per_query},
            # Not resized, or the images of the tables would be smaller than what is to be measured.
            "download": {"resize_mode": "no", "allow_addresses": ["127.0.0.1"]},
            "checks": dict(checks or {}),
        }
        catalog = {
            "indices": {"photographs": {"kind": "faiss", "path": str(folder / "index")}},
            "seed_datasets": {name: {"source": dict(source), **entry} for name, source in sources.items()},
        }
        (folder / "catalog.json").write_text(json.dumps(catalog))

    def write_index(self, vectors: npt.NDArray[np.float32], urls: Sequence[str]) -> None:
        """The index.

        Args:
            vectors: of the images, [n, dim], of length 1.
            urls: of the images.
        """
        texts = [f"noise on the web {number:06d}" for number in range(len(urls))]
        write_index(self.folder / "index", vectors, pa.table({"url": urls, "caption": texts}))

    def run(self, module: str, *arguments: str, **environment: str) -> dict[str, Any]:
        """Run a module in a fresh process, in this world.

        Returns:
            what its last line says, as JSON.

        Raises:
            RuntimeError: it failed; with all that it said.
        """
        # Without DAGSTER_HOME an instance is in memory; so it is here, whatever the caller's.
        kept = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=PROJECT,
            env={
                **kept,
                CATALOG_VARIABLE: str(self.folder / "catalog.json"),
                DATA_VARIABLE: str(self.folder / "data"),
                "CUDA_VISIBLE_DEVICES": "",  # the models run on the CPU
                **environment,
            },
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said

    def check(self, asset: str, good: int) -> None:
        """Raises RuntimeError unless the partition's table has so many good rows, or more.

        A stage that fails quickly would take little time and memory, too.
        """
        table = self.store.open(asset, PARTITION)
        found = int((table.errors == b"").sum())
        if found < good:
            raise RuntimeError(f"{table.uri} has {found} good rows, wanted {good}")
