"""What can be said of any table: whether it has rows, and how many of them failed.

The storage counted both when it wrote the version, so that no file of it is read here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from sd_assets.errors import ErrorCode
from sd_assets.quality.finding import Check, Finding, Severity, percent
from sd_assets.settings import TOTAL
from sd_assets.storage.table import Table

HAS_ROWS = Check(
    "has_rows",
    Severity.ERROR,
    "There is a row that did not fail, unless the catalogue's entry asks for none.",
)
FAILURES = Check(
    "failures_within_limits",
    Severity.ERROR,
    "The share of rows that failed, altogether and by error code, against `checks.max_failed` of the catalogue. What was "
    "taken down (`blocked:`) counts neither as failed nor as a row.",
)


def failures_by_code(table: Table) -> Counter[str]:
    """How many rows failed, by error code."""
    return Counter(table.manifest.report["failures"])


def judge_presence(table: Table, *, wanted: bool = True) -> Iterator[Finding]:
    """`HAS_ROWS`.

    Args:
        table: to judge.
        wanted: whether the entry asks for any: one without `prompts:` rightly has no seed_prompts.
    """
    rows = table.num_rows
    usable = rows - failures_by_code(table).total()
    if usable or not wanted:
        said = f"{usable} usable rows" if wanted else "the catalogue's entry asks for none"
    elif rows:
        said = f"all {rows} rows failed: their error_detail in {table.uri} says why"
    else:
        said = (
            "there is no row at all: see what the tables before it counted as failed or skipped, and whether the "
            "entry of the catalogue names the right source, prompts and index"
        )
    yield HAS_ROWS.found(usable > 0 or not wanted, said, rows=rows, usable_rows=usable)


def judge_failures(table: Table, name: str, limits: Mapping[str, float]) -> Iterator[Finding]:
    """`FAILURES`.

    Args:
        table: to judge.
        name: of the table.
        limits: the share of rows that may have failed, by error code, `total` for all codes together.
    """
    codes = failures_by_code(table)
    rows = table.num_rows - codes.pop(ErrorCode.BLOCKED, 0)
    counted = {TOTAL: codes.total(), **codes}
    shares = {code: count / rows if rows else 0.0 for code, count in counted.items()}
    beyond = [code for code, limit in limits.items() if shares.get(code, 0.0) > limit]
    worst = ", ".join(f"{code} {count}" for code, count in codes.most_common(5)) or "none"
    worst += ", ..." if len(codes) > 5 else ""
    said = f"{counted[TOTAL]} of {rows} rows failed ({worst})"
    if beyond:
        broken = "; ".join(
            f"{code}: {percent(shares[code])}, and checks.max_failed.{name}.{code} is {percent(limits[code])}"
            for code in beyond
        )
        said += f"; {broken}. Their error_detail in {table.uri} says why; if they must fail, raise the limit"
    yield FAILURES.found(
        not beyond,
        said,
        rows=rows,
        rows_failed=counted[TOTAL],
        share_failed=shares[TOTAL],
        by_code=dict(codes.most_common()),
        limits=dict(limits),
    )
