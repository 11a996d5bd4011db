"""Isolated areas in the masks of a stack: false positives that a single slice can't reveal."""

import numpy as np

from bthub.imaging.regions import label_regions

# Set beforehand. On validation (results/stack-cleaning-patient.json) all shares from 0.005 on give the same Dice.
MIN_SLICES = 2
LONE_SHARE = 0.01


def clean_stack(masks: np.ndarray, *, min_slices: int = MIN_SLICES, lone_share: float = LONE_SHARE) -> np.ndarray:
    """Remove lone areas: what connects to nothing on the neighboring slices, and is small.

    A tumor goes on from slice to slice; an area that a network draws on one slice alone seldom is one. Areas connect
    where they touch, corners included, on the same slice or on the next.

    Args:
        masks: bool (n, h, w), in the order of the stack.
        min_slices: an area that spans at least so many slices stays, however small. 1 leaves everything.
        lone_share: a shorter area is kept if it covers at least this share of a slice, 0-1. 0 leaves everything.

    Returns:
        bool (n, h, w), a new array: `masks` without what was removed. A stack of fewer than `min_slices` slices is
        left as it is, because nothing there can go on.

    Raises:
        ValueError: not three dimensions, or an argument out of range.
    """
    if masks.ndim != 3:
        raise ValueError(f"expected masks of shape (n, h, w), received {masks.shape}")
    if min_slices < 1 or not 0 <= lone_share <= 1:
        raise ValueError("min_slices must be at least 1, and lone_share from 0 to 1")
    cleaned = masks.astype(bool)
    if len(masks) < min_slices or not cleaned.any():
        return cleaned
    labeled = [label_regions(one, diagonal=True) for one in cleaned]
    # Areas are numbered over the whole stack: 0, 1, ... in the order of the slices.
    first = np.cumsum([0, *(count for _, count in labeled)])
    group = list(range(first[-1]))

    def leader(area: int) -> int:
        while group[area] != area:
            group[area] = area = group[group[area]]
        return area

    for index in range(len(cleaned) - 1):
        for one, other in _touching(labeled[index][0], labeled[index + 1][0]):
            group[leader(first[index] + one - 1)] = leader(first[index + 1] + other - 1)
    leaders = np.array([leader(area) for area in range(first[-1])], int)
    pixels = np.zeros((first[-1], len(cleaned)), int)  # of each group, by the area that leads it, on each slice
    for index, (labels, count) in enumerate(labeled):
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        np.add.at(pixels[:, index], leaders[first[index] : first[index + 1]], sizes)
    few = (pixels > 0).sum(axis=1) < min_slices
    small = pixels.max(axis=1, initial=0) < lone_share * masks.shape[1] * masks.shape[2]
    lone = (few & small)[leaders]
    for index, (labels, _) in enumerate(labeled):
        cleaned[index] &= ~np.concatenate([[False], lone[first[index] : first[index + 1]]])[labels]
    return cleaned


def _touching(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of areas of two neighboring slices that touch, corners included."""
    height, width = one.shape
    padded = np.pad(other, 1)
    pairs = set()
    for down in range(3):
        for right in range(3):
            shifted = padded[down : down + height, right : right + width]
            both = (one > 0) & (shifted > 0)
            pairs |= set(zip(one[both].tolist(), shifted[both].tolist(), strict=True))
    return sorted(pairs)
