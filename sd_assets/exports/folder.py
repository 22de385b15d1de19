"""The folder of an export: its files by split, and the record beside it."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from sd_assets.curation.splits import SPLITS
from sd_assets.errors import ExportError
from sd_assets.storage.area import LEASE_SECONDS
from sd_assets.storage.files import Files

# Of a file, as they follow one another.
Pieces = Sequence[bytes | pa.Buffer]


class ExportFolder:
    """`<layout>/<partition>/` with a folder for each split, and `<layout>/<partition>.json`, which says what is in there.

    A file appears whole or not at all, and what has the right name has the right content.

    Args:
        files: the folder of the layouts.
        layout: its name.
        partition: of the seed dataset.

    Raises:
        ExportError: the folder of the partition has the name of another one's record.
    """

    def __init__(self, files: Files, layout: str, partition: str) -> None:
        if partition.endswith(".json"):
            raise ExportError(
                f"{partition}: the folder of its export would be named as the record of {partition.removesuffix('.json')!r}: "
                "name the seed dataset otherwise"
            )
        self._files = files
        self.layout = layout
        self.partition = partition
        self._path = f"{layout}/{partition}"

    @property
    def uri(self) -> str:
        return f"{self._files.uri}/{self._path}"

    def names(self, split: str = "") -> list[str]:
        """The names of the files of a split, or of those beside the splits; sorted."""
        return self._files.names(self._at(split))

    def listing(self) -> list[tuple[str, str]]:
        """Split (an empty text: beside them) and name of all files."""
        return [(split, name) for split in ("", *SPLITS) for name in self.names(split)]

    def sizes(self, split: str) -> dict[str, int]:
        """The names of the files of a split, and the bytes of each."""
        return self._files.sizes(self._at(split))

    def get(self, split: str, name: str) -> bytes | None:
        """A file; None: there is none."""
        try:
            return self._files.get(self._at(split, name))
        except FileNotFoundError:
            return None

    def put(self, split: str, name: str, data: Iterable[bytes | pa.Buffer]) -> None:
        """Write a file of one or more pieces."""
        self._files.put(self._at(split, name), *data)

    def put_if_other(self, split: str, name: str, data: Pieces) -> bool:
        """Write a file of one or more pieces, unless it is there as it is to be; whether it was written."""
        if self._holds(split, name, data):
            return False
        self.put(split, name, data)
        return True

    def _holds(self, split: str, name: str, data: Pieces) -> bool:
        """Whether a file is made of these pieces: compared as it is read, as those of many pairs are large."""
        try:
            with self._files.open(self._at(split, name)) as file:
                return all(file.read(len(piece)) == memoryview(piece) for piece in data) and not file.read(1)
        except FileNotFoundError:
            return False

    def delete(self, split: str, name: str) -> None:
        self._files.delete(self._at(split, name))

    def record(self) -> dict[str, Any]:
        """What the last run said of what is in there; empty: there was none.

        Raises:
            ExportError: the file that would be the record is none.
        """
        try:
            record = json.loads(self._files.get(f"{self._path}.json"))
        except FileNotFoundError:
            return {}
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ExportError(
                f"{self.uri}.json is no record of an export: it is damaged, or somebody else's. Delete it, and the folder, "
                "or name another place as `exports: path:`"
            )
        return record

    def put_record(self, record: dict[str, Any]) -> None:
        self._files.put(f"{self._path}.json", json.dumps(record, indent=1).encode())

    def sweep(self) -> None:
        """Delete what killed runs left half-written."""
        self._files.sweep_temporary(LEASE_SECONDS)

    def _at(self, *parts: str) -> str:
        return "/".join([self._path, *(part for part in parts if part)])
