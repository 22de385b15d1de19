"""Which failures of a download may pass by themselves; importable without an HTTP client."""

from sd_assets.errors import ErrorCode

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
