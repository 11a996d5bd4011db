"""Train a ResUNet to outline the tumor, and leave a run folder.

    accelerate launch train/resunet.py --config resunet18-lgg --output runs/my-resunet

The epoch with the best validation Dice (mean over patients, each patient's slices taken as one volume) is kept.
The last step chooses, on validation again, the probability from which a pixel is tumor. The test split is not read.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from bthub.data.dataset import load_split
from bthub.errors import BthubError, report_errors
from bthub.metrics.segmentation import segmentation_metrics
from bthub.models.localizer import Localizer, save_localizer
from bthub.models.resunet import ResUNetConfig, ResUNetForSemanticSegmentation, ResUNetImageProcessor, letterbox_box
from bthub.runs.folder import CALIBRATION, LOGS, create, write_json
from bthub.training.calibration import choose_operating_point
from bthub.training.checkpoint import Progress, best_model, load_checkpoint, save_checkpoint
from bthub.training.config import few, parse_config, size_at
from bthub.training.initialization import load_encoder, load_imagenet
from bthub.training.loop import steps_of
from bthub.training.losses import LOSSES
from bthub.training.optimization import create_optimizer
from bthub.training.records import write_records
from bthub.training.samples import Augmentation, EpochSampler, EvaluationImages, TrainingImages


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
    output = args.output
    # One batch is divided among the processes: the number of processes doesn't change what a step sees.
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulation,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with="tensorboard",
        project_dir=output / LOGS,
    )
    if accelerator.is_main_process:  # the others would find the folder of the first
        create(output, args.resume)
    accelerator.wait_for_everyone()
    set_seed(config.seed)
    quiet = not accelerator.is_local_main_process

    # Data.
    with accelerator.local_main_process_first():
        rows = {name: load_split(args.data, name, config.protocol) for name in ("train", "validation")}
    if args.dry_run:
        rows = {name: few(split) for name, split in rows.items()}

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
    model = model.to(memory_format=torch.channels_last)

    # Batches.
    images = TrainingImages(rows["train"], config.augmentation, show_progress=not quiet)
    sampler = EpochSampler(images.labels, config.seed, config.positive_share)
    train_loader = DataLoader(images, config.batch_size, sampler=sampler, num_workers=config.workers, drop_last=True)
    steps = steps_of(train_loader, config.accumulation)
    processor = ResUNetImageProcessor(size={"height": size, "width": size})
    validation_loader = DataLoader(
        EvaluationImages(
            rows["validation"],
            partial(pixel_values, processor),
            partial(letterbox_mask, size=size),
        ),
        config.batch_size,
        num_workers=config.workers,
    )
    patients = rows["validation"]["patient_id"][:]

    # Loss, optimizer, schedule.
    optimizer = create_optimizer("adamw", model.parameters(), config.learning_rate, config.weight_decay)
    scheduler = get_cosine_schedule_with_warmup(optimizer, round(config.warmup_epochs * steps), config.epochs * steps)
    model, optimizer, train_loader, validation_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, validation_loader, scheduler
    )
    compute_loss = LOSSES[config.loss]

    progress = Progress(asdict(config))
    accelerator.register_for_checkpointing(progress)
    if args.resume and load_checkpoint(accelerator, output):
        accelerator.print(f"resumed after epoch {progress.epoch - 1}, best Dice {progress.best:.4f}")
    accelerator.init_trackers("resunet")

    while progress.epoch < config.epochs and not progress.out_of_patience(config.patience):
        model.train()
        sampler.start_epoch(progress.epoch, size_at(config.image_sizes, progress.epoch))
        train_loss = 0.0
        for batch in tqdm(train_loader, desc=f"epoch {progress.epoch}", disable=quiet):
            with accelerator.accumulate(model):
                pixels = batch["pixel_values"].to(memory_format=torch.channels_last)  # (B, 3, H, W)
                loss = compute_loss(model(pixel_values=pixels).logits, batch["mask"])
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), config.gradient_clip)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            train_loss += accelerator.reduce(loss.detach(), "mean").item() / len(train_loader)

        model.eval()
        counts, validation_losses = [], []
        for batch in tqdm(validation_loader, desc="validation", leave=False, disable=quiet):
            with torch.inference_mode():
                logits = model(pixel_values=batch["pixel_values"]).logits  # (B, 1, S, S)
            mask, found = batch["mask"] > 0, logits > 0
            pixels_of = torch.stack(
                [mask.sum((1, 2, 3)), found.sum((1, 2, 3)), (mask & found).sum((1, 2, 3))], dim=1
            )  # (B, 3)
            counts.append(accelerator.gather_for_metrics(pixels_of))
            validation_losses.append(accelerator.reduce(compute_loss(logits, batch["mask"]), "mean").item())
        tumor, predicted, both = torch.cat(counts).cpu().numpy().T
        measured = segmentation_metrics(
            tumor, predicted, both, np.full(len(tumor), size**2), groups=patients, resamples=0
        )["metrics"]
        row = {
            "train_loss": train_loss,
            "validation_loss": float(np.mean(validation_losses)),
            "validation_dice": measured["dice_volume_mean"]["value"],
            "validation_dice_tumor_slices": measured["dice_tumor_slices"]["value"],
            "validation_healthy_slices_with_mask": measured["healthy_slices_with_mask"]["value"],
            "learning_rate": scheduler.get_last_lr()[0],
            "image_size": sampler.size,
        }
        improved = progress.record(row, row["validation_dice"])
        accelerator.log(row, step=progress.epoch)
        accelerator.print(" ".join(f"{key} {value:.4g}" for key, value in progress.history[-1].items()))
        save_checkpoint(accelerator, output, progress, model, improved)
    accelerator.end_training()

    # The run folder.
    if accelerator.is_main_process:
        best = best_model(accelerator, model, output)
        calibration = choose_operating_point(Localizer(best, processor, "cpu"), rows["validation"])
        write_records(
            output,
            config,
            args.data,
            config.protocol,
            rows,
            progress,
            first_weights,
            recipe=args.recipe,
            processes=accelerator.num_processes,
        )
        write_json(output / CALIBRATION, calibration)
        save_localizer(output, best, size, calibration["mask_threshold"], calibration["min_area_share"])
        print(f"{output}: validation Dice {calibration['validation_dice']:.4f}")
        print(f"next: bthub evaluate {output} --data {args.data} --split test")


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
