"""`python -m benchmarks.refresh`: what a refresh costs, against a full run, where little or nothing has changed.

The seeds are 20,000 photographs of noise (`--rows`), each different and of at least 100 KB, as bytes in Parquet files of
1,000 rows each, without texts, so that BLIP captions them. An index of 2,000 other photographs (`--web`) finds one a seed
(`--images-per-query`), and each of them at least once; a server in another process answers the downloads. CLIP and BLIP are
the demo's, on the CPU. Each run is a whole `build_dataset`, all assets and checks, through Dagster, on an instance in files,
in a fresh process (`benchmarks.one_refresh`), whose start-up, imports and first use of the models do not count:

    1. a full run
    2. refreshes of what has not changed (`--samples`), by turns with `benchmarks.hash_source`, which reads the
       source's files and hashes each image, and does nothing else; in a process of its own, whose start does not count
    3. refreshes with 1% new rows at the front, then in the middle, then at the end of the source
    4. a refresh with one row more at the front

New rows are written into the file of the source that has this place: no row moves from file to file, as what a row says of
its source would be another. Each set of new rows has photographs of its own; the earlier ones stay. The new seeds find
images that were retrieved before, so no run but the first downloads: new rows are those to embed and those to caption.

Prints a line a run, a line `detail` with all that was measured, and one JSON line last:

    full_s                      seconds of the full run
    unchanged_ratio             median seconds of an unchanged refresh, over full_s
    unchanged_vs_hash           median seconds of an unchanged refresh, less `fixed`, which the same run of one image takes in the
                                same process (most of it the events that Dagster stores), over the median of hash_source
    one_percent_ratio           the most seconds of the three refreshes with 1% new rows, over full_s
    model_calls_unchanged       calls of both models in all unchanged refreshes
    model_rows_one_percent      rows that reached the models in a refresh with 1% new rows; of the three, the one where
                                this is farthest from the next:
    new_rows_one_percent        rows that were new for the models in that refresh
    shards_rewritten_one_row    in (4), the most shards of a table that its version before did not have

Goals: unchanged_ratio at most 0.03, unchanged_vs_hash 1.5, one_percent_ratio 0.08; no calls; the rows equal; 2 shards.
What a row more rewrites besides itself is the row of each image that it retrieves: they say in text_image_pairs which seeds
found them, and lie anywhere. The default run takes a quarter of an hour on two cores, and some 12 GB of the folder
`--folder`, which it gives back.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.photographs import make_photographs
from benchmarks.web import serving
from benchmarks.world import CLIP, PARTITION, PROJECT, WARM_UP, World
from sd_assets.images import decode_rgb
from sd_assets.models.clip import ClipEncoder
from sd_assets.schemas import TABLES
from sd_assets.settings import ClipSettings

FILE_ROWS = 1_000
ROW_GROUP_ROWS = 100
COLUMN = "image"
PLACES = ("front", "middle", "end")
# The captions of noise say little, and much the same: that is no reason to stop.
CHECKS = {"max_same_caption": 1, "max_repeated_captions": 1, "max_captions_of_odd_length": 1}

Measured = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.refresh", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rows", type=int, default=20_000, help="seeds of the full run")
    parser.add_argument(
        "--web", type=int, default=2_000, help="images of the index; at most as many as seeds"
    )
    parser.add_argument("--images-per-query", type=int, default=1)
    parser.add_argument("--samples", type=int, default=3, help="of the unchanged refresh, and of the hashing")
    parser.add_argument("--places", choices=PLACES, nargs="+", default=PLACES, help="of the new rows")
    parser.add_argument("--folder", type=Path, help="where there is room for the tables")
    options = parser.parse_args(arguments)
    options.web = min(options.web, options.rows)
    with tempfile.TemporaryDirectory(prefix="sd_assets-refresh-", dir=options.folder) as folder:
        runs = Refreshes(Path(folder), options).measure()
    print("detail", json.dumps({"cores": os.cpu_count(), **vars(options), "folder": None, **runs.as_json()}))
    print(json.dumps(runs.summary()), flush=True)


@dataclass
class Runs:
    """What was measured.

    Attributes:
        full: what `benchmarks.one_refresh` says of the full run.
        unchanged: of each unchanged refresh; also `versions`, the new versions of tables, which should be none.
        hashed: what `benchmarks.hash_source` says, each time.
        one_percent: by place, what `one_refresh` says; also `new_rows`, for the models.
        one_row: of the refresh with one row more at the front; also `shards`, rewritten, by table.
    """

    full: Measured
    unchanged: list[Measured]
    hashed: list[Measured]
    one_percent: dict[str, Measured]
    one_row: Measured

    def as_json(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def summary(self) -> dict[str, Any]:
        """The figures: see the module."""
        full = self.full["seconds"]
        unchanged = statistics.median(run["seconds"] for run in self.unchanged)
        by_rows = statistics.median(run["seconds"] - run["fixed"] for run in self.unchanged)
        hashed = statistics.median(run["seconds"] for run in self.hashed)
        worst = max(self.one_percent.values(), key=lambda run: abs(seen(run, "rows") - run["new_rows"]))
        return {
            "full_s": full,
            "unchanged_ratio": round(unchanged / full, 4),
            "unchanged_vs_hash": round(by_rows / hashed, 3),
            "one_percent_ratio": round(max(run["seconds"] for run in self.one_percent.values()) / full, 4),
            "model_calls_unchanged": sum(seen(run, "calls") for run in self.unchanged),
            "model_rows_one_percent": seen(worst, "rows"),
            "new_rows_one_percent": worst["new_rows"],
            "shards_rewritten_one_row": max(self.one_row["shards"].values()),
        }


def seen(run: Measured, what: str) -> int:
    """Calls, rows or padded rows of both models in a run."""
    return sum(model[what] for model in run["models"].values())


class Refreshes:
    """The runs, one after the other, on one world.

    Args:
        folder: of the world; empty.
        options: of the command line.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._options = options
        self._percent = max(1, options.rows // 100)
        new = len(options.places) * self._percent + 1
        photographs = make_photographs(folder / "originals", options.rows + options.web + new)
        self._parts = [list(part) for part in in_parts(photographs[: options.rows], FILE_ROWS)]
        self._web = photographs[options.rows : options.rows + options.web]
        self._new = iter(photographs[options.rows + options.web :])
        self._source = folder / PARTITION
        write_part(folder / WARM_UP, 0, photographs[:1])
        sources = {
            name: {"kind": "parquet", "path": str(folder / name), "image_column": COLUMN}
            for name in (WARM_UP, PARTITION)
        }
        self._world = World(folder, sources, options.images_per_query, CHECKS)
        self._home = folder / "home"
        self._home.mkdir()
        shutil.copy(PROJECT / "dagster.yaml", self._home)

    def measure(self) -> Runs:
        """All runs: see the module."""
        rows, web = self._seeds, len(self._web)
        vectors = embedded([file for part in self._parts for file in part][:web])
        with serving(self._web[0].parent) as address:
            self._world.write_index(vectors, [f"{address}/{file.name}" for file in self._web])
            for number, part in enumerate(self._parts):
                write_part(self._source, number, part)
            full = self._run("full")
            # Or the hooks are not where all rows pass. Retrieved images are captioned, and embedded as images of the dataset; seeds,
            # too, and before that as queries.
            if seen(full, "rows") != 3 * rows + 2 * web:
                raise RuntimeError(f"{rows} seeds and {web} retrieved images, and the models saw {full}")
            unchanged, hashed = [], []
            for _ in range(self._options.samples):
                hashed.append(self._hashed())
                before = self._versions()
                run = self._run("unchanged")
                after = self._versions()
                unchanged.append({**run, "versions": [name for name in after if after[name] != before[name]]})
            one_percent = {place: self._refreshed(place, self._percent) for place in self._options.places}
            before_one = self._shards()
            one_row = self._refreshed("front", 1)
        after_one = self._shards()
        shards = {name: len(after_one[name] - before_one[name]) for name in after_one}
        return Runs(full, unchanged, hashed, one_percent, {**one_row, "shards": shards})

    @property
    def _seeds(self) -> int:
        return sum(map(len, self._parts))

    def _refreshed(self, place: str, count: int) -> Measured:
        """A refresh with so many new rows at a place of the source."""
        new = [next(self._new) for _ in range(count)]
        number = {"front": 0, "middle": len(self._parts) // 2, "end": len(self._parts) - 1}[place]
        part = self._parts[number]
        start = {"front": 0, "middle": len(part) // 2, "end": len(part)}[place]
        part[start:start] = new
        write_part(self._source, number, part)
        # Each new seed is to be embedded, captioned, and embedded as an image of the dataset; what it retrieves is there.
        return {**self._run(f"{count} at the {place}"), "new_rows": 3 * count}

    def _run(self, what: str) -> Measured:
        # What was written before is not to be written back meanwhile.
        os.sync()
        run = self._world.run("benchmarks.one_refresh", WARM_UP, PARTITION, DAGSTER_HOME=str(self._home))
        # All is there, and no run found images that were not there before.
        for asset, wanted in (
            ("seed_embeddings", self._seeds),
            ("downloaded_images", len(self._web)),
            ("text_image_pairs", self._seeds + len(self._web)),
        ):
            self._world.check(asset, wanted)
        print(f"{what:<20} {json.dumps(run)}", flush=True)
        return run

    def _hashed(self) -> Measured:
        run = self._world.run("benchmarks.hash_source", str(self._source), COLUMN)
        if run["rows"] != self._seeds:
            raise RuntimeError(f"{self._seeds} seeds, and hash_source found {run}")
        print(f"{'hashed':<20} {json.dumps(run)}", flush=True)
        return run

    def _versions(self) -> dict[str, int]:
        return {
            table.name: self._world.store.open(table.name, PARTITION).manifest.version for table in TABLES
        }

    def _shards(self) -> dict[str, set[str]]:
        """By table, the names of the current version's shards."""
        return {
            table.name: {
                shard.name for shard in self._world.store.open(table.name, PARTITION).manifest.shards
            }
            for table in TABLES
        }


def write_part(folder: Path, number: int, photographs: Sequence[Path]) -> None:
    """A Parquet file of the source, in place of the one that is there, if one is."""
    folder.mkdir(exist_ok=True)
    schema = pa.schema([pa.field(COLUMN, pa.binary())])
    with pq.ParquetWriter(folder / f"part-{number:05d}.parquet", schema, compression="none") as writer:
        for group in in_parts(photographs, ROW_GROUP_ROWS):
            writer.write_table(pa.table({COLUMN: [file.read_bytes() for file in group]}, schema))


def in_parts(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    """Lists of `size`; the last may be shorter."""
    return (files[start : start + size] for start in range(0, len(files), size))


def embedded(photographs: Iterable[Path]) -> npt.NDArray[np.float32]:
    """CLIP's vectors of photographs, [n, dim]: an index of these finds image i for photograph i."""
    encoder = ClipEncoder(ClipSettings(model=CLIP), device="cpu")
    pixels = (encoder.preprocess(decode_rgb(file.read_bytes())) for file in photographs)
    return encoder.encode_images(list(pixels))


if __name__ == "__main__":
    main()
