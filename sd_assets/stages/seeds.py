"""seed_images and seed_prompts: what a partition starts from."""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from sd_assets.ahead import map_ahead
from sd_assets.batches import with_column
from sd_assets.blocked import BLANKED, NOTHING, Blocked
from sd_assets.errors import ErrorCode, RowError
from sd_assets.images import inspect
from sd_assets.schemas import SEED_IMAGES, SEED_PROMPTS, TableSchema, image_id, text_id
from sd_assets.sources.rows import SourceRow
from sd_assets.stages.stage import Stage, failure, rows_of
from sd_assets.storage.rows import Rows
from sd_assets.storage.staging import Judge

_SOURCE_ROWS = pa.schema(
    [
        *(SEED_IMAGES.arrow.field(name) for name in ("image_id", "text", "source", "source_revision")),
        SEED_IMAGES.arrow.field("source_row"),
        # Not `error`: that says that the row is to be skipped.
        pa.field("source_error", pa.string()),
        pa.field("source_error_detail", pa.string()),
        pa.field("error", pa.string()),
    ]
)
# Few, so that a read-ahead of large photographs stays small.
_BATCH_ROWS = 64
_BATCH_BYTES = 4 * 1024 * 1024
_BATCH_SECONDS = 0.5
# Threads that hash: there is to be something to hash while the next piece of a file is read.
_HASHERS = 3


class SeedImagesStage(Stage):
    """Checks what a source delivers: every row is an image that its header vouches for, or says why not.

    Args:
        blocked: what was taken down: `without_blocked` leaves it out.
    """

    version = "1"
    # The source is bookkeeping, but must be true: what is fetched is looked up by it.
    reads = ("text", "source", "source_error")
    batch_rows = 16

    def __init__(self, blocked: Blocked = NOTHING) -> None:
        self._blocked = blocked
        self._rows_blocked: int | None = None
        if blocked:
            self.judge = Judge(
                ("image_id", "source", "error_detail"), lambda rows: (~blocked.rows(rows)).tolist()
            )

    @property
    def schema(self) -> TableSchema:
        return SEED_IMAGES

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        return rows_of(SEED_IMAGES, map(_checked, rows.to_pylist()))

    def facts(self) -> dict[str, Any]:
        return {} if self._rows_blocked is None else {"rows_blocked": self._rows_blocked}

    def without_blocked(self, source_rows: Iterable[Rows]) -> Iterator[Rows]:
        """The input, in which rows that are blocked are to be skipped: `rows_blocked` of the `rows_skipped`."""
        self._rows_blocked = 0
        for rows in source_rows:
            yield replace(rows, known=self._marked(rows.known)) if self._blocked else rows

    def _marked(self, known: pa.RecordBatch) -> pa.RecordBatch:
        held = self._blocked.rows(known.select(["image_id", "source"])).tolist()
        # A source may have found more: where a redirect leads.
        codes = known.column("source_error").to_pylist()
        errors = [
            str(ErrorCode.BLOCKED) if it or code == ErrorCode.BLOCKED else None
            for it, code in zip(held, codes, strict=True)
        ]
        assert self._rows_blocked is not None
        self._rows_blocked += len(errors) - errors.count(None)
        details = known.column("source_error_detail").to_pylist()
        columns = {
            "error": errors,
            "source_error_detail": [BLANKED if self._blocked.text(detail) else detail for detail in details],
        }
        for name, values in columns.items():
            known = with_column(known, name, pa.array(values, pa.string()))
        return known


def source_batches(rows: Iterable[SourceRow]) -> Iterator[Rows]:
    """The rows of a source as the input of `SeedImagesStage`; an image's bytes get their `image_id` here."""
    # Hashed in threads, while the next rows are read: of what has not changed that is all the work.
    for batch, identities in map_ahead(_identified, _batched_by_size(rows), _HASHERS):
        known = pa.RecordBatch.from_pylist(
            [
                {
                    "image_id": identity,
                    "text": row.text,
                    "source": row.source,
                    "source_revision": row.revision,
                    "source_row": row.row,
                    "source_error": row.error and str(row.error.code),
                    "source_error_detail": row.error and row.error.detail,
                }
                for row, identity in zip(batch, identities, strict=True)
            ],
            schema=_SOURCE_ROWS,
        )
        # The digest of the bytes is the image_id. Those of rows that are at hand are not copied.
        yield Rows(known, ("image",), fetch=partial(_images, batch))


def _batched_by_size(rows: Iterable[SourceRow]) -> Iterator[list[SourceRow]]:
    batch: list[SourceRow] = []
    size, began = 0, time.monotonic()
    for row in rows:
        batch.append(row)
        size += len(row.data or b"")
        # What was downloaded is to be kept soon, in case that this process ends.
        late = time.monotonic() - began > _BATCH_SECONDS
        if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES or late:
            yield batch
            batch, size, began = [], 0, time.monotonic()
    if batch:
        yield batch


def _identified(batch: list[SourceRow]) -> tuple[list[SourceRow], list[str | None]]:
    return batch, [row.same_as if row.data is None else image_id(row.data) for row in batch]


def _images(batch: Sequence[SourceRow], places: Sequence[int]) -> pa.Table:
    return pa.table({"image": pa.array([batch[place].data for place in places], pa.binary())})


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
