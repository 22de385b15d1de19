"""seed_embeddings and image_embeddings: the CLIP embedding of every seed image and prompt, and of every image of the dataset."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.errors import ErrorCode, RowError
from sd_assets.models.clip import ClipEncoder
from sd_assets.schemas import IMAGE_EMBEDDINGS, SEED_EMBEDDINGS, TableSchema
from sd_assets.stages.stage import Stage, failure, or_error, rows_of
from sd_assets.storage.rows import Rows
from sd_assets.storage.table import Table

_QUERY_ROWS = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("error", pa.string()),
    ]
)


class _ClipStage(Stage):
    """What rows of a CLIP have in common."""

    is_spread = True
    uses_device = True

    def __init__(self, encoder: ClipEncoder) -> None:
        self._encoder = encoder
        self.batch_rows = encoder.batch_size

    def settings(self) -> dict[str, Any]:
        return self._encoder.fingerprint_settings

    def open(self) -> None:
        self._encoder.load()
        self.batch_rows, self.processors = self._encoder.batch_size, self._encoder.lanes
        self.on_cpu = self._encoder.on_cpu

    def facts(self) -> dict[str, Any]:
        return self._encoder.facts()

    def _encoded(
        self, prepared: Sequence[Any], kind: type, encode: Callable[..., npt.NDArray[np.float32]]
    ) -> dict[int, npt.NDArray[np.float32] | RowError]:
        """By place the vectors of all that is of a kind, or why there is none."""
        places = [place for place, item in enumerate(prepared) if isinstance(item, kind)]
        if not places:
            return {}
        failed: dict[int, RowError] = {}
        vectors = encode([prepared[place] for place in places], failed)
        return {place: failed.get(number, vectors[number]) for number, place in enumerate(places)}

    def _result(self, found: npt.NDArray[np.float32] | RowError) -> dict[str, Any]:
        """The columns of a row, of its vector or of why there is none."""
        if isinstance(found, RowError):
            return failure(found)
        if not np.isfinite(found).all():
            return failure(
                RowError(ErrorCode.NOT_FINITE, f"{self._encoder.identity} answered NaN, infinity or nothing")
            )
        return {"embedding": found, "model": self._encoder.identity}


class EmbedStage(_ClipStage):
    """Seed images and prompts in one space. A row is an image or a prompt."""

    version = "1"
    # Our ids are hashes of what they stand for; those of a user's own seeds need not be.
    reads = ("kind", "image", "prompt")

    @property
    def schema(self) -> TableSchema:
        return SEED_EMBEDDINGS

    def prepare(self, rows: pa.RecordBatch) -> list[npt.NDArray[Any] | str | RowError]:
        columns = (rows.column(name) for name in ("kind", "image", "prompt"))
        # `as_py` of one image at a time: of all at once they would be in memory twice.
        return [
            or_error(self._encoder.pixels, image.as_py()) if kind.as_py() == "image" else prompt.as_py()
            for kind, image, prompt in zip(*columns, strict=True)
        ]

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        found = {
            **self._encoded(prepared, np.ndarray, self._encoder.encode_images),
            **self._encoded(prepared, str, self._encoder.encode_texts),
        }
        return rows_of(
            SEED_EMBEDDINGS,
            (
                {**row, **self._result(found.get(place, prepared[place]))}
                for place, row in enumerate(rows.select(["query_id", "kind"]).to_pylist())
            ),
        )


class ImageEmbedStage(_ClipStage):
    """The images of the dataset, as they are kept."""

    version = "1"
    reads: ClassVar[tuple[str, ...]] = ("image",)  # image_id is of the bytes as they came

    @property
    def schema(self) -> TableSchema:
        return IMAGE_EMBEDDINGS

    def prepare(self, rows: pa.RecordBatch) -> list[npt.NDArray[Any] | RowError]:
        return [or_error(self._encoder.pixels, image.as_py() or b"") for image in rows.column("image")]

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        found = self._encoded(prepared, np.ndarray, self._encoder.encode_images)
        return rows_of(
            IMAGE_EMBEDDINGS,
            (
                {"image_id": identity, **self._result(found.get(place, prepared[place]))}
                for place, identity in enumerate(rows.column("image_id").to_pylist())
            ),
        )


def query_batches(seed_images: Table, seed_prompts: Table) -> Iterator[Rows]:
    """Seed images, then seed prompts, as the input of `EmbedStage`."""
    for rows in seed_images.rows(["image_id", "image", "error"]):
        identity, error = (rows.known.column(name) for name in ("image_id", "error"))
        yield replace(rows, known=_queries("image", identity, pa.nulls(len(identity), pa.string()), error))
    for batch in seed_prompts.batches(["prompt_id", "prompt", "error"]):
        identity, prompt, error = batch.columns
        yield Rows(_queries("text", identity, prompt, error), ("image",), [b""] * len(batch), _no_images)


def _queries(kind: str, identity: pa.Array, prompt: pa.Array, error: pa.Array) -> pa.RecordBatch:
    kinds = pa.array([kind] * len(identity), pa.string())
    return pa.RecordBatch.from_arrays([identity, kinds, prompt, error], schema=_QUERY_ROWS)


def _no_images(places: Sequence[int]) -> pa.Table:
    return pa.table({"image": pa.nulls(len(places), pa.binary())})
