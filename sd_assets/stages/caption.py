"""image_captions: what an image shows, in words: the seed's own text, or a captioner's."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from sd_assets.errors import ErrorCode, RowError
from sd_assets.images import decode_rgb
from sd_assets.models.caption_model import CaptionModel
from sd_assets.schemas import IMAGE_CAPTIONS, TableSchema
from sd_assets.stages.stage import Stage, failure, rows_of
from sd_assets.storage.rows import Rows
from sd_assets.storage.table import Table

# So far an image has one caption. Own texts and generated ones share the variant, so that of an image that is both a
# seed and retrieved one row remains.
VARIANT = "default"

_IMAGE_ROWS = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("text", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("error", pa.string()),
    ]
)


class CaptionStage(Stage):
    """Captions images that have no text; an image that came with one keeps it, and no model sees it.

    The captioner loads itself for the first image that needs it: where all have texts, never.
    """

    version = "1"
    # The image too: image_id is of the bytes as they came, and the model sees them resized.
    reads = ("image", "text", "origin")

    def __init__(self, captioner: CaptionModel) -> None:
        self._captioner = captioner
        self.batch_rows = captioner.batch_size

    @property
    def schema(self) -> TableSchema:
        return IMAGE_CAPTIONS

    def settings(self) -> dict[str, Any]:
        return self._captioner.fingerprint_settings

    def facts(self) -> dict[str, Any]:
        return self._captioner.facts()

    def prepare(self, rows: pa.RecordBatch) -> list[Any]:
        """For each row the model's inputs, or the text it has, or why it cannot be read."""
        pairs = zip(rows.column("text").to_pylist(), rows.column("image"), strict=True)
        # `as_py` of one image at a time: of all at once they would be in memory twice.
        return [text if text else self._inputs(image.as_py()) for text, image in pairs]

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        places = [place for place, item in enumerate(prepared) if not isinstance(item, str | RowError)]
        captions = self._captioner.caption([prepared[place] for place in places]) if places else []
        generated = dict(zip(places, captions, strict=True))
        return rows_of(
            IMAGE_CAPTIONS,
            (
                {**row, **self._result(prepared[place], generated.get(place))}
                for place, row in enumerate(rows.select(["image_id", "variant", "origin"]).to_pylist())
            ),
        )

    def _inputs(self, image: bytes) -> Any:
        try:
            return self._captioner.preprocess(decode_rgb(image))
        except RowError as error:
            return error

    def _result(self, prepared: Any, caption: str | None) -> dict[str, Any]:
        if isinstance(prepared, RowError):
            return failure(prepared)
        if caption is None:
            return {"caption": prepared}
        if not caption:
            return failure(RowError(ErrorCode.EMPTY_CAPTION, f"{self._captioner.identity} generated no text"))
        return {"caption": caption, "model": self._captioner.identity}


def image_batches(seed_images: Table, downloaded_images: Table) -> Iterator[Rows]:
    """Seed images, then downloaded ones, as the input of `CaptionStage`; of the same image the seed comes first."""
    for rows in seed_images.rows(["image_id", "image", "text", "error"]):
        text = [value and value.strip() for value in rows.known.column("text").to_pylist()]
        yield _images(rows, pa.array(text, pa.string()), "seed")
    for rows in downloaded_images.rows(["image_id", "image", "error"]):
        yield _images(rows, pa.nulls(len(rows.known), pa.string()), "retrieved")


def _images(rows: Rows, text: pa.Array, origin: str) -> Rows:
    identity, error = (rows.known.column(name) for name in ("image_id", "error"))
    variants, origins = (pa.array([value] * len(identity), pa.string()) for value in (VARIANT, origin))
    known = pa.RecordBatch.from_arrays([identity, variants, text, origins, error], schema=_IMAGE_ROWS)
    return replace(rows, known=known)
