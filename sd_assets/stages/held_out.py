"""held_out_images: what near-duplicates of images that must not be trained on are found by."""

from typing import Any

import pyarrow as pa

from sd_assets.errors import ErrorCode, RowError
from sd_assets.measures.quality import measured
from sd_assets.schemas import HELD_OUT_IMAGES, TableSchema
from sd_assets.stages.embed import ImageEmbedStage
from sd_assets.stages.image_quality import ImageQualityStage
from sd_assets.stages.stage import rows_of


class HeldOutStage(ImageEmbedStage):
    """Images of a source, embedded and hashed as those of the dataset are; they themselves are not kept.

    The input is that of `SeedImagesStage`: `stages.seeds.source_batches`.
    """

    version = "1"
    reads = ("source_error",)  # the image_id is the hash of the bytes

    @property
    def schema(self) -> TableSchema:
        return HELD_OUT_IMAGES

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "image_quality": ImageQualityStage.version}

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
        pixels = self._pixels(image)
        if isinstance(pixels, RowError):
            return pixels
        try:
            return pixels, measured(image).perceptual_hash
        except RowError as error:
            return error
