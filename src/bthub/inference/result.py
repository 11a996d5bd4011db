"""The result for one slice: the prediction, the mask, and the measurements.

Coordinates are (x, y) in pixels of the upright input, from its top left corner: pixel (column c, row r) covers
c <= x < c + 1, r <= y < r + 1. Contours and boxes lie on pixel edges, so a contour touches its box.
"""

import base64
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bthub.imaging.regions import label_regions, outline

TUMOR, NO_TUMOR, UNCERTAIN = "tumor", "no_tumor", "uncertain"
DISCLAIMER = "Research software, not a medical device: do not use it to diagnose or treat anyone."

_RED, _YELLOW = (255, 0, 0), (255, 215, 0)
_TINT = 0.35


@dataclass(frozen=True, eq=False)
class Result:
    """What was found in one slice.

    Attributes:
        label: `tumor` or `no_tumor`. The detector decides: it is `tumor` where `tumor_probability` reaches
            `threshold`, also if the mask then comes out empty, and also under `always_localize`.
        tumor_probability: calibrated, 0-1.
        threshold: the probability from which the detector says tumor, chosen on validation data.
        uncertain: whether a person should look, because the probability lies in the referral band.
        referral_band: (low, high) around the threshold: probabilities from `low` to below `high` are uncertain. Chosen
            on validation data so that few predictions outside it are wrong. None if the detector has none.
        input_kind: the kind of picture it was recognized as, one of `bthub.imaging.kinds.KINDS`, on which threshold and
            referral band depend; None if unknown.
        mask: bool (H, W), the upright input's own size; all False if no tumor area was found; None if the
            localizer did not run, because the detector saw no tumor.
        contour: for each connected area of the mask, largest first, its outer boundary as a closed polygon
            [[x, y], ...].
        bbox: [x0, y0, x1, y1] around the whole mask, x1 and y1 exclusive; None if there is no tumor area.
        centroid: [x, y] of the mask, or None.
        area_px: tumor pixels of the input; 0 if there are none.
        head_fraction: the tumor's fraction of the head: tumor pixels / pixels of the head with skull and skin, 0-1;
            None without a mask, or if no head was found. The head is estimated on this one slice, see
            `bthub.imaging.head.head_mask`.
        area_mm2: with a known pixel spacing, else None.
        width, height: of the upright input.
        milliseconds: `read`, `check`, `detect`, `localize`, `measure` and their sum `total`. Of a batch, each picture
            is given its even share; a stage that did not run is 0. For an iterator `read` includes waiting for it.
        models: `detector` and `localizer`, each with its `id` and `revision`.
        image: the upright input, uint8 RGB (H, W, 3).
    """

    label: str
    tumor_probability: float
    threshold: float
    uncertain: bool
    referral_band: tuple[float, float] | None
    mask: np.ndarray | None = field(repr=False)
    contour: list[list[list[float]]] = field(repr=False)
    bbox: list[int] | None
    centroid: list[float] | None
    area_px: int
    head_fraction: float | None
    area_mm2: float | None
    width: int
    height: int
    milliseconds: dict[str, float]
    models: dict[str, dict[str, str]]
    image: np.ndarray = field(repr=False)
    input_kind: str | None = None

    @property
    def review_band(self) -> tuple[float, float] | None:
        """`referral_band`, by its name until version 0.3."""
        return self.referral_band

    @property
    def brain_share(self) -> float | None:
        """`head_fraction`, by its name until version 0.3."""
        return self.head_fraction

    @property
    def verdict(self) -> str:
        """`tumor`, `no_tumor` or `uncertain`: `label`, but where the probability lies in the referral band."""
        return UNCERTAIN if self.uncertain else self.label

    def to_dict(self) -> dict[str, Any]:
        """JSON types only. The mask is `mask_png_base64`: a gray PNG of 0 and 255, or None."""
        fraction = None if self.head_fraction is None else round(self.head_fraction, 6)
        band = self.referral_band and [round(end, 6) for end in self.referral_band]
        return {
            "verdict": self.verdict,
            "label": self.label,
            "tumor_probability": round(self.tumor_probability, 6),
            "threshold": round(self.threshold, 6),
            "uncertain": self.uncertain,
            "input_kind": self.input_kind,
            "referral_band": band,
            "review_band": band,  # until version 0.3
            "bbox": self.bbox,
            "centroid": self.centroid and [round(v, 2) for v in self.centroid],
            "area_px": self.area_px,
            "head_fraction": fraction,
            "brain_share": fraction,  # until version 0.3
            "area_mm2": None if self.area_mm2 is None else round(self.area_mm2, 3),
            "width": self.width,
            "height": self.height,
            "contour": [[[round(v, 2) for v in point] for point in polygon] for polygon in self.contour],
            "mask_png_base64": None if self.mask is None else base64.b64encode(self.mask_png()).decode("ascii"),
            "milliseconds": {stage: round(value, 3) for stage, value in self.milliseconds.items()},
            "models": self.models,
            "disclaimer": DISCLAIMER,
        }

    def mask_png(self) -> bytes:
        """The mask as a gray PNG, 0 and 255.

        Raises:
            ValueError: there is no mask.
        """
        if self.mask is None:
            raise ValueError("there is no mask: the localizer did not run")
        buffer = io.BytesIO()
        Image.fromarray(self.mask.astype(np.uint8) * 255).save(buffer, format="PNG")
        return buffer.getvalue()

    def overlay(self) -> Image.Image:
        """The upright input with the mask tinted red, its contour drawn red and its box yellow."""
        pixels = self.image.copy()
        if self.mask is not None:
            tinted = (1 - _TINT) * pixels[self.mask] + _TINT * np.array(_RED)
            pixels[self.mask] = np.rint(tinted).astype(np.uint8)
        image = Image.fromarray(pixels)
        draw = ImageDraw.Draw(image)
        line = max(1, round(max(self.width, self.height) / 400))
        for polygon in self.contour:
            draw.line([(x - 0.5, y - 0.5) for x, y in polygon], fill=_RED, width=line)
        if self.bbox is not None:
            x0, y0, x1, y1 = self.bbox
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=_YELLOW, width=line)
        return image


def measure(mask: np.ndarray) -> dict[str, Any]:
    """`contour`, `bbox`, `centroid` and `area_px` of a bool mask (H, W), as `Result` describes them."""
    area = int(np.count_nonzero(mask))
    if area == 0:
        return {"contour": [], "bbox": None, "centroid": None, "area_px": 0}
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])  # a third of the time of nonzero in two dimensions
    return {
        "contour": _contours(mask, rows, columns),
        "bbox": [int(columns.min()), int(rows[0]), int(columns.max()) + 1, int(rows[-1]) + 1],
        "centroid": [float(columns.mean()) + 0.5, float(rows.mean()) + 0.5],
        "area_px": area,
    }


def _contours(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> list[list[list[float]]]:
    """The outer boundary of each connected area, the largest first; `rows`, `columns`: where the mask's pixels are."""
    labels, count = label_regions(mask, diagonal=True)
    numbers = labels[rows, columns] - 1
    top, left = np.full(count, mask.shape[0]), np.full(count, mask.shape[1])
    bottom, right = np.zeros(count, int), np.zeros(count, int)
    np.minimum.at(top, numbers, rows)
    np.minimum.at(left, numbers, columns)
    np.maximum.at(bottom, numbers, rows + 1)
    np.maximum.at(right, numbers, columns + 1)
    order = np.argsort(-np.bincount(numbers), kind="stable")
    return [outline(labels, int(i) + 1, (int(top[i]), int(left[i]), int(bottom[i]), int(right[i]))) for i in order]
