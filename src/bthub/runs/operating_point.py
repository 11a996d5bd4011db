"""How to read a detector's probability for a kind of input, and what is a mask in a localizer's.

Both are fitted on validation. `calibration.json` of a run holds them: at the top those that hold where the kind isn't
known, below `kinds` those of some of `bthub.imaging.kinds.KINDS`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class OperatingPoint:
    """What the detector's probability means for a kind.

    Attributes:
        temperature: that the logit is divided by, on top of what is folded into the weights.
        threshold: calibrated probability from which a slice is called tumor, 0-1.
        referral_band: from the first to below the second the verdict is uncertain; None for never.
    """

    threshold: float
    temperature: float = 1.0
    referral_band: tuple[float, float] | None = None

    def calibrate(self, p: float) -> float:
        """The probability of a network's probability, both 0-1."""
        if self.temperature == 1 or p in (0.0, 1.0):
            return p
        return 1 / (1 + math.exp(-(math.log(p) - math.log1p(-p)) / self.temperature))

    def is_uncertain(self, p: float) -> bool:
        """Whether a calibrated probability lies in the referral band."""
        return self.referral_band is not None and self.referral_band[0] <= p < self.referral_band[1]


def operating_points(calibration: Mapping[str, Any]) -> dict[str | None, OperatingPoint]:
    """What a detector's `calibration.json` says of each kind; under None what holds where the kind isn't known."""

    def point(found: Mapping[str, Any], temperature: float) -> OperatingPoint:
        # A repo on the Hub may have a file of before, read there without `bthub.runs.schema`.
        band = found.get("referral_band", found.get("review_band"))
        return OperatingPoint(float(found["threshold"]), temperature, (band[0], band[1]) if band else None)

    # The temperature at the top is folded into the weights.
    points: dict[str | None, OperatingPoint] = {None: point(calibration, 1.0)}
    return points | {kind: point(found, found["temperature"]) for kind, found in calibration.get("kinds", {}).items()}


@dataclass(frozen=True)
class MaskPoint:
    """What is a mask for a kind.

    Attributes:
        threshold: probability of the saved weights, 0-1, above which a pixel is tumor; one half is what the weights
            were saved for.
        min_area_share: a mask smaller than this share of its image is taken as nothing found.
    """

    threshold: float = 0.5
    min_area_share: float = 0.0

    def mask(self, probability: np.ndarray) -> np.ndarray:
        """What of a probability (H, W), 0-1, is a mask: bool (H, W)."""
        mask = probability > self.threshold
        return mask if mask.sum() >= self.min_area_share * mask.size else np.zeros_like(mask)


def mask_points(calibration: Mapping[str, Any]) -> dict[str, MaskPoint]:
    """What a localizer's `calibration.json` says of the kinds that have points of their own."""
    return {
        kind: MaskPoint(float(found["threshold"]), float(found["min_area_share"]))
        for kind, found in calibration.get("kinds", {}).items()
    }
