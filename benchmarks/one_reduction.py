"""`python -m benchmarks.one_reduction FOLDER ROWS STAGE`: what a stage takes that looks at a whole partition at once.

A process of its own for `benchmarks.bookkeeping`. STAGE is

    tables      none: it writes the tables that the next two read, of ROWS downloads with a URL, two hits and a
                caption each, 64 bytes in the place of an image, and a score of each kind but aesthetic and nsfw
    pairs       text_image_pairs
    curated     curated_pairs
    near        the near-duplicates of ROWS made embeddings and hashes, all compared; without these tables

Prints one JSON line last: `cpu_s`, processor seconds, user and system; `peak_mb`, the most that was resident
meanwhile, less what was before it, MB of 10^6 bytes; and `rows`. Linux only.
"""

import gc
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.one_asset import forget_peak, resident
from benchmarks.one_bookkeeping import cpu_seconds
from benchmarks.vectors import Space
from sd_assets.compute.run import run_stage, write_rows
from sd_assets.curation.clusters import Clusters
from sd_assets.curation.near import near_pairs
from sd_assets.curation.signatures import Signatures
from sd_assets.schemas import (
    AESTHETIC_SCORES,
    ALIGNMENT_SCORES,
    CURATED_PAIRS,
    DOWNLOADED_IMAGES,
    IMAGE_CAPTIONS,
    IMAGE_QUALITY,
    NEAR_DUPLICATES,
    NSFW_SCORES,
    RETRIEVED_IMAGE_URLS,
    SEED_IMAGES,
    TEXT_IMAGE_PAIRS,
    TableSchema,
)
from sd_assets.settings import CurationSettings, NearDuplicateSettings
from sd_assets.stages.curate import Judgements, curation_rows
from sd_assets.stages.pairs import PairStage, pair_rows
from sd_assets.stages.stage import InputCounts, rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore

STAGES = ("tables", "pairs", "curated", "near")
PARTITION = "p"
_HITS = 2
_ROWS_AT_ONCE = 4_096
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    folder, rows, stage = sys.argv[1:] if arguments is None else arguments
    store = TableStore(LocalFiles(Path(folder)))
    works = {"tables": _tables, "pairs": _pairs, "curated": _curated, "near": _near}
    work = works[stage](store, int(rows))
    gc.collect()
    forget_peak()
    resident_before, cpu_before = resident("VmRSS"), cpu_seconds()
    work()
    cpu, peak = cpu_seconds() - cpu_before, resident("VmHWM") - resident_before
    print(json.dumps({"cpu_s": round(cpu, 3), "peak_mb": round(peak, 1), "rows": int(rows)}), flush=True)


def _tables(store: TableStore, rows: int) -> Callable[[], None]:
    def work() -> None:
        for schema, row in _ROWS.items():
            _write(store, schema, rows, row)
        for schema in (SEED_IMAGES, AESTHETIC_SCORES, NSFW_SCORES):
            _write(store, schema, 0, lambda number: {})

    return work


def _pairs(store: TableStore, rows: int) -> Callable[[], None]:
    schemas = (SEED_IMAGES, RETRIEVED_IMAGE_URLS, DOWNLOADED_IMAGES, IMAGE_CAPTIONS)
    tables = [store.open(schema.name, PARTITION) for schema in schemas]
    area = store.area(TEXT_IMAGE_PAIRS.name, PARTITION)

    def work() -> None:
        run_stage(PairStage(), pair_rows(*tables), area, "run", print).commit()

    return work


def _curated(store: TableStore, rows: int) -> Callable[[], None]:
    schemas = (IMAGE_QUALITY, ALIGNMENT_SCORES, AESTHETIC_SCORES, NSFW_SCORES, NEAR_DUPLICATES)
    quality, alignment, aesthetic, nsfw, near = (store.open(schema.name, PARTITION) for schema in schemas)
    judgements = Judgements(quality, alignment, aesthetic, nsfw, near, {})
    pairs = store.open(TEXT_IMAGE_PAIRS.name, PARTITION)
    area = store.area(CURATED_PAIRS.name, PARTITION)

    def work() -> None:
        counts = InputCounts()
        judged = curation_rows(pairs, judgements, CurationSettings(), counts)
        write_rows(CURATED_PAIRS, judged, area, "run", counts).commit()

    return work


def _near(store: TableStore, rows: int) -> Callable[[], None]:
    random = np.random.default_rng(0)
    there = np.ones(rows, np.bool_)
    images = Signatures(
        pa.array([f"{number:064x}" for number in range(rows)]),
        Space(rows).draw(rows, random),
        there,
        random.integers(0, 2**64, rows, np.uint64),
        there,
        frozenset({"made"}),
    )
    return partial(Clusters(images.ids).add, near_pairs(images, NearDuplicateSettings()))


def _write(store: TableStore, schema: TableSchema, rows: int, row: Callable[[int], Row]) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, max(rows, 1), _ROWS_AT_ONCE):
            yield rows_of(schema, map(row, range(start, min(start + _ROWS_AT_ONCE, rows))))

    write_rows(schema, batches(), store.area(schema.name, PARTITION), "run").commit()


def _digest(what: str, number: int) -> str:
    return hashlib.sha256(f"{what} {number}".encode()).hexdigest()


def _address(number: int) -> str:
    return f"https://images{number % 500}.example.com/media/{_digest('name', number)[:40]}.jpg"


def _url(number: int) -> Row:
    hits = [
        {
            "query_id": _digest("query", number // 100 + hit),
            "rank": 1,
            "similarity": 0.3,
            "url": _address(number),
        }
        for hit in range(_HITS)
    ]
    url = {
        "url_id": _digest("url", number),
        "url": _address(number),
        "alt_text": f"a photo of thing {number} in a room",
    }
    return {**url, "similarity": 0.3, "hits": hits}


def _download(number: int) -> Row:
    image = {"image_id": _digest("image", number), "image": _digest("image", number).encode()}
    sizes = {"width": 512, "height": 512, "original_width": 800, "original_height": 600}
    return {"url_id": _digest("url", number), "url": _address(number), **image, **sizes}


def _caption(number: int) -> Row:
    of = {"image_id": _digest("image", number), "variant": "default", "origin": "retrieved"}
    return {**of, "caption": f"a photo of a thing in a room, number {number}", "model": "made"}


def _quality(number: int) -> Row:
    return {"image_id": _digest("image", number), "resolution": 512, "aspect_ratio": 1.3, "sharpness": 0.6}


def _alignment(number: int) -> Row:
    return {"image_id": _digest("image", number), "alignments": [0.3], "alignment": 0.3, "model": "made"}


def _alone(number: int) -> Row:
    identity = _digest("image", number)
    return {"image_id": identity, "cluster": identity, "cluster_size": 1, "held_out": [], "elsewhere": []}


_ROWS: dict[TableSchema, Callable[[int], Row]] = {
    RETRIEVED_IMAGE_URLS: _url,
    DOWNLOADED_IMAGES: _download,
    IMAGE_CAPTIONS: _caption,
    IMAGE_QUALITY: _quality,
    ALIGNMENT_SCORES: _alignment,
    NEAR_DUPLICATES: _alone,
}


if __name__ == "__main__":
    main()
