"""The stages around a network that is only a function of an array: what comes before it and after, in numpy and Pillow.

Preprocessing gives the very numbers that timm's and transformers' image processors give in torch; the tests hold them
against each other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from bthub.imaging.kinds import drawings
from bthub.imaging.labels import tumor_index
from bthub.runs.operating_point import MaskPoint

Network = Callable[[np.ndarray], np.ndarray]
"""Pixels, float32 (N, 3, S, S), to what the network makes of them."""

# Rows of a mask that are made at a time: a large picture's probabilities would take gigabytes.
_BLOCK_PIXELS = 2**22


@dataclass(frozen=True)
class LightDetector:
    """The first stage.

    Attributes:
        network: gives logits (N, classes).
        labels: class names, in the order of the outputs.
        size: side S of the square that the network sees.
    """

    network: Network
    labels: list[str]
    size: int

    @property
    def tumor_index(self) -> int:
        """The output that means tumor, for a model that tells tumor from no tumor."""
        return tumor_index(self.labels)

    def predict(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Calibrated probabilities (N, classes) of N RGB images, in one batch."""
        logits = self.network(np.stack([detector_pixels(image, self.size) for image in images]))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class LightLocalizer:
    """The second stage.

    Attributes:
        network: gives logits (N, 1, S, S).
        size: side S of the square that the network sees.
        min_area_share: a mask smaller than this share of its image is taken as nothing found.
        points: what is a mask for kinds of input that have points of their own.
    """

    network: Network
    size: int
    min_area_share: float
    points: Mapping[str, MaskPoint] = field(default_factory=dict)

    def masks(self, images: Sequence[Image.Image], kinds: Sequence[str | None] | None = None) -> list[np.ndarray]:
        """Where the tumor is: one bool array (H, W) an image, at the image's own size.

        Args:
            images: RGB.
            kinds: of each its kind of input, or None; by default unknown.
        """
        logits = self.network(np.stack([localizer_pixels(image, self.size) for image in images]))
        usual = MaskPoint(min_area_share=self.min_area_share)
        points = [self.points.get(kind or "", usual) for kind in kinds or [None] * len(images)]
        return [self._mask(one[0], image.size, point) for one, image, point in zip(logits, images, points, strict=True)]

    def _mask(self, logits: np.ndarray, size: tuple[int, int], point: MaskPoint) -> np.ndarray:
        width, height = size
        top, left, inner_height, inner_width = letterbox_box(height, width, self.size)
        inner = logits[top : top + inner_height, left : left + inner_width]
        if inner.shape == (height, width):
            # A probability exceeds the threshold where its logit exceeds the threshold's.
            mask = inner > _logit(point.threshold)
        else:
            probability = 1 / (1 + np.exp(-np.clip(inner, -80, 80)))  # beyond that float32 overflows
            mask = _above(point.threshold, probability, height, width)
        return mask if mask.sum() >= point.min_area_share * mask.size else np.zeros_like(mask)


@dataclass(frozen=True)
class LightInputCheck:
    """What comes before them.

    Attributes:
        network: gives the distance (N,) to the slices that are known, and a number (N,) that is positive for the first
            of `kinds`.
        size: side S of the square that the network sees.
        threshold: the largest distance that is accepted.
        kinds: names of the two kinds of gray pictures that are told apart; empty where they aren't.
    """

    network: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    size: int
    threshold: float
    kinds: tuple[str, ...] = ()

    def inspect(self, images: Sequence[Image.Image]) -> list[tuple[bool, str | None]]:
        """Of each RGB image whether it looks like a slice of a brain MRI, and, were it gray, its kind."""
        distances, first = self.network(np.stack([check_pixels(image, self.size) for image in images]))
        kinds = [(self.kinds[0] if one > 0 else self.kinds[1]) if self.kinds else None for one in first.tolist()]
        accepted = (distances <= self.threshold) & ~drawings(images)
        return list(zip(accepted.tolist(), kinds, strict=True))


# -- before the network


def detector_pixels(image: Image.Image, size: int) -> np.ndarray:
    """An RGB image of any size -> float32 (3, size, size), 0-1: timm's "border" transform, nothing cropped."""
    ratio = max(image.width / size, image.height / size)
    return _on_black(image, round(image.width / ratio), round(image.height / ratio), size)


def localizer_pixels(image: Image.Image, size: int) -> np.ndarray:
    """An RGB image of any size -> float32 (3, size, size), 0-1: the ResUNet's letterbox."""
    _, _, height, width = letterbox_box(image.height, image.width, size)
    return _on_black(image, width, height, size)


def check_pixels(image: Image.Image, size: int) -> np.ndarray:
    """An RGB image of any size -> float32 (3, size, size), 0-1: the input check's letterbox, reduced by area."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return _on_black(image, width, height, size, Image.Resampling.BOX)


def letterbox_box(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Where an image lies in its square letterbox: (top, left, height, width), in pixels of the letterbox."""
    longest = max(height, width)
    inner_height = max(1, round(height * size / longest))
    inner_width = max(1, round(width * size / longest))
    return (size - inner_height) // 2, (size - inner_width) // 2, inner_height, inner_width


def _on_black(
    image: Image.Image, width: int, height: int, size: int, filter_: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    inner = np.asarray(image.resize((width, height), filter_))  # (height, width, 3)
    square = np.zeros((3, size, size), np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    square[:, top : top + height, left : left + width] = inner.transpose(2, 0, 1)
    square /= 255
    return square


# -- after it


def _logit(probability: float) -> float:
    if not 0 < probability < 1:
        return math.inf if probability >= 1 else -math.inf
    return math.log(probability / (1 - probability))


def _above(threshold: float, probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where a map (h, w), stretched linearly between pixels' centers to (height, width), exceeds a threshold."""
    upper, lower, down = _neighbors(probability.shape[0], height)
    left, right, along = _neighbors(probability.shape[1], width)
    mask = np.empty((height, width), bool)
    step = max(1, _BLOCK_PIXELS // width)
    for start in range(0, height, step):
        rows = slice(start, start + step)
        weight = down[rows, None]
        between = (1 - weight) * probability[upper[rows]] + weight * probability[lower[rows]]
        mask[rows] = (1 - along) * between[:, left] + along * between[:, right] > threshold
    return mask


def _neighbors(length: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `wanted` positions the two of `length` it lies between, and how far from the first, 0 to 1."""
    position = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * np.float32(length / wanted) - np.float32(0.5)
    position = np.maximum(position, 0)
    first = np.minimum(position.astype(np.int64), length - 1)
    return first, np.minimum(first + 1, length - 1), position - first.astype(np.float32)
