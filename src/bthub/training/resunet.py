"""Train a ResUNet to outline the tumor; the result is a run folder.

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
from datasets import Dataset as Rows
from PIL import Image
from torch import Tensor

from bthub.data.views import AS_IT_IS, FLAIR_ALONE, THREE_SEQUENCES, View, views
from bthub.errors import BthubError, report_errors
from bthub.metrics.segmentation import segmentation_metrics
from bthub.models.localizer import Localizer, save_localizer
from bthub.models.resunet import ResUNetConfig, ResUNetForSemanticSegmentation, ResUNetImageProcessor, letterbox_box
from bthub.training.calibration import choose_operating_point
from bthub.training.config import parse_config, size_at
from bthub.training.initialization import load_encoder, load_imagenet, load_weights
from bthub.training.loop import BaseConfig, Run, Task, steps_of
from bthub.training.losses import LOSSES, known_loss
from bthub.training.optimization import create_optimizer, create_schedule
from bthub.training.samples import UNKNOWN, EvaluationImages, TrainingImages, rows_of_sources, sampler_of, training_mask

MEASURED = (THREE_SEQUENCES, FLAIR_ALONE)
"""Views of LGG that a localizer of a mixture is measured on: the outlines are those of FLAIR."""


@dataclass
class Config(BaseConfig):
    """What is trained, on what, and how.

    Attributes:
        backbone: timm network that is the encoder.
        pretrained: start the encoder from timm's ImageNet weights (needs the Hub).
        encoder_from: start the encoder from that of this ResUNet run, which must have the same backbone and splits, or
            from this `.safetensors` file of a whole network, as `bthub imagenet-weights` writes it.
        decoder_channels: of the decoder's blocks, deepest first.
        weights_from: start from this ResUNet run, which must have the same splits, or from its `.safetensors` file.
        positive_share: share of tumor slices in an epoch; null for the data's own.
        loss: one of bthub.training.losses.LOSSES.
    """

    backbone: str = "resnet18"
    decoder_channels: list[int] = field(default_factory=lambda: [256, 128, 64, 32, 16])
    epochs: int = 40
    patience: int = 15
    batch_size: int = 16
    positive_share: float | None = 0.5
    loss: str = "dice_bce"


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    config, args = parse_config(Config, __doc__.split("\n")[0], arguments, prog)
    size = size_at(config.image_sizes, config.epochs)  # the last one, which is saved
    if config.loss not in LOSSES:
        raise BthubError(f"loss {config.loss!r}: expected {', '.join(LOSSES)}")
    run = Run(config, args)
    run.rows = rows = {name: outlined(split) for name, split in run.rows.items()}
    train = rows_of_sources(rows["train"], config.source_shares)

    # Model. Before all pictures are read: initial weights that don't fit are told at once.
    try:
        model = ResUNetForSemanticSegmentation(
            ResUNetConfig(backbone=config.backbone, decoder_channels=config.decoder_channels)
        )
    except (RuntimeError, ValueError) as error:  # timm doesn't know it, or it has other strides
        raise BthubError(f"no ResUNet can be made of backbone {config.backbone!r}: {error}") from error
    if config.pretrained:
        load_imagenet(model.encoder, config.backbone)
    initial_weights = []
    if config.encoder_from:
        initial_weights.append(load_encoder(model.encoder, config.encoder_from, rows["validation"]))
    if config.weights_from:
        initial_weights.append(load_weights(model, config.weights_from, rows["validation"]))
    run.check(model)
    model = model.to(memory_format=torch.channels_last)

    # Batches.
    images = TrainingImages(
        train, config.augmentation, not run.quiet, canvas=max(config.image_sizes.values()), masks=True
    )
    processor = ResUNetImageProcessor(size={"height": size, "width": size})
    mixed = "source" in rows["train"].column_names
    shown = views(rows["validation"], MEASURED if mixed else (AS_IT_IS,))
    validation = EvaluationImages(
        rows["validation"], partial(pixel_values, processor), partial(letterbox_mask, size=size), shown
    )
    sampler = sampler_of(train, config.seed, config.source_shares, config.positive_share, length=config.epoch_samples)
    loaders = run.loaders(images, validation, sampler)
    steps = steps_of(loaders[0], config.accumulation)

    # Loss, optimizer, schedule.
    optimizer = create_optimizer("adamw", model.parameters(), config.learning_rate, config.weight_decay)
    scheduler = create_schedule("cosine", optimizer, round(config.warmup_epochs * steps), config.epochs * steps)
    compute_loss = partial(known_loss, LOSSES[config.loss])

    def observe(logits: Tensor, batch: dict) -> Tensor:
        """Of each slice (B, 5): pixels of tumor, found, and both; the center of what was found, x and y."""
        mask, found = batch["mask"] > 0, logits > 0  # (B, 1, S, S)
        counts = torch.stack([mask.sum((1, 2, 3)), found.sum((1, 2, 3)), (mask & found).sum((1, 2, 3))], dim=1)
        place = torch.arange(size, device=found.device) + 0.5
        center = torch.stack([(found.sum((1, 2)) * place).sum(1), (found.sum((1, 3)) * place).sum(1)], dim=1)
        return torch.cat([counts, center / counts[:, 1:2].clamp_min(1)], dim=1)

    def measure(observed: np.ndarray) -> dict[str, float]:
        return measure_views(observed, shown, rows["validation"], size)

    task = Task(
        name="resunet",
        metric="score" if mixed else "Dice",
        predict=lambda model, pixels: model(pixel_values=pixels).logits,  # (B, 1, S, S)
        loss=lambda logits, batch: compute_loss(logits, batch["mask"]),
        observe=observe,
        measure=measure,
    )
    progress, best = run.train(task, model, loaders, optimizer, scheduler)

    # The run folder.
    if run.accelerator.is_main_process:
        calibration = choose_operating_point(Localizer(best, processor, "cpu"), rows["validation"])
        run.finish(progress, initial_weights, calibration)
        save_localizer(run.output, best, size, calibration.mask_threshold, calibration.min_area_share)
        run.tell("Dice", calibration.validation_dice)


def outlined(rows: Rows) -> Rows:
    """The rows that teach where tumor is: all of LGG; of a mixture those with an outline, a box, or no tumor."""
    if "source" not in rows.column_names:
        return rows
    columns = zip(rows["patient_id"][:], rows["box"][:], rows["label"][:], strict=True)
    return rows.select([i for i, (patient, box, label) in enumerate(columns) if patient or box or not label])


def measure_views(observed: np.ndarray, shown: Sequence[View], rows: Rows, size: int) -> dict[str, float]:
    """An epoch's metrics.

    Args:
        observed: (V, 5) of each view: pixels of tumor, found, both; center of what was found, on the model's grid.
        shown: the views.
        rows: of validation.
        size: side of the model's grid.

    Returns:
        `validation_dice`, the mean over patients, with several views of LGG the mean over them too; of a mixture also
        that of each view, and the share of boxes that the center lies in (`validation_score` is the mean of all these).
    """
    patients = rows["patient_id"][:]
    found: dict[str, float] = {}
    dice, tumor_slices, healthy = [], [], []
    for name in dict.fromkeys(view.name for view in shown if patients[view.row]):
        chosen = np.array([i for i, view in enumerate(shown) if view.name == name and patients[view.row]])
        groups = [patients[shown[i].row] for i in chosen]
        counts = observed[chosen, :3].round().astype(int)
        measured = segmentation_metrics(*counts.T, np.full(len(chosen), size**2), groups=groups, resamples=0)["metrics"]
        dice.append(measured["dice_volume_mean"].value)
        tumor_slices.append(measured["dice_tumor_slices"].value)
        healthy.append(measured["tumor_free_slices_with_mask"].value)
        found |= {} if name == AS_IT_IS else {f"validation_dice_{name}": dice[-1]}
    scores = list(dice)
    boxes = rows["box"][:] if "box" in rows.column_names else [None] * len(rows)
    boxed = [i for i, view in enumerate(shown) if boxes[view.row]]
    if boxed:
        widths = {shown[i].row: rows[shown[i].row]["image"].size for i in boxed}
        hits = [
            observed[i, 1] > 0 and in_box(observed[i, 3:], boxes[shown[i].row], *widths[shown[i].row], size)
            for i in boxed
        ]
        found["validation_center_in_box"] = float(np.mean(hits))
        scores.append(found["validation_center_in_box"])
    found |= {
        "validation_dice": float(np.mean(dice)),
        "validation_dice_tumor_slices": float(np.mean(tumor_slices)),
        "validation_tumor_free_slices_with_mask": float(np.mean(healthy)),
    }
    return found | ({"validation_score": float(np.mean(scores))} if len(scores) > 1 else {})


def in_box(center: np.ndarray, box: Sequence[float], width: int, height: int, size: int) -> bool:
    """Whether a place on the model's grid lies in a box of a picture of this width and height."""
    top, left, inner_height, inner_width = letterbox_box(height, width, size)
    x, y = (center[0] - left) * width / inner_width, (center[1] - top) * height / inner_height
    return bool(box[0] <= x <= box[2] and box[1] <= y <= box[3])


def pixel_values(processor: ResUNetImageProcessor, image: Image.Image) -> torch.Tensor:
    """An image as the model sees it, (3, S, S)."""
    return processor(image, return_tensors="pt")["pixel_values"][0]


def letterbox_mask(mask: Image.Image, size: int) -> torch.Tensor:
    """A mask on the model's grid, (1, size, size), 0 or 1."""
    return torch.from_numpy(training_mask(mask.size, mask, None, size) > UNKNOWN).float()[None]


if __name__ == "__main__":
    sys.exit(report_errors(main))
