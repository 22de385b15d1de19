"""What is asked for; importable without an HTTP client."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """An image that is wanted.

    Attributes:
        url: where it is.
        sha256: (hex) of its bytes, as the corpus knows it: other bytes are HASH_MISMATCH.
        etag: of the image that is at hand. If that is the server's still, it is not sent (`Download.not_modified`).
        last_modified: likewise.
        redirected_to: the URL that gave that image, and these two, if it was another one: only that one is asked for it
            conditionally.
    """

    url: str
    sha256: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    redirected_to: str | None = None
