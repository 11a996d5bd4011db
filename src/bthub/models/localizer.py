"""The ResUNet of a run, saved and loaded with transformers' own methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bthub.errors import BthubError
from bthub.models.resunet import ResUNetForSemanticSegmentation, ResUNetImageProcessor
from bthub.run_folder import CALIBRATION, SEGMENTATION, RunFolder


def save_localizer(folder: Path, model: ResUNetForSemanticSegmentation, image_size: int, threshold: float) -> None:
    """Write the weights (half precision), the configurations and the remote code.

    Args:
        folder: the run folder.
        model: the trained model; it isn't changed.
        image_size: side of the square input.
        threshold: the pixel probability chosen on validation. It is folded into the head's bias, so that 0.5 is
            the operating point for every loader, `pipeline("image-segmentation")` among them.

    """
    copy = ResUNetForSemanticSegmentation(model.config)
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        copy.head.bias -= float(np.log(threshold / (1 - threshold)))
    copy.half().save_pretrained(folder)
    # Stored in half precision, run in single: transformers takes what the configuration says.
    config = copy.config
    config.dtype = "float32"
    config.save_pretrained(folder)
    ResUNetImageProcessor(size={"height": image_size, "width": image_size}).save_pretrained(folder)


def clean_mask(probability: np.ndarray, min_area_share: float, threshold: float = 0.5) -> np.ndarray:
    """Tumor probability (H, W) -> mask (H, W) bool: above the threshold, and nothing when that is too small.

    Args:
        probability: values 0-1.
        min_area_share: a mask smaller than this share of the image is taken as nothing found.
        threshold: 0.5 is the operating point of a saved model (see `save_localizer`).
    """
    mask = probability > threshold
    return mask if mask.sum() >= min_area_share * mask.size else np.zeros_like(mask)


@dataclass(frozen=True)
class Localizer:
    """A ResUNet ready to use.

    Attributes:
        model: in evaluation mode, single precision.
        processor: letterbox, normalisation, and their inverse.
        min_area_share: a mask smaller than this share of its image is taken as nothing found.
        device: where the model is.
    """

    model: ResUNetForSemanticSegmentation
    processor: ResUNetImageProcessor
    min_area_share: float
    device: str

    @torch.inference_mode()
    def predict(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Tumor probability per pixel of RGB images, in one batch.

        Returns:
            One float32 array (H, W) an image, at the image's own size, values 0-1; tumor is above 0.5.
        """
        pixels = self.processor(list(images), return_tensors="pt")["pixel_values"].to(self.device)  # (N, 3, S, S)
        outputs = self.model(pixels)
        sizes = [(image.height, image.width) for image in images]
        return [p.cpu().numpy() for p in self.processor.post_process_probability(outputs, sizes)]


def load_localizer(run: RunFolder, device: str = "cpu") -> Localizer:
    """Load the ResUNet of a run."""
    if run.task != SEGMENTATION:
        raise BthubError(f"{run.id} is a {run.task} run, expected {SEGMENTATION}: swap detector and localizer?")
    model = ResUNetForSemanticSegmentation.from_pretrained(run.path, dtype=torch.float32).eval().to(device)
    processor = ResUNetImageProcessor.from_pretrained(run.path)
    if "min_area_share" not in run.calibration:
        raise BthubError(f"{run.id}: {CALIBRATION} has no min_area_share: train the run to its end")
    return Localizer(model, processor, run.calibration["min_area_share"], device)
