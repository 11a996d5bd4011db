"""The kind of a picture: three sequences in color, one in gray, or no scan at all but a mask or a drawing.

Three kinds of scans are told apart: LGG's three sequences in color, FLAIR in gray, and any other brain MRI in gray.
Color is seen in the pixels, and so are the few levels of a mask; the two gray kinds are told apart by a linear layer on
the features of the input check's network (`bthub ood-check` fits and measures it). See `bthub.runs.operating_point` for
what depends on the kind.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

THREE_SEQUENCES, FLAIR_LIKE, OTHER_MRI = "three_sequences", "flair_like", "other_mri"
KINDS = (THREE_SEQUENCES, FLAIR_LIKE, OTHER_MRI)
TITLES = {
    THREE_SEQUENCES: "three sequences in color (pre-contrast, FLAIR, post-contrast)",
    FLAIR_LIKE: "a FLAIR slice in gray",
    OTHER_MRI: "a brain MRI slice in gray, not FLAIR",
}
COLORFUL = 0.04
"""Images whose mean channel difference exceeds this share of the maximum are color: JPEG and toned scans stay below.
Dark pixels don't count."""
# For sums of the three channels: the range below which a picture may be a dark slice with hardly anything in it; how
# many levels are few; and the share of the pixels that aren't light that must be dark, and the other way round.
_WHITE, _CONTRAST, _FLAT_LEVELS, _BLACK_AND_WHITE = 3 * 255, 3 * 64, 8, 0.8


def kind_of(image: Image.Image, gray: str | None) -> str | None:
    """The kind of an RGB image.

    Args:
        image: it.
        gray: what the input check takes it for, were it gray; None where it can't tell.
    """
    return THREE_SEQUENCES if has_color(image) else gray


def has_color(image: Image.Image) -> bool:
    """Whether an RGB image has colors, as three sequences in one picture have."""
    small = image.copy()
    small.thumbnail((128, 128))
    red, green, blue = (np.asarray(band, dtype=np.float32) for band in small.split())
    brightest, darkest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    lit = brightest > 0.1 * max(1.0, float(brightest.max()))
    return bool(lit.any() and (brightest - darkest)[lit].mean() > COLORFUL * float(brightest.max()))


def is_drawing(pixels: np.ndarray) -> bool:
    """Whether a picture is a mask, a map of labels or a drawing: a few flat levels, where a scan has many.

    Of 7,952 pictures in the four data sets that aren't nearly black, the one with the fewest levels has 54, and none
    comes near to being black and white.

    Args:
        pixels: uint8 RGB (H, W, 3).
    """
    counts = np.bincount(pixels.sum(axis=2, dtype=np.uint16).ravel(), minlength=_WHITE + 1)
    levels = np.flatnonzero(counts)
    low, high = int(levels[0]), int(levels[-1])
    if high - low < _CONTRAST:
        return False
    if len(levels) <= _FLAT_LEVELS:
        return True
    near = (high - low) // 16
    dark, light = int(counts[: low + near + 1].sum()), int(counts[high - near :].sum())
    size = pixels.shape[0] * pixels.shape[1]
    return dark >= _BLACK_AND_WHITE * (size - light) and light >= _BLACK_AND_WHITE * (size - dark)


def drawings(images: Sequence[Image.Image]) -> np.ndarray:
    """Of each RGB image whether it is a mask or a drawing: bool (N,).

    The input check asks, besides its network: a mask is as dark and empty as the first and last slices of a head.
    """
    return np.array([is_drawing(np.asarray(image)) for image in images], bool)
