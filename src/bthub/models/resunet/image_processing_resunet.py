"""Preprocessing and postprocessing of the ResUNet. Remote code: torch, timm and transformers (and what they need)."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling


def letterbox_box(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Where an image lies in its square letterbox: (top, left, height, width), in pixels of the letterbox."""
    longest = max(height, width)
    inner_height = max(1, round(height * size / longest))
    inner_width = max(1, round(width * size / longest))
    return (size - inner_height) // 2, (size - inner_width) // 2, inner_height, inner_width


def clean_mask(probability: np.ndarray, min_area_share: float, threshold: float = 0.5) -> np.ndarray:
    """Tumor probability (H, W) -> mask (H, W) bool: above the threshold, and nothing when that is too small.

    Args:
        probability: values 0-1.
        min_area_share: a mask smaller than this share of the image is taken as nothing found.
        threshold: 0.5 is the operating point of a saved model (the bias of its head carries the chosen one).
    """
    mask = probability > threshold
    return mask if mask.sum() >= min_area_share * mask.size else np.zeros_like(mask)


class ResUNetImageProcessor(PilBackend):
    """Letterbox: the longest side becomes `size`, the image stands in the middle, the rest is black.

    No statistic of the image or of its volume enters: pixels are scaled to 0-1, then normalized by the saved mean
    and standard deviation. `post_process_*` inverts the geometry, so masks have each image's own size.

    Attributes:
        min_area_share: a mask smaller than this share of its image is taken as nothing found; chosen on validation.
    """

    resample = PILImageResampling.BILINEAR
    size = {"height": 256, "width": 256}
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    image_mean = [0.0, 0.0, 0.0]
    image_std = [1.0, 1.0, 1.0]
    min_area_share = 0.0

    def _preprocess(self, images: list[np.ndarray], size, resample, image_mean, image_std, return_tensors, **kwargs):
        batch = np.zeros((len(images), 3, size.height, size.width), dtype=np.float32)
        for canvas, image in zip(batch, images, strict=True):  # image (3, H, W) uint8
            top, left, height, width = letterbox_box(*image.shape[-2:], size.height)
            pixels = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
            pixels = np.asarray(pixels.resize((width, height), resample))  # (h, w, 3)
            canvas[:, top : top + height, left : left + width] = pixels.transpose(2, 0, 1)
        mean = np.asarray(image_mean, dtype=np.float32)[:, None, None]
        std = np.asarray(image_std, dtype=np.float32)[:, None, None]
        batch = (batch / 255 - mean) / std
        return BatchFeature({"pixel_values": batch}, tensor_type=return_tensors)

    def post_process_probability(self, outputs, target_sizes: list[tuple[int, int]]) -> list[Tensor]:
        """Tumor probability per pixel at each image's own size.

        Args:
            outputs: the model's output; `logits` (B, 1, S, S).
            target_sizes: (height, width) of each image before the letterbox.

        Returns:
            One (height, width) float tensor an image, values 0-1.
        """
        maps = []
        for logits, (height, width) in zip(outputs.logits, target_sizes, strict=True):  # (1, S, S)
            top, left, inner_height, inner_width = letterbox_box(height, width, logits.shape[-1])
            inner = logits[None, :, top : top + inner_height, left : left + inner_width].float().sigmoid()
            if (inner_height, inner_width) != (height, width):
                inner = F.interpolate(inner, size=(height, width), mode="bilinear", align_corners=False)
            maps.append(inner[0, 0])
        return maps

    def post_process_semantic_segmentation(self, outputs, target_sizes: list[tuple[int, int]]) -> list[Tensor]:
        """Maps of 0 (background) and 1 (tumor), (height, width) each."""
        return [self._mask(p).long() for p in self.post_process_probability(outputs, target_sizes)]

    def _mask(self, probability: Tensor, threshold: float = 0.5) -> Tensor:
        return torch.from_numpy(clean_mask(probability.cpu().numpy(), self.min_area_share, threshold))

    def post_process_panoptic_segmentation(
        self,
        outputs,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.0,
        target_sizes: list[tuple[int, int]] | None = None,
    ) -> list[dict]:
        """What `pipeline("image-segmentation")` calls: one segment "tumor" an image, or none.

        Args:
            threshold: a segment is kept when its score, the highest probability in it, reaches this.
            mask_threshold: a pixel belongs to the segment above this probability; 0.5 is the point that was
                chosen on validation (the head's bias carries it).
            overlap_mask_area_threshold: there is one class, so nothing overlaps; accepted for the pipeline's sake.
            target_sizes: (height, width) of each image; by default the model's own grid.
        """
        if target_sizes is None:
            target_sizes = [tuple(logits.shape[-2:]) for logits in outputs.logits]
        results = []
        for probability in self.post_process_probability(outputs, target_sizes):
            mask = self._mask(probability, mask_threshold)
            score = probability.max().item()
            found = bool(mask.any()) and score >= threshold
            results.append(
                {
                    "segmentation": mask.long() if found else torch.zeros_like(mask, dtype=torch.long),
                    "segments_info": [{"id": 1, "label_id": 1, "score": score}] if found else [],
                }
            )
        return results
