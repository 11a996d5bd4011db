"""Two stages with known answers, for tests of what lies around the models.

The detector's probability grows with the mean brightness of the letterboxed picture; the localizer calls bright
pixels tumor. Preprocessing and its inverse are the real ones.
"""

from types import SimpleNamespace

import torch
from light_stages import MODELS, DarkCorners
from torch import nn

from bthub.inference.pipeline import Pipeline
from bthub.models.classifier import Classifier, eval_transform, preprocessing
from bthub.models.localizer import Localizer
from bthub.models.resunet import ResUNetImageProcessor


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
