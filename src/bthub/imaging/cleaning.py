"""Masks of a stack looked at together: what a single slice can't tell to be false."""

import numpy as np

MIN_SLICES = 2
LONE_SHARE = 0.01


def clean_stack(
    masks: np.ndarray, *, min_slices: int = MIN_SLICES, lone_share: float = LONE_SHARE, gaps: int = 0
) -> np.ndarray:
    """Remove lone areas: what connects to nothing on the neighboring slices, and is small.

    A tumor goes on from slice to slice; an area that a network draws on one slice alone seldom is one. Areas connect
    where they touch, corners included, on the same slice or on the next.

    Args:
        masks: bool (n, h, w), in the order of the stack.
        min_slices: an area that spans at least so many slices stays, however small. 1 leaves everything.
        lone_share: one that spans fewer stays from this share of a slice's pixels on, 0-1. 0 leaves everything.
        gaps: slices that may be empty between two areas that still belong together, not counted as spanned.

    Returns:
        bool (n, h, w), a new array: `masks` without what was removed. A stack of fewer than `min_slices` slices is
        left as it is, because nothing there can go on.

    Raises:
        ValueError: not three dimensions, or an argument out of range.
    """
    if masks.ndim != 3:
        raise ValueError(f"expected masks of shape (n, h, w), received {masks.shape}")
    if min_slices < 1 or not 0 <= lone_share <= 1 or gaps < 0:
        raise ValueError("min_slices must be at least 1, lone_share from 0 to 1, and gaps not negative")
    cleaned = masks.astype(bool)
    if len(masks) < min_slices or not cleaned.any():
        return cleaned
    from scipy import ndimage  # here, so that importing this module stays fast

    joined = cleaned
    if gaps:
        reach = np.zeros((2 * gaps + 1, 1, 1), bool)
        reach[gaps:] = True
        # Each area is drawn on over the slices that may be empty, so that it meets what follows.
        joined = ndimage.binary_dilation(cleaned, reach)
    labels, count = ndimage.label(joined, np.ones((3, 3, 3), bool))
    labels[~cleaned] = 0
    per_slice = np.stack([np.bincount(one.ravel(), minlength=count + 1) for one in labels])  # (n, areas + 1)
    spanned, largest = (per_slice > 0).sum(axis=0), per_slice.max(axis=0)
    lone = (spanned < min_slices) & (largest < lone_share * masks.shape[1] * masks.shape[2])
    lone[0] = False
    cleaned &= ~lone[labels]
    return cleaned
