"""Parquet files that hold images, or the paths of image files: streamed a few rows at a time."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.errors import ErrorCode, RowError, SourceError
from sd_assets.images import inspect
from sd_assets.schemas import is_binary
from sd_assets.settings import ParquetSource
from sd_assets.sources.files import list_files, shown
from sd_assets.sources.rows import (
    SourceRow,
    image_bytes,
    is_image,
    pick_image_column,
    pick_text_column,
    read_file,
    text_of,
)
from sd_assets.views.text import one_line

logger = logging.getLogger(__name__)

# Of the images of a batch, about; a row group of any size is read in such batches.
_BATCH_BYTES = 4 * 1024 * 1024
_MAX_BATCH_ROWS = 256
# Column chunks are read in pieces of this size, never whole. What has to be in memory is a page, as the file's writer
# cut it.
_READ_BYTES = 1024 * 1024
# A ValueError, too: names of columns and texts that are not UTF-8.
_BROKEN = (pa.ArrowException, OSError, ValueError)


def read_parquet(source: ParquetSource) -> Iterator[SourceRow]:
    """The rows of all files, in the order of their names; every file must have the columns.

    Raises:
        SourceError: no file, a file that is damaged or no Parquet, no such column, no or several image columns.
        CatalogError: the path holds an environment variable that is not set.
    """
    base, files = list_files(source.path, (".parquet",))
    with ParquetRows(files[0]) as first:
        features = _features(first.schema)
        columns = first.schema.names
        texts = {field.name for field in first.schema if _is_text(field.type)}
    image = _image_column(source, files, columns, features)
    if image is None:
        logger.warning("source.path %s holds no rows", source.path)
        return
    others = [name for name in columns if name != image]
    text = pick_text_column(others, filter(texts.__contains__, others), source.text_column, str(files[0]))
    wanted = [image] if text is None else [image, text]
    number = 0
    for file in files:
        label = shown(file.relative_to(base))
        with ParquetRows(file) as rows:
            for row in rows.read(wanted, image):
                value = None if text is None else text_of(row[text], features.get(text))
                try:
                    yield SourceRow(_image(row[image], file), value, label, None, number)
                except RowError as error:
                    yield SourceRow(None, value, label, None, number, error)
                except SourceError as error:
                    raise SourceError(f"{file}, column {image!r}: {error}") from error
                number += 1


class ParquetRows:
    """One Parquet file, as rows.

    Raises (from everywhere):
        SourceError: the file cannot be read, is no Parquet or is damaged, or lacks a column.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False)
            self.schema = self._file.schema_arrow
        except _BROKEN as error:
            what = "is empty" if path.is_file() and not path.stat().st_size else one_line(error)
            raise SourceError(f"{path} cannot be read as Parquet: {what}") from error

    def __enter__(self) -> "ParquetRows":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def num_rows(self) -> int:
        return int(self._file.metadata.num_rows)

    def read(self, columns: list[str], image: str | None = None) -> Iterator[dict[str, Any]]:
        """Some columns of all rows, one row at a time; bytes of the column `image` are not copied from where they lie."""
        missing = [name for name in columns if name not in self.schema.names]
        if missing:
            raise SourceError(
                f"{self._path} has no column {missing[0]!r}, unlike the first file; there are: "
                f"{', '.join(self.schema.names)}"
            )
        for name in columns:
            if self.schema.names.count(name) > 1:
                raise SourceError(f"{self._path} has several columns {name!r}: give each a name of its own")
        count = 0
        try:
            for group in range(self._file.metadata.num_row_groups):
                for batch in self._file.iter_batches(
                    self._batch_rows(group), row_groups=[group], columns=columns, use_threads=False
                ):
                    # One row at a time, so that no image is in memory twice for longer than it takes to hand it on.
                    for row in range(len(batch)):
                        yield {name: _cell(batch.column(name)[row], name == image) for name in columns}
                        count += 1
        except _BROKEN as error:
            raise SourceError(
                f"{self._path} is damaged or cut short after row {count}: {one_line(error)}. Replace it and run again"
            ) from error

    def _batch_rows(self, group: int) -> int:
        metadata = self._file.metadata.row_group(group)
        mean = metadata.total_byte_size // max(1, metadata.num_rows) + 1
        return int(max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // mean)))


# --- columns ---------------------------------------------------------------------------------------------------------


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What `datasets` noted of the columns when it wrote the file: images, names of classes. Empty if it did not."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    import datasets

    try:
        return dict(datasets.Features.from_arrow_schema(schema))
    except Exception as error:  # of a `datasets` that knows more types than ours
        logger.warning("what `datasets` noted in a Parquet file cannot be read: %s", one_line(error))
        return {}


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_list(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def _image_column(
    source: ParquetSource, files: list[Path], columns: list[str], features: dict[str, Any]
) -> str | None:
    """The column that holds images: asked for, noted by `datasets`, or found by what it holds; None without rows."""
    where = str(files[0])
    noted = [name for name in columns if is_image(features.get(name))]
    if source.image_column is not None or noted:
        return pick_image_column({name: features.get(name) for name in columns}, source.image_column, where)
    found = _found_image_columns(files)
    if len(found) == 1:
        return found[0]
    if found:
        raise SourceError(
            f"{where} has several image columns: {', '.join(found)}; name one in `image_column:`"
        )
    if not any(_row_counts(files)):
        return None
    raise SourceError(
        f"{where} has no image column; its columns: {', '.join(columns) or 'none'}. If one of them holds images or the "
        "paths of image files, name it in `image_column:`"
    )


def _found_image_columns(files: list[Path]) -> list[str]:
    """Columns of `{bytes, path}`, and columns of bytes whose first value is an image."""
    with ParquetRows(files[0]) as first:
        schema = first.schema
    structs = [field.name for field in schema if _is_bytes_and_path(field.type)]
    binaries = [field.name for field in schema if is_binary(field.type)]
    images = [name for name in binaries if _first_is_image(files, name)]
    return [name for name in schema.names if name in (*structs, *images)]


def _is_bytes_and_path(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    return "bytes" in fields and is_binary(fields["bytes"]) and fields.keys() <= {"bytes", "path"}


def _first_is_image(files: list[Path], column: str) -> bool:
    for file in files:
        with ParquetRows(file) as rows:
            for row in rows.read([column]):
                if row[column] is not None:
                    try:
                        inspect(row[column])
                    except RowError as error:
                        return error.code == ErrorCode.CORRUPT_IMAGE
                    return True
    return False


def _row_counts(files: list[Path]) -> Iterator[int]:
    for file in files:
        with ParquetRows(file) as rows:
            yield rows.num_rows


# --- cells -----------------------------------------------------------------------------------------------------------


def _cell(scalar: pa.Scalar, in_place: bool) -> Any:
    if in_place and scalar.is_valid and is_binary(scalar.type):
        return memoryview(scalar.as_buffer()).cast("B")
    try:
        return scalar.as_py()
    except UnicodeDecodeError:  # nobody checked the text when it was written
        if not hasattr(scalar, "as_buffer"):
            raise
        return scalar.as_buffer().to_pybytes().decode("utf-8", "replace")


def _image(value: Any, file: Path) -> bytes | memoryview:
    """The bytes that a cell holds or names. Raises what `image_bytes` does."""
    if isinstance(value, memoryview):
        return value
    path = value.get("path") if isinstance(value, Mapping) and value.get("bytes") is None else value
    if not isinstance(path, str):
        return image_bytes(value)
    if "://" in path:
        raise RowError(
            ErrorCode.UNREADABLE, f"{path} is an address, not a file; addresses are for `kind: urls`"
        )
    try:
        return read_file(file.parent / path)
    except ValueError as error:  # a NUL
        raise RowError(ErrorCode.UNREADABLE, f"{path!r}: {error}") from error
    except RowError as error:
        raise RowError(error.code, f"{path!r}: {error.detail}") from error
