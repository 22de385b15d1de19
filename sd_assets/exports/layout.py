"""What all layouts have in common: how pairs become files, and what a run counts."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from sd_assets.curation.splits import SPLITS
from sd_assets.errors import RowError
from sd_assets.exports.folder import ExportFolder, Pieces
from sd_assets.exports.pair import Pairs
from sd_assets.exports.picture import exported
from sd_assets.settings.exports import LayoutSettings

# Files that are written at once: a disk, and S3 the more, takes several in the time of one.
WRITERS = 8


@dataclass
class Written:
    """What a run has done.

    Attributes:
        pairs: by split, that the export now holds.
        failures: by error code, pairs that it does not.
        files_written: how many files.
        files_kept: of the images, or shards, how many files were there as they are to be.
        files_deleted: of ours, that belong there no more.
        bytes_written: of the files.
        wanted: by split, the names of the files that belong there.
    """

    pairs: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    files_written: int = 0
    files_kept: int = 0
    files_deleted: int = 0
    bytes_written: int = 0
    wanted: dict[str, set[str]] = field(default_factory=lambda: {split: set() for split in ("", *SPLITS)})

    def wrote(self, size: int) -> None:
        """Count a file that was written."""
        self.files_written += 1
        self.bytes_written += size


# Goes over all pairs; the counter takes those that cannot be exported.
Reader = Callable[[Counter[str]], Iterator[Pairs]]


class Layout(ABC):
    """How the files of a layout are made.

    Args:
        settings: of the layout.
    """

    # Raise it when the same pairs come to give other files.
    version: ClassVar[str]
    # Split (an empty text: beside the splits) and name of files that name others, or say how these are to be read.
    indices: ClassVar[frozenset[tuple[str, str]]] = frozenset()

    def __init__(self, settings: LayoutSettings) -> None:
        self.settings = settings

    @abstractmethod
    def write(self, read: Reader, folder: ExportFolder) -> Written:
        """Write what is missing. What is there already, by its name, is left alone; nothing is deleted.

        Files that name others are written when those are there.
        """

    @abstractmethod
    def has_pairs(self, name: str) -> bool:
        """Whether a file is named as this layout names those that hold pairs."""

    def is_ours(self, split: str, name: str) -> bool:
        """Whether a file in the folder, by its place, is one that this layout wrote at some time, now or with other pairs."""
        return (split, name) in self.indices or (split in SPLITS and self.has_pairs(name))

    def put_index(
        self, files: Mapping[tuple[str, str], Pieces], folder: ExportFolder, written: Written
    ) -> None:
        """Write those of these files that are not there as they are to be: their pieces, by split (an empty text: beside
        them) and name.
        """
        for (split, name), data in files.items():
            written.wanted[split].add(name)
            if folder.put_if_other(split, name, data):
                written.wrote(sum(map(len, data)))

    def images(
        self, pairs: Pairs, numbers: list[int], failures: Counter[str]
    ) -> Iterator[tuple[int, bytes | pa.Buffer, str]]:
        """Number, bytes and extension of some images as they are to be written, without those that cannot be.

        A buffer is one of `Pairs.images`.
        """
        for number, stored in zip(numbers, pairs.images(numbers), strict=True):
            data = stored.to_pybytes()  # what looks into it needs bytes: of one image at a time
            try:
                made, extension = exported(data, self.settings)
            except RowError as error:
                failures[error.code] += 1
                continue
            yield number, stored if made is data else made, extension


def delete_others(layout: Layout, folder: ExportFolder, written: Written) -> None:
    """Delete the files of the layout that belong there no more. What others put there, a trainer's cache, is left alone."""
    for split, wanted in written.wanted.items():
        for name in folder.names(split):
            if name not in wanted and layout.is_ours(split, name):
                folder.delete(split, name)
                written.files_deleted += 1
