"""WebDataset: tar files in which neighbours of one name, up to its first dot, are a sample.

Not read by the builder of `datasets`: it takes the columns of the first samples for those of all, and stops at the first
sample that differs; here such a sample is a row that says what is wrong with it.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from sd_assets.errors import ErrorCode, RowError, SourceError
from sd_assets.settings import WebDatasetSource
from sd_assets.sources.files import list_files, shown
from sd_assets.sources.rows import MAX_FILE_BYTES, SourceRow, text_of
from sd_assets.sources.tar import Member, TarReader

logger = logging.getLogger(__name__)

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_IMAGES = frozenset(
    (
        "jpg",
        "jpeg",
        "jpe",
        "png",
        "webp",
        "gif",
        "bmp",
        "tif",
        "tiff",
        "avif",
        "heic",
        "heif",
        "jxl",
        "ppm",
        "jp2",
    )
)
_DEFAULT_KEYS = ("caption", "text")
# What a sample may hold at once, so that a hostile archive cannot fill the memory.
MAX_TEXT_BYTES = 16 * 1024 * 1024
_MOST_NAMES = 10


@dataclass
class _Sample:
    """Neighbours of one name.

    Attributes:
        key: the name up to its first dot.
        extensions: what follows the dot, of its members; of a sample with a great many, of the first.
        images: those of them that are images.
        name: of the member that is the image.
        data: its bytes, or why there are none.
        text: of its .txt.
        json: of its .json.
    """

    key: str
    extensions: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    name: str | None = None
    data: bytes | RowError | None = None
    text: bytes | RowError | None = None
    json: bytes | RowError | None = None


def read_webdataset(source: WebDatasetSource) -> Iterator[SourceRow]:
    """A row a sample, in the order of the files and in them; what a sample lacks is its row's error.

    Raises:
        SourceError: no file, one that is damaged, or no image where `image_column` says, or several and it is not set,
            or no text where `text_column` says.
        CatalogError: the path holds an environment variable that is not set.
    """
    base, files = list_files(source.path, _SUFFIXES)
    image = source.image_column and source.image_column.lower().removeprefix(".")
    texts = _Texts(source.text_column)
    number = with_image = 0
    sample = None
    for file, sample in islice(_of_all(files, image), source.max_rows):
        with_image += bool(sample.images)
        if len(sample.images) > 1 and with_image == 1:
            # The first one shows how all are laid out; of a later one it is the row's error.
            raise SourceError(f"{file}: {_several(sample)}")
        name = f"{shown(file.relative_to(base))}/{shown(sample.name or sample.key)}"
        text = None
        try:
            text = texts.of(sample, str(file))
            yield SourceRow(_image(sample), text, name, None, number)
        except RowError as error:
            yield SourceRow(None, text, name, None, number, error)
        number += 1
    if sample is None:
        logger.warning("source.path %s holds no samples", source.path)
    elif not with_image:
        wanted = f"a member .{image} (`image_column:`)" if image else "an image"
        raise SourceError(
            f"source.path {source.path}: not one of {number} samples has {wanted}; the last one has: "
            f"{', '.join(sample.extensions)}"
        )
    elif source.text_column is not None and not texts.found:
        raise SourceError(
            f"source.path {source.path}: no sample has a .{'txt' if source.text_column == 'txt' else 'json'} to take "
            f"{source.text_column!r} (`text_column:`) from; the last one has: {', '.join(sample.extensions)}"
        )


def _of_all(files: Sequence[Path], image: str | None) -> Iterator[tuple[Path, _Sample]]:
    for file in files:
        with TarReader(file) as tar:
            for sample in _samples(tar, image, str(file)):
                yield file, sample


def _samples(tar: TarReader, image: str | None, where: str) -> Iterator[_Sample]:
    sample: _Sample | None = None
    left_out: list[str] = []
    count = 0
    for member in tar:
        if member.other == "a folder":
            continue
        key, extension = split_name(member.name)
        if not extension:
            count += 1
            left_out += [shown(member.name)] if count <= _MOST_NAMES else []
            continue
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        _take(sample, member, extension, image)
    if sample is not None:
        yield sample
    if count:
        names = ", ".join(left_out) + (", ..." if count > _MOST_NAMES else "")
        logger.warning("%s: %d members belong to no sample and were left out: %s", where, count, names)


def split_name(name: str) -> tuple[str, str]:
    """(key of the sample, extension in lower case): `a/b.c/0001.input.PNG` -> `a/b.c/0001`, `input.png`.

    The extension is empty if the member is of no sample: without a dot, hidden (`._0001.jpg` of a Mac, `.DS_Store`), or
    between double underscores (`__index__`), which WebDataset keeps for itself.
    """
    folder, _, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    if not stem or (stem.startswith("__") and stem.endswith("__")):
        return name, ""
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _take(sample: _Sample, member: Member, extension: str, image: str | None) -> None:
    """Add a member to its sample, reading it only if it is wanted."""
    sample.extensions = [*sample.extensions, extension][:_MOST_NAMES]
    if extension == image or (image is None and PurePosixPath(f"x.{extension}").suffix[1:] in _IMAGES):
        sample.images = [*sample.images, extension][:_MOST_NAMES]
        # Of several images none is taken, so no more than one is ever held.
        sample.name = member.name if len(sample.images) == 1 else None
        sample.data = _content(member, MAX_FILE_BYTES) if len(sample.images) == 1 else None
    elif extension == "txt":
        sample.text = _content(member, MAX_TEXT_BYTES)
    elif extension == "json":
        sample.json = _content(member, MAX_TEXT_BYTES)


def _content(member: Member, limit: int) -> bytes | RowError:
    if member.other is not None:
        return RowError(
            ErrorCode.UNREADABLE, f"{shown(member.name)!r} is {member.other}; only files are read"
        )
    if member.size > limit:
        return RowError(
            ErrorCode.TOO_LARGE, f"{shown(member.name)!r} has {member.size} bytes, over the limit of {limit}"
        )
    return member.read()


def _image(sample: _Sample) -> bytes:
    if len(sample.images) != 1:
        held = _several(sample) if sample.images else f"the sample has only: {', '.join(sample.extensions)}"
        raise RowError(ErrorCode.MISSING_IMAGE, held)
    if isinstance(sample.data, RowError):
        raise sample.data
    assert sample.data is not None
    return sample.data


def _several(sample: _Sample) -> str:
    return (
        f"the sample {shown(sample.key)!r} has several images: {', '.join(sample.images)}; name one of these "
        "extensions in `image_column:`"
    )


class _Texts:
    """Takes the text out of samples.

    Attributes:
        found: whether what was asked for was there once.
    """

    def __init__(self, asked: str | None) -> None:
        self._asked = asked
        self.found = False

    def of(self, sample: _Sample, where: str) -> str | None:
        """The text of a sample, if it has one.

        Raises:
            RowError: there is one, but it cannot be read.
            SourceError: the first .json lacks the key asked for.
        """
        if self._asked in (None, "txt") and sample.text is not None:
            self.found = True
            return text_of(_decoded(sample.text, sample.key, "txt"), None)
        if self._asked == "txt" or sample.json is None:
            return None
        try:
            values = json.loads(_decoded(sample.json, sample.key, "json"))
        except (ValueError, RecursionError) as error:
            raise RowError(ErrorCode.UNREADABLE, f"{shown(sample.key)}.json is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise RowError(ErrorCode.UNREADABLE, f"{shown(sample.key)}.json is not a JSON object")
        if self._asked is None:
            return next((text for key in _DEFAULT_KEYS if (text := text_of(values.get(key), None))), None)
        if self._asked not in values and not self.found:
            keys = ", ".join(map(repr, values)) or "none"
            raise SourceError(
                f"{where}: {shown(sample.key)}.json has no key {self._asked!r} (`text_column:`); there are: {keys}"
            )
        self.found = True
        return text_of(values.get(self._asked), None)


def _decoded(content: bytes | RowError, key: str, extension: str) -> Any:
    if isinstance(content, RowError):
        raise content
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowError(
            ErrorCode.UNREADABLE, f"{shown(key)}.{extension} is not UTF-8 ({error.reason})"
        ) from error
