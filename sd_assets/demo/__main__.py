"""`python -m sd_assets.demo run|dev`: the embedded world from end to end, and the UI with it. See the Makefile."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sd_assets.demo.evaluate import evaluate
from sd_assets.demo.server import WorldServer
from sd_assets.demo.world import World, build_world
from sd_assets.errors import SdAssetsError
from sd_assets.models.clip import ClipEncoder
from sd_assets.resources.storage import DATA_VARIABLE, StorageResource, default_base
from sd_assets.settings import ClipSettings

PARTITION = "demo_rooms"
WORLD_VARIABLE = "SD_ASSETS_DEMO"
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
COUNTS = ("rows_in", "rows_ok", "rows_failed", "rows_duplicate", "rows_skipped", "rows_reused")


def main() -> int:
    """Parse the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sd_assets.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "build the demo data set and judge it"),
        ("dev", "the Dagster UI on localhost"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--seed", type=int, default=0, help="another seed is another world")
        if name == "dev":
            command.add_argument("--port", type=int, default=3000, help="of the UI on localhost")
    options = parser.parse_args()
    try:
        world = ready_world(options.seed)
        with WorldServer(world.folder):
            return run(world) if options.command == "run" else dev(options.port)
    except SdAssetsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def ready_world(seed: int) -> World:
    """The world of a seed, where the catalogue expects it: rendered, embedded and indexed unless it is there."""
    project = Path(__file__).parents[2]
    folder = Path(os.environ.setdefault(WORLD_VARIABLE, str(project / ".demo" / f"world-{seed}")))
    encoder = ClipEncoder(ClipSettings(model=f"local-dir:{Path(__file__).parent / 'models' / 'clip'}"))
    return build_world(folder, seed, encoder, progress=lambda line: print(line, flush=True))


def run(world: World) -> int:
    """Materialize `demo_rooms` through Dagster, judge it, print the table and the JSON line."""
    from sd_assets.automation.launch import build_partition

    if default_base().startswith("s3://"):
        raise SdAssetsError(
            f"the demo judges Parquet on a disk, and {DATA_VARIABLE} is {default_base()}: unset it"
        )
    started = time.monotonic()
    if not build_partition(PARTITION):
        print(
            f"error: the run failed; what it had finished is kept: run again. Its log: {_ui_hint()}",
            file=sys.stderr,
        )
        return 1
    reports = {asset: StorageResource().store().area(asset, PARTITION).last_run() for asset in ASSETS}
    folders = {asset: Path(default_base()) / asset / PARTITION for asset in ASSETS}
    _print_table(reports)
    print(f"\nThe data set: {folders['text_image_pairs']} (every asset's Parquet is beside it)")
    print(
        'Read it:      python -c "import pandas; print(pandas.read_parquet('
        f"'{folders['text_image_pairs']}')"
        ')"'
    )
    print(f"Look at it:   {_ui_hint()}")
    print("Your own:     add an entry to seed_datasets.yaml; README.md says how")
    print(f"Took {time.monotonic() - started:.0f} s\n")
    stages = {
        asset: {name: report[name] for name in (*COUNTS, "seconds")} for asset, report in reports.items()
    }
    summary = {"partition": PARTITION, "seed": world.seed, "stages": stages}
    print(json.dumps({**summary, **evaluate(world.folder, folders).as_dict()}))
    return 0


def dev(port: int) -> int:
    """Run `dg dev` until it ends or is interrupted; returns its exit status."""
    executable = Path(sys.executable).parent / "dg"
    process = subprocess.Popen(
        [str(executable), "dev", "--host", "127.0.0.1", "--port", str(port)], cwd=Path(__file__).parents[2]
    )
    # Both get the interrupt of the terminal: let it wind down its own children first.
    signal.signal(signal.SIGINT, lambda *_: process.send_signal(signal.SIGINT))
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
    return process.wait()


def _ui_hint() -> str:
    return "`make dev`, then http://localhost:3000"


def _print_table(reports: dict[str, dict[str, Any]]) -> None:
    head = f"{'asset':<22}{'in':>7}{'ok':>7}{'failed':>8}{'dup':>6}{'skipped':>9}{'reused':>8}{'seconds':>9}  failures"
    print(f"\n{head}\n{'-' * len(head)}")
    for asset, report in reports.items():
        widths = (7, 7, 8, 6, 9, 8)
        counts = "".join(f"{report[name]:>{width}}" for name, width in zip(COUNTS, widths, strict=True))
        failures = ", ".join(f"{code} {count}" for code, count in report["failures"].items())
        print(f"{asset:<22}{counts}{report['seconds']:>9.1f}  {failures}")


if __name__ == "__main__":
    sys.exit(main())
