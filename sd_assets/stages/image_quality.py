"""image_quality: what is measured in the pixels of every image of the dataset."""

from typing import Any

import pyarrow as pa

from sd_assets.errors import RowError
from sd_assets.measures.quality import Quality, measured
from sd_assets.schemas import IMAGE_QUALITY, TableSchema
from sd_assets.stages.stage import Stage, failure, or_error, rows_of

_ORIGINAL = ("original_width", "original_height")


class ImageQualityStage(Stage):
    """Images measured as they are kept, one pass over the pixels of each, in threads; of what came, the size."""

    version = "2"
    is_spread = True
    reads = ("image", *_ORIGINAL)

    @property
    def schema(self) -> TableSchema:
        return IMAGE_QUALITY

    def prepare(self, rows: pa.RecordBatch) -> list[Quality | RowError]:
        return [or_error(measured, image.as_py() or b"") for image in rows.column("image")]

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        listed = rows.select(["image_id", *_ORIGINAL]).to_pylist()
        return rows_of(
            IMAGE_QUALITY,
            (
                {"image_id": identity, **_columns(came, found)}
                for (identity, *came), found in zip(map(dict.values, listed), prepared, strict=True)
            ),
        )


def _columns(original: list[int | None], found: Quality | RowError) -> dict[str, Any]:
    """
    Args:
        original: width and height of what came; null where nobody knows.
        found: what was measured, or why not.
    """
    if isinstance(found, RowError):
        return failure(found)
    kept = (found.width, found.height)
    came = [side or known for side, known in zip(original, kept, strict=True)]
    return {
        # An image that was enlarged has no more than it came with, and of one that was shrunk the rest is gone.
        "resolution": min(*came, *kept),
        "aspect_ratio": max(came) / min(came),
        "sharpness": found.sharpness,
        "blockiness": found.blockiness,
        "flat_border": found.flat_border,
        "perceptual_hash": found.perceptual_hash,
    }
