"""What kind of picture was handed in, and what the detector's probability means for that kind.

Three kinds are told apart: LGG's three sequences in color, FLAIR in gray, and any other brain MRI in gray. Color is
seen in the pixels; the two gray kinds are told apart by a linear layer on the features of the input check's network
(`bthub ood-check` fits and measures it). Threshold, temperature and review band were fitted for each kind on
validation data.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
"""Mean difference of the channels of what isn't dark, share of the brightest value, from which a picture has color:
JPEG and toned scans stay below."""


class GrayKinds(Protocol):
    """What tells gray pictures apart: the input check."""

    def gray_kinds(self, images: Sequence[Image.Image]) -> list[str | None]:
        """For each RGB image, which is gray, its kind; None where that can't be told."""


@dataclass(frozen=True)
class OperatingPoint:
    """What the detector's probability means for a kind.

    Attributes:
        temperature: that the logit is divided by, on top of what is folded into the weights.
        threshold: calibrated probability from which a slice is called tumor, 0-1.
        review_band: from the first to below the second the verdict is uncertain; None for never.
    """

    threshold: float
    temperature: float = 1.0
    review_band: tuple[float, float] | None = None

    def calibrate(self, p: float) -> float:
        """The probability of a network's probability, both 0-1."""
        if self.temperature == 1 or p in (0.0, 1.0):
            return p
        return 1 / (1 + math.exp(-(math.log(p) - math.log1p(-p)) / self.temperature))

    def is_uncertain(self, p: float) -> bool:
        """Whether a calibrated probability lies in the review band."""
        return self.review_band is not None and self.review_band[0] <= p < self.review_band[1]


def operating_points(calibration: Mapping[str, Any]) -> dict[str | None, OperatingPoint]:
    """What a detector's `calibration.json` says of each kind; under None what holds where the kind isn't known."""

    def point(found: Mapping[str, Any], temperature: float) -> OperatingPoint:
        band = found.get("review_band")
        return OperatingPoint(float(found["threshold"]), temperature, (band[0], band[1]) if band else None)

    # The temperature at the top is folded into the weights.
    points: dict[str | None, OperatingPoint] = {None: point(calibration, 1.0)}
    return points | {kind: point(found, found["temperature"]) for kind, found in calibration.get("kinds", {}).items()}


class KindRule:
    """Tells kinds of pictures apart.

    Args:
        gray: the input check; None where there is none, and gray pictures are then of no known kind.
    """

    def __init__(self, gray: GrayKinds | None) -> None:
        self.gray = gray

    def __call__(self, images: Sequence[Image.Image]) -> list[str | None]:
        """The kind of each RGB image; None where it can't be told."""
        kinds: list[str | None] = [THREE_SEQUENCES if has_color(image) else None for image in images]
        rest = [i for i, kind in enumerate(kinds) if kind is None]
        if self.gray is not None and rest:
            for i, kind in zip(rest, self.gray.gray_kinds([images[i] for i in rest]), strict=True):
                kinds[i] = kind
        return kinds


def has_color(image: Image.Image) -> bool:
    """Whether an RGB image has colors, as three sequences in one picture have."""
    small = image.copy()
    small.thumbnail((128, 128))
    pixels = np.asarray(small, dtype=np.float32)
    brightest, darkest = pixels.max(axis=2), pixels.min(axis=2)
    lit = brightest > 0.1 * max(1.0, float(brightest.max()))
    return bool(lit.any() and (brightest - darkest)[lit].mean() > COLORFUL * float(brightest.max()))
