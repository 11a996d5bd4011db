"""The kind of a picture: three sequences in color, or one in gray.

Three kinds are told apart: LGG's three sequences in color, FLAIR in gray, and any other brain MRI in gray. Color is
seen in the pixels; the two gray kinds are told apart by a linear layer on the features of the input check's network
(`bthub ood-check` fits and measures it). See `bthub.runs.operating_point` for what depends on the kind.
"""

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
