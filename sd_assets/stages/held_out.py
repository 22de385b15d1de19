"""held_out_images: what near-duplicates of images that must not be trained on are found by."""

from typing import Any

import pyarrow as pa

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.errors import ErrorCode, RowError
from sd_assets.measures.quality import measured
from sd_assets.models.clip import ClipEncoder
from sd_assets.schemas import HELD_OUT_IMAGES, TableSchema
from sd_assets.stages.embed import ImageEmbedStage
from sd_assets.stages.image_quality import ImageQualityStage
from sd_assets.stages.seeds import SeedImagesStage
from sd_assets.stages.stage import or_error, rows_of


class HeldOutStage(ImageEmbedStage):
    """Images of a source, embedded and hashed as those of the dataset are; they themselves are not kept.

    The input is that of `SeedImagesStage`: `stages.seeds.source_batches`.

    Args:
        encoder: of the entry.
        blocked: what was taken down: `without_blocked` leaves it out, as of the seeds.
    """

    is_spread = False  # the source is read, and its images come, here
    version = ".".join(("2", ImageEmbedStage.version, ImageQualityStage.version))
    # The image_id is the hash of the bytes. What is kept out is named by where it is from, which must be true.
    reads = ("source", "source_row", "source_error")

    def __init__(self, encoder: ClipEncoder, blocked: Blocked = NOTHING) -> None:
        super().__init__(encoder)
        seeds = SeedImagesStage(blocked)
        self.judge, self.without_blocked, self._facts_of_blocked = (
            seeds.judge,
            seeds.without_blocked,
            seeds.facts,
        )

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **self._facts_of_blocked()}

    @property
    def schema(self) -> TableSchema:
        return HELD_OUT_IMAGES

    def prepare(self, rows: pa.RecordBatch) -> list[Any]:
        """For each row pixels and hash; or the error of both."""
        columns = (rows.column(name) for name in ("image", "source_error", "source_error_detail"))
        return [self._pixels_and_hash(*(it.as_py() for it in row)) for row in zip(*columns, strict=True)]

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        embedded = super().process(rows, [it if isinstance(it, RowError) else it[0] for it in prepared])
        told = rows.select(["source", "source_revision", "source_row"]).to_pylist()
        return rows_of(
            HELD_OUT_IMAGES,
            (
                {**row, **source, "perceptual_hash": it[1] if row["error"] is None else None}
                for row, source, it in zip(embedded.to_pylist(), told, prepared, strict=True)
            ),
        )

    def _pixels_and_hash(self, image: bytes | None, code: str | None, detail: str | None) -> Any:
        if code is not None:
            return RowError(ErrorCode(code), detail or "")
        if image is None:
            return RowError(ErrorCode.MISSING_IMAGE, "the row of the source has no image")
        return or_error(lambda data: (self._encoder.pixels(data), measured(data).perceptual_hash), image)
