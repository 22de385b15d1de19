"""downloaded_images: the image behind every URL, resized, or why it could not be had."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sd_assets.download.codes import TRANSIENT
from sd_assets.errors import ErrorCode
from sd_assets.schemas import DOWNLOADED_IMAGES, TableSchema
from sd_assets.settings import DownloadSettings
from sd_assets.stages.stage import Stage, rows_of
from sd_assets.storage.staging import Judge
from sd_assets.storage.table import Table

if TYPE_CHECKING:
    from sd_assets.download.downloader import Downloader

# Worth another look once old enough: what may pass, and what depends on a setting that must not refetch everything.
_MAY_CHANGE = TRANSIENT | {ErrorCode.OPTED_OUT, ErrorCode.TOO_MANY_REDIRECTS}


class DownloadStage(Stage):
    """Fetches, judges, resizes. What failed in a way that may pass is tried again once it is old enough."""

    version = "1"
    reads = ()  # the url_id is the hash of the URL
    # Small batches, many at once: a slow host holds up its own batch only. How many images are fetched at once is the
    # downloader's to say.
    batch_rows = 16

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        # Enough for every connection to have its next URL at hand.
        self.threads = 2 * settings.connections // self.batch_rows + 4
        self._downloader: Downloader | None = None
        self.judge = Judge(("error", "fetched_at"), self._may_reuse)

    @property
    def schema(self) -> TableSchema:
        return DOWNLOADED_IMAGES

    def settings(self) -> dict[str, Any]:
        return self._settings.effects()

    def open(self) -> None:
        from sd_assets.download.downloader import Downloader

        self._downloader = Downloader(self._settings)

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        assert self._downloader is not None
        queries = rows.select(["url_id", "url"]).to_pylist()
        answers = self._downloader.download([query["url"] for query in queries])
        return rows_of(
            DOWNLOADED_IMAGES,
            ({**query, **asdict(answer)} for query, answer in zip(queries, answers, strict=True)),
        )

    def close(self) -> None:
        if self._downloader is not None:
            self._downloader.close()

    def _may_reuse(self, rows: pa.RecordBatch) -> list[bool]:
        limit = datetime.now(UTC) - timedelta(hours=self._settings.retry_failed_after_h)
        errors, times = rows.column("error").to_pylist(), rows.column("fetched_at").to_pylist()
        return [error not in _MAY_CHANGE or at > limit for error, at in zip(errors, times, strict=True)]


def url_rows(retrieved_image_urls: Table) -> Iterator[pa.RecordBatch]:
    """Retrieved URLs as the input of `DownloadStage`."""
    return retrieved_image_urls.batches(["url_id", "url", "error"])
