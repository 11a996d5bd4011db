"""The ResUNet of a run, saved and loaded with transformers' own methods."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from bthub.errors import BthubError
from bthub.models.resunet import (
    ResUNetForSemanticSegmentation,
    ResUNetImageProcessor,
    image_processing_resunet,
)
from bthub.runs.folder import CALIBRATION, CONFIG, PREPROCESSOR, SEGMENTATION, RunFolder, write_json, written_whole
from bthub.runs.operating_point import MaskPoint


def save_localizer(
    folder: Path, model: ResUNetForSemanticSegmentation, image_size: int, threshold: float, min_area_share: float
) -> None:
    """Write the weights (half precision), the configurations and the remote code.

    Args:
        folder: the run folder.
        model: the trained model; it isn't changed.
        image_size: side of the square input.
        threshold: the pixel probability chosen on validation. It is folded into the head's bias, so that 0.5 is
            the operating point for every loader, `pipeline("image-segmentation")` among them.
        min_area_share: a mask smaller than this share of its image is taken as nothing found; saved with the
            preprocessing, for every loader too.
    """
    copy = ResUNetForSemanticSegmentation(model.config)
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        copy.head.bias -= float(np.log(threshold / (1 - threshold)))
    with written_whole(folder) as whole:
        copy.half().save_pretrained(whole)
        # Stored in half precision, run in single: transformers takes what the configuration says.
        config = copy.config
        config.dtype = "float32"
        config.save_pretrained(whole)
        size = {"height": image_size, "width": image_size}
        ResUNetImageProcessor(size=size, min_area_share=min_area_share).save_pretrained(whole)
        # Named in config.json alone. Named in the preprocessor's own file, where transformers puts it, it makes
        # `pipeline` look for a video processor too, and ask whether to trust the code although bthub is installed.
        _edit_json(whole / PREPROCESSOR, image_processor_type=None)
        auto_map = {**config.auto_map, "AutoImageProcessor": "image_processing_resunet.ResUNetImageProcessor"}
        _edit_json(whole / CONFIG, auto_map=auto_map)
        shutil.copy(image_processing_resunet.__file__, whole)


def _edit_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    write_json(path, {key: value for key, value in content.items() if value is not None})


@dataclass(frozen=True)
class Localizer:
    """A ResUNet ready to use.

    Attributes:
        model: in evaluation mode, single precision.
        processor: letterbox, normalization, their inverse, and the smallest mask that counts.
        device: where the model is.
        points: what is a mask for kinds of input that have points of their own.
    """

    model: ResUNetForSemanticSegmentation
    processor: ResUNetImageProcessor
    device: str
    points: Mapping[str, MaskPoint] = field(default_factory=dict)

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

    def masks(self, images: Sequence[Image.Image], kinds: Sequence[str | None] | None = None) -> list[np.ndarray]:
        """Where the tumor is: one bool array (H, W) an image, at the image's own size.

        Args:
            images: RGB.
            kinds: of each its kind of input, or None; by default unknown.
        """
        found = self.predict(images)
        return [self.mask(p, kind) for p, kind in zip(found, kinds or [None] * len(found), strict=True)]

    def mask(self, probability: np.ndarray, kind: str | None = None) -> np.ndarray:
        """What of a probability (H, W) is a mask in an image of this kind: bool (H, W)."""
        usual = MaskPoint(min_area_share=self.processor.min_area_share)
        return self.points.get(kind or "", usual).mask(probability)


def load_localizer(run: RunFolder, device: str = "cpu") -> Localizer:
    """Load the ResUNet of a run.

    Raises:
        BthubError: it isn't a localizer, or its files are damaged or don't belong together.
    """
    run.require(SEGMENTATION)
    try:
        model = ResUNetForSemanticSegmentation.from_pretrained(run.path, dtype=torch.float32)
        processor = ResUNetImageProcessor.from_pretrained(run.path)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise BthubError(f"the files of {run.id} are damaged or don't belong together: {error}") from error
    points = run.localizer_calibration.points if (run.path / CALIBRATION).is_file() else {}
    return Localizer(model.eval().to(device), processor, device, points)
