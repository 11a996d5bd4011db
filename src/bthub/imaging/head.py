"""Where the head is in a slice."""

import numpy as np
from PIL import Image

from bthub.imaging.regions import fill_holes, label_regions

_HEAD_SIDE = 512
_NOISE_LEVELS = 8  # differences of gray levels that are noise in most slices


def head_mask(image: np.ndarray) -> np.ndarray:
    """Where the head is in one slice: an estimate, without a brain mask or the neighboring slices.

    Head is what differs from the color of the picture's border: Otsu's threshold on the logarithm of the largest
    difference of a channel (so that dim tissue is not lost beside a bright skull), the largest connected area of
    that, holes filled. It includes skull and skin where the slice shows them.

    Args:
        image: uint8 RGB (H, W, 3).

    Returns:
        bool (h, w), the image reduced to at most 512 pixels a side; all False if nothing differs.
    """
    small = Image.fromarray(image)
    small.thumbnail((_HEAD_SIDE, _HEAD_SIDE))
    ring = max(1, min(small.size) // 32)
    # Each channel by itself: numpy takes ten times as long for a reduction over three values a pixel.
    red, green, blue = (_from_border(np.asarray(band, dtype=np.float32), ring) for band in small.split())
    contrast = np.maximum(np.maximum(red, green), blue)  # (h, w)
    contrast = _blurred(contrast, max(small.size) / 256)
    contrast = np.log(_NOISE_LEVELS + contrast)
    if contrast.min() == contrast.max():
        return np.zeros(contrast.shape, bool)
    regions, count = label_regions(contrast > _otsu(contrast), diagonal=False)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0  # the background
    return fill_holes((regions == sizes.argmax()) & (regions > 0))


def _from_border(channel: np.ndarray, ring: int) -> np.ndarray:
    """How far each value of a channel (h, w) is from the median of the outermost `ring` rows and columns."""
    inner = channel[ring:-ring]
    border = [channel[:ring], channel[-ring:], inner[:, :ring], inner[:, -ring:]]
    if min(channel.shape) <= 2 * ring:
        border = [channel]
    return np.abs(channel - np.median(np.concatenate([part.ravel() for part in border])))


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of a float32 image (H, W), mirrored at its edges, cut off at four deviations."""
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / (sigma * sigma) * offsets**2)
    weights /= weights.sum()
    for axis in (0, 1):
        length = image.shape[axis]
        padded = np.pad(image, [(radius, radius) if one == axis else (0, 0) for one in (0, 1)], mode="symmetric")
        padded = padded.astype(np.float64)

        def shifted(by: int, padded: np.ndarray = padded, axis: int = axis, length: int = length) -> np.ndarray:
            part = slice(radius + by, radius + by + length)
            return padded[part] if axis == 0 else padded[:, part]

        blurred = shifted(0) * weights[radius]
        pair = np.empty_like(blurred)  # written again at each distance: memory that is new costs more than the sums
        for distance in range(radius, 0, -1):
            np.add(shifted(-distance), shifted(distance), out=pair)
            pair *= weights[radius - distance]
            blurred += pair
        image = blurred.astype(np.float32)
    return image


def _otsu(values: np.ndarray) -> float:
    """The threshold that parts values best in two: Otsu 1979, over 256 equal steps of their range."""
    counts, edges = np.histogram(values.ravel(), bins=256)
    counts = counts.astype(np.float32)  # as in scikit-image, whose threshold this is to the last digit
    centers = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    mean_below = np.cumsum(counts * centers) / below
    mean_above = (np.cumsum((counts * centers)[::-1]) / above[::-1])[::-1]
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(centers[int(np.argmax(between))])
