"""Seed images: the rows of whatever source the catalogue names."""

from collections.abc import Generator, Iterator
from itertools import islice

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
from sd_assets.sources.hub import read_hub
from sd_assets.sources.parquet import read_parquet
from sd_assets.sources.rows import SourceRow
from sd_assets.sources.urls import read_urls
from sd_assets.sources.webdataset import read_webdataset
from sd_assets.storage.area import Area


def read_images(
    source: Source, download: DownloadSettings | None = None, area: Area | None = None
) -> Generator[SourceRow, None, None]:
    """The images of a seed dataset, one at a time, in the same order every time. Nothing happens before the first.

    Args:
        source: where they come from; at most its `max_rows` rows are read.
        download: how a list of URLs is fetched; other sources fetch nothing by themselves.
        area: where the images of earlier runs are, so that what was downloaded is not downloaded again.

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
            rows = read_urls(source, download or DownloadSettings(), area)
    yield from rows
