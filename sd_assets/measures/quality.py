"""All measures of a picture, in one pass over its pixels."""

from dataclasses import dataclass

from sd_assets.measures.blockiness import blockiness
from sd_assets.measures.flat_border import content
from sd_assets.measures.perceptual_hash import perceptual_hash
from sd_assets.measures.pictures import Luma, luma_of
from sd_assets.measures.sharpness import sharpness


@dataclass(frozen=True)
class Quality:
    """What was measured; the module of each says how.

    Attributes:
        width: px, as it is shown.
        height: likewise.
        sharpness: 0 to 1, the more the sharper.
        blockiness: levels of 255 by which JPEG's blocks stand out; about 0 without.
        flat_border: share of the area, 0 to 1, that bars of one colour take.
        perceptual_hash: 64 bits, hex, of the square in the middle of what the bars leave: a copy that was cropped to a square
            or put on one, as downloads may be, has that of what came. None: there is too little in it to hash.
    """

    width: int
    height: int
    sharpness: float
    blockiness: float
    flat_border: float
    perceptual_hash: str | None


def measured(data: bytes) -> Quality:
    """Measure an image as it is encoded. May be called from several threads.

    Raises:
        RowError: as `sd_assets.images.decode_rgb`.
    """
    luma = luma_of(data)
    within = content(luma)
    # The edges of bars are as sharp as the picture is not, and have no blocks.
    shown = luma[within.top : within.bottom, within.left : within.right]
    height, width = luma.shape
    return Quality(
        width=width,
        height=height,
        sharpness=sharpness(shown),
        blockiness=blockiness(shown),
        flat_border=1 - shown.size / luma.size,
        perceptual_hash=perceptual_hash(_middle_square(shown if shown.size else luma)),
    )


def _middle_square(luma: Luma) -> Luma:
    height, width = luma.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return luma[top : top + side, left : left + side]
