"""downloaded_images: the image behind every URL, resized, or why it could not be had."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.blocked import BLANKED, NOTHING, Blocked
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
_WAS_BLOCKED = (
    "it gave an image, or led to a place, that is on the list `blocked:` of the catalogue: not asked again"
)


class DownloadStage(Stage):
    """Fetches, judges, resizes.

    What failed in a way that may pass is tried again once it is old enough, until an attempt has failed
    `give_up_after_d` after the first one. What gave something blocked is not asked again while that is on the list.

    Args:
        settings: how to fetch, and what is made of it.
        blocked: what may not be fetched, or kept.
    """

    version = "1"
    reads = ()  # the url_id is the hash of the URL
    # Small batches, many at once: a slow host holds up its own batch only. How many images are fetched at once is the
    # downloader's to say.
    batch_rows = 16

    def __init__(self, settings: DownloadSettings, blocked: Blocked = NOTHING) -> None:
        self._settings = settings
        self._blocked = blocked
        # Enough for every connection to have its next URL at hand.
        self.threads = 2 * settings.connections // self.batch_rows + 4
        self._downloader: Downloader | None = None
        looked_for = ("url", "redirected_to", "image_id", "error_detail") if blocked else ()
        columns = ("url_id", "error", "fetched_at", "failing_since", "blocked_by", *looked_for)
        self.judge = Judge(columns, self._may_reuse)
        # By url_id, what stored rows say: when the last attempt failed, and the first; what it was blocked by.
        self._failed: dict[str, tuple[datetime, datetime]] = {}
        self._given_up: set[str] = set()
        self._blocked_by: dict[str, list[str]] = {}
        self._succeeded: list[pa.RecordBatch] = []
        # What this run counts; of the input, if it is read: if not, the version stays as it is.
        self._retried: set[str] = set()
        self._listed_given_up: set[str] | None = None
        self._rows_blocked = 0

    @property
    def schema(self) -> TableSchema:
        return DOWNLOADED_IMAGES

    def settings(self) -> dict[str, Any]:
        return self._settings.effects()

    def facts(self) -> dict[str, Any]:
        facts = {"rows_retried": len(self._retried)}
        if self._listed_given_up is None:
            return {**facts, "rows_given_up": len(self._given_up)}
        return {**facts, "rows_given_up": len(self._listed_given_up), "rows_blocked": self._rows_blocked}

    def url_rows(self, retrieved_image_urls: Table) -> Iterator[pa.RecordBatch]:
        """Retrieved URLs as the input of the stage; those that are blocked as if an earlier stage had failed them."""
        self._forget_what_succeeded_later()
        self._listed_given_up = set()
        for batch in retrieved_image_urls.batches(["url_id", "url", "error"]):
            held = self._blocked.urls(batch.column("url"))
            if self._given_up:
                self._listed_given_up.update(self._given_up.intersection(batch.column("url_id").to_pylist()))
            if held.any():
                self._rows_blocked += int(held.sum())
                codes = np.where(held, str(ErrorCode.BLOCKED), batch.column("error").to_pylist())
                yield batch.set_column(2, "error", pa.array(codes.tolist(), pa.string()))
            else:
                yield batch

    def open(self) -> None:
        from sd_assets.download.downloader import Downloader

        self._downloader = Downloader(self._settings, blocked=self._blocked)

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        queries = rows.select(["url_id", "url"]).to_pylist()
        results = [self._without_fetching(query["url_id"]) for query in queries]
        missing = [place for place, result in enumerate(results) if result is None]
        assert self._downloader is not None
        for place, answer in zip(
            missing, self._downloader.download([queries[place]["url"] for place in missing]), strict=True
        ):
            results[place] = self._row(queries[place]["url_id"], asdict(answer))
        return rows_of(
            DOWNLOADED_IMAGES,
            ({**query, **(result or {})} for query, result in zip(queries, results, strict=True)),
        )

    def close(self) -> None:
        if self._downloader is not None:
            self._downloader.close()

    def _without_fetching(self, url_id: str) -> dict[str, Any] | None:
        """The row of a URL that gave something blocked before."""
        entries = self._blocked_by.get(url_id)
        if entries is None:
            return None
        return {
            "error": ErrorCode.BLOCKED,
            "error_detail": _WAS_BLOCKED,
            "blocked_by": entries,
            "fetched_at": datetime.now(UTC),
            "attempts": 0,
        }

    def _row(self, url_id: str, answer: dict[str, Any]) -> dict[str, Any]:
        """The columns of a URL that was asked for."""
        before = self._failed.get(url_id)
        if before is not None:
            self._retried.add(url_id)
        if answer["error"] in _MAY_CHANGE:
            answer["failing_since"] = before[1] if before else answer["fetched_at"]
        elif self._listed_given_up:  # for another reason, such as another size, it was asked for all the same
            self._listed_given_up.discard(url_id)
        if self._blocked.text(answer["error_detail"]):
            answer["error_detail"] = BLANKED
        return answer

    # --- stored rows ---------------------------------------------------------------------------------------------

    def _may_reuse(self, rows: pa.RecordBatch) -> list[bool]:
        held = self._blocked.rows(rows)
        failed = rows.column("error").is_valid()
        self._succeeded.append(rows.select(["url_id", "fetched_at"]).filter(pc.invert(failed)))
        usable = ~held
        for place in np.flatnonzero(held | np.asarray(failed)).tolist():
            row = {name: rows.column(name)[place].as_py() for name in rows.schema.names}
            usable[place] = self._may_reuse_row(row, held=bool(held[place]))
        return list(map(bool, usable))

    def _may_reuse_row(self, row: dict[str, Any], *, held: bool) -> bool:
        """What is known of a URL is kept in mind, for the case that its row is to be made anew."""
        url_id = row["url_id"]
        entry = self._blocked.image(row.get("image_id")) or self._blocked.url(row.get("redirected_to"))
        if entry is not None:
            self._blocked_by[url_id] = [entry]
        elif row["error"] == ErrorCode.BLOCKED and self._blocked.still(row["blocked_by"]):
            self._blocked_by[url_id] = row["blocked_by"]
            return not held
        elif row["error"] in _MAY_CHANGE and not held:
            return self._may_reuse_failure(url_id, row["fetched_at"], row["failing_since"])
        return not held and row["error"] != ErrorCode.BLOCKED

    def _may_reuse_failure(self, url_id: str, fetched_at: datetime, failing_since: datetime) -> bool:
        # Kept versions may tell more than one story of a URL: the last attempt knows best.
        self._failed[url_id] = max(
            self._failed.get(url_id, (fetched_at, failing_since)), (fetched_at, failing_since)
        )
        if fetched_at - failing_since >= timedelta(days=self._settings.give_up_after_d):
            self._given_up.add(url_id)
            return True
        return fetched_at > datetime.now(UTC) - timedelta(hours=self._settings.retry_failed_after_h)

    def _forget_what_succeeded_later(self) -> None:
        """All stored rows have been seen: a failure in an older version says nothing of a URL that was good after it."""
        names = pa.array(list(self._failed), pa.string())
        for rows in self._succeeded:
            for row in rows.filter(pc.is_in(rows.column("url_id"), names)).to_pylist():
                url_id = row["url_id"]
                if url_id in self._failed and row["fetched_at"] > self._failed[url_id][0]:
                    del self._failed[url_id]
                    self._given_up.discard(url_id)
        self._succeeded.clear()
