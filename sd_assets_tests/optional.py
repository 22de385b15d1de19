"""What some tests need beside the package: a browser, another environment. Missing, it skips them; in CI it fails them."""

import os
from typing import NoReturn

import pytest

ALL_VARIABLE = "SD_ASSETS_TEST_ALL"


def missing(what: str, remedy: str) -> NoReturn:
    """Skip the test that needs `what`, or fail it where `SD_ASSETS_TEST_ALL` asks for every test.

    Args:
        what: that is not there.
        remedy: what to do to get it.
    """
    reason = f"there is no {what}: {remedy}"
    if os.environ.get(ALL_VARIABLE):
        pytest.fail(f"{reason} ({ALL_VARIABLE} is set, so no test may be skipped)", pytrace=False)
    pytest.skip(reason)
