"""Requests that fail for a reason that may pass are tried again.

Not by boto3: its retry mode `standard` stops after some 35 retries of all threads of a client together (a quota of 500, of
which a retry takes 14), so a server that is away for two seconds ends a run with 16 requests under way. Its own retries are off.
"""

import random
import time
from typing import Any

from sd_assets.storage.files.s3_errors import is_of_certificate

# Waits double up to the last of these, from the first, or from the second if the server throttles: as boto3's do. Each is
# times a random share, of a half at least: so ten attempts last ten seconds, whatever chance says.
_WAIT_S, _THROTTLED_WAIT_S, _LONGEST_WAIT_S = 0.05, 1.0, 8.0
# After so long nothing is tried again: a server that is silent would hold up a run for minutes at every request.
_GIVE_UP_S = 60
# But so often: a large file may take minutes each time, and silence no more than `_GIVE_UP_S` in all.
_LEAST_ATTEMPTS = 3

# 409: another writer of the name is under way, and who wins is to be seen.
_PASSING = {408, 409, 429, 500, 502, 503, 504}
_THROTTLING = {429, 503}
# By whatever status they come, as of AWS: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
_PASSING_CODES = {"RequestTimeout", "InternalError"}
_THROTTLING_CODES = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
}


class Attempts:
    """The attempts of one request.

    Args:
        most: so many, at least one.

    Attributes:
        number: of the one that is under way, from 1.
    """

    def __init__(self, most: int) -> None:
        self.number = 1
        self._most = most
        self._began = time.monotonic()

    def again(self, error: Exception) -> bool:
        """Wait, and say so, if another attempt is due after this error."""
        if self.number >= self._most or not _may_pass(error):
            return False
        first = _THROTTLED_WAIT_S if _is_throttling(error) else _WAIT_S
        wait = min(first * 2 ** (self.number - 1), _LONGEST_WAIT_S) * random.uniform(0.5, 1)
        if self.number >= _LEAST_ATTEMPTS and time.monotonic() + wait - self._began > _GIVE_UP_S:
            return False
        time.sleep(wait)
        self.number += 1
        return True


def _may_pass(error: Any) -> bool:
    """Lost connections, broken answers, throttling, and failures of the server."""
    from botocore.exceptions import (
        ClientError,
        ConnectionError,
        FlexibleChecksumError,
        HTTPClientError,
        IncompleteReadError,
    )
    from urllib3.exceptions import HTTPError

    if isinstance(error, ClientError):
        status, code = _said(error)
        return status in _PASSING or code in _PASSING_CODES or _is_throttling(error)
    passing = ConnectionError, HTTPClientError, IncompleteReadError, FlexibleChecksumError, HTTPError
    return isinstance(error, passing) and not is_of_certificate(error)


def _is_throttling(error: Any) -> bool:
    status, code = _said(error)
    return status in _THROTTLING or code in _THROTTLING_CODES


def _said(error: Any) -> tuple[int, str]:
    """The status and the code of an answer; of an error of another kind 0 and nothing."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return 0, ""
    return answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0), str(
        answer.get("Error", {}).get("Code", "")
    )
