"""Layouts of a file for each image, with texts beside it."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import pyarrow as pa

from sd_assets.ahead import map_ahead
from sd_assets.curation.splits import SPLITS
from sd_assets.errors import ErrorCode, RowError
from sd_assets.exports.folder import ExportFolder, Pieces
from sd_assets.exports.layout import WRITERS, Layout, Reader, Written
from sd_assets.exports.lines import Lines
from sd_assets.exports.pair import Pair
from sd_assets.exports.picture import EXTENSIONS, exported

_OURS = re.compile(rf"[0-9a-f]{{64}}_[0-9a-f]{{8}}\.({'|'.join(EXTENSIONS)}|txt)")
# Pairs that a thread does at once.
_AT_ONCE = 16


@dataclass
class _File:
    """A pair and what becomes of it.

    Attributes:
        pair: the pair.
        name: of its image, where it is there already; then that under which it was written.
        data: the stored bytes of its image, where it is not.
        sizes: of the files that were written.
        error: why it could not be.
    """

    pair: Pair
    name: str | None = None
    data: pa.Buffer | None = None
    sizes: list[int] = field(default_factory=list)
    error: ErrorCode | None = None


class PairFiles(Layout):
    """An image's file is `<image_id>_<rendition>` with the extension of its format; a text beside it has the same stem."""

    def text(self, pair: Pair) -> str | None:
        """What stands in the .txt beside the image; None: there is none."""
        return None

    def line(self, pair: Pair, name: str) -> str | None:
        """What a file that names all images of a split says of one; None: there is no such file."""
        return None

    def index(self, folder: ExportFolder, lines: Mapping[str, Pieces]) -> dict[tuple[str, str], Pieces]:
        """Files besides those of the pairs: their pieces, by split (an empty text: beside the splits) and name.

        Args:
            folder: of the export.
            lines: by split, what `line` gave for each pair, each with its end, in pieces; of splits that have a pair.
        """
        return {}

    def has_pairs(self, name: str) -> bool:
        return _OURS.fullmatch(name) is not None

    def write(self, read: Reader, folder: ExportFolder) -> Written:
        written = Written()
        names = {split: folder.names(split) for split in SPLITS}
        texts = {split: {name for name in names[split] if name.endswith(".txt")} for split in SPLITS}

        def put(files: list[_File]) -> list[_File]:
            for file in files:
                self._put(file, folder, texts[file.pair.split])
            return files

        with ExitStack() as stack:
            lines = {split: stack.enter_context(closing(Lines())) for split in SPLITS}
            for files in map_ahead(put, self._groups(read, written, names), WRITERS):
                for file in files:
                    self._count(file, written)
                    line = self.line(file.pair, file.name) if file.name is not None else None
                    if line is not None:
                        lines[file.pair.split].add(line)
            present = {split: lines[split].pieces() for split in SPLITS if written.pairs[split]}
            self.put_index(self.index(folder, present), folder, written)
        return written

    def _count(self, file: _File, written: Written) -> None:
        if file.name is None:
            assert file.error is not None
            written.failures[file.error] += 1
            return
        split = file.pair.split
        written.pairs[split] += 1
        written.wanted[split].add(file.name)
        if self.text(file.pair) is not None:
            written.wanted[split].add(f"{file.pair.stem}.txt")
        written.files_kept += not file.sizes
        for size in file.sizes:
            written.wrote(size)

    def _groups(
        self, read: Reader, written: Written, names: Mapping[str, list[str]]
    ) -> Iterator[list[_File]]:
        """The pairs, some at once, with the bytes of images that are not there."""
        suffixes = tuple(f".{extension}" for extension in EXTENSIONS)
        there = {
            split: {name.rpartition(".")[0]: name for name in names[split] if name.endswith(suffixes)}
            for split in SPLITS
        }
        for pairs in read(written.failures):
            files = [_File(pair, there[pair.split].get(pair.stem)) for pair in pairs.pairs]
            missing = [number for number, file in enumerate(files) if file.name is None]
            for number, data in zip(missing, pairs.images(missing), strict=True):
                files[number].data = data
            for start in range(0, len(files), _AT_ONCE):
                yield files[start : start + _AT_ONCE]

    def _put(self, file: _File, folder: ExportFolder, texts: set[str]) -> None:
        """Write what is not there of a pair."""
        pair = file.pair
        if file.data is not None:
            try:
                data, extension = exported(file.data.to_pybytes(), self.settings)
            except RowError as error:
                file.error = error.code
                return
            file.name, file.data = f"{pair.stem}.{extension}", None
            folder.put(pair.split, file.name, [data])
            file.sizes.append(len(data))
        text = self.text(pair)
        if text is not None:
            name, encoded = f"{pair.stem}.txt", text.encode()
            if name not in texts:
                folder.put(pair.split, name, [encoded])
            elif not folder.put_if_other(pair.split, name, [encoded]):
                return
            file.sizes.append(len(encoded))


def provenance_line(pair: Pair, name: str) -> str:
    """A line of JSON that says where a pair comes from, for layouts whose trainer reads nothing but captions."""
    said = {
        "file_name": f"{pair.split}/{name}",
        "captions": pair.captions,
        **pair.facts,
        "scores": pair.scores,
    }
    return json.dumps(said, ensure_ascii=False)
