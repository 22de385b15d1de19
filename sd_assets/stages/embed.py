"""seed_embeddings: the CLIP embedding of every seed image and prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.errors import ErrorCode, RowError
from sd_assets.models.clip import ClipEncoder
from sd_assets.schemas import SEED_EMBEDDINGS, TableSchema
from sd_assets.stages.stage import Stage, failure, rows_of
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


class EmbedStage(Stage):
    """Seed images and prompts in one space. A row is an image or a prompt."""

    version = "1"
    # Our ids are hashes of what they stand for; those of a user's own seeds need not be.
    reads = ("kind", "image", "prompt")

    def __init__(self, encoder: ClipEncoder) -> None:
        self._encoder = encoder
        self.batch_rows = encoder.batch_size

    @property
    def schema(self) -> TableSchema:
        return SEED_EMBEDDINGS

    def settings(self) -> dict[str, Any]:
        return self._encoder.fingerprint_settings

    def open(self) -> None:
        self._encoder.load()
        self.batch_rows, self.processors = self._encoder.batch_size, self._encoder.lanes
        self.on_cpu = self._encoder.on_cpu

    def facts(self) -> dict[str, Any]:
        return self._encoder.facts()

    def prepare(self, rows: pa.RecordBatch) -> list[npt.NDArray[Any] | str | RowError]:
        columns = (rows.column(name) for name in ("kind", "image", "prompt"))
        # `as_py` of one image at a time: of all at once they would be in memory twice.
        return [
            self._pixels(image.as_py()) if kind.as_py() == "image" else prompt.as_py()
            for kind, image, prompt in zip(*columns, strict=True)
        ]

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        found: dict[int, npt.NDArray[np.float32] | RowError] = {}
        for kind, encode in ((np.ndarray, self._encoder.encode_images), (str, self._encoder.encode_texts)):
            places = [place for place, item in enumerate(prepared) if isinstance(item, kind)]
            if places:
                failed: dict[int, RowError] = {}
                vectors = encode([prepared[place] for place in places], failed)
                found.update(zip(places, vectors, strict=True))
                found.update({places[number]: error for number, error in failed.items()})
        return rows_of(
            SEED_EMBEDDINGS,
            (
                {**row, **self._result(prepared[place], found.get(place))}
                for place, row in enumerate(rows.select(["query_id", "kind"]).to_pylist())
            ),
        )

    def _pixels(self, image: bytes) -> npt.NDArray[Any] | RowError:
        try:
            return self._encoder.pixels(image)
        except RowError as error:
            return error

    def _result(self, prepared: Any, embedding: npt.NDArray[np.float32] | RowError | None) -> dict[str, Any]:
        if embedding is None:
            return failure(prepared)
        if isinstance(embedding, RowError):
            return failure(embedding)
        if not np.isfinite(embedding).all():
            return failure(
                RowError(ErrorCode.NOT_FINITE, f"{self._encoder.identity} answered NaN, infinity or nothing")
            )
        return {"embedding": embedding, "model": self._encoder.identity}


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


def _no_images(places: Sequence[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(len(places), pa.binary())], ["image"])
