"""Losses of the ResUNet. All take logits (B, 1, H, W) and masks of 0 and 1 of the same shape, and give a scalar.

Overlap is pooled over the batch, so that a batch with any tumor in it has a well-defined gradient everywhere, and
smoothed by one pixel, so that a batch without tumor has one too: the loss is then 0 for an empty prediction and grows
with every pixel of false tumor.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0  # pixels


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - soft Dice of the batch (Milletari et al. 2016)."""
    return 1 - tversky_index(logits, mask, alpha=0.5)


def dice_bce_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Soft Dice plus binary cross-entropy."""
    return dice_loss(logits, mask) + F.binary_cross_entropy_with_logits(logits, mask)


def focal_tversky_loss(logits: Tensor, mask: Tensor, alpha: float = 0.7, gamma: float = 0.75) -> Tensor:
    """(1 - Tversky index) ** gamma (Abraham and Khan 2019, whose gamma is the inverse of this one: 4 / 3)."""
    # A power below one has an infinite slope at zero, which a perfect batch would reach.
    return (1 - tversky_index(logits, mask, alpha)).clamp_min(1e-6) ** gamma


def tversky_index(logits: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """Soft Tversky index of the batch: `alpha` weighs missed tumor, 1 - `alpha` false tumor; 0.5 is Dice."""
    # Imported here because it takes a second, and configurations are checked without.
    from monai.losses import TverskyLoss

    # MONAI's alpha weighs false tumor, its beta missed tumor.
    loss = TverskyLoss(sigmoid=True, batch=True, alpha=1 - alpha, beta=alpha, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    # Sums over a batch of pixels don't fit half precision.
    return 1 - loss(logits.float(), mask.float())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dice_bce": dice_bce_loss,
    "focal_tversky": focal_tversky_loss,
    "bce": F.binary_cross_entropy_with_logits,
}


def known_loss(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, mask: Tensor) -> Tensor:
    """A loss where the mask is known; where it is -1 nothing is asked of the logits, as if they were rightly low."""
    unknown = mask < 0
    return loss(logits.masked_fill(unknown, -20.0), mask.clamp_min(0))


def balanced_class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights (classes,) for cross-entropy: inverse to how often a class occurs, 1 on average over the samples."""
    counts = torch.bincount(labels, minlength=classes).clamp_min(1)
    return len(labels) / (classes * counts.float())
