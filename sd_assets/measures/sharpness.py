"""How sharp a picture is: how much of the change from pixel to pixel a blur takes away.

The measure is one minus the blur effect of Crété et al., "The Blur Effect: Perception and Estimation with a New No-reference
Perceptual Blur Metric" (SPIE 6492, 2007), in the form that `skimage.measure.blur_effect` has it: what was blurred before changes
little when it is blurred again. Contrast and the number of edges do not count, as they do in the variance of the Laplacian, so
that pictures of different contents can be compared.

Noise looks like detail, so a blurred picture with the noise of a camera would be sharp. Changes that noise explains are left out:
its deviation is estimated from the median of the finest diagonal details, after Donoho and Johnstone, "Ideal Spatial Adaptation
by Wavelet Shrinkage" (Biometrika 81, 1994).

Of the photographs that come with scikit-image sharp ones have 0.6 and more, also with noise of 6 levels, or compressed to a quality of
30; blurred by a Gaussian of 2 px they have 0.3 to 0.45, and with noise on top no more. Close-ups of grass, gravel and bricks lie 0.2 higher.
"""

import cv2
import numpy as np
import numpy.typing as npt

from sd_assets.measures.pictures import Luma

# Pixels of the shorter side at which pictures are compared: larger ones are made so small, smaller ones are as they are.
SIDE = 512
_BLUR = 11  # px, of the box that blurs again
_DEVIATIONS = 3.0  # of the noise, that a change must exceed
_SOBEL_GAIN = 12**0.5  # by how much Sobel's filter multiplies the deviation of white noise
_MAD = 0.6745  # the median of the absolute values of a normal distribution, in deviations
_INNER = slice(2, -2)  # of either axis: the filters see nothing beyond the edges


def sharpness(luma: Luma) -> float:
    """0 (no detail that a blur would take away) to 1.

    Args:
        luma: [height, width], without borders that are none of the picture: their edges are sharp in any case.
    """
    grey = _at_most(luma, SIDE)
    if grey[_INNER, _INNER].size == 0:
        return 0.0
    noise = _DEVIATIONS * _SOBEL_GAIN * _deviation_of_noise(grey)
    # Of the two directions the more blurred: a camera that moved blurs one.
    return min(_lost_by_blurring(grey, noise, axis) for axis in (0, 1))


def _at_most(luma: Luma, side: int) -> Luma:
    height, width = luma.shape
    shorter = min(height, width)
    if shorter <= side:
        return luma
    size = round(width * side / shorter), round(height * side / shorter)
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.uint8)


def _deviation_of_noise(grey: Luma) -> float:
    wide = grey.astype(np.int16)
    # Twice as large as the detail, whose deviation is that of white noise; a quarter of them tells enough.
    diagonal = (wide[1:, 1:] - wide[1:, :-1] - wide[:-1, 1:] + wide[:-1, :-1])[::2, ::2]
    return float(np.median(np.abs(diagonal))) / 2 / _MAD


def _lost_by_blurring(grey: Luma, noise: float, axis: int) -> float:
    """Share of the changes along an axis that a blur along it takes away."""
    box = (1, _BLUR) if axis == 0 else (_BLUR, 1)
    before = _changes(grey, axis)
    # Sums, as whole numbers are quick; the mean of n pixels has the n-th part of the variance of their noise.
    after = _changes(cv2.boxFilter(grey, cv2.CV_16S, box, normalize=False), axis)
    before = np.maximum(before - noise, 0)
    after = np.maximum(after / _BLUR - noise / _BLUR**0.5, 0)
    total = float(before.sum(dtype=np.float64))
    lost = np.maximum(before - after, 0)
    return float(lost.sum(dtype=np.float64)) / total if total > 0 else 0.0


def _changes(levels: npt.NDArray[np.generic], axis: int) -> npt.NDArray[np.float32]:
    """How much a picture changes along an axis, everywhere but at its edges."""
    # The largest is 4 times the sum of 11 levels, which 16 bits hold.
    found = cv2.Sobel(levels, cv2.CV_16S, axis, 1 - axis)[_INNER, _INNER]
    return np.asarray(np.abs(found), np.float32)
