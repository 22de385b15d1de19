"""`python -m benchmarks.one_asset ASSET WARM_UP PARTITION`: the memory that one asset takes for one partition.

A process of its own for `benchmarks.memory`. It materializes the partition WARM_UP, of one image, by which it loads
what the asset needs (model, libraries, threads); then PARTITION. Prints one JSON line last:

    loaded_mb   resident memory in between: "the loaded model"
    peak_mb     the most that was resident while PARTITION was materialized

What is resident is what the kernel says (`VmRSS`, `VmHWM`), mapped files included; MB are 10^6 bytes. Linux only.
"""

import gc
import json
import re
import sys
import time
from pathlib import Path

import dagster as dg

from sd_assets.assets.catalog_entry import catalog_entry
from sd_assets.definitions import ASSETS, defs


def main() -> None:
    """See the module."""
    asset, warm_up, partition = sys.argv[1:]
    materialize(asset, warm_up)
    gc.collect()
    forget_peak()
    loaded = resident("VmRSS")
    started = time.monotonic()
    materialize(asset, partition)
    seconds = time.monotonic() - started
    print(
        json.dumps({"loaded_mb": loaded, "peak_mb": resident("VmHWM"), "seconds": round(seconds, 1)}),
        flush=True,
    )


def materialize(asset: str, partition: str) -> None:
    """One asset, through Dagster, with the pipeline's own resources."""
    dg.materialize(
        [catalog_entry, *ASSETS],
        selection=[asset],
        partition_key=partition,
        resources=defs.resources,
        run_config={"loggers": {"console": {"config": {"log_level": "WARNING"}}}},
    )


def resident(field: str) -> float:
    """`VmRSS`, resident now, or `VmHWM`, its peak: MB.

    `getrusage` would not do: its peak includes that of the process that started this one.
    """
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return round(int(match[1]) * 1024 / 1e6, 1)


def forget_peak() -> None:
    """Let `VmHWM` begin anew: loading may have taken more than what is loaded."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
