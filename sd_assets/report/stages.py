"""How many rows each stage left, and what the others were lost by; what follows from there is in `curation.funnel`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sd_assets.storage.table import Table


def stage_counts(tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """Of each table its good rows, and those that failed by error code; no row is read.

    Args:
        tables: by name, in the order in which they are made.
    """
    stages = []
    for name, table in tables.items():
        codes, counts = np.unique(table.errors, return_counts=True)
        found = {code.decode(): int(count) for code, count in zip(codes, counts, strict=True)}
        ok = found.pop("", 0)
        failed = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
        stages.append({"name": name, "ok": ok, "failed": failed})
    return stages
