"""What is done to a picture before a model's own preprocessing sees it."""

from PIL import Image

# Twenty times as long as wide: far beyond what a square crop of the middle shows.
_LONGEST = 20


def middle_of_strip(image: Image.Image) -> Image.Image:
    """The middle of a picture that is much longer than wide; any other as it is.

    For models that scale the shorter side to their input and then crop the middle: scaling 10,000 x 1 pixels up to
    2,240,000 x 224 takes gigabytes, to show the same middle.
    """
    width, height = image.size
    if width > _LONGEST * height:
        left = (width - _LONGEST * height) // 2
        return image.crop((left, 0, left + _LONGEST * height, height))
    if height > _LONGEST * width:
        top = (height - _LONGEST * width) // 2
        return image.crop((0, top, width, top + _LONGEST * width))
    return image


def without_thin_sides(image: Image.Image) -> Image.Image:
    """A picture of at least five pixels a side, by repeating pixels.

    Image processors of transformers guess which axis holds the channels, and take a side of 1, 3 or 4 for it.
    """
    factor = -(-5 // min(image.size))
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
