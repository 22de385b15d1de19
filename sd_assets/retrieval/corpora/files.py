"""The files of a corpus: those of a folder and its sub-folders, but for indices that lie among them.

An index has metadata of its own, in files that look like those of a corpus; it may well lie beside what it was built of.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from sd_assets.errors import RetrievalError, SourceError
from sd_assets.retrieval.layout import INDEX_FILE, is_workspace
from sd_assets.retrieval.record import RECORD_FILE
from sd_assets.sources.files import walk


def files_below(folder: Path, where: str) -> list[Path]:
    """The files in a folder and its sub-folders, sorted.

    Args:
        folder: of the corpus.
        where: the field of the catalogue that names it, for messages.

    Raises:
        RetrievalError: a folder cannot be listed.
    """
    try:
        found = [here / name for here, _, names in walk(folder) for name in names]
    except SourceError as error:
        raise RetrievalError(str(error).replace("source.path", where)) from error
    return sorted(outside_indices(folder, found))


def outside_indices(folder: Path, files: Iterable[Path]) -> list[Path]:
    """Those of some files that are in no index folder below `folder`, be it complete or being built."""

    @cache
    def in_index(here: Path) -> bool:
        if here == folder or folder not in here.parents:
            return False
        if is_workspace(here) or (here / RECORD_FILE).exists() or (here / INDEX_FILE).exists():
            return True
        return in_index(here.parent)

    return [file for file in files if not in_index(file.parent)]
