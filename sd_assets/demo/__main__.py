"""`python -m sd_assets.demo run|dev`: the embedded world from end to end, and the UI with it. See the Makefile."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from sd_assets.demo.evaluate import evaluate
from sd_assets.demo.server import WorldServer
from sd_assets.demo.world import World, build_world
from sd_assets.errors import SdAssetsError
from sd_assets.models.clip import ClipEncoder
from sd_assets.resources.storage import DATA_VARIABLE, default_base
from sd_assets.settings import ClipSettings

PARTITION = "demo_rooms"
WORLD_VARIABLE = "SD_ASSETS_DEMO"


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
    os.environ.setdefault("DAGSTER_HOME", str(Path(__file__).parents[2]))
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
    from sd_assets.automation.launch import ASSET_NAMES, build_partition
    from sd_assets.automation.summary import COUNTS, last_reports, print_failed_checks, print_table

    if default_base().startswith("s3://"):
        raise SdAssetsError(
            f"the demo judges Parquet on a disk, and {DATA_VARIABLE} is {default_base()}: unset it"
        )
    started = time.monotonic()
    failed = build_partition(PARTITION)
    reports = last_reports(ASSET_NAMES, PARTITION)
    base = Path(default_base()).absolute()
    folders = {asset: base / asset / PARTITION for asset in ASSET_NAMES}
    pairs = folders["text_image_pairs"]
    print_table(reports)
    print_failed_checks(failed)
    print(f"\nThe data set: {pairs} (every asset's Parquet is beside it)")
    print(f"Read it:      {sys.executable} -c \"import pandas; print(pandas.read_parquet('{pairs}'))\"")
    print(
        f"Train on it:  {base / 'exports' / 'imagefolder' / PARTITION} (what is kept, as diffusers reads it)"
    )
    print(
        f"Look at it:   {base / 'reports' / PARTITION / 'index.html'}, or make dev, then http://localhost:3000"
    )
    print("Your own:     an entry in seed_datasets.yaml, then make build PARTITION=...; README.md says how")
    print(f"Took {time.monotonic() - started:.0f} s\n")
    stages = {
        asset: {name: report[name] for name in (*COUNTS, "seconds")} for asset, report in reports.items()
    }
    summary = {"partition": PARTITION, "seed": world.seed, "stages": stages}
    print(json.dumps({**summary, **evaluate(world.folder, folders).as_dict()}))
    return 0


def dev(port: int) -> int:
    """Run `dg dev` until it ends or is interrupted; returns its exit status.

    Raises:
        SdAssetsError: the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SdAssetsError(
                f"port {port} is taken ({error}): end what listens there, or make dev PORT=..."
            ) from error
    # Started in the background of a script we inherit an ignored interrupt; the children must not, or they never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    executable = Path(sys.executable).parent / "dg"
    process = subprocess.Popen(
        [str(executable), "dev", "--host", "127.0.0.1", "--port", str(port)], cwd=Path(__file__).parents[2]
    )
    # Both get the interrupt of the terminal: let it wind down its own children first.
    signal.signal(signal.SIGINT, lambda *_: process.send_signal(signal.SIGINT))
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
