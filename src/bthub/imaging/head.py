"""Where the head is in a slice."""

import numpy as np
from PIL import Image

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
    from scipy import ndimage  # here, so that importing this module stays fast
    from skimage.filters import threshold_otsu

    small = Image.fromarray(image)
    small.thumbnail((_HEAD_SIDE, _HEAD_SIDE))
    pixels = np.asarray(small, dtype=np.float32)  # (h, w, 3)
    ring = max(1, min(pixels.shape[:2]) // 32)
    border = np.ones(pixels.shape[:2], bool)
    border[ring:-ring, ring:-ring] = False
    contrast = np.abs(pixels - np.median(pixels[border], axis=0)).max(axis=2)
    contrast = ndimage.gaussian_filter(contrast, max(small.size) / 256)
    contrast = np.log(_NOISE_LEVELS + contrast)
    if contrast.min() == contrast.max():
        return np.zeros(contrast.shape, bool)
    regions, _ = ndimage.label(contrast > threshold_otsu(contrast))
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0  # the background
    return ndimage.binary_fill_holes((regions == sizes.argmax()) & (regions > 0))
