"""`python -m sd_assets PARTITION`: materialize every asset of a seed dataset from a terminal. See `make build`."""

import argparse
import os
import sys
from pathlib import Path

from sd_assets.errors import SdAssetsError


def main() -> int:
    """Parse the command line, run, and print what happened; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sd_assets", description=__doc__)
    parser.add_argument("partition", help="an entry of the catalogue")
    partition = parser.parse_args().partition
    # Without it Dagster keeps nothing, and the run would not show in the UI.
    os.environ.setdefault("DAGSTER_HOME", str(Path(__file__).parents[1]))
    try:
        from sd_assets.automation.launch import ASSET_NAMES, build_partition
        from sd_assets.automation.summary import last_reports, print_failed_checks, print_table

        failed = build_partition(partition)
        print_table(last_reports(ASSET_NAMES, partition))
        print_failed_checks(failed)
    except SdAssetsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
