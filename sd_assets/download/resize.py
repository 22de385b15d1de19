"""Resizing with img2dataset's meaning of the modes, and the judgement of sizes that comes before it.

| mode | the side that becomes `size` | then |
|---|---|---|
| no | none | |
| keep_ratio | the smaller | |
| center_crop | the smaller | the middle square of `size` x `size` |
| keep_ratio_largest | the larger | |
| border | the larger | centred on a white square of `size` x `size` |

Smaller images are enlarged, unless `only_if_bigger`: then an image whose side in question is `size` or less is left
alone altogether, neither cropped nor bordered (so an image of 512 x 700 is not cropped to 512; that is img2dataset's
meaning, too).
"""

from PIL import Image

from sd_assets.errors import ErrorCode, RowError
from sd_assets.settings import DownloadSettings, ResizeMode

_BY_SMALLER_SIDE = frozenset({"keep_ratio", "center_crop"})
_WHITE = (255, 255, 255)


def judge_size(width: int, height: int, settings: DownloadSettings) -> None:
    """Whether an image of so many pixels is wanted; its header suffices to tell.

    Raises:
        RowError: TOO_MANY_PIXELS, TOO_SMALL, ASPECT_RATIO.
    """
    size = f"{width} x {height}"
    if width * height > settings.max_pixels:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, f"{size}, over the limit of {settings.max_pixels} pixels")
    if min(width, height) < settings.min_image_size:
        raise RowError(ErrorCode.TOO_SMALL, f"{size}, a side is under {settings.min_image_size}")
    ratio = max(width, height) / min(width, height)
    if settings.max_aspect_ratio is not None and ratio > settings.max_aspect_ratio:
        raise RowError(
            ErrorCode.ASPECT_RATIO, f"{size} is {ratio:.2f} to 1, over {settings.max_aspect_ratio:g}"
        )
    scaled = scaled_size(
        width, height, settings.image_size, settings.resize_mode, settings.resize_only_if_bigger
    )
    if scaled is not None and scaled[0] * scaled[1] > settings.max_pixels:
        # A strip whose shorter side is enlarged: 1 x 20,000 would become 512 x 10,240,000.
        detail = f"{size} would be scaled to {scaled[0]} x {scaled[1]}, over the limit of {settings.max_pixels} pixels"
        raise RowError(ErrorCode.TOO_MANY_PIXELS, detail)


def scaled_size(
    width: int, height: int, size: int, mode: ResizeMode, only_if_bigger: bool
) -> tuple[int, int] | None:
    """Width and height in pixels before cropping or bordering; None if the image is to be left alone.

    Sides are rounded half to even, as img2dataset's are. A side never falls to 0 (img2dataset fails such an image).
    """
    if mode == "no":
        return None
    decisive = min(width, height) if mode in _BY_SMALLER_SIDE else max(width, height)
    if only_if_bigger and decisive <= size:
        return None
    scale = size / decisive
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(image: Image.Image, size: int, mode: ResizeMode, only_if_bigger: bool) -> Image.Image:
    """The RGB image in the size that `mode` says (see the table of this module).

    Shrinking is a Lanczos resampling whose filter widens with the scale, so nothing aliases; `reducing_gap` averages
    whole pixels first, to no less than three times the target, which cannot be told from the plain filter and is
    several times as fast on large images.
    """
    scaled = scaled_size(*image.size, size, mode, only_if_bigger)
    if scaled is None:
        return image
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.LANCZOS, reducing_gap=3.0)
    if mode == "center_crop":
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return image.crop((left, top, left + size, top + size))
    if mode == "border":
        square = Image.new("RGB", (size, size), _WHITE)
        square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        return square
    return image
