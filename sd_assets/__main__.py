"""`python -m sd_assets`: what one does from a terminal. `build` makes a seed dataset, `index` a kNN index, `tables` lists what there is, `verify` reads
it again, `trace` says where an image comes from; `--help` after each says more.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sd_assets.errors import SdAssetsError

if TYPE_CHECKING:
    from sd_assets.storage.housekeeping import Partition
    from sd_assets.storage.verify import Verified


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, and print what happened; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sd_assets", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    of_build = commands.add_parser("build", help="materialize every asset of a seed dataset (`make build`)")
    of_build.add_argument("partition", help="an entry of the catalogue")
    of_build.set_defaults(run=build)
    of_index = commands.add_parser(
        "index", help="build a kNN index of the catalogue, or check one (`make index`)"
    )
    of_index.add_argument("name", help="an index of `kind: faiss` of the catalogue")
    of_index.set_defaults(run=index)
    of_tables = commands.add_parser("tables", help="list partitions, their versions, and the room they take")
    of_tables.add_argument("--json", action="store_true", help="as JSON, for programs")
    of_tables.set_defaults(run=tables)
    of_verify = commands.add_parser("verify", help="read every version that is kept, and compare checksums")
    of_verify.set_defaults(run=verify)
    of_trace = commands.add_parser("trace", help="say where an image comes from, and what became of it")
    of_trace.add_argument("partition", help="an entry of the catalogue")
    of_trace.add_argument("image_id", help="as text_image_pairs, exports and reports have it")
    of_trace.add_argument("--json", action="store_true", help="as JSON, for programs")
    of_trace.set_defaults(run=trace)
    for command in (of_tables, of_verify):
        command.add_argument("asset", nargs="?", help="only this table")
        command.add_argument("--partition", help="only this partition")
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except SdAssetsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


def build(options: argparse.Namespace) -> int:
    """Materialize a partition. Raises SdAssetsError."""
    _keep_runs()
    from sd_assets.automation.launch import ASSET_NAMES, build_partition
    from sd_assets.automation.summary import last_reports, print_failed_checks, print_table

    failed = build_partition(options.partition)
    print_table(last_reports(ASSET_NAMES, options.partition))
    print_failed_checks(failed)
    return 0


def index(options: argparse.Namespace) -> int:
    """Build or check an index. Raises SdAssetsError."""
    _keep_runs()
    from sd_assets.automation.launch import build_index
    from sd_assets.automation.summary import print_index

    print_index(options.name, build_index(options.name))
    return 0


def _keep_runs() -> None:
    # Without it Dagster keeps nothing, and the run would not show in the UI.
    os.environ.setdefault("DAGSTER_HOME", str(Path(__file__).parents[1]))


def tables(options: argparse.Namespace) -> int:
    """List what there is. Raises SdAssetsError."""
    from sd_assets.resources.storage import StorageResource
    from sd_assets.storage.housekeeping import find_areas, inventory

    areas = find_areas(StorageResource().store(), options.asset, options.partition)
    found = [inventory(area) for area in areas]
    if options.json:
        print(json.dumps([asdict(partition) for partition in found], indent=1))
    for partition in () if options.json else found:
        _print_partition(partition)
    return 0


def verify(options: argparse.Namespace) -> int:
    """Read everything again; the status is 1 if something is wrong. Raises SdAssetsError."""
    from sd_assets.resources.storage import StorageResource
    from sd_assets.storage.housekeeping import TEMPORARY, find_areas
    from sd_assets.storage.verify import half_written
    from sd_assets.storage.verify import verify as verified

    store = StorageResource().store()
    faults = 0
    for area in find_areas(store, options.asset, options.partition):
        found = verified(area)
        faults += len(found.faults)
        _print_verified(f"{area.asset} {area.partition}", found)
    if note := half_written(store.files, TEMPORARY):
        print(f"note: {note}")
    print(f"{faults} faults under {store.files.uri}" if faults else f"all is well under {store.files.uri}")
    return 1 if faults else 0


def trace(options: argparse.Namespace) -> int:
    """Say where an image comes from. Raises SdAssetsError."""
    from sd_assets.provenance import told
    from sd_assets.provenance import trace as traced
    from sd_assets.resources.storage import StorageResource

    found = traced(StorageResource().store(), options.partition, options.image_id)
    print(json.dumps(found.as_json(), indent=1) if options.json else "\n".join(told(found)))
    return 0


def _print_partition(partition: "Partition") -> None:
    print(f"{partition.asset} {partition.partition}: {_size(partition.bytes)} on disk, {partition.uri}")
    for place, version in enumerate(partition.versions):
        print(
            f"  {version.number:>6} {'' if place else 'current':<7}  {version.created_at[:19]}  {version.data_version}"
            f"  {version.rows} rows, {version.rows_failed} failed, {version.shards} shards, {_size(version.bytes)}"
        )
    if partition.unreadable:
        numbers = ", ".join(map(str, partition.unreadable))
        print(f"  {'':>6} cannot be read: version {numbers}; `python -m sd_assets verify` says why")
    if partition.wip_rows:
        print(f"  {'':>6} work in progress: {partition.wip_rows} rows, {_size(partition.wip_bytes)}")


def _print_verified(name: str, found: "Verified") -> None:
    versions = ", ".join(map(str, found.versions)) or "none"
    print(
        f"{name}: versions {versions}; {found.shards} shards, {found.rows} rows, {_size(found.bytes)} read; "
        f"{len(found.faults) or 'no'} faults"
    )
    for fault in found.faults:
        print(f"  wrong: {fault}")
    for note in found.notes:
        print(f"  note: {note}")


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
