"""Seed images: the rows of whatever source the catalogue names."""

from collections.abc import Iterator
from itertools import islice

from sd_assets.settings import FolderSource, HubSource
from sd_assets.sources.folder import read_folder
from sd_assets.sources.hub import read_hub
from sd_assets.sources.rows import SourceRow


def read_images(source: FolderSource | HubSource) -> Iterator[SourceRow]:
    """The images of a seed dataset, one at a time, in the same order every time. Nothing happens before the first.

    Args:
        source: a folder or a Hub dataset; at most its `max_rows` rows are read.

    Raises:
        SourceError: the source cannot be read: what is wrong with it and what to do.
        CatalogError: its path or id holds an environment variable that is not set.
    """
    rows = read_folder(source) if isinstance(source, FolderSource) else read_hub(source)
    yield from islice(rows, source.max_rows)
