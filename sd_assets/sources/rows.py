"""What a source of images yields, and how cells of its columns become images and texts."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_assets.errors import ErrorCode, RowError, SourceError

logger = logging.getLogger(__name__)

# Columns of strings that are no texts: what `datasets` adds to a tar's samples, and what names an image.
_NO_TEXT = re.compile(r"__.*__|(.*_)?(id|key|ur[il]|path|file|file_?name|hash)", re.IGNORECASE)

# More is no image that anybody trains on; a file is held in memory as a whole.
MAX_FILE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class SourceRow:
    """One image of a seed dataset, as it came.

    Attributes:
        data: the bytes, unjudged (they may be of no image at all); None if there are none, then `error` says why.
        text: the image's own text, if the source has one.
        source: where it came from: the file relative to its folder, `dataset/config/split` of the Hub, or the URL.
        revision: the commit of the Hub dataset; when a URL was asked for (ISO 8601, UTC); None for files.
        row: counts the rows of the source from 0.
        error: why there are no bytes.
        same_as: the `image_id` of the bytes, if an earlier row of the source gave them already: this one is a duplicate.
    """

    data: bytes | memoryview | None
    text: str | None
    source: str
    revision: str | None
    row: int
    error: RowError | None = None
    same_as: str | None = None


def read_file(path: Path) -> bytes:
    """The bytes of one image file.

    Raises:
        RowError: UNREADABLE, with the reason; TOO_LARGE: over `MAX_FILE_BYTES`.
    """
    try:
        # A pipe or a device would block for ever, and a broken link is not "no such file" to whoever sees it listed.
        if path.is_symlink() and not path.exists():
            raise RowError(ErrorCode.UNREADABLE, "a link to a file that does not exist")
        if path.exists() and not path.is_file():
            raise RowError(ErrorCode.UNREADABLE, "not a regular file")
        with path.open("rb") as file:
            return _bounded(file)
    except OSError as error:
        raise RowError(ErrorCode.UNREADABLE, error.strerror or type(error).__name__) from error
    except ValueError as error:  # a null character in the name
        raise RowError(ErrorCode.UNREADABLE, str(error)) from error


def image_bytes(value: Any, dataset: str | None = None) -> bytes:
    """The bytes in a cell of an image column: `{"bytes", "path"}` as `datasets` gives it undecoded, or bare bytes.

    Args:
        value: the cell.
        dataset: of a Hub dataset the address of its files, `hf://datasets/owner/name@commit/`: whoever published the
            rows says what their paths are, so only files of the dataset itself are read. None: paths are of this machine.

    Raises:
        RowError: MISSING_IMAGE for a null, UNREADABLE where the cell names a file that cannot, or must not, be read.
        SourceError: the cell holds something else.
    """
    if value is None:
        raise RowError(ErrorCode.MISSING_IMAGE, "the row has no image")
    if isinstance(value, bytes):
        return value
    if isinstance(value, Mapping) and ("bytes" in value or "path" in value):
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        path = value.get("path")
        if path is None:
            raise RowError(ErrorCode.MISSING_IMAGE, "the row has neither bytes nor a path")
        if dataset is not None:
            return _read_of_dataset(path, dataset)
        if "://" in path:
            raise RowError(
                ErrorCode.UNREADABLE, f"an address, not a file: {path[:200]}; for URLs use `kind: urls`"
            )
        return read_file(Path(path))
    raise SourceError(
        f"the image column holds {type(value).__name__}, not images: name another in `image_column:`"
    )


def _read_of_dataset(path: str, dataset: str) -> bytes:
    """Streamed rows of a Hub dataset that is a folder of images, or a zip, carry an address instead of bytes."""
    import fsspec  # type: ignore[import-untyped]

    inside, _, file_of_dataset = path.rpartition("::")
    ours = file_of_dataset.startswith(dataset) and ".." not in file_of_dataset.split("/")
    if not ours or (inside and (not inside.startswith("zip://") or "::" in inside)):
        raise RowError(ErrorCode.UNREADABLE, f"not a file of the dataset itself: {path[:200]}")
    try:
        with fsspec.open(path, "rb") as file:
            return _bounded(file)
    except FileNotFoundError as error:
        raise RowError(ErrorCode.UNREADABLE, f"no such file: {path}") from error


def _bounded(file: Any) -> bytes:
    data = bytes(file.read(MAX_FILE_BYTES + 1))
    if len(data) > MAX_FILE_BYTES:
        raise RowError(ErrorCode.TOO_LARGE, f"more than {MAX_FILE_BYTES:,} bytes")
    return data


def text_of(value: Any, feature: Any) -> str | None:
    """A cell of the text column as text: class labels by their name, of a list of captions the first.

    Blank texts are None: an image without a text is captioned, one with a text is not.
    """
    if isinstance(value, list | tuple):
        return text_of(value[0], getattr(feature, "feature", None)) if value else None
    if value is None:
        return None
    if isinstance(value, int) and hasattr(feature, "int2str"):
        value = feature.int2str(value) if value >= 0 else ""  # -1 is how `datasets` writes a class not given
    # JSON may spell half of a surrogate pair, which nothing can store.
    return str(value).encode("utf-8", "replace").decode().strip() or None


def pick_text_column(
    columns: Sequence[str], texts: Iterable[str], asked: str | None, where: str
) -> str | None:
    """The column asked for; else `text`, in any case, or the only one that holds texts; none for "".

    Args:
        columns: all but that of the image.
        texts: those of them that hold texts, as far as one knows.
        asked: `text_column:` of the source.
        where: for messages.

    Raises:
        SourceError: there is no such column; lists those there are.
    """
    if asked == "":
        return None
    if asked is not None:
        if asked not in columns:
            raise SourceError(
                f"{where} has no column {asked!r} (`text_column:`); there are: {', '.join(columns)}"
            )
        return asked
    for name in columns:
        if name.lower() == "text":
            return name
    found = [name for name in texts if not _NO_TEXT.fullmatch(name)]
    if len(found) == 1:
        logger.info("%s: the column %r is taken for the text of the images", where, found[0])
        return found[0]
    if found:
        logger.warning(
            '%s: the columns %s look like texts of the images, and none is taken: name one in `text_column:`, or "" for none',
            where,
            ", ".join(found),
        )
    return None


def is_text(feature: Any) -> bool:
    """Whether a column holds texts, or lists of texts, as far as `datasets` knows."""
    inner = getattr(feature, "feature", feature)
    return getattr(inner, "dtype", None) in ("string", "large_string") and not hasattr(inner, "int2str")


def pick_image_column(features: Mapping[str, Any], asked: str | None, where: str) -> str:
    """The column asked for, or the only one that holds images.

    Raises:
        SourceError: there is no such column, no image column, or more than one; lists the columns.
    """
    listed = ", ".join(features) or "none"
    if asked is not None:
        if asked not in features:
            raise SourceError(f"{where} has no column {asked!r} (`image_column:`); there are: {listed}")
        return asked
    found = [name for name, feature in features.items() if is_image(feature)]
    if not found:
        raise SourceError(
            f"{where} has no image column; its columns: {listed}. If one of them holds the bytes of images, "
            "name it in `image_column:`"
        )
    if len(found) > 1:
        raise SourceError(
            f"{where} has several image columns: {', '.join(found)}; name one in `image_column:`"
        )
    return found[0]


def is_image(feature: Any) -> bool:
    """Whether `datasets` knows this column to be of images."""
    return type(feature).__name__ == "Image"


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Without the progress bars of `datasets`: a folder is read in many pieces, each of which would draw some."""
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
