"""When a later run asks for a URL again: one rule for downloads and for lists of seeds.

Importable without an HTTP client. What is on the list `blocked:` is not judged here: it is not asked for at all.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from sd_assets.download.codes import TRANSIENT
from sd_assets.errors import ErrorCode
from sd_assets.settings import DownloadSettings

# The URL itself is wrong: it fails until it is another one. (A scheme may be one that a redirect led to.)
_FOR_GOOD = frozenset({ErrorCode.INVALID_URL})
# Whoever has the image does not offer it any more: one that was had before is not kept. Any other failure says nothing of
# what was wanted: a page in its place, a server that does not work.
WITHDRAWN = frozenset({ErrorCode.NOT_FOUND, ErrorCode.ACCESS_DENIED, ErrorCode.OPTED_OUT, ErrorCode.BLOCKED})

_HOUR_S = 3_600.0
_DAY_S = 86_400.0
_CENTURY_D = 36_500.0


class Asked(NamedTuple):
    """What came of a URL when it was asked for last.

    Attributes:
        at: when that was (aware, UTC).
        error: why there is no image; None: there is one.
        failing_since: when the failures that may pass began; None if the last time was none. Of a URL that has an image:
            since when it cannot be told whether it has changed.
    """

    at: datetime
    error: str | None
    failing_since: datetime | None


def is_due(asked: Asked, settings: DownloadSettings, now: datetime) -> bool:
    """Whether a URL is to be asked for again."""
    wait_s = _wait_s(asked, settings)
    return wait_s is not None and (now - asked.at).total_seconds() >= wait_s


def is_given_up(asked: Asked, settings: DownloadSettings) -> bool:
    """Whether it has failed for so long that it counts as a failure that does not pass."""
    if asked.failing_since is None:
        return False
    return (asked.at - asked.failing_since).total_seconds() >= settings.give_up_after_d * _DAY_S


def failing_since(error: str | None, at: datetime, before: Asked | None) -> datetime | None:
    """The `Asked.failing_since` of what came now, after what came `before`."""
    if error not in TRANSIENT:
        return None
    return before.failing_since if before is not None and before.failing_since is not None else at


def images_due_from(settings: DownloadSettings, now: datetime) -> datetime | None:
    """Images that were asked for then, or earlier, are due; None: none are."""
    if settings.refetch_after_d is None:
        return None
    return now - timedelta(days=min(settings.refetch_after_d, _CENTURY_D))


def _wait_s(asked: Asked, settings: DownloadSettings) -> float | None:
    """Seconds after which it is asked for again; None: never."""
    if asked.error in _FOR_GOOD or (asked.error is None and settings.refetch_after_d is None):
        return None
    if asked.failing_since is not None and not is_given_up(asked, settings):
        return settings.retry_failed_after_h * _HOUR_S
    if asked.error is None and asked.failing_since is None and settings.refetch_after_d is not None:
        return settings.refetch_after_d * _DAY_S
    return settings.retry_permanent_after_d * _DAY_S
