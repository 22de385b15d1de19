"""The error codes of rows, and the exceptions that stop an asset.

A row that fails stays in its table with a null payload and one of these codes; there is no catch-all code. What
goes wrong for a whole asset (a missing folder, a dead index, a model that does not exist) is a `SdAssetsError`
whose message says what was wrong, where, and what to do.
"""

from enum import StrEnum


class ErrorCode(StrEnum):
    """Why a row failed. The value is what stands in the column `error`."""

    # Bytes of an image, wherever they came from.
    EMPTY = "empty"  # no bytes at all
    NOT_AN_IMAGE = "not_an_image"  # the content is of no image format we read (by content, never by name)
    CORRUPT_IMAGE = "corrupt_image"  # an image format, but truncated or damaged
    TOO_MANY_PIXELS = "too_many_pixels"  # the header promises more pixels than the limit
    TOO_SMALL = "too_small"  # a side is under `min_image_size`
    ASPECT_RATIO = "aspect_ratio"  # more elongated than `max_aspect_ratio`

    # Sources.
    UNREADABLE = "unreadable"  # the file that a row names cannot be read
    MISSING_IMAGE = "missing_image"  # the row of the source has a null where its image should be

    # Embedding, retrieval, captions.
    NOT_FINITE = "not_finite"  # the model answered NaN or infinity
    MODEL_FAILED = "model_failed"  # the model raised an error at this row, and not at others
    QUERY_FAILED = "query_failed"  # the index answered this query with an error
    EMPTY_CAPTION = "empty_caption"  # the captioner generated no text
    CAPTION_REFUSED = (
        "caption_refused"  # the captioner's endpoint, or a filter there, did not take this image
    )

    # Download: the address.
    INVALID_URL = "invalid_url"  # not a URL, or without a host
    UNSUPPORTED_SCHEME = "unsupported_scheme"  # neither http nor https
    ADDRESS_FORBIDDEN = "address_forbidden"  # loopback, private, link-local ..., or a port not listed; and not on the allow-list
    DNS_ERROR = "dns_error"  # the name of the host does not resolve
    # Download: the connection.
    CONNECTION_FAILED = "connection_failed"  # refused, or reset before an answer
    TLS_ERROR = "tls_error"  # the certificate or the handshake failed
    TIMEOUT = "timeout"  # the deadline of the image passed
    HOST_UNAVAILABLE = "host_unavailable"  # not asked: the host failed `host_failures` times in a row
    INVALID_RESPONSE = "invalid_response"  # the answer is not HTTP, or its coding is broken
    # Download: the answer.
    NOT_FOUND = "not_found"  # 404, 410
    ACCESS_DENIED = "access_denied"  # 401, 402, 403, 407, 451
    RATE_LIMITED = "rate_limited"  # 429; or not asked, as the host wants to be left alone
    CLIENT_ERROR = "client_error"  # any other 4xx
    SERVER_ERROR = "server_error"  # 5xx
    UNEXPECTED_STATUS = "unexpected_status"  # neither success, redirect nor error: 1xx, 204, 304 ...
    TOO_MANY_REDIRECTS = "too_many_redirects"  # loops too
    INVALID_REDIRECT = "invalid_redirect"  # a redirect that names no place to go
    TOO_LARGE = "too_large"  # more bytes than `max_bytes`
    INCOMPLETE = "incomplete"  # the connection closed before the whole body came
    OPTED_OUT = "opted_out"  # X-Robots-Tag: noai, noimageai, noindex, noimageindex; or robots.txt
    HASH_MISMATCH = "hash_mismatch"  # the bytes are not those whose sha256 the corpus has

    # Of the catalogue.
    BLOCKED = "blocked"  # taken down: the image, its URL or its host is on the list `blocked:`


class RowError(Exception):
    """One row failed; its batch goes on.

    Attributes:
        code: the row's `error`.
        detail: the row's `error_detail`: one line for a person.
    """

    def __init__(self, code: ErrorCode, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else str(code))
        self.code = code
        self.detail = detail


class SdAssetsError(Exception):
    """An asset cannot go on. The message says what was wrong, where, and what to do."""


class CatalogError(SdAssetsError):
    """The catalogue is wrong; lists every mistake with its entry and field."""


class SourceError(SdAssetsError):
    """A seed dataset cannot be read."""


class ModelError(SdAssetsError):
    """A model cannot be loaded, or is not of the kind asked for."""


class RetrievalError(SdAssetsError):
    """A kNN index cannot be opened, reached, or does not fit the queries."""


class ExportError(SdAssetsError):
    """The curated pairs cannot be written in the layout asked for."""


class HubError(SdAssetsError):
    """A dataset of the Hub cannot be written."""


class TableError(SdAssetsError):
    """A table breaks its contract: schema, keys, row conservation, or a commit that somebody else won."""


class WriteError(TableError):
    """The storage cannot be written: a full disk, a read-only one."""


class GoneError(TableError, FileNotFoundError):
    """A file was deleted, or written anew, while it was read.

    What a table says of a shard that is gone, and what a file system says: whoever expects either goes on. Whoever must not
    miss a file opens it again: then it is not there, or can be read from its beginning.
    """


class ReadError(SdAssetsError):
    """The storage cannot be read: access denied, a server that does not answer.

    No TableError, as nothing is known of the table then: neither that it is damaged, nor that a file of it is gone.
    """
