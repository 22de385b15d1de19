"""What the last run of a partition did, asset by asset, for a person at a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from sd_assets.resources.storage import StorageResource

COUNTS = ("rows_in", "rows_ok", "rows_failed", "rows_duplicate", "rows_skipped", "rows_reused")
_WIDTHS = (7, 7, 8, 6, 9, 8)


def last_reports(assets: Sequence[str], partition: str) -> dict[str, dict[str, Any]]:
    """Asset -> what its last run reported; nothing, if it never ran."""
    store = StorageResource().store()
    return {asset: store.area(asset, partition).last_run() for asset in assets}


def print_table(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """A line an asset: its counts, seconds, and failures by code."""
    head = f"{'asset':<22}{'in':>7}{'ok':>7}{'failed':>8}{'dup':>6}{'skipped':>9}{'reused':>8}{'seconds':>9}  failures"
    print(f"\n{head}\n{'-' * len(head)}")
    for asset, report in reports.items():
        counts = "".join(f"{report[name]:>{width}}" for name, width in zip(COUNTS, _WIDTHS, strict=True))
        failures = ", ".join(f"{code} {count}" for code, count in report["failures"].items())
        print(f"{asset:<22}{counts}{report['seconds']:>9.1f}  {failures}")


def print_failed_checks(lines: Sequence[str]) -> None:
    """What `build_partition` says of the checks that failed without stopping the run; nothing if there are none."""
    if lines:
        print(f"\nchecks that failed: {len(lines)}")
    for line in lines:
        print(f"  {line}")


def print_index(name: str, said: Mapping[str, Any]) -> None:
    """A line for each thing that the materialization of an index says; large numbers in groups of three."""
    print(f"\nindex {name}")
    for label, value in said.items():
        if not label.startswith("dagster/"):
            shown = f"{value:,}" if isinstance(value, int) else value
            print(f"  {label}: {shown}")
