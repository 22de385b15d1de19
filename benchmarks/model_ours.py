"""`python -m benchmarks.model_ours FOLDER DEVICE`: our embeddings and captions, for `benchmarks.models`; a contender (`turns`).

The stages of `seed_embeddings` and `image_captions` run as their assets run them, from a Parquet table of the pictures in
FOLDER (`benchmarks.model_folders`) to a committed version of their own table. Questions:

    what            clip, caption, or agreement
    count           pictures, the first ones
    precision       auto, if it is not named

`agreement` compares the embeddings in bfloat16 with those in float32, and answers with `bf16_cosine_p1`, the first percentile of
the cosines, and with `cosine_of_two_pictures`, the median between different ones, to judge it by. The others answer with
`seconds`, from the start of the stage to the commit; the model is loaded before. `precision` is the one that was used.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks import caption_lengths
from benchmarks.turns import Answer, serve
from sd_assets.compute.run import run_stage, write_rows
from sd_assets.models.captioner import Captioner
from sd_assets.models.clip import ClipEncoder
from sd_assets.schemas import (
    DOWNLOADED_IMAGES,
    SEED_IMAGES,
    SEED_PROMPTS,
    TableSchema,
)
from sd_assets.settings import CaptionerSettings, ClipSettings
from sd_assets.stages.caption import CaptionStage, image_batches
from sd_assets.stages.embed import EmbedStage, query_batches
from sd_assets.stages.stage import Stage, rows_of
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table

_ROWS = 64  # of a batch of the input


class Ours:
    """Models that stay loaded, and tables that stay written.

    Args:
        folder: of the models and pictures.
        device: as our models take it.
        room: a folder for tables.
    """

    def __init__(self, folder: Path, device: str, room: Path) -> None:
        self._folder = folder
        self._device = device
        self._room = room
        self._encoders: dict[str, ClipEncoder] = {}
        self._captioners: dict[str, Captioner] = {}
        self._tables: dict[tuple[str, int], Table] = {}
        self._runs = 0

    def measure(self, what: str, count: int, precision: str = "auto") -> Answer:
        """See the module."""
        match what:
            case "clip":
                _, answer = self._embed(count, precision)
            case "caption":
                answer = self._caption(count, precision)
            case "agreement":
                half, _ = self._embed(count, "bfloat16")
                full, _ = self._embed(count, "float32")
                cosines = (half * full).sum(1)
                others = (full * np.roll(full, 1, axis=0)).sum(1)
                answer = {
                    "bf16_cosine_p1": round(float(np.percentile(cosines, 1)), 5),
                    "cosine_of_two_pictures": round(float(np.median(others)), 5),
                }
            case _:
                raise ValueError(f"there is no {what!r}: see the module")
        return answer

    def _embed(self, count: int, precision: str) -> tuple[npt.NDArray[np.float32], Answer]:
        encoder = self._encoders.get(precision)
        if encoder is None:
            settings = ClipSettings(model=f"local-dir:{self._folder / 'clip'}")
            encoder = ClipEncoder(settings, device=self._device, precision=precision)
            self._encoders[precision] = encoder
        encoder.load()
        images, prompts = self._input(SEED_IMAGES, count), self._input(SEED_PROMPTS, 0)
        table, seconds = self._run(EmbedStage(encoder), query_batches(images, prompts))
        rows = table.read(["query_id", "embedding", "error_detail"]).sort_by("query_id")
        _require_all(rows, count)
        vectors = rows.column("embedding").combine_chunks().flatten().to_numpy().reshape(count, -1)
        return vectors, {"seconds": seconds, "precision": encoder.precision}

    def _caption(self, count: int, precision: str) -> Answer:
        captioner = self._captioners.get(precision)
        if captioner is None:
            # Not cleaned, so that all words can be counted.
            settings = CaptionerSettings(
                model=str(self._folder / "blip"), max_new_tokens=caption_lengths.MAX_NEW_TOKENS, clean=False
            )
            captioner = Captioner(settings, device=self._device, precision=precision)
            self._captioners[precision] = captioner
        captioner.load()
        seeds, images = self._input(SEED_IMAGES, 0), self._input(DOWNLOADED_IMAGES, count)
        table, seconds = self._run(CaptionStage(captioner), image_batches(seeds, images, captioner.variants))
        rows = table.read(["image_id", "caption", "error_detail"]).sort_by("image_id")
        _require_all(rows, count)
        caption_lengths.require(rows.column("caption").to_pylist())
        return {"seconds": seconds, "precision": captioner.precision}

    def _run(self, stage: Stage, rows: Iterator[Any]) -> tuple[Table, float]:
        """The new table, and the seconds that it took."""
        self._runs += 1
        area = self._area(stage.schema)
        started = time.perf_counter()
        manifest = run_stage(stage, rows, area, "run", _log).commit()
        return Table(area, manifest), time.perf_counter() - started

    def _input(self, schema: TableSchema, count: int) -> Table:
        """The first pictures as a table, which is written once."""
        known = self._tables.get((schema.name, count))
        if known is None:
            area = self._area(schema, str(count))
            written = write_rows(schema, pictures(schema, self._folder / "pictures", count), area, "made")
            known = self._tables[schema.name, count] = Table(area, written.commit())
        return known

    def _area(self, schema: TableSchema, partition: str | None = None) -> Area:
        return Area(LocalFiles(self._room), schema.name, partition or f"run-{self._runs}")


def pictures(schema: TableSchema, folder: Path, count: int) -> Iterator[pa.RecordBatch]:
    paths = sorted(folder.iterdir())[:count]
    for start in range(0, len(paths), _ROWS):
        rows = []
        for path in paths[start : start + _ROWS]:
            keys = dict.fromkeys(("image_id", "url_id"), path.stem)
            rows.append({**keys, "image": path.read_bytes(), "format": "jpeg"})
        yield rows_of(schema, rows)


def _require_all(rows: pa.Table, count: int) -> None:
    failed = [detail for detail in rows.column("error_detail").to_pylist() if detail]
    if len(rows) != count or failed:
        raise RuntimeError(f"of {count} pictures {len(rows)} are in the table, and failed are: {failed[:3]}")


def _log(line: str) -> None:
    """Progress, which nobody reads here."""


def main() -> None:
    """See the module."""
    caption_lengths.impose()
    folder, device = sys.argv[1:]
    with tempfile.TemporaryDirectory() as room:
        serve(Ours(Path(folder), device, Path(room)).measure)


if __name__ == "__main__":
    main()
