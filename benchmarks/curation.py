"""`python -m benchmarks.curation`: does curation find what a training set should not hold, and only that?

Builds an embedded world (`sd_assets.demo`) of a seed drawn at random (`--seed`), which plants blurred, tiny and bordered images,
texts of other scenes, and crops of one picture at other sizes; runs the shipped entry `demo_rooms` on it, from seeds to
`curated_pairs` and what is made of them, with thresholds that were set on other worlds; and compares with the world's truth.
No faults are planted: they wait for time-outs, and have tests of their own.

Prints the progress and the checks that failed, and one JSON line last:

    filters         reason -> precision and recall of the images that have it, and how many were planted
    duplicates      likewise of the pairs of images that are in one cluster
    alignment_auc   the probability that a pair with a false text has a lower alignment than one that is well
    seed            of the world

Goal: 0.95 for each. The default run takes three minutes on two cores.
"""

import argparse
import json
import os
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.world import CLIP, PROJECT
from sd_assets.catalog import CATALOG_VARIABLE
from sd_assets.demo.__main__ import PARTITION, WORLD_VARIABLE
from sd_assets.demo.evaluate_curation import TABLES, evaluate_curation
from sd_assets.demo.server import WorldServer
from sd_assets.demo.truth import Truth
from sd_assets.demo.world import WorldSpec, build_world
from sd_assets.models.clip import ClipEncoder
from sd_assets.resources.storage import DATA_VARIABLE
from sd_assets.settings import ClipSettings

SEEDS, IMAGES, FLAWS = 120, 2_400, 40


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curation", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, help="of the world (default: drawn at random)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seed images (default: %(default)s)")
    parser.add_argument("--images", type=int, default=IMAGES, help="of the web (default: %(default)s)")
    parser.add_argument(
        "--flaws", type=int, default=FLAWS, help="planted of each kind (default: %(default)s)"
    )
    parser.add_argument("--folder", type=Path, help="where there is room for the world and the tables")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    spec = WorldSpec(options.seeds, options.images, faults_per_kind=0, flaws_per_kind=options.flaws)
    with tempfile.TemporaryDirectory(prefix="sd_assets-curation-", dir=options.folder) as folder:
        figures = measure(Path(folder), seed, spec)
    say(json.dumps({**figures, "seed": seed}))


def measure(folder: Path, seed: int, spec: WorldSpec) -> dict[str, Any]:
    """The figures, of a world in a folder that exists; see the module. What the environment says of the project is changed.

    Raises:
        SdAssetsError: the pipeline failed.
    """
    world, data, home = folder / "world", folder / "data", folder / "home"
    build_world(world, seed, ClipEncoder(ClipSettings(model=CLIP)), progress=say, spec=spec)
    home.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", home)
    os.environ.pop(CATALOG_VARIABLE, None)
    os.environ |= {"DAGSTER_HOME": str(home), DATA_VARIABLE: str(data), WORLD_VARIABLE: str(world)}
    # It reads the environment when it is imported.
    from sd_assets.automation.launch import build_partition

    with WorldServer(world):
        for line in build_partition(PARTITION):
            say(line)
    return evaluate_curation(Truth(world), {name: data / name / PARTITION for name in TABLES}).as_dict()


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
