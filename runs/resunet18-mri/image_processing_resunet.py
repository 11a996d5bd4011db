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


def _three_channels(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"expected images of one or three channels, found an array of shape {image.shape}")
    return np.repeat(image, 3, axis=0) if image.shape[0] == 1 else image


def _check_levels(images: list[np.ndarray], rescale_factor: float) -> None:
    """Refuse numbers that aren't levels of 0-255, which the rescaling takes them for."""
    for image in images:
        if image.dtype.kind == "b":
            raise ValueError("the images are bool: multiply them by 255, or pass do_rescale=False")
        low, high = image.min(), image.max()
        if image.dtype.kind == "f" and 0 < high <= 1:
            raise ValueError(f"the images are floats of {low:g} to {high:g}: pass do_rescale=False, or levels of 0-255")
        if low < 0 or (high > 255 and rescale_factor == 1 / 255):
            raise ValueError(f"the images hold {low:g} to {high:g}, expected levels of 0-255: pass 8 bits a sample")


def _resized(image: np.ndarray, size: tuple[int, int], resample) -> np.ndarray:
    """An image (3, H, W) at (width, height): of uint8 rounded to whole levels, else not."""
    if image.dtype == np.uint8:
        pixels = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        return np.asarray(pixels.resize(size, resample)).transpose(2, 0, 1)
    channels = [Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32)) for channel in image]
    return np.stack([np.asarray(channel.resize(size, resample)) for channel in channels])


def _sizes(logits: Tensor, target_sizes) -> list[tuple[int, int] | None]:
    """Sizes as people give them, for each of the logits (B, 1, S, S) a pair of whole numbers or None."""
    if target_sizes is None:
        return [None] * len(logits)
    expected = "expected one (height, width) an image, each at least 1"
    sizes = target_sizes.tolist() if hasattr(target_sizes, "tolist") else target_sizes
    if not isinstance(sizes, (list, tuple)):
        raise ValueError(f"target sizes {sizes!r}: {expected}")
    if len(sizes) != len(logits):
        raise ValueError(f"{len(sizes)} target sizes for {len(logits)} images: {expected}")
    pairs: list[tuple[int, int] | None] = []
    for size in sizes:
        try:
            height, width = map(int, size)
        except (TypeError, ValueError) as error:
            raise ValueError(f"target size {size!r}: {expected}") from error
        if min(height, width) < 1:
            raise ValueError(f"target size {size!r}: {expected}")
        pairs.append((height, width))
    return pairs


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

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_resize,
        size,
        resample,
        do_rescale,
        rescale_factor,
        do_normalize,
        image_mean,
        image_std,
        return_tensors,
        **kwargs,
    ):
        images = [_three_channels(image) for image in images]  # (3, H, W), uint8 or other numbers
        if any(image.dtype.kind == "f" and not np.isfinite(image).all() for image in images):
            raise ValueError("the images hold NaN or infinite values")
        if do_rescale:
            _check_levels(images, rescale_factor)
        if do_resize:
            if not size.height or not size.width or size.height % 32:
                raise ValueError(f"size is {dict(size)}, expected height and width, the same multiple of 32")
            if size.height != size.width:
                raise ValueError(f"size is {size.height} x {size.width}, expected a square: the letterbox is one")
            batch = np.zeros((len(images), 3, size.height, size.width), dtype=np.float32)
            for canvas, image in zip(batch, images, strict=True):
                top, left, height, width = letterbox_box(*image.shape[-2:], size.height)
                canvas[:, top : top + height, left : left + width] = _resized(image, (width, height), resample)
        else:
            shapes = sorted({image.shape[-2:] for image in images})
            if len(shapes) > 1:
                raise ValueError(f"do_resize=False with images of several sizes, {shapes}: give one size a batch")
            if any(side % 32 for side in shapes[0]):
                raise ValueError(f"do_resize=False with images of {shapes[0]}: the network takes multiples of 32")
            batch = np.stack(images).astype(np.float32)
        if do_rescale:
            # Divided where the factor is the usual one: a product with its inverse would differ in the last digit.
            batch = batch / 255 if rescale_factor == 1 / 255 else batch * np.float32(rescale_factor)
        if do_normalize:
            mean = np.asarray(image_mean, dtype=np.float32)[:, None, None]
            std = np.asarray(image_std, dtype=np.float32)[:, None, None]
            batch = (batch - mean) / std
        return BatchFeature({"pixel_values": batch}, tensor_type=return_tensors)

    def post_process_probability(self, outputs, target_sizes=None) -> list[Tensor]:
        """Tumor probability per pixel at each image's own size.

        Args:
            outputs: the model's output; `logits` (B, 1, S, S).
            target_sizes: (height, width) of each image before the letterbox, as a list of pairs or a tensor (B, 2); by
                default the model's own grid, letterbox and all.

        Returns:
            One (height, width) float tensor an image, values 0-1.

        Raises:
            ValueError: there aren't as many sizes as images, or one isn't a pair of whole numbers above 0.
        """
        maps = []
        for logits, size in zip(outputs.logits, _sizes(outputs.logits, target_sizes), strict=True):  # (1, S, S)
            grid = tuple(logits.shape[-2:])
            if size is None or size == grid:
                maps.append(logits[0].float().sigmoid())
                continue
            height, width = size
            inner = logits[None].float()
            if grid[0] == grid[1]:
                top, left, inner_height, inner_width = letterbox_box(height, width, grid[0])
                inner = inner[:, :, top : top + inner_height, left : left + inner_width]
            inner = inner.sigmoid()  # of a grid that is no letterbox, all of it
            if tuple(inner.shape[-2:]) != (height, width):
                inner = F.interpolate(inner, size=(height, width), mode="bilinear", align_corners=False)
            maps.append(inner[0, 0])
        return maps

    def post_process_semantic_segmentation(self, outputs, target_sizes=None) -> list[Tensor]:
        """Maps of 0 (background) and 1 (tumor), (height, width) each; sizes as in `post_process_probability`."""
        return [self._mask(p).long() for p in self.post_process_probability(outputs, target_sizes)]

    def _mask(self, probability: Tensor, threshold: float = 0.5) -> Tensor:
        return torch.from_numpy(clean_mask(probability.detach().cpu().numpy(), self.min_area_share, threshold))

    def post_process_panoptic_segmentation(
        self,
        outputs,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.0,
        target_sizes=None,
    ) -> list[dict]:
        """What `pipeline("image-segmentation")` calls: one segment "tumor" an image, or none.

        Args:
            threshold: a segment is kept when its score, the highest probability in it, reaches this.
            mask_threshold: a pixel belongs to the segment above this probability; 0.5 is the point that was
                chosen on validation (the head's bias carries it).
            overlap_mask_area_threshold: there is one class, so nothing overlaps; accepted for the pipeline's sake.
            target_sizes: as in `post_process_probability`.
        """
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
