"""seed_embeddings and image_embeddings: whether the vectors are numbers, of one dimension, and of length 1."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.quality.finding import Check, Finding, Severity, percent
from sd_assets.settings import CheckSettings
from sd_assets.storage.table import Table

FINITE = Check(
    "all_finite",
    Severity.ERROR,
    "Every embedding is there, has no NaN or infinity, and has as many dimensions as the others.",
)
UNIT_LENGTH = Check(
    "unit_length",
    Severity.ERROR,
    "Every embedding has the length 1, give or take `checks.norm_tolerance` of the catalogue.",
)


@dataclass
class _Counts:
    rows: int = 0
    missing: int = 0
    not_finite: int = 0
    off: int = 0
    dimensions: Counter[int] = field(default_factory=Counter)
    norms: int = 0
    norm_sum: float = 0.0
    norm_min: float = float("inf")
    norm_max: float = float("-inf")


def judge_embeddings(table: Table, settings: CheckSettings) -> Iterator[Finding]:
    """`FINITE` and `UNIT_LENGTH` of the rows that did not fail."""
    counts = _Counts()
    for batch in table.batches(["embedding", "error"]):
        _count(counts, batch.column("embedding").filter(batch.column("error").is_null()), settings)
    bad = counts.missing + counts.not_finite
    said = f"{counts.rows} embeddings, all of {_listed(counts.dimensions)} dimensions and finite"
    if bad or len(counts.dimensions) > 1:
        said = (
            f"of {counts.rows} embeddings {counts.not_finite} hold NaN or infinity, {counts.missing} are missing; "
            f"dimensions: {_listed(counts.dimensions)}. The CLIP is broken, or half precision is too little for it: "
            "try precision float32 of the resource `clip`, then other weights"
        )
    yield FINITE.found(
        bad == 0 and len(counts.dimensions) <= 1,
        said,
        rows=counts.rows,
        missing=counts.missing,
        not_finite=counts.not_finite,
        dimensions={str(dimension): count for dimension, count in counts.dimensions.most_common(10)},
    )
    said = f"lengths of {counts.norms} embeddings are 1 within {settings.norm_tolerance:g}"
    if counts.off:
        said = (
            f"{counts.off} of {counts.norms} embeddings ({percent(counts.off / counts.norms)}) have lengths other than "
            f"1 ± {settings.norm_tolerance:g} (checks.norm_tolerance), from {counts.norm_min:.6g} to "
            f"{counts.norm_max:.6g}: similarities would be wrong; let what makes them divide by their length"
        )
    yield UNIT_LENGTH.found(
        counts.off == 0,
        said,
        rows=counts.norms,
        off=counts.off,
        norm_min=counts.norm_min if counts.norms else None,
        norm_mean=counts.norm_sum / counts.norms if counts.norms else None,
        norm_max=counts.norm_max if counts.norms else None,
        tolerance=settings.norm_tolerance,
    )


def _count(counts: _Counts, vectors: pa.Array, settings: CheckSettings) -> None:
    counts.rows += len(vectors)
    counts.missing += vectors.null_count
    present = vectors.drop_null()
    counts.dimensions.update(pc.list_value_length(present).to_pylist())
    squares, finite = _squares(present)
    counts.not_finite += int((~finite).sum())
    norms = np.sqrt(squares[finite])
    if len(norms):
        counts.norms += len(norms)
        counts.norm_sum += float(norms.sum())
        counts.norm_min = min(counts.norm_min, float(norms.min()))
        counts.norm_max = max(counts.norm_max, float(norms.max()))
        counts.off += int((np.abs(norms - 1) > settings.norm_tolerance).sum())


def _squares(vectors: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The squared length of each of n vectors, and whether it is finite; they may differ in dimension."""
    owner = pc.list_parent_indices(vectors).to_numpy()
    # A null among the numbers becomes NaN. In double precision no square of a float32 overflows.
    values = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    squares: npt.NDArray[np.float64] = np.bincount(owner, values**2, minlength=len(vectors)).astype(
        np.float64
    )
    return squares, np.isfinite(squares)


def _listed(dimensions: Counter[int]) -> str:
    return ", ".join(str(dimension) for dimension, _ in dimensions.most_common(5)) or "no"
