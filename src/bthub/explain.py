"""Where a classifier looks: Grad-CAM on its last convolutional stage, and how much of that lies on the tumor.

Grad-CAM weighs the maps of a layer by how much each raises a class's logit (Selvaraju et al. 2017). It shows where
the evidence lay, coarsely (a 256-pixel slice has 8 x 8 cells in ResNet-18's last stage), and isn't an outline.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from bthub.errors import BthubError
from bthub.models.classifier import Classifier


def last_convolutional_stage(model: nn.Module) -> nn.Module:
    """The module whose output is the last feature map: as timm names it, else the last convolution.

    Raises:
        BthubError: the model has no convolution there, as a transformer hasn't.
    """
    stages = getattr(model, "feature_info", None)
    layer = model.get_submodule(stages[-1]["module"]) if stages else model
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions or (stages and len(convolutions) == 1):
        raise BthubError(f"{type(model).__name__} has no convolutional stage: Grad-CAM needs one")
    return layer if stages else convolutions[-1]


def heatmaps(classifier: Classifier, images: Sequence[Image.Image], label: str = "tumor") -> list[np.ndarray]:
    """Grad-CAM of one class for RGB images of any size.

    Args:
        classifier: of `load_classifier`.
        images: the pictures.
        label: the class whose evidence is shown.

    Returns:
        One float32 array (H, W) an image, at the image's own size, from 0 to 1 at its strongest point; all 0 where
        nothing speaks for the class.

    Raises:
        BthubError: the classifier doesn't know the class, has no convolutional stage, or grad-cam isn't installed.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise BthubError("Grad-CAM needs the package grad-cam: pip install 'bthub[explain]'") from error
    if label not in classifier.labels:
        raise BthubError(f"the classifier knows {', '.join(classifier.labels)}, but no {label!r}")
    target = ClassifierOutputTarget(classifier.labels.index(label))
    batch = torch.stack([classifier.transform(image) for image in images]).to(classifier.device)  # (N, 3, S, S)
    layer = last_convolutional_stage(classifier.model)
    with GradCAM(model=classifier.model, target_layers=[layer]) as cam:
        maps = cam(input_tensor=batch, targets=[target] * len(images))  # (N, S, S)
    classifier.model.zero_grad()
    return [_without_border(m, image) for m, image in zip(maps, images, strict=True)]


def agreement(heatmap: np.ndarray, mask: np.ndarray) -> float | None:
    """Share of a heat map's energy that lies inside a mask, 0 to 1.

    A map that looked nowhere in particular scores the mask's share of the picture.

    Args:
        heatmap: (H, W), not negative.
        mask: (H, W) bool, the tumor.

    Returns:
        None where the mask or the map is empty.
    """
    total = float(heatmap.sum())
    return float(heatmap[mask].sum() / total) if total > 0 and mask.any() else None


def overlay(image: Image.Image, heatmap: np.ndarray) -> Image.Image:
    """The picture with the heat map over it: dark where nothing was seen, bright yellow at the strongest point."""
    import cv2
    from pytorch_grad_cam.utils.image import show_cam_on_image

    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return Image.fromarray(
        show_cam_on_image(pixels, heatmap, use_rgb=True, colormap=cv2.COLORMAP_INFERNO, image_weight=0.55)
    )


def _without_border(heatmap: np.ndarray, image: Image.Image) -> np.ndarray:
    """Undo the transform's letterbox: (S, S) of the padded square -> (H, W) of the picture."""
    side = max(image.size)
    square = Image.fromarray(heatmap.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    found = np.asarray(square.crop((left, top, left + image.width, top + image.height)))
    return found / found.max() if found.max() > 0 else found
