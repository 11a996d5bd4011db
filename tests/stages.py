"""Two stages with known answers, for tests of what lies around the models.

The detector's probability grows with the mean brightness of the letterboxed picture; the localizer calls bright
pixels tumor. Preprocessing and its inverse are the real ones.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn

from bthub.inference.pipeline import Pipeline
from bthub.models.classifier import Classifier, eval_transform, preprocessing
from bthub.models.localizer import Localizer
from bthub.models.resunet import ResUNetImageProcessor

MODELS = {
    "detector": {"id": "brightness", "revision": "1"},
    "localizer": {"id": "bright-pixels", "revision": "2"},
}


class Brightness(nn.Module):
    """(N, 3, S, S) -> logits (N, 2); tumor is likelier the brighter the picture, 0.5 at a mean of 0.05."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(pixels))
        logit = 40 * (pixels.mean(dim=(1, 2, 3)) - 0.05)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


class BrightPixels(nn.Module):
    """(N, 3, S, S) -> logits (N, 1, S, S); above 0 where the red channel is above one half."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, pixels: torch.Tensor) -> SimpleNamespace:
        self.batches.append(len(pixels))
        return SimpleNamespace(logits=8 * (pixels[:, :1] - 0.5))


class DarkCorners:
    """An input check: the corners of a slice are dark."""

    def inspect(self, images: Sequence[Image.Image]) -> list[tuple[bool, str | None]]:
        return [(max(image.getpixel((0, 0))) < 10, None) for image in images]


def make_pipeline(
    threshold: float = 0.5,
    min_area_share: float = 0.0,
    image_size: int = 256,
    referral_band: tuple[float, float] | None = None,
    input_check: DarkCorners | None = None,
) -> Pipeline:
    detector = Classifier(Brightness(), eval_transform(preprocessing(64)), ["no_tumor", "tumor"], "cpu")
    size = {"height": image_size, "width": image_size}
    processor = ResUNetImageProcessor(size=size, min_area_share=min_area_share)
    localizer = Localizer(BrightPixels(), processor, "cpu")
    return Pipeline(
        detector,
        localizer,
        threshold=threshold,
        models=MODELS,
        referral_band=referral_band,
        input_check=input_check,
    )


def blob(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A gray head-like ellipse with a bright rectangle at box (x0, y0, x1, y1): uint8 (height, width, 3).

    One half lies midway between the two, so that resampling leaves the edge in its place.
    """
    y, x = np.mgrid[:height, :width] + 0.5
    inside = ((x / width - 0.5) / 0.48) ** 2 + ((y / height - 0.5) / 0.48) ** 2 < 1
    image = np.where(inside, 35, 0).astype(np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 220
    return np.repeat(image[..., None], 3, axis=2)
