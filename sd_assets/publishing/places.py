"""The datasets of the Hub that a partition was ever pushed to: what is not pushed to any more keeps even what was taken down."""

import json
from typing import Final

from sd_assets.schemas import CURATED_PAIRS
from sd_assets.storage.table import TableStore

# Of the table whose pairs are pushed.
_NOTE: Final = "pushed_to.json"


class Places:
    """The note of these datasets.

    Args:
        store: of the tables.
        partition: the seed dataset.
    """

    def __init__(self, store: TableStore, partition: str) -> None:
        self._area = store.area(CURATED_PAIRS.name, partition)

    @property
    def uri(self) -> str:
        """Where the note is kept: whoever deletes it is told of no dataset any more."""
        return f"{self._area.files.uri}/{self._area.hidden}/notes/{_NOTE}"

    def left(self, repo_id: str | None) -> list[str]:
        """Those that are not pushed to any more, now that this one is, or none."""
        return sorted(self._all() - {repo_id})

    def add(self, repo_id: str) -> None:
        """Note one that was pushed to."""
        noted = self._all()
        if repo_id not in noted:
            self._area.put_note(_NOTE, json.dumps(sorted({*noted, repo_id})).encode())

    def _all(self) -> set[str]:
        try:
            return {str(repo_id) for repo_id in json.loads(self._area.note(_NOTE) or b"[]")}
        except (TypeError, ValueError):  # damaged: as if there was none
            return set()
