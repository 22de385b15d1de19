"""What a container says of its picture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sd_assets.errors import ErrorCode, RowError

# Bytes of a colour profile or of EXIF, at most; larger ones are ignored, as damaged ones are. Profiles of printing
# presses, the largest there are, have 0.5 to 3 million.
MAX_METADATA = 4 * 1024 * 1024
# Segments, chunks or blocks that are walked in search of the picture, at most: real files have tens, those with
# metadata in many pieces hundreds.
MAX_PARTS = 10_000
_SIDES_END = 2**31  # pixels

T = TypeVar("T")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Picture:
    """The picture of a file as its header describes it.

    Attributes:
        format: jpeg, png, webp, gif, tiff, bmp or avif.
        width: pixels as they are stored, before the orientation is applied.
        height: likewise.
        make_bare: makes what `bare` gives.
        find_profile: finds what `profile` gives.
        orientation: of EXIF, 1 to 8: how the stored pixels are to be turned.
        head: of formats whose decoder must tell whether it understands the header: enough of the file to ask it.
        covered: left, upper, right, lower: the part of the picture that has pixels, where that is not all of it. The rest
            is transparent.
        depth: bits a sample of a PNG or TIFF, as they are stored.
    """

    format: str
    width: int
    height: int
    make_bare: Callable[[], bytes]
    find_profile: Callable[[], bytes | None]
    orientation: int = 1
    head: bytes | None = None
    covered: Box | None = None
    depth: int = 8

    def __post_init__(self) -> None:
        # What no table of ours could tell, and no decoder could do.
        if not (0 < self.width < _SIDES_END and 0 < self.height < _SIDES_END):
            raise corrupt(self.format, f"{self.width} x {self.height} pixels")

    def bare(self) -> bytes:
        """The file that a decoder is to be given: the picture and what belongs to it, without metadata.

        Raises:
            RowError: CORRUPT_IMAGE: going through the data of the pixels shows what the header did not.
        """
        return guarded(self.format, self.make_bare)

    def profile(self) -> bytes | None:
        """The ICC profile; None if there is none, or an absurd one."""
        return guarded(self.format, self.find_profile)


def no_profile() -> None:
    """The profile of a picture that has none."""


def corrupt(format: str, detail: str) -> RowError:
    """The error of a header that is damaged."""
    return RowError(ErrorCode.CORRUPT_IMAGE, f"{format} header: {detail}")


def unsupported(detail: str) -> RowError:
    """The error of a kind of image that is not read."""
    return RowError(ErrorCode.NOT_AN_IMAGE, f"{detail} is not read: convert it to 8-bit JPEG, PNG or WebP")


def guarded(format: str, call: Callable[[], T]) -> T:
    """What the call gives; should it not be prepared for some damage, that is the error of the image, not of the run.

    Raises:
        RowError: CORRUPT_IMAGE, or what the call raises.
    """
    try:
        return call()
    except RowError:
        raise
    except Exception as error:
        raise corrupt(format, f"{type(error).__name__} {error}") from error
