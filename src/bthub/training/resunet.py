"""Train a ResUNet to outline the tumor, and leave a run folder.

    accelerate launch train/resunet.py --config resunet18-lgg --output runs/my-resunet

The epoch with the best validation Dice (mean over patients, each patient's slices taken as one volume) is kept.
The last step chooses, on validation again, the probability from which a pixel is tumor. The test split is not read.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bthub.errors import BthubError, report_errors
from bthub.metrics.segmentation import segmentation_metrics
from bthub.models.localizer import Localizer, save_localizer
from bthub.models.resunet import ResUNetConfig, ResUNetForSemanticSegmentation, ResUNetImageProcessor, letterbox_box
from bthub.training.calibration import choose_operating_point
from bthub.training.config import parse_config, size_at
from bthub.training.initialization import load_encoder, load_imagenet
from bthub.training.loop import Run, Task, steps_of
from bthub.training.losses import LOSSES
from bthub.training.optimization import create_optimizer, create_schedule
from bthub.training.samples import Augmentation, EvaluationImages, TrainingImages


@dataclass
class Config:
    """What is trained, on what, and how.

    Attributes:
        backbone: timm network that is the encoder.
        pretrained: start the encoder from timm's ImageNet weights (needs the Hub).
        encoder_from: start the encoder from that of this ResUNet run, which must have the same backbone and splits, or
            from this `.safetensors` file of a whole network, as `bthub imagenet-weights` writes it.
        decoder_channels: of the decoder's blocks, deepest first.
        protocol: which split: `patient`, `slice`, or `fold-1` to `fold-5` of the cross-validation.
        epochs: at most; `patience` is the number of epochs without a better validation Dice after which to stop.
        image_sizes: {first epoch: side}; the last side is the one the model is saved and used with.
        batch_size: images of one optimizer step are batch_size * accumulation, over all processes together.
        positive_share: share of tumor slices in an epoch; null for the data's own.
        loss: one of bthub.training.losses.LOSSES.
    """

    backbone: str = "resnet18"
    pretrained: bool = False
    encoder_from: str | None = None
    decoder_channels: list[int] = field(default_factory=lambda: [256, 128, 64, 32, 16])
    protocol: str = "patient"
    epochs: int = 40
    patience: int = 15
    image_sizes: dict[int, int] = field(default_factory=lambda: {0: 256})
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_epochs: float = 1
    gradient_clip: float = 1.0
    positive_share: float | None = 0.5
    loss: str = "dice_bce"
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixed_precision: str = "no"
    seed: int = 42
    workers: int = 1


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    config, args = parse_config(Config, __doc__.split("\n")[0], arguments, prog)
    size = size_at(config.image_sizes, config.epochs)  # the last one, which is saved
    if config.loss not in LOSSES:
        raise BthubError(f"loss {config.loss!r}: expected {', '.join(LOSSES)}")
    run = Run(config, args)
    rows = run.rows

    # Model. Before all pictures are read: first weights that don't fit are told at once.
    try:
        model = ResUNetForSemanticSegmentation(
            ResUNetConfig(backbone=config.backbone, decoder_channels=config.decoder_channels)
        )
    except (RuntimeError, ValueError) as error:  # timm doesn't know it, or it has other strides
        raise BthubError(f"no ResUNet can be made of backbone {config.backbone!r}: {error}") from error
    if config.pretrained:
        load_imagenet(model.encoder, config.backbone)
    first_weights = []
    if config.encoder_from:
        first_weights.append(load_encoder(model.encoder, config.encoder_from, rows["validation"]))
    run.check(model)
    model = model.to(memory_format=torch.channels_last)

    # Batches.
    images = TrainingImages(rows["train"], config.augmentation, not run.quiet)
    processor = ResUNetImageProcessor(size={"height": size, "width": size})
    validation = EvaluationImages(
        rows["validation"], partial(pixel_values, processor), partial(letterbox_mask, size=size)
    )
    loaders = run.loaders(images, validation, config.positive_share)
    steps = steps_of(loaders[0], config.accumulation)
    patients = rows["validation"]["patient_id"][:]

    # Loss, optimizer, schedule.
    optimizer = create_optimizer("adamw", model.parameters(), config.learning_rate, config.weight_decay)
    scheduler = create_schedule("cosine", optimizer, round(config.warmup_epochs * steps), config.epochs * steps)
    compute_loss = LOSSES[config.loss]

    def observe(logits: Tensor, batch: dict) -> Tensor:
        """Pixels of each slice (B, 3): of tumor, found, and both."""
        mask, found = batch["mask"] > 0, logits > 0  # (B, 1, S, S)
        return torch.stack([mask.sum((1, 2, 3)), found.sum((1, 2, 3)), (mask & found).sum((1, 2, 3))], dim=1)

    def measure(counts: np.ndarray) -> dict[str, float]:
        pixels = np.full(len(counts), size**2)
        measured = segmentation_metrics(*counts.T, pixels, groups=patients, resamples=0)["metrics"]
        return {
            "validation_dice": measured["dice_volume_mean"]["value"],
            "validation_dice_tumor_slices": measured["dice_tumor_slices"]["value"],
            "validation_healthy_slices_with_mask": measured["healthy_slices_with_mask"]["value"],
        }

    task = Task(
        name="resunet",
        metric="Dice",
        predict=lambda model, pixels: model(pixel_values=pixels).logits,  # (B, 1, S, S)
        loss=lambda logits, batch: compute_loss(logits, batch["mask"]),
        observe=observe,
        measure=measure,
    )
    progress, best = run.train(task, model, loaders, optimizer, scheduler)

    # The run folder.
    if run.accelerator.is_main_process:
        calibration = choose_operating_point(Localizer(best, processor, "cpu"), rows["validation"])
        run.finish(progress, first_weights, calibration)
        save_localizer(run.output, best, size, calibration["mask_threshold"], calibration["min_area_share"])
        run.tell("Dice", calibration["validation_dice"])


def pixel_values(processor: ResUNetImageProcessor, image: Image.Image) -> torch.Tensor:
    """An image as the model sees it, (3, S, S)."""
    return processor(image, return_tensors="pt")["pixel_values"][0]


def letterbox_mask(mask: Image.Image, size: int) -> torch.Tensor:
    """A mask on the model's grid, (1, size, size), 0 or 1."""
    top, left, height, width = letterbox_box(mask.height, mask.width, size)
    grid = torch.zeros(1, size, size)
    inner = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)) > 127
    grid[0, top : top + height, left : left + width] = torch.from_numpy(inner)
    return grid


if __name__ == "__main__":
    sys.exit(report_errors(main))
