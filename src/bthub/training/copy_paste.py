"""Copy-paste augmentation: a tumor-free picture gets a tumor, or a tumor is covered with its mirror image.

In many picture sets the tumor-free pictures come from other scanners and sequences than those with a tumor, and a
network can tell them apart without having seen a tumor. Pasting gives the look of the tumor-free pictures both labels.
Covering does so for the others, where a mask or a box says where the tumor is; what it did outside, such as edema or a
shifted midline, stays. Pasting is from Ghiasi and others (CVPR 2021), and for tumors from "TumorCP" (Yang and others,
MICCAI 2021).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

HEAD = 25
"""Gray level (0 to 255) above which a pixel belongs to the head."""
MARGIN = 6
"""Pixels around a donor's tumor that say what its surroundings look like."""
FEWEST = 60
"""Pixels of the smallest tumor that is pasted."""
LEAST_DIFFERENCE = 12
"""Mean difference, in gray levels, from which a pasted tumor can be seen in its new surroundings."""
SYMMETRIC = 0.85
"""Overlap of a head with its mirror image (intersection over union) from which one side can cover the other.

Most sagittal pictures, where that would put the back of the head on the face, have less, and so have oblique ones.
"""
ATTEMPTS = 10


class Tumor(NamedTuple):
    """A tumor and what is around it: `patch` float (C, h, w), 0-255; `mask` bool (h, w); `around` (C,), mean levels."""

    patch: np.ndarray
    mask: np.ndarray
    around: np.ndarray


def cut_tumor(pixels: np.ndarray, mask: np.ndarray) -> Tumor | None:
    """The tumor of a picture, to be pasted into another.

    Args:
        pixels: uint8 (C, S, S), gray pictures with one channel.
        mask: bool (S, S).

    Returns:
        None where the tumor is too small, or nothing of the head is around it.
    """
    if mask.sum() < FEWEST:
        return None
    top, bottom, left, right = _box(mask)
    rows = slice(max(top - MARGIN, 0), bottom + MARGIN)
    columns = slice(max(left - MARGIN, 0), right + MARGIN)
    patch, inside = pixels[:, rows, columns].astype(np.float32), mask[rows, columns]
    around = ~inside & (patch.max(axis=0) > HEAD)
    return Tumor(patch, inside, patch[:, around].mean(axis=1)) if around.any() else None


def paste_tumor(
    rng: np.random.Generator, pixels: np.ndarray, tumors: list[Tumor]
) -> tuple[np.ndarray, np.ndarray] | None:
    """A tumor-free picture with somebody else's tumor, of any size, turn and contrast, at a place within the head.

    Args:
        rng: what is drawn from.
        pixels: uint8 (C, S, S).
        tumors: of `cut_tumor`. A gray picture gets one channel of a tumor in color, a color picture tumors in color.

    Returns:
        The picture and the tumor's mask, bool (S, S); None where ten attempts found no tumor that fits and is seen.
    """
    head = pixels.max(axis=0) > HEAD
    if not head.any():
        return None
    top, bottom, left, right = _box(head)
    height, width = bottom - top, right - left
    for _ in range(ATTEMPTS):
        tumor = tumors[rng.integers(len(tumors))]
        if len(tumor.patch) < len(pixels):
            continue
        if len(tumor.patch) > len(pixels):
            channel = [int(rng.integers(len(tumor.patch)))]
            tumor = Tumor(tumor.patch[channel], tumor.mask, tumor.around[channel])
        patch, mask = _turned(rng, tumor)
        rows, columns = mask.shape
        y = int(top + height * rng.uniform(0.18, 0.82) - rows / 2)
        x = int(left + width * rng.uniform(0.18, 0.82) - columns / 2)
        if min(y, x) < 0 or y + rows > pixels.shape[1] or x + columns > pixels.shape[2]:
            continue
        place = slice(y, y + rows), slice(x, x + columns)
        region = pixels[:, *place].astype(np.float32)
        if head[place][mask].mean() < 0.9:
            continue
        level = region[:, mask].mean(axis=1)[:, None, None]
        contrast = rng.uniform(0.6, 1.4)
        if len(pixels) == 1 and rng.random() < 0.15:
            contrast = -contrast  # dark where it was bright, as in another sequence
        difference = contrast * (patch - tumor.around[:, None, None])
        if np.abs(difference[:, mask]).mean() < LEAST_DIFFERENCE:
            continue
        share = _blurred(mask, rng.uniform(0.7, 2.0)) * head[place]
        pasted, pasted_mask = pixels.copy(), np.zeros(head.shape, dtype=bool)
        pasted[:, *place] = ((1 - share) * region + share * (level + difference)).clip(0, 255).astype(np.uint8)
        pasted_mask[place] = mask & head[place]
        return pasted, pasted_mask
    return None


def cover_tumor(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """A picture with its tumor covered by what lies on the other side of the head.

    Args:
        pixels: uint8 (C, S, S).
        mask: bool (S, S); too large rather than too small.

    Returns:
        None where the other side can't be used: the head isn't symmetric, or the tumor reaches across the middle, is
        large, or lies at the edge.
    """
    head = pixels.max(axis=0) > HEAD
    if not mask.any() or not head.any():
        return None
    covered = _blurred(mask, 4) > 0.15  # its seam, too
    _, _, left, right = _box(head)
    mirrored, mirrored_mask, mirrored_head = pixels.copy(), mask.copy(), head.copy()
    for flipped, source in ((mirrored, pixels), (mirrored_mask, mask), (mirrored_head, head)):
        flipped[..., left:right] = source[..., left:right][..., ::-1]
    if (head & mirrored_head).sum() < SYMMETRIC * (head | mirrored_head).sum():
        return None
    size = mask.sum()
    if (mirrored_mask & covered).sum() > 0.1 * size or size > 0.15 * head.sum() or mirrored_head[mask].mean() < 0.9:
        return None
    share = _blurred(covered, 2)
    return ((1 - share) * pixels + share * mirrored).clip(0, 255).astype(np.uint8)


def ellipse_of(box: np.ndarray) -> np.ndarray:
    """The ellipse inscribed in a rectangle: bool (S, S) from bool (S, S)."""
    top, bottom, left, right = _box(box)
    y, x = np.mgrid[: box.shape[0], : box.shape[1]]
    down = (y + 0.5 - (top + bottom) / 2) / ((bottom - top) / 2)
    across = (x + 0.5 - (left + right) / 2) / ((right - left) / 2)
    return down**2 + across**2 <= 1


def _turned(rng: np.random.Generator, tumor: Tumor) -> tuple[np.ndarray, np.ndarray]:
    """Patch and mask of a tumor in another size and position."""
    scale = rng.uniform(0.6, 1.5)
    height, width = (max(8, round(side * scale)) for side in tumor.mask.shape)

    def resized(channels: Iterable[np.ndarray]) -> np.ndarray:
        pictures = (Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR) for channel in channels)
        return np.stack([np.asarray(picture) for picture in pictures])

    both = np.concatenate([resized(tumor.patch), resized([tumor.mask.astype(np.float32)])])
    quarter_turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    both = np.rot90(both[..., ::-1] if mirror else both, quarter_turns, axes=(1, 2))
    return both[:-1], both[-1] > 0.5


def _blurred(mask: np.ndarray, radius: float) -> np.ndarray:
    """A mask with soft edges: float (S, S), 0-1, from bool (S, S)."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First row, row after the last, and the same of columns, of bool (S, S) that isn't empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
