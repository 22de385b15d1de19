"""seed_images and seed_prompts: what a partition starts from."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from sd_assets.errors import ErrorCode, RowError
from sd_assets.images import inspect
from sd_assets.schemas import SEED_IMAGES, SEED_PROMPTS, TableSchema, image_id, text_id
from sd_assets.sources.rows import SourceRow
from sd_assets.stages.stage import Stage, failure, rows_of
from sd_assets.storage.rows import Rows

_SOURCE_ROWS = pa.schema(
    [
        *(SEED_IMAGES.arrow.field(name) for name in ("image_id", "text", "source", "source_revision")),
        SEED_IMAGES.arrow.field("source_row"),
        # Not `error`: that would say that an earlier stage failed the row.
        pa.field("source_error", pa.string()),
        pa.field("source_error_detail", pa.string()),
    ]
)
# Few, so that a read-ahead of large photographs stays small.
_BATCH_ROWS = 16


class SeedImagesStage(Stage):
    """Checks what a source delivers: every row is an image that its header vouches for, or says why not."""

    version = "1"
    # The source is bookkeeping, but must be true: what is fetched is looked up by it.
    reads = ("text", "source", "source_error")
    batch_rows = _BATCH_ROWS

    @property
    def schema(self) -> TableSchema:
        return SEED_IMAGES

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        return rows_of(SEED_IMAGES, map(_checked, rows.to_pylist()))


def source_batches(rows: Iterable[SourceRow]) -> Iterator[Rows]:
    """The rows of a source as the input of `SeedImagesStage`; an image's bytes get their `image_id` here."""
    for batch in _batched(rows, _BATCH_ROWS):
        known = pa.RecordBatch.from_pylist(
            [
                {
                    "image_id": row.same_as if row.data is None else image_id(row.data),
                    "text": row.text,
                    "source": row.source,
                    "source_revision": row.revision,
                    "source_row": row.row,
                    "source_error": row.error and str(row.error.code),
                    "source_error_detail": row.error and row.error.detail,
                }
                for row in batch
            ],
            schema=_SOURCE_ROWS,
        )
        # The digest of the bytes is the image_id. Those of rows that are at hand are not copied.
        yield Rows(known, ("image",), fetch=partial(_images, batch))


def _images(batch: Sequence[SourceRow], places: Sequence[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([batch[place].data for place in places], pa.binary())], ["image"]
    )


def prompt_batches(prompts: Iterable[str]) -> Iterator[pa.RecordBatch]:
    """Prompts as rows of seed_prompts."""
    for batch in _batched(prompts, 4_096):
        yield rows_of(SEED_PROMPTS, ({"prompt_id": text_id(prompt), "prompt": prompt} for prompt in batch))


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    checked = {name: row[name] for name in ("image_id", "text", "source", "source_revision", "source_row")}
    try:
        if row["source_error"] is not None:
            raise RowError(ErrorCode(row["source_error"]), row["source_error_detail"] or "")
        if row["image"] is None:
            raise RowError(ErrorCode.MISSING_IMAGE, "the row of the source has no image")
        info = inspect(row["image"])
    except RowError as error:
        return {**checked, **failure(error)}
    return {
        **checked,
        "image": row["image"],
        "format": info.format,
        "width": info.width,
        "height": info.height,
    }


def _batched(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
