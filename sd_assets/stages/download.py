"""downloaded_images: the image behind every URL, resized, or why it could not be had."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.batches import with_column
from sd_assets.blocked import BLANKED, NOTHING, Blocked, host_of
from sd_assets.download.again import (
    WITHDRAWN,
    Asked,
    failing_since,
    images_due_from,
    is_due,
    is_given_up,
)
from sd_assets.download.codes import TRANSIENT
from sd_assets.download.request import Request
from sd_assets.errors import ErrorCode
from sd_assets.schemas import DOWNLOADED_IMAGES, TableSchema
from sd_assets.settings import DownloadSettings
from sd_assets.stages.stage import Refused, Stage, Work, rows_of
from sd_assets.storage.staging import Judge
from sd_assets.storage.table import Table

if TYPE_CHECKING:
    from sd_assets.download.downloader import Downloader
    from sd_assets.download.finish import Download

_WAS_BLOCKED = (
    "it gave an image, or led to a place, that is on the list `blocked:` of the catalogue: not asked again"
)
# Rows that came are handed on together: what Arrow takes is for a batch more than for a row. But not late, nor many bytes.
_ROWS_TOGETHER = 64
_BYTES_TOGETHER = 4 * 1024 * 1024
_SECONDS_TOGETHER = 0.5
# Of a stored image, what a conditional request needs.
_CONDITIONS = ("error", "etag", "last_modified", "redirected_to")
_SHA256 = "^[0-9a-f]{64}$"
# What `DownloadStage` counts; the last: URLs that were given up, and do not fail any more.
_RETRIED, _REFETCHED, _NOT_MODIFIED, _CAME_AT_LAST = (
    "rows_retried",
    "rows_refetched",
    "rows_not_modified",
    "rows_that_came_at_last",
)


class _Query(NamedTuple):
    """A row that is asked for."""

    key: bytes
    work: bytes
    url_id: str
    url: str
    has_image: bool  # one is stored, of which only the age is wrong


class DownloadStage(Stage):
    """Fetches, judges, resizes; the rows come as the answers do.

    What is asked for again, and when, says `sd_assets.download.again`. An image that is asked for again stays as it is
    unless there is another one, or its owner has taken it away. What gave something blocked is not asked again while that
    is on the list.

    Args:
        settings: how to fetch, and what is made of it.
        blocked: what may not be fetched, or kept.
    """

    version = "2"
    reads = ("sha256",)  # the url_id is the hash of the URL
    batch_rows = _ROWS_TOGETHER
    is_spread = True

    def __init__(self, settings: DownloadSettings, blocked: Blocked = NOTHING) -> None:
        self._settings = settings
        self._blocked = blocked
        self._downloader: Downloader | None = None
        looked_for = ("url", "redirected_to", "image_id", "error_detail") if blocked else ()
        columns = ("url_id", "error", "fetched_at", "failing_since", "blocked_by", *looked_for)
        self.judge = Judge(columns, self._may_reuse)
        # By url_id, what stored rows say of the last time: of failures that may pass, and what it was blocked by.
        self._failing: dict[str, Asked] = {}
        self._blocked_by: dict[str, list[str]] = {}
        self._not_failing: list[pa.RecordBatch] = []
        # Rows that are due though they do not fail in a way that may pass; when they were asked for.
        self._due: dict[str, datetime] = {}
        # What this run counts of the input, if it is read: if not, the version stays as it is.
        self._listed_given_up: set[str] | None = None
        self._rows_blocked = self._hashes_unusable = 0

    @property
    def schema(self) -> TableSchema:
        return DOWNLOADED_IMAGES

    def settings(self) -> dict[str, Any]:
        return self._settings.effects()

    def facts(self) -> dict[str, Any]:
        """What is counted: of failed URLs, and of those with an image, how many were asked for again; of these, how many
        have not changed; how many failed URLs are given up; how many input rows are blocked, or have a sha256 that is none.
        """
        facts = {name: self.counts[name] for name in (_RETRIED, _REFETCHED, _NOT_MODIFIED)}
        if self._listed_given_up is None:
            return {**facts, "rows_given_up": len(self._given_up())}
        return {
            **facts,
            "rows_given_up": len(self._listed_given_up) - self.counts[_CAME_AT_LAST],
            "rows_blocked": self._rows_blocked,
            "hashes_unusable": self._hashes_unusable,
        }

    def url_rows(self, retrieved_image_urls: Table) -> Iterator[pa.RecordBatch]:
        """Retrieved URLs as the input of the stage; those that are blocked as if an earlier stage had failed them."""
        self._forget_what_failed_earlier()
        given_up = self._given_up()
        self._listed_given_up = set()
        for batch in retrieved_image_urls.batches(["url_id", "url", "sha256", "error"]):
            batch = self._with_usable_hashes(batch)
            held = self._blocked.urls(batch.column("url"))
            if given_up:
                self._listed_given_up.update(given_up.intersection(batch.column("url_id").to_pylist()))
            if held.any():
                self._rows_blocked += int(held.sum())
                codes = np.where(held, str(ErrorCode.BLOCKED), batch.column("error").to_pylist())
                batch = with_column(batch, "error", pa.array(codes.tolist(), pa.string()))
            yield batch

    def _with_usable_hashes(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Without what cannot be the sha256 of anything (an MD5, a placeholder): it says nothing of the image, and to fail
        the row for it would lose an image for a mistake of the corpus."""
        hashes = pc.utf8_lower(pc.utf8_trim_whitespace(batch.column("sha256")))
        usable = pc.match_substring_regex(hashes, _SHA256)
        self._hashes_unusable += pc.sum(pc.invert(usable)).as_py() or 0
        return with_column(batch, "sha256", pc.if_else(usable, hashes, None))

    # --- what is asked for ---------------------------------------------------------------------------------------

    def open(self) -> None:
        from sd_assets.download.downloader import Downloader

        self._downloader = Downloader(self._settings, blocked=self._blocked, cores=self.cores, seat=self.seat)

    def groups(self, rows: pa.RecordBatch) -> list[int]:
        """One worker asks all of a host: so it has no more connections, and is left alone as it asks, whoever computes."""
        from sd_assets.download.hosts import number_of_host

        return [number_of_host(host_of(url)) for url in rows.column("url").to_pylist()]

    def run(self, missing: Iterator[Work], refused: Refused) -> Generator[Work, None, None]:
        assert self._downloader is not None
        came: list[tuple[_Query, Download]] = []
        size, since = 0, time.monotonic()
        requests = self._requests(missing, refused)
        with closing(self._downloader.bunches(requests, _SECONDS_TOGETHER)) as bunches:
            for bunch in bunches:
                came += bunch
                size += sum(len(answer.image or b"") for _, answer in bunch)
                late = time.monotonic() - since > _SECONDS_TOGETHER
                if late or len(came) >= _ROWS_TOGETHER or size >= _BYTES_TOGETHER:
                    yield self._rows(came, refused)
                    came.clear()
                    size, since = 0, time.monotonic()
        yield self._rows(came, refused)

    def close(self) -> None:
        if self._downloader is not None:
            self._downloader.close()

    def _requests(
        self, missing: Iterator[Work], refused: Refused
    ) -> "Iterator[tuple[_Query, Request | Download]]":
        """What is asked for; what gave something blocked before is not: what becomes of it is known."""
        for work in missing:
            all_stored = refused(work.works, _CONDITIONS)
            for row, key, digest in zip(work.rows.to_pylist(), work.keys, work.works, strict=True):
                url, sha256 = row["url"], row["sha256"]
                stored = all_stored.get(digest)
                image = stored if stored is not None and stored["error"] is None else None
                query = _Query(key, digest, row["url_id"], url, has_image=image is not None)
                entries = self._blocked_by.get(query.url_id)
                if entries is not None:
                    yield query, _was_blocked(entries)
                elif image is not None:
                    self.counts[_REFETCHED] += 1
                    conditions = (image[name] for name in ("etag", "last_modified", "redirected_to"))
                    yield query, Request(url, sha256, *conditions)
                else:
                    before = self._failing.get(query.url_id)
                    failed = before is not None and before.error is not None
                    self.counts[_RETRIED] += failed or stored is not None
                    yield query, Request(url, sha256)

    # --- what became of it ---------------------------------------------------------------------------------------

    def _rows(self, came: "Sequence[tuple[_Query, Download]]", refused: Refused) -> Work:
        """The rows of the table."""
        stay = [query.work for query, answer in came if query.has_image and _says_nothing_new(answer)]
        images = refused(stay, None)
        rows = [self._row(query, answer, images.get(query.work)) for query, answer in came]
        return Work(
            rows_of(DOWNLOADED_IMAGES, rows),
            [query.key for query, _ in came],
            [query.work for query, _ in came],
        )

    def _row(self, query: _Query, answer: "Download", image: Mapping[str, Any] | None) -> dict[str, Any]:
        """The columns of a URL that was asked for; `image` is the stored row of one that stays."""
        before = self._failing.get(query.url_id)
        since = failing_since(answer.error, answer.fetched_at, before)
        if since is None and before is not None and self._is_given_up(before):
            self.counts[_CAME_AT_LAST] += 1
        if image is not None:
            asked = {"fetched_at": answer.fetched_at, "attempts": answer.attempts, "failing_since": since}
            if answer.not_modified:  # any other answer's conditions are of what it sent, not of the image
                self.counts[_NOT_MODIFIED] += 1
                asked["etag"] = answer.etag or image["etag"]
                asked["last_modified"] = answer.last_modified or image["last_modified"]
            return {**image, **asked}
        row = {**vars(answer), "url_id": query.url_id, "url": query.url, "failing_since": since}
        if self._blocked.text(answer.error_detail):
            row["error_detail"] = BLANKED
        return row

    # --- stored rows ---------------------------------------------------------------------------------------------

    def _may_reuse(self, rows: pa.RecordBatch) -> list[bool]:
        """What is known of a URL is kept in mind, for the case that its row is to be made anew."""
        now = datetime.now(UTC)
        held = self._blocked.rows(rows)
        failing = rows.column("failing_since").is_valid()
        others = rows.select(["url_id", "fetched_at"]).filter(pc.invert(failing))
        self._not_failing.append(others)
        usable = ~held
        for place in np.flatnonzero(held | self._worth_a_look(rows, now)).tolist():
            row = {name: rows.column(name)[place].as_py() for name in rows.schema.names}
            usable[place] = self._may_reuse_row(row, now, held=bool(held[place]))
        return list(map(bool, usable))

    def _worth_a_look(self, rows: pa.RecordBatch, now: datetime) -> npt.NDArray[np.bool_]:
        """All but images of the right age, which are most."""
        found = pc.or_(rows.column("error").is_valid(), rows.column("failing_since").is_valid())
        due_from = images_due_from(self._settings, now)
        if due_from is not None:
            found = pc.or_(found, pc.less_equal(rows.column("fetched_at"), pa.scalar(due_from)))
        looked_at = np.array(found)
        if self._due:
            looked_at |= [url_id in self._due for url_id in rows.column("url_id").to_pylist()]
        return looked_at

    def _may_reuse_row(self, row: dict[str, Any], now: datetime, *, held: bool) -> bool:
        url_id, error = row["url_id"], row["error"]
        entry = self._blocked.image(row.get("image_id")) or self._blocked.url(row.get("redirected_to"))
        if entry is not None:
            self._blocked_by[url_id] = [entry]
            return False
        if error == ErrorCode.BLOCKED and self._blocked.still(row["blocked_by"]):
            self._blocked_by[url_id] = row["blocked_by"]
            return not held
        if held or error == ErrorCode.BLOCKED:
            return False
        asked = Asked(row["fetched_at"], error, row["failing_since"])
        if asked.failing_since is not None:
            # Kept versions may tell more than one story of a URL: the last time knows best.
            self._failing[url_id] = max(self._failing.get(url_id, asked), asked, key=lambda known: known.at)
        if is_due(asked, self._settings, now):
            # The current version is judged first: what an older one says of the same URL is no answer then.
            if error not in TRANSIENT:
                self._due[url_id] = max(self._due.get(url_id, asked.at), asked.at)
            return False
        return url_id not in self._due or asked.at > self._due[url_id]

    def _forget_what_failed_earlier(self) -> None:
        """All stored rows have been seen: a failure in an older version says nothing of a URL that did not fail so later."""
        names = pa.array(list(self._failing), pa.string())
        for rows in self._not_failing:
            for row in rows.filter(pc.is_in(rows.column("url_id"), names)).to_pylist():
                known = self._failing.get(row["url_id"])
                if known is not None and row["fetched_at"] > known.at:
                    del self._failing[row["url_id"]]
        self._not_failing.clear()

    def _given_up(self) -> set[str]:
        """The URLs without an image that have failed for so long that they are asked for seldom."""
        return {url_id for url_id, asked in self._failing.items() if self._is_given_up(asked)}

    def _is_given_up(self, asked: Asked) -> bool:
        return asked.error is not None and is_given_up(asked, self._settings)


def _says_nothing_new(answer: "Download") -> bool:
    """Whether the image that is stored is the best that is known."""
    return answer.not_modified or (answer.error is not None and answer.error not in WITHDRAWN)


def _was_blocked(entries: list[str]) -> "Download":
    from sd_assets.download.finish import Download

    return Download(
        datetime.now(UTC), 0, error=ErrorCode.BLOCKED, error_detail=_WAS_BLOCKED, blocked_by=entries
    )
