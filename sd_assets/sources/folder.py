"""A folder of images, read by `datasets` as an imagefolder, with or without `metadata.jsonl`.

Left to itself `datasets` drops what `metadata.jsonl` does not list, sorts files named `test_1.jpg` into another split,
reads patterns into names like `photos [1]`, and takes several metadata files in random order. So we say which files
it is to read, a piece at a time, and account for the rest. Names are held in memory, images never.
"""

import glob
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sd_assets.catalog import require_set
from sd_assets.errors import RowError, SourceError
from sd_assets.settings import FolderSource
from sd_assets.sources.files import walk
from sd_assets.sources.rows import (
    SourceRow,
    image_bytes,
    is_image,
    is_text,
    pick_image_column,
    pick_text_column,
    quiet_datasets,
    read_file,
    text_of,
)
from sd_assets.views.text import one_line

logger = logging.getLogger(__name__)

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# Image formats that the list of extensions in `datasets` lacks. Rows of them come from us, not from it.
NEWER_EXTENSIONS = frozenset({".avif", ".heic", ".heif", ".jxl"})
# Files given to `datasets` at once: opening a piece costs about 0.1 s, its first row waits for the whole piece.
_PIECE = 1_000


@dataclass
class FolderFiles:
    """What a folder holds: paths relative to it, sorted.

    Attributes:
        images: files named like an image, whatever is in them.
        metadata: metadata.jsonl and its kin.
        others: everything else, hidden files and folders too; these yield no rows.
    """

    images: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def list_folder(folder: Path) -> FolderFiles:
    """Lists a folder and its sub-folders, links followed, hidden names (`.x`, `__x`) put with the others.

    Raises:
        SourceError: the folder, or one in it, is missing or cannot be listed.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise SourceError(f"source.path {folder} {what}: give the folder that holds the images")
    extensions = _extensions() | NEWER_EXTENSIONS
    found = FolderFiles()
    for here, folders, names in walk(folder):
        hidden = sorted(name for name in folders if name.startswith((".", "__")))
        folders[:] = sorted(set(folders) - set(hidden))
        base = here.relative_to(folder)
        found.others += [f"{(base / name).as_posix()}/" for name in hidden]
        for name in sorted(names):
            path = (base / name).as_posix()
            if name in METADATA_NAMES:
                found.metadata.append(path)
            elif not name.startswith(".") and Path(name).suffix.lower() in extensions:
                found.images.append(path)
            else:
                found.others.append(path)
    found.images.sort()
    found.metadata.sort()
    return found


def _extensions() -> frozenset[str]:
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    return frozenset(ImageFolder.EXTENSIONS)


def read_folder(source: FolderSource) -> Iterator[SourceRow]:
    """A row for every line of the metadata, then one for every image-named file that no line names.

    A file whose content is no image is a row like any other (`sd_assets.images` judges it); a line whose file is
    missing is a row with an error. The text comes from `text_column` of the metadata; in a folder without metadata
    `text_column: label` makes it the name of the sub-folder, as `datasets` labels images.

    Raises:
        SourceError: the folder is missing or holds no image, its metadata is broken or lacks the column asked for.
    """
    folder = Path(require_set(source.path, "source.path"))
    files = list_folder(folder)
    if files.others:
        logger.warning(
            "source.path %s: %d files are not named like images and were left out: %s%s",
            folder,
            len(files.others),
            ", ".join(files.others[:10]),
            ", ..." if len(files.others) > 10 else "",
        )
    if not files.images and not files.metadata:
        held = f"{len(files.others)} other files" if files.others else "nothing"
        raise SourceError(
            f"source.path {folder} holds no images (it holds {held}): give the folder that does"
        )
    labels = source.text_column == "label" and not files.metadata
    if source.text_column is not None and not files.metadata and not labels:
        raise SourceError(
            f"source.path {folder} has no metadata.jsonl to take the column {source.text_column!r} (`text_column:`) from; "
            "without one there is only: label (the name of the sub-folder)"
        )
    return _rows(folder, files, source.text_column, labels)


def _rows(folder: Path, files: FolderFiles, text_column: str | None, labels: bool) -> Iterator[SourceRow]:
    listed: set[str] = set()
    number = 0
    for metadata in files.metadata:
        for path, text, error in _described(folder, metadata, text_column):
            listed.add(path)
            yield _row(folder, path, text, number, error)
            number += 1
    unlisted = [path for path in files.images if path not in listed]
    if files.metadata and unlisted:
        logger.warning(
            "source.path %s: %d images are in no metadata file: rows without text", folder, len(unlisted)
        )
    for start in range(0, len(unlisted), _PIECE):
        for path, text in _plain(folder, unlisted[start : start + _PIECE], labels):
            yield _row(folder, path, text, number, None)
            number += 1


def _row(folder: Path, path: str, text: str | None, number: int, error: RowError | None) -> SourceRow:
    shown = os.fsencode(path).decode("utf-8", "replace")  # a name need not be UTF-8, a Parquet string must
    try:
        if error is not None:
            raise error
        return SourceRow(read_file(folder / path), text, shown, None, number)
    except RowError as failed:
        return SourceRow(None, text, shown, None, number, failed)


def _described(
    folder: Path, metadata: str, text_column: str | None
) -> Iterator[tuple[str, str | None, RowError | None]]:
    """(file relative to the folder, text, error) of every line of one metadata file."""
    file = folder / metadata
    try:
        if not file.stat().st_size:
            raise SourceError(
                f"{file} is empty: describe the images in it, a JSON object a line, or delete it"
            )
        stream = _imagefolder([file])
        features = dict(stream.features)
        image = "image" if is_image(features.get("image")) else pick_image_column(features, None, str(file))
        others = [name for name in features if name != image]
        texts = [name for name in others if is_text(features[name])]
        text = pick_text_column(others, texts, text_column, str(file))
        stream = stream.select_columns([image] if text is None else [image, text])
        for row in _undecoded(stream, image):
            value = None if text is None else text_of(row[text], features[text])
            named = row[image] and row[image].get("path")
            if named is None:
                try:
                    image_bytes(row[image])
                except RowError as error:
                    yield metadata, value, error
            else:
                yield Path(os.path.relpath(named, folder)).as_posix(), value, None
    except (SourceError, RowError):
        raise
    except Exception as error:
        raise SourceError(
            f"{file} is not a list of images: {_broken_line(file) or one_line(error)}"
        ) from error


def _broken_line(file: Path) -> str | None:
    """Which line of a JSON Lines file is broken: arrow's own message does not say."""
    if file.suffix != ".jsonl":
        return None
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if line.strip() and not isinstance(json.loads(line), dict):
                    return f"line {number} is not a JSON object"
            except ValueError as error:
                return f"line {number} is not JSON ({one_line(error)})"
    return None


def _plain(folder: Path, paths: list[str], labels: bool) -> Iterator[tuple[str, str | None]]:
    """(file relative to the folder, label) of files without metadata, in the order given."""
    readable = [path for path in paths if _for_datasets(folder / path)]
    read: set[str] = set()
    if readable:
        try:
            stream = _imagefolder(
                [folder / path for path in readable], drop_labels=not labels, drop_metadata=True
            )
            feature = (stream.features or {}).get("label")
            for row in _undecoded(stream, "image"):
                path = Path(os.path.relpath(row["image"]["path"], folder)).as_posix()
                read.add(path)
                yield path, text_of(row["label"], feature) if labels else None
        except Exception as error:
            raise SourceError(f"source.path {folder} cannot be read: {one_line(error)}") from error
    # What `datasets` cannot take, or left out, is still a row.
    for path in paths:
        if path not in read:
            yield path, Path(folder / path).parent.name if labels else None


def _for_datasets(path: Path) -> bool:
    """Whether `datasets` can take this path: not links to nowhere, newer formats, or names that it reads as addresses."""
    text = str(path)
    return (
        path.suffix.lower() not in NEWER_EXTENSIONS
        and not any(mark in text for mark in ("::", "://", "\\"))
        and text.isprintable()
        and os.path.isfile(path)  # noqa: PTH113 - never raises, where Path.is_file may
    )


def _imagefolder(files: list[Path], **options: Any) -> Any:
    import datasets

    with quiet_datasets():
        # Names are escaped: `datasets` takes them for patterns.
        named = [glob.escape(str(file)) for file in files]
        return datasets.load_dataset(
            "imagefolder", data_files={"train": named}, split="train", streaming=True, **options
        )


def _undecoded(stream: Any, column: str) -> Any:
    import datasets

    return stream.cast_column(column, datasets.Image(decode=False))
