"""`python -m benchmarks.memory`: does the memory that an asset takes depend on how many images there are?

Each asset of the pipeline is materialized on 2,000 and on 20,000 images (`--rows SMALL LARGE`), through Dagster, as it is
in the project, with the demo's CLIP and BLIP on the CPU. Seed and retrieved images are as many each; each is different, has
at least 100 KB, and is kept with at least 100 KB. Every asset and size has a process of its own (`benchmarks.one_asset`),
which first loads model and libraries by a partition of one image.

Seeds lie in a folder with `metadata.jsonl`, and have texts; the index, which has LARGE images for both sizes, finds 20 a
seed, and each image at least once; a server in another process answers the downloads; BLIP captions what was downloaded.
There are no prompts: they are no images.

Prints a line an asset and size, and one JSON line last, by asset, in MB of 10^6 bytes:

    rss_growth_mb           peak above the loaded model with LARGE images, less that with SMALL
    rss_ratio               peak of the whole process with LARGE images over that with SMALL
    rss_above_loaded_mb     peak above the loaded model with LARGE images
    detail                  by size: loaded_mb, peak_mb, seconds

Goals: growth at most 100 MB, ratio at most 1.15. A table of 20,000 images has more than 2 GB. The default run takes
twenty minutes on two cores, and 20 GB of the folder `--folder`, which it gives back.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.photographs import make_photographs
from benchmarks.web import serving
from benchmarks.world import PARTITION, WARM_UP, World

ASSETS = (
    "seed_images",
    "seed_prompts",
    "seed_embeddings",
    "retrieval_hits",
    "retrieved_image_urls",
    "downloaded_images",
    "image_captions",
    "text_image_pairs",
)
# Has to be there for what comes after it, but without prompts it is an empty table.
NOT_MEASURED = "seed_prompts"
HITS = 20

Detail = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rows", type=int, nargs=2, default=(2_000, 20_000), metavar=("SMALL", "LARGE"))
    parser.add_argument("--folder", type=Path, help="where there is room for the tables")
    parser.add_argument("--until", choices=ASSETS, default=ASSETS[-1], help="the last asset to measure")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sd_assets-memory-", dir=options.folder) as folder:
        assets = ASSETS[: ASSETS.index(options.until) + 1]
        detail = measure(Path(folder), sorted(options.rows), assets)
    print(json.dumps(summary(detail)), flush=True)


def measure(folder: Path, sizes: Sequence[int], assets: Sequence[str]) -> dict[str, dict[int, Detail]]:
    """By asset and number of images, what `benchmarks.one_asset` says."""
    photographs = make_photographs(folder / "photographs", max(sizes))
    detail: dict[str, dict[int, Detail]] = {asset: {} for asset in assets if asset != NOT_MEASURED}
    with serving(folder / "photographs") as address:
        for size in sizes:
            world_folder = folder / str(size)
            seeds = {WARM_UP: photographs[:1], PARTITION: photographs[:size]}
            sources = {name: seed_folder(world_folder / name, files) for name, files in seeds.items()}
            world = World(world_folder, sources, HITS)
            for asset in assets:
                if asset == "retrieval_hits":
                    write_index(world, max(sizes), address)
                measured = world.run("benchmarks.one_asset", asset, WARM_UP, PARTITION)
                if asset in detail:
                    world.check(asset, size)
                    detail[asset][size] = measured
                    print(f"{size:>6} {asset:<22} {json.dumps(measured)}", flush=True)
            shutil.rmtree(world_folder)
    return detail


def summary(detail: dict[str, dict[int, Detail]]) -> dict[str, Any]:
    """The figures: see the module."""
    growth, ratio, above = {}, {}, {}
    for asset, by_size in detail.items():
        small, large = (by_size[size] for size in sorted(by_size))
        above[asset] = round(large["peak_mb"] - large["loaded_mb"], 1)
        growth[asset] = round(above[asset] - (small["peak_mb"] - small["loaded_mb"]), 1)
        ratio[asset] = round(large["peak_mb"] / small["peak_mb"], 3)
    return {"rss_growth_mb": growth, "rss_ratio": ratio, "rss_above_loaded_mb": above, "detail": detail}


def seed_folder(folder: Path, files: Sequence[Path]) -> dict[str, str]:
    """A folder of seeds and their texts, as a `source:`. The files are hard links, not copies."""
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w") as metadata:
        for file in files:
            (folder / file.name).hardlink_to(file)
            metadata.write(json.dumps({"file_name": file.name, "text": f"noise {file.stem}"}) + "\n")
    return {"kind": "folder", "path": str(folder)}


def write_index(world: World, size: int, address: str) -> None:
    """An index of `size` images, at least as many as there are seeds.

    The vectors of the first are those of the seeds, so that each of them is found; the others are like nothing.
    """
    embeddings = world.store.open("seed_embeddings", PARTITION).read(["embedding"]).column("embedding")
    vectors = np.array(embeddings.to_pylist(), np.float32)
    others = np.random.default_rng(0).normal(size=(size - len(vectors), vectors.shape[1]))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    urls = [f"{address}/{number:06d}.jpg" for number in range(size)]
    world.write_index(np.concatenate([vectors, others.astype(np.float32)]), urls)


if __name__ == "__main__":
    main()
