"""The images behind a list of URLs: downloaded once, and kept as they came."""

import json
import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.download.again import Asked, failing_since, is_due
from sd_assets.download.request import Request
from sd_assets.errors import ErrorCode, RowError
from sd_assets.schemas import text_id
from sd_assets.settings import DownloadSettings, UrlsSource
from sd_assets.sources.files import shown
from sd_assets.sources.rows import SourceRow
from sd_assets.sources.url_list import Listed, read_list
from sd_assets.storage.area import Area
from sd_assets.storage.lookup import RowsAtHand

if TYPE_CHECKING:
    from sd_assets.download.downloader import Downloader
    from sd_assets.download.finish import Download

logger = logging.getLogger(__name__)

# Rows keep their order, so images that have come wait for a slower one before them. Beyond so many bytes, or so many
# rows, nothing new is asked for until it has come.
_MAX_WAITING_BYTES = 256 * 1024 * 1024
_WAITING_PER_CONNECTION = 2
_NOTE = "fetched.json"
# The note is small, but it is written whole: every so many URLs that it has something new to say of.
_NEWS_BEFORE_WRITING = 500


def read_urls(
    source: UrlsSource, settings: DownloadSettings, area: Area | None = None, blocked: Blocked = NOTHING
) -> Iterator[SourceRow]:
    """A row a line of the list, in its order; of a URL that is listed twice, one request.

    What failed is a row with its code, and so is what is no image; the bytes of neither are kept. What is asked for again,
    and when, says `sd_assets.download.again`; but an image that came stays as it is, as seeds do. What is blocked is a row
    with that code, and is not asked for; nor is what gave something blocked before, while that is on the list.

    Args:
        source: the list.
        settings: how to fetch.
        area: where the rows of earlier runs are: what came then is taken from there, and is not asked for again.
        blocked: what was taken down.

    Raises:
        SourceError: the list cannot be read.
        CatalogError: its path holds an environment variable that is not set.
    """
    path, lines = read_list(source)
    waiting: deque[tuple[int, Listed]] = deque()
    with _Images(settings, Known(area, settings, blocked), blocked) as images:

        def next_row() -> SourceRow:
            number, line = waiting.popleft()
            if line.url is None:
                return SourceRow(None, line.text, shown(path.name), None, number, line.error)
            return images.row(line.url, line.text, number)

        # Not one URL is asked for beyond the rows that are wanted.
        for number, line in enumerate(islice(lines, source.max_rows)):
            if line.url is not None:
                images.request(line.url)
            waiting.append((number, line))
            while waiting and (images.full(len(waiting)) or images.ready(waiting[0][1].url)):
                yield next_row()
        while waiting:
            yield next_row()
        images.known.complete()


@dataclass(frozen=True)
class _Given:
    """What a URL gave in this run.

    Attributes:
        asked_at: when it was asked for (ISO 8601, UTC), in this run or an earlier one.
        image_id: of the image.
        error: why there is none.
    """

    asked_at: str | None
    image_id: str | None = None
    error: RowError | None = None


class _Images:
    """Gets the images of URLs: from what is known, or from the web."""

    def __init__(self, settings: DownloadSettings, known: "Known", blocked: Blocked) -> None:
        self.known = known
        self._settings = settings
        self._blocked = blocked
        self._downloader: Downloader | None = None
        self._under_way: dict[str, Future[Download]] = {}
        self._given: dict[str, _Given] = {}
        self._first: dict[str, str] = {}  # image_id -> the first URL of this run that gave it
        self._held_bytes = 0
        self._counting = threading.Lock()  # the downloader's threads add, ours takes away

    def __enter__(self) -> "_Images":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._downloader is not None:
            self._downloader.close()
        self.known.close()

    def request(self, url: str) -> None:
        """Have a URL fetched, unless it was, is being fetched, need not be or may not."""
        if url not in self._given and self.known.blocked(url):
            self._given[url] = _Given(None, error=RowError(ErrorCode.BLOCKED))
        if url not in self._given and url not in self._under_way and not self.known.usable(url):
            self._fetch(url)

    def ready(self, url: str | None) -> bool:
        """Whether `row` would answer at once."""
        return url not in self._under_way or self._under_way[url].done()

    def full(self, waiting: int) -> bool:
        """Whether so much waits that nothing more is to be requested."""
        most = _WAITING_PER_CONNECTION * self._settings.connections
        return waiting >= most or self._held_bytes > _MAX_WAITING_BYTES

    def row(self, url: str, text: str | None, number: int) -> SourceRow:
        """The row of a URL that was requested; blocks until it has come."""
        data = None
        if url not in self._given:
            given, data = self._answer(url)
            self._given[url] = given
        given = self._given[url]
        if given.error is not None or given.image_id is None:
            return SourceRow(None, text, url, given.asked_at, number, given.error)
        first = self._first.setdefault(given.image_id, url)
        if first != url:
            self.known.same(url, first)
        if data is None:
            return SourceRow(None, text, url, given.asked_at, number, same_as=given.image_id)
        return SourceRow(data, text, url, given.asked_at, number)

    def _answer(self, url: str) -> tuple[_Given, bytes | None]:
        """What became of a URL; the bytes, too, if no earlier row gave the same."""
        stored = None if url in self._under_way else self.known.find(url)
        if stored is not None and stored["error"] is not None:
            self.known.still_failing(url)
            error = RowError(ErrorCode(stored["error"]), stored["error_detail"] or "")
            return _Given(stored["source_revision"], error=error), None
        if stored is not None:
            given = _Given(stored["source_revision"], stored["image_id"])
            if stored["image_id"] in self._first:
                return given, None
            data = self.known.image(url)
            if data is not None:
                return given, data
            self._fetch(url)  # it was there a moment ago
        came = self._under_way.pop(url).result()
        # Perhaps before `_came` has added it: for a moment there is less than nothing, which does no harm.
        self._count(-len(came.image or b""))
        at = came.fetched_at.isoformat(timespec="seconds")
        if came.blocked_by is not None:
            self.known.was_blocked(url, came.blocked_by)
        if came.error is not None:
            self.known.failed(url, came.error, came.fetched_at)
            return _Given(at, error=RowError(came.error, came.error_detail or "")), None
        return _Given(at, came.image_id), came.image

    def _fetch(self, url: str) -> None:
        if self._downloader is None:
            from sd_assets.download.downloader import Downloader
            from sd_assets.download.finish import as_it_came

            self._downloader = Downloader(self._settings, as_it_came, self._blocked)
        future = self._downloader.submit(Request(url))
        future.add_done_callback(self._came)
        self._under_way[url] = future

    def _came(self, future: "Future[Download]") -> None:
        if not future.cancelled() and future.exception() is None:
            self._count(len(future.result().image or b""))

    def _count(self, size: int) -> None:
        with self._counting:
            self._held_bytes += size


class Known:
    """What earlier runs know of URLs: the rows at hand, and a note of what these do not tell.

    A row is found by its column `source`. Of URLs that give the same image only the first has a row (the others are
    duplicates), so the note says whose it is. It also holds the settings of the last whole run: after an edit of what
    may be fetched, failures are tried again; and by the ids of URLs what they were blocked by, as those have no row at all,
    and since when they fail. Without the note, no more is lost than some requests.
    """

    def __init__(self, area: Area | None, settings: DownloadSettings, blocked: Blocked = NOTHING) -> None:
        self._area = area
        self._settings = settings
        self._blocked = blocked
        self._rows = (
            RowsAtHand(area, "source", ["image_id", "error", "error_detail", "source_revision"])
            if area
            else None
        )
        self._note = _parsed((area and area.note(_NOTE)) or b"{}")
        self._same_before: dict[str, str] = {
            url: first
            for url, first in self._note["same"].items()
            if not (blocked.url(url) or blocked.url(first))
        }
        self._same: dict[str, str] = {}
        self._blocked_before: dict[str, list[str]] = self._note["blocked"]
        self._blocked_by: dict[str, list[str]] = {}
        self._failing_before: dict[str, str] = self._note["failing"]
        self._failing: dict[str, str] = {}
        self._news = 0
        if "settings" not in self._note or len(self._same_before) < len(self._note["same"]):
            # Now, so that what this run leaves behind, should it be killed, is known to be of these settings; and what was
            # blocked is named no longer.
            self._note.setdefault("settings", self._effects())
            self._write_all()

    def find(self, url: str) -> dict[str, Any] | None:
        """The row of a URL, or of another one that gave the same image."""
        if self._rows is None:
            return None
        row = self._rows.get(url)
        if row is None and url in self._same_before:
            row = self._rows.get(self._same_before[url])
            return None if row is None or row["error"] is not None else row
        return row

    def usable(self, url: str) -> bool:
        """Whether what is known of a URL stands, so that it is not to be asked for."""
        row = self.find(url)
        if row is None:
            return False
        if row["error"] is None:
            return row["image_id"] is not None
        if self._note["settings"] != self._effects():
            return False
        asked = self._asked(url, row)
        return asked is not None and not is_due(asked, self._settings, datetime.now(UTC))

    def _asked(self, url: str, row: dict[str, Any]) -> Asked | None:
        """When the failed row of a URL was asked for; None if it is of another source, which does not say."""
        at = _time(row["source_revision"])
        if at is None:
            return None
        since = _time(self._failing_before.get(text_id(url)))
        before = None if since is None else Asked(since, row["error"], since)
        return Asked(at, row["error"], failing_since(row["error"], at, before))

    def image(self, url: str) -> bytes | None:
        """The bytes of a row that `find` gave; None if it is not at hand any more."""
        assert self._rows is not None
        data: bytes | None = self._rows.read(url, "image")
        return data or self._rows.read(self._same_before.get(url, ""), "image")

    def same(self, url: str, first: str) -> None:
        """Note that a URL gave the image of one before it."""
        if self._same.get(url) == first:
            return
        self._same[url] = first
        self._news += self._same_before.get(url) != first
        if self._news >= _NEWS_BEFORE_WRITING:
            self._write_all()

    def blocked(self, url: str) -> bool:
        """Whether a URL is blocked, or gave something that is."""
        if not self._blocked:
            return False
        if self._blocked.url(url) is not None:
            return True
        row = self.find(url)
        entry = row and self._blocked.image(row["image_id"])
        entries = [entry] if entry else self._blocked_before.get(text_id(url))
        if entries is None or not self._blocked.still(entries):
            return False
        self.was_blocked(url, entries)
        return True

    def was_blocked(self, url: str, entries: list[str]) -> None:
        """Note that a URL gave something that is on the list by these entries."""
        identity = text_id(url)
        self._blocked_by[identity] = entries
        self._news += self._blocked_before.get(identity) != entries

    def failed(self, url: str, error: ErrorCode, at: datetime) -> None:
        """Note since when a URL fails that was asked for, if that may pass."""
        row = self.find(url)
        before = self._asked(url, row) if row is not None and row["error"] is not None else None
        since = failing_since(error, at, before)
        if since is not None:
            identity = text_id(url)
            self._failing[identity] = since.isoformat()
            self._news += self._failing_before.get(identity) != self._failing[identity]

    def still_failing(self, url: str) -> None:
        """What the note says of a URL that is not asked for again goes on to be true."""
        identity = text_id(url)
        if identity in self._failing_before:
            self._failing[identity] = self._failing_before[identity]

    def complete(self) -> None:
        """The list was read to its end: what else the note says is of URLs that are listed no more."""
        before = (self._same_before, self._blocked_before, self._failing_before, self._note["settings"])
        now = (self._same, self._blocked_by, self._failing, self._effects())
        if before != now:
            self._write(*now)

    def close(self) -> None:
        """After the end, or in the middle: then what is new is added to the note."""
        if self._rows is not None:
            self._rows.close()
        if self._news:
            self._write_all()

    def _effects(self) -> dict[str, Any]:
        return self._settings.fetch_effects()

    def _write_all(self) -> None:
        """What was known before, and what is new."""
        self._write(
            {**self._same_before, **self._same},
            {**self._blocked_before, **self._blocked_by},
            {**self._failing_before, **self._failing},
            self._note["settings"],
        )

    def _write(
        self, same: dict[str, str], blocked: dict[str, list[str]], failing: dict[str, str], settings: Any
    ) -> None:
        self._news = 0
        if self._area is not None:
            note = {"same": same, "blocked": blocked, "failing": failing, "settings": settings}
            self._area.put_note(_NOTE, json.dumps(note).encode())


def _parsed(note: bytes) -> dict[str, Any]:
    names = ("same", "blocked", "failing")
    try:
        found = json.loads(note)
        return {**found, **{name: dict(found.get(name, {})) for name in names}}
    except (ValueError, TypeError, AttributeError) as error:
        logger.warning("the note of what was fetched is damaged, and passed over: %s", error)
        return {name: {} for name in names}


def _time(text: str | None) -> datetime | None:
    """A time as `datetime.isoformat` writes it; None if it is none, or without a zone."""
    try:
        time = datetime.fromisoformat(text or "")
        return time if time.tzinfo is not None else None
    except (ValueError, TypeError):
        return None
