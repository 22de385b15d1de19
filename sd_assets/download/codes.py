"""How an attempt fails, and which failures may pass by themselves; importable without an HTTP client."""

from sd_assets.errors import ErrorCode, RowError

# The next attempt, or one on another day, may succeed. Every other code says something of the URL or the image.
TRANSIENT: frozenset[ErrorCode] = frozenset(
    {
        ErrorCode.TIMEOUT,
        ErrorCode.HOST_UNAVAILABLE,
        ErrorCode.CONNECTION_FAILED,
        ErrorCode.DNS_ERROR,
        ErrorCode.SERVER_ERROR,
        ErrorCode.RATE_LIMITED,
        ErrorCode.INCOMPLETE,
    }
)

# The host did not answer, or not in time; any answer to HTTP, be it an error, shows that it is there.
NO_ANSWER: frozenset[ErrorCode] = frozenset(
    {ErrorCode.TIMEOUT, ErrorCode.CONNECTION_FAILED, ErrorCode.DNS_ERROR, ErrorCode.TLS_ERROR}
)


class FetchError(RowError):
    """The attempt failed.

    Attributes:
        status: of the last HTTP answer, if there was one.
        retry_after: seconds, as the server asked for.
        again: whether another attempt, soon, may succeed.
        asked: whether anything was asked of the host; False if it is left alone for what it did to others.
        attempts: made in vain: more than one where they were made for many URLs together.
        blocked_by: of the code BLOCKED: the entry of the list.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        again: bool | None = None,
        asked: bool = True,
        attempts: int = 1,
        blocked_by: str | None = None,
    ) -> None:
        super().__init__(
            code, " ".join(storable(detail).split())[:300]
        )  # aiohttp's messages have several lines
        self.status = status
        self.retry_after = retry_after
        self.again = code in TRANSIENT if again is None else again
        self.asked = asked
        self.attempts = attempts
        self.blocked_by = blocked_by


def storable(text: str) -> str:
    """`text` as UTF-8 can say it: bytes that were not UTF-8 arrive as lone surrogates, which nothing can store."""
    return text.encode("utf-8", "replace").decode()


def in_words(error: BaseException) -> str:
    """An exception's message; some have none."""
    return str(error) or type(error).__name__
