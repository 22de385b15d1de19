"""From a picture to the pixels that a CLIP sees: resized, cropped or padded, normalised, as the model's own library does it.

Measured on a core that takes 1.6 ms for Pillow's bicubic filter from 512 x 512 to 224 x 224 pixels: torch's is the same to a
level of 255 or so and takes 0.2 ms (its own processors for images run the same function); OpenCV's take 0.1 ms, but alias.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sd_assets.containers.picture import Picture
from sd_assets.images import Pixels, decode_rgb, read_picture
from sd_assets.models.devices import on_device
from sd_assets.stored_pixels import as_shown, stored_pixels

# A JPEG is decoded small where so many pixels a side are left for each that the model sees. At 1.7 the cosine of the model's pixels
# is at least 0.9993 for photographs and charts, at 1.3 it is 0.996.
_PIXELS_LEFT = 1.7
_COARSE_COLOURS_FROM = 2.0
# What is scaled of a picture whose middle is shown, in lengths of what is shown.
_LONGEST = 20
_MAX_PIXELS = 100_000_000  # more is for `decode_rgb` to refuse
_SIDES_SWAPPED = frozenset({5, 6, 7, 8})  # EXIF orientations that turn by a quarter

Floats = npt.NDArray[np.float32]
Size = tuple[int, int]  # height, width


class Preprocessing(ABC):
    """What a model does to a picture before it sees it. All may be called from several threads."""

    @abstractmethod
    def of_image(self, image: Image.Image) -> Any:
        """The pixels of an RGB image, for `batch`."""

    def of_bytes(self, data: bytes) -> Any:
        """The same of an image as it is encoded.

        Raises:
            RowError: as `sd_assets.images.decode_rgb`.
        """
        return self.of_image(decode_rgb(data))

    @abstractmethod
    def batch(self, pixels: Sequence[Any], device: str) -> Any:
        """Several of them as the model takes them: a float32 tensor on the device."""


@dataclass(frozen=True)
class Recipe(Preprocessing):
    """Resize, cut out or pad around the middle, normalise: what nearly all models do.

    Attributes:
        size: of the result.
        scaled: of a picture's height and width those that it is resized to.
        filter: how: a name of `Image.Resampling`, in small letters. Always averages over all of the old pixels.
        offset: how half a pixel is rounded where the middle is cut out.
        fill: level of what is padded, 0 to 255.
        mean: of each channel, in levels of 0 to 255: subtracted.
        std: likewise: divided by, afterwards.
    """

    size: Size
    scaled: Callable[[int, int], Size]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    filter: str = "bicubic"
    offset: Callable[[float], int] = round
    fill: int = 0

    def of_image(self, image: Image.Image) -> Pixels:
        """[height, width, 3] uint8, of the model's size."""
        scaled = self.scaled(image.height, image.width)
        (top, less_high), (left, less_wide) = self._cuts((image.height, image.width))
        if top or left:
            image = image.crop((left, top, image.width - left, image.height - top))
        size = scaled[0] - 2 * less_high, scaled[1] - 2 * less_wide
        return self._framed(resized(image, size, self.filter))

    def of_bytes(self, data: bytes) -> Pixels:
        """[height, width, 3] uint8, of the model's size.

        Raises:
            RowError: as `sd_assets.images.decode_rgb`.
        """
        picture = read_picture(data)
        if self._cuts(shown_size(picture)) == [(0, 0), (0, 0)]:
            quickly = resized_picture(picture, self.scaled, self.filter)
            if quickly is not None:
                return self._framed(quickly)
        return self.of_image(decode_rgb(data))

    def batch(self, pixels: Sequence[Pixels], device: str) -> Any:
        """[n, 3, height, width], normalised."""
        return normalised(on_device(np.stack(pixels), device), self.mean, self.std).permute(0, 3, 1, 2)

    def _cuts(self, shown: Size) -> list[tuple[int, int]]:
        """For height and width what `_cut` says."""
        return [_cut(*sides) for sides in zip(shown, self.scaled(*shown), self.size, strict=True)]

    def _framed(self, pixels: Pixels) -> Pixels:
        """The middle of what was resized, in memory of its own."""
        framed = np.full((*self.size, 3), self.fill, np.uint8)
        into, outof = zip(
            *(
                _middle(side, want, self.offset)
                for side, want in zip(pixels.shape[:2], self.size, strict=True)
            ),
            strict=True,
        )
        framed[into] = pixels[outof]
        return framed


@dataclass(frozen=True)
class OfLibrary(Preprocessing):
    """Whatever a library's own code makes of a picture, where no recipe agrees with it.

    Attributes:
        make: of an RGB image [3, height, width] float32, normalised.
    """

    make: Callable[[Image.Image], Floats]

    def of_image(self, image: Image.Image) -> Floats:
        return self.make(without_thin_sides(middle_of_strip(image)))

    def batch(self, pixels: Sequence[Floats], device: str) -> Any:
        return on_device(np.stack(pixels), device)


# --- sizes ---------------------------------------------------------------------------------------------------------------


def _cut(side: int, scaled: int, shown: int) -> tuple[int, int]:
    """How many pixels of a side to leave out at either end before it is resized, and how many of the resized side that is.

    Only the middle is shown: scaling 10,000 x 1 pixels up to 2,240,000 x 224 takes gigabytes, to show the same middle. What is
    left out is the same at both ends, so that the middle stays where it is, to a fraction of a pixel.
    """
    if scaled <= _LONGEST * shown:
        return 0, 0
    cut = (side - math.ceil(side * _LONGEST * shown / scaled)) // 2
    return cut, round(cut * scaled / side)


def _middle(side: int, shown: int, offset: Callable[[float], int]) -> tuple[slice, slice]:
    """Where in the result, and where in what was resized, the pixels lie that are shown."""
    if side >= shown:
        start = offset((side - shown) / 2)
        return slice(0, shown), slice(start, start + shown)
    start = (shown - side) // 2
    return slice(start, start + side), slice(0, side)


def shorter_side(length: int) -> Callable[[int, int], Size]:
    """Sizes whose shorter side is so long, and the other in proportion, rounded down: as torchvision and transformers do it."""

    def scaled(height: int, width: int) -> Size:
        other = int(length * max(height, width) / min(height, width))
        return (length, other) if height <= width else (other, length)

    return scaled


# --- pixels --------------------------------------------------------------------------------------------------------------


def resized(image: Image.Image, size: Size, filter: str) -> Pixels:
    """An RGB image resized: [height, width, 3]."""
    # A copy, as torch wants memory that it could write to.
    return _resized(np.array(image), size, (image.height, image.width), filter)


def resized_picture(picture: Picture, scaled: Callable[[int, int], Size], filter: str) -> Pixels | None:
    """The same of an encoded one, as it is shown, in the quickest way; None if that is Pillow's (`decode_rgb`).

    Args:
        picture: of any format.
        scaled: of the height and width that are shown those that they are resized to.
        filter: a name of `Image.Resampling`, in small letters.

    Raises:
        RowError: CORRUPT_IMAGE.
    """
    height, width = shown_size(picture)
    if height * width > _MAX_PIXELS:
        return None
    size = scaled(height, width)
    ratio = min(height / size[0], width / size[1])
    stored = stored_pixels(picture, ratio, pixels_left=_PIXELS_LEFT, coarse_colours_from=_COARSE_COLOURS_FROM)
    if stored is None:
        return None
    if picture.orientation in _SIDES_SWAPPED:
        size = size[::-1]
    return as_shown(_resized(stored.pixels, size, (stored.height, stored.width), filter), picture)


def shown_size(picture: Picture) -> Size:
    """Height and width after the EXIF orientation."""
    size = picture.height, picture.width
    return size[::-1] if picture.orientation in _SIDES_SWAPPED else size


def normalised(levels: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """A tensor of levels, 0 to 255, channels last, as float32 of the mean and spread that a model was trained with."""
    # A row of pixels at once: a CPU takes five times as long for three numbers at a time.
    wide = levels.shape[-2]
    floats = levels.flatten(-2).float()  # a copy, which may be written to
    floats -= _constant(tuple(mean) * wide, levels.device)
    floats /= _constant(tuple(std) * wide, levels.device)
    return floats.view(levels.shape)


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: Any) -> Any:
    """A tensor, made once: a GPU would be waited for each time."""
    import torch

    return torch.tensor(values, device=device)


def _resized(pixels: Pixels, size: Size, extent: tuple[float, float], filter: str) -> Pixels:
    """Pixels resampled, as Pillow does it.

    Args:
        pixels: [height, width, 3].
        size: of the result.
        extent: how much of them the picture is, height and width: the last row or column may be half outside.
        filter: a name of `Image.Resampling`, in small letters.
    """
    if size == pixels.shape[:2] == tuple(extent):
        return pixels.copy()  # what was decoded is good until the thread decodes its next picture
    if filter not in ("bicubic", "bilinear"):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        box = (0, 0, extent[1], extent[0])
        return np.asarray(image.resize(size[::-1], Image.Resampling[filter.upper()], box=box))
    import torch

    whole = pixels.shape[:2] == tuple(extent)
    # As it lies in memory the tensor is one with channels last, for which there is vector code.
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(pixels)[None].permute(0, 3, 1, 2),
        size=size if whole else None,
        # Of a fraction of a pixel torch only hears by the factor, and then rounds the size down: a grain more, for it not to
        # fall below what is wanted.
        scale_factor=None
        if whole
        else [new / old * (1 + 1e-9) for new, old in zip(size, extent, strict=True)],
        mode=filter,
        antialias=True,
    )
    return np.asarray(resized[0].permute(1, 2, 0).numpy()[: size[0], : size[1]], np.uint8)


# --- whatever a library makes of them ------------------------------------------------------------------------------------


def middle_of_strip(image: Image.Image) -> Image.Image:
    """The middle of a picture that is much longer than wide; any other as it is.

    For models that scale the shorter side to their input and then crop the middle: scaling 10,000 x 1 pixels up to
    2,240,000 x 224 takes gigabytes, to show the same middle.
    """
    width, height = image.size
    left, top = max(0, (width - _LONGEST * height) // 2), max(0, (height - _LONGEST * width) // 2)
    return image.crop((left, top, width - left, height - top)) if left or top else image


def without_thin_sides(image: Image.Image) -> Image.Image:
    """A picture of at least five pixels a side, by repeating pixels.

    Image processors of transformers guess which axis holds the channels, and take a side of 1, 3 or 4 for it.
    """
    factor = -(-5 // min(image.size))
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
