"""The folder of an export: its files by split, and the record beside it."""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pyarrow as pa

from sd_assets.exports.pair import SPLITS
from sd_assets.storage.files import Files


class ExportFolder:
    """`<layout>/<partition>/` with a folder for each split, and `<layout>/<partition>.json`, which says what is in there.

    A file appears whole or not at all, and what has the right name has the right content.

    Args:
        files: the base.
        layout: its name.
        partition: of the seed dataset.
        root: the folder in the base that holds the layouts; empty: the base itself.
    """

    def __init__(self, files: Files, layout: str, partition: str, root: str = "") -> None:
        self._files = files
        self.layout = layout
        self.partition = partition
        self._path = f"{root}/{layout}/{partition}".lstrip("/")

    @property
    def uri(self) -> str:
        return f"{self._files.uri}/{self._path}"

    def names(self, split: str = "") -> list[str]:
        """The names of the files of a split, or of those beside the splits; sorted."""
        return self._files.names(self._at(split))

    def listing(self) -> list[tuple[str, str]]:
        """Split (an empty text: beside them) and name of all files."""
        return [(split, name) for split in ("", *SPLITS) for name in self.names(split)]

    def size(self, split: str, name: str) -> int:
        """The bytes of a file."""
        with self._files.open(self._at(split, name)) as file:
            return int(file.size())

    def get(self, split: str, name: str) -> bytes | None:
        """A file; None: there is none."""
        with suppress(FileNotFoundError):
            return self._files.get(self._at(split, name))
        return None

    def put(self, split: str, name: str, data: Iterable[bytes | pa.Buffer]) -> None:
        """Write a file of one or more pieces."""
        self._files.put(self._at(split, name), *data)

    def put_if_other(self, split: str, name: str, data: bytes) -> bool:
        """Write a file that is small, unless it is there as it is to be; whether it was written."""
        if self.get(split, name) == data:
            return False
        self.put(split, name, [data])
        return True

    def delete(self, split: str, name: str) -> None:
        self._files.delete(self._at(split, name))

    def record(self) -> dict[str, Any]:
        """What the last run that ended left here; empty: none did."""
        with suppress(FileNotFoundError, ValueError):  # damaged: it is written anew
            record: dict[str, Any] = json.loads(self._files.get(f"{self._path}.json"))
            return record
        return {}

    def put_record(self, record: dict[str, Any]) -> None:
        self._files.put(f"{self._path}.json", json.dumps(record, indent=1).encode())

    def _at(self, *parts: str) -> str:
        return "/".join([self._path, *(part for part in parts if part)])
