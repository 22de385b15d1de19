"""When a URL is asked for again, by what came of it the last time."""

from datetime import UTC, datetime, timedelta

import pytest

from sd_assets.download.again import (
    WITHDRAWN,
    Asked,
    failing_since,
    images_due_from,
    is_due,
    is_given_up,
)
from sd_assets.download.codes import TRANSIENT
from sd_assets.errors import ErrorCode
from sd_assets.settings import DownloadSettings

NOW = datetime(2027, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SETTINGS = DownloadSettings(
    retry_failed_after_h=6, give_up_after_d=10, retry_permanent_after_d=40, refetch_after_d=20
)
WITHOUT = SETTINGS.model_copy(update={"refetch_after_d": None})


def due_after(asked: Asked, settings: DownloadSettings = SETTINGS) -> timedelta | None:
    """The age at which it is due, to the hour; None: never."""
    if not is_due(asked, settings, asked.at + 1_000_000 * DAY):
        return None
    return next(hours * HOUR for hours in range(10_000) if is_due(asked, settings, asked.at + hours * HOUR))


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_is_transient_permanent_or_for_good(code: ErrorCode) -> None:
    since = failing_since(code, NOW, None)
    assert (since == NOW) is (code in TRANSIENT)
    wanted = None if code == "invalid_url" else 6 * HOUR if since else 40 * DAY
    assert due_after(Asked(NOW, code, since)) == wanted


def test_what_fails_for_long_is_asked_for_as_seldom_as_what_fails_for_good() -> None:
    for days, given_up in ((9, False), (10, True), (500, True)):
        asked = Asked(NOW, ErrorCode.TIMEOUT, NOW - days * DAY)
        assert is_given_up(asked, SETTINGS) is given_up
        assert due_after(asked) == (40 * DAY if given_up else 6 * HOUR)


def test_images_are_asked_for_again_if_they_are_to_be() -> None:
    image = Asked(NOW, None, None)
    assert (due_after(image), due_after(image, WITHOUT)) == (20 * DAY, None)
    failing = Asked(NOW, None, NOW - DAY)
    assert (due_after(failing), due_after(failing, WITHOUT)) == (6 * HOUR, None)
    given_up = Asked(NOW, None, NOW - 10 * DAY)
    assert (due_after(given_up), due_after(given_up, WITHOUT)) == (40 * DAY, None)
    due_from = images_due_from(SETTINGS, NOW)
    assert due_from == NOW - 20 * DAY and images_due_from(WITHOUT, NOW) is None
    assert is_due(Asked(due_from, None, None), SETTINGS, NOW)


def test_the_count_of_failures_begins_with_the_first_in_a_row() -> None:
    first = Asked(NOW, ErrorCode.TIMEOUT, NOW)
    assert failing_since(ErrorCode.SERVER_ERROR, NOW + DAY, first) == NOW
    assert failing_since(ErrorCode.NOT_FOUND, NOW + DAY, first) is None
    assert failing_since(None, NOW + DAY, first) is None
    good = Asked(NOW, None, None)
    assert failing_since(ErrorCode.SERVER_ERROR, NOW + DAY, good) == NOW + DAY


def test_very_long_and_very_short_ages() -> None:
    never = DownloadSettings(
        refetch_after_d=1e15, retry_failed_after_h=1e15, retry_permanent_after_d=1e15, give_up_after_d=1e15
    )
    at_once = DownloadSettings(refetch_after_d=0, retry_failed_after_h=0, retry_permanent_after_d=0)
    for asked in (Asked(NOW, None, None), Asked(NOW, "timeout", NOW), Asked(NOW, "not_found", None)):
        assert not is_due(asked, never, NOW + 10_000 * DAY)
        assert is_due(asked, at_once, NOW)
    assert images_due_from(never, NOW) is not None


def test_what_was_withdrawn_is_none_of_what_may_pass() -> None:
    assert not WITHDRAWN & TRANSIENT
