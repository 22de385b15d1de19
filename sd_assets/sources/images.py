"""Seed images: the rows of whatever source the catalogue names."""

import json
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Final

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.settings import (
    DownloadSettings,
    FolderSource,
    HubSource,
    ParquetSource,
    Source,
    UrlsSource,
    WebDatasetSource,
)
from sd_assets.sources.folder import read_folder
from sd_assets.sources.hub import hub_commit, read_hub
from sd_assets.sources.parquet import read_parquet
from sd_assets.sources.rows import SourceRow
from sd_assets.sources.urls import read_urls
from sd_assets.sources.webdataset import read_webdataset
from sd_assets.storage.area import Area

# Of the identity of a source. Raise it when a source of the same identity comes to give other rows.
_VERSION: Final = "1"


def pinned(source: Source) -> tuple[Source, str | None]:
    """A source as it is now, and the identity of its rows: what has the same identity has the same rows.

    Of a Hub dataset that is the source at the commit that its `revision` means now, whatever is pushed meanwhile. Of other
    sources only reading tells what they hold: they come back as they are, without an identity.

    Raises:
        SourceError: the Hub cannot be asked; see `sources.hub.hub_commit`.
        CatalogError: the id holds an environment variable that is not set.
    """
    commit = hub_commit(source) if isinstance(source, HubSource) else None
    if commit is None:
        return source, None
    read = source.model_copy(update={"revision": commit})
    return read, json.dumps([_VERSION, read.effects()], sort_keys=True)


def read_images(
    source: Source,
    download: DownloadSettings | None = None,
    area: Area | None = None,
    blocked: Blocked = NOTHING,
) -> Generator[SourceRow, None, None]:
    """The images of a seed dataset, one at a time, in the same order every time. Nothing happens before the first.

    Args:
        source: where they come from; at most its `max_rows` rows are read.
        download: how a list of URLs is fetched; other sources fetch nothing by themselves.
        area: where the images of earlier runs are, so that what was downloaded is not downloaded again.
        blocked: what must not be downloaded.

    Raises:
        SourceError: the source cannot be read: what is wrong with it and what to do.
        CatalogError: its path or id holds an environment variable that is not set.
    """
    # The others have something to say at their end, so they stop by themselves.
    rows: Iterator[SourceRow]
    match source:
        case FolderSource():
            rows = islice(read_folder(source), source.max_rows)
        case HubSource():
            rows = read_hub(source)
        case ParquetSource():
            rows = islice(read_parquet(source), source.max_rows)
        case WebDatasetSource():
            rows = read_webdataset(source)
        case UrlsSource():
            rows = read_urls(source, download or DownloadSettings(), area, blocked)
    yield from rows
