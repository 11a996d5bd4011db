"""The kind of a picture: three sequences in color, one in gray, or no scan at all but a mask or a drawing.

Three kinds of scans are told apart: LGG's three sequences in color, FLAIR in gray, and any other brain MRI in gray.
Color is seen in the pixels, and so are the flat areas of a mask; the two gray kinds are told apart by a linear layer on
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
ROUGH = "The outline is a rough guess: on gray slices other than FLAIR the model is much less accurate."
"""Said beside the outline of a slice of the kind OTHER_MRI."""
COLORFUL = 0.04
"""Images whose mean channel difference exceeds this share of the maximum are in color. Dark pixels don't count."""
# For `is_drawing`. Levels are sums of the three channels.
_SIDE, _CONTRAST, _FEWEST_PAIRS, _FLAT = 96, 3 * 32, 20, 0.9


def kind_of(image: Image.Image, gray: str | None) -> str | None:
    """The kind of an RGB image.

    Args:
        image: it.
        gray: what the input check takes it for, were it gray; None where it can't tell.
    """
    return THREE_SEQUENCES if has_color(image) else gray


def has_color(image: Image.Image) -> bool:
    """Whether an RGB image has colors, as three sequences in one picture have; a tint all over is none.

    A gray scan may be toned, photographed under a warm lamp, or compressed in color. So each channel is first brought
    to the same mean.
    """
    small = image.copy()
    small.thumbnail((128, 128))
    pixels = np.asarray(small, dtype=np.float64)  # (h, w, 3)
    brightest = pixels.max(axis=2)
    lit = pixels[brightest > 0.1 * max(1.0, float(brightest.max()))]  # (n, 3)
    if not lit.size:
        return False
    means = np.maximum(lit.mean(axis=0), 1)
    even = lit * (means.mean() / means)
    return bool(np.ptp(even, axis=1).mean() > COLORFUL * even.max())


def is_drawing(pixels: np.ndarray) -> bool:
    """Whether a picture is a mask, a map of labels or a drawing: flat areas, where a scan has noise.

    Of neighboring pixels off the background, the share with exactly the same level is below 0.49 in all 8,126 pictures
    of the four data sets, and nearly 1 in a mask. What was compressed with loss or smoothed has noise too, and nearly
    black pictures may be slices with hardly anything in them: these are left to the input check's network.

    Args:
        pixels: uint8 RGB (H, W, 3).
    """
    # Every n-th pixel: where a scan was enlarged by repeating pixels, neighbors in the file are one pixel of it.
    step = max(1, max(pixels.shape[:2]) // _SIDE)
    levels = pixels[::step, ::step].sum(axis=2, dtype=np.int64)
    contrast = int(levels.max() - levels.min())
    if contrast < _CONTRAST:
        return False
    off_page = np.abs(levels - levels[0, 0]) > contrast / 16  # a scan may lie on a white page
    rows, columns = np.flatnonzero(off_page.any(axis=1)), np.flatnonzero(off_page.any(axis=0))
    levels = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    shown = np.abs(levels - np.bincount(levels.ravel()).argmax()) > contrast / 16
    down, right = shown[1:] & shown[:-1], shown[:, 1:] & shown[:, :-1]
    same = (levels[1:] == levels[:-1])[down].sum() + (levels[:, 1:] == levels[:, :-1])[right].sum()
    pairs = down.sum() + right.sum()
    return bool(pairs >= _FEWEST_PAIRS and same >= _FLAT * pairs)


def drawings(images: Sequence[Image.Image]) -> np.ndarray:
    """Of each RGB image whether it is a mask or a drawing: bool (N,).

    The input check asks, besides its network: a mask is as dark and empty as the first and last slices of a head.
    """
    return np.array([is_drawing(np.asarray(image)) for image in images], bool)
