"""What becomes of one URL: the image made from an answer, or the code of why there is none."""

import contextlib
import dataclasses
import datetime
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sd_assets import images
from sd_assets.blocked import Blocked
from sd_assets.download import codec
from sd_assets.download.resize import judge_size
from sd_assets.errors import ErrorCode, RowError
from sd_assets.schemas import image_id
from sd_assets.settings import DownloadSettings

if TYPE_CHECKING:
    from sd_assets.download.answer import Answer

# The detail of an image that came, and is blocked.
BLOCKED_IMAGE = "the image is on the list `blocked:` of the catalogue"

# One image of more pixels than this is in the works at a time: its pixels take hundreds of megabytes.
_MANY_PIXELS = 25_000_000
_many_pixels = threading.Lock()

# Makes of an image's bytes what is kept: (bytes, header, settings) -> (bytes, width, height). Raises RowError.
Make = Callable[[bytes, images.ImageInfo, DownloadSettings], tuple[bytes, int, int]]


@dataclass(frozen=True)
class Download:
    """What became of one URL: the columns of `downloaded_images` besides `url_id` and `url`, and `not_modified`.

    On failure `image_id`, `image`, `width` and `height` are None; of the rest what is known is kept.

    Attributes:
        image_id: sha256 (hex) of the bytes as they came.
        image: resized and encoded as the settings say.
        width: pixels of `image`.
        height: pixels of `image`.
        original_width: pixels as they came, after the EXIF orientation is applied.
        original_height: likewise.
        original_bytes: bytes as they came.
        format: of the bytes as they came, judged by content: jpeg, png, webp, gif, tiff, bmp, avif.
        http_status: of the last answer.
        fetched_at: when the last attempt ended (aware, UTC).
        etag: for a conditional request another day.
        last_modified: likewise.
        attempts: made in this run; 1 for a URL that may not be asked for at all, 0 if its host is left alone.
        retry_after: seconds, as the server asked for.
        redirected_to: the URL that the answer came from, if that is another one.
        error: why it failed; None if it did not.
        error_detail: one line for a person.
        blocked_by: of the error BLOCKED: the entry of the list.
        not_modified: the image that is at hand is the server's still (status 304): neither an error nor an image.
    """

    fetched_at: datetime.datetime
    attempts: int
    image_id: str | None = None
    image: bytes | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    original_bytes: int | None = None
    format: str | None = None
    http_status: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    retry_after: float | None = None
    redirected_to: str | None = None
    error: ErrorCode | None = None
    error_detail: str | None = None
    blocked_by: list[str] | None = None
    not_modified: bool = False


def finish(
    row: Download,
    answer: "Answer",
    settings: DownloadSettings,
    make: Make,
    blocked: Blocked,
    sha256: str | None = None,
) -> Download:
    """`row` with what an answer holds: the image made from its body, or the code of why there is none.

    Args:
        row: what is known of the attempt.
        answer: with a body.
        settings: for `make`.
        make: makes the image.
        blocked: images that are not kept.
        sha256: that the body must have; None: any.
    """
    came = image_id(answer.body)
    entry = blocked.image(came) if blocked else None
    if entry is not None:  # nothing is kept that would tell one image from another
        return dataclasses.replace(
            row,
            http_status=answer.status,
            error=ErrorCode.BLOCKED,
            error_detail=BLOCKED_IMAGE,
            blocked_by=[entry],
        )
    row = dataclasses.replace(
        row,
        http_status=answer.status,
        etag=answer.etag,
        last_modified=answer.last_modified,
        original_bytes=len(answer.body),
        redirected_to=answer.redirected_to,
    )
    try:
        info = images.inspect(answer.body)
        row = dataclasses.replace(
            row, format=info.format, original_width=info.width, original_height=info.height
        )
        wanted = came if sha256 is None else sha256.strip().lower()
        if came != wanted:
            detail = f"the sha256 is {came[:12]}..., the corpus has {wanted[:12]}..."
            raise RowError(ErrorCode.HASH_MISMATCH, detail)
        with _many_pixels if info.width * info.height > _MANY_PIXELS else contextlib.nullcontext():
            image, width, height = make(answer.body, info, settings)
    except RowError as error:
        return dataclasses.replace(row, error=error.code, error_detail=error.detail)
    return dataclasses.replace(row, image_id=came, image=image, width=width, height=height)


def resized(data: bytes, info: images.ImageInfo, settings: DownloadSettings) -> tuple[bytes, int, int]:
    """The image judged, resized and encoded as the settings say; its width and height."""
    judge_size(info.width, info.height, settings)
    return codec.resized(data, info, settings)


def as_it_came(data: bytes, info: images.ImageInfo, settings: DownloadSettings) -> tuple[bytes, int, int]:
    """The bytes themselves, whatever size they have; its width and height."""
    return data, info.width, info.height
