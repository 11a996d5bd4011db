"""Fine-tune a timm classifier, and leave a run folder.

    accelerate launch train/classifier.py --config train/configs/resnet18-lgg.yaml --output runs/resnet18-lgg

The epoch with the best validation F1 (of tumor; for more than two classes the mean over classes) is kept. The last step
fits, on validation again, a temperature and the threshold of the tumor probability. The test split is not read.
"""

import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from bthub.data import load_split
from bthub.data.transforms import Augmentation, EpochSampler, EvaluationImages, TrainingImages
from bthub.errors import BthubError, report_errors
from bthub.models.classifier import Classifier, create_classifier, eval_transform, preprocessing, save_classifier
from bthub.run_folder import CALIBRATION, LOGS, WEIGHTS, RunFolder, create, write_json
from bthub.training import run
from bthub.training.calibration import calibrate_classifier
from bthub.training.losses import balanced_class_weights


@dataclass
class Config:
    """What is trained, on what, and how.

    Attributes:
        architecture: any timm name, or `simple_cnn`.
        pretrained: start from timm's ImageNet weights (needs the Hub).
        encoder_from: start from the encoder of this ResUNet run, which must have the same backbone and splits.
        protocol: which split, `patient` or `slice`; image-folder sets have but one.
        epochs: at most; `patience` is the number of epochs without a better validation F1 after which to stop.
        image_sizes: {first epoch: side}; the last side is the one the model is saved and used with.
        batch_size: images of one optimizer step are batch_size * accumulation, over all processes together.
        class_weights: weigh classes in the loss by how rare they are.
    """

    architecture: str = "resnet18"
    pretrained: bool = False
    encoder_from: str | None = None
    protocol: str = "patient"
    epochs: int = 20
    patience: int = 8
    image_sizes: dict[int, int] = field(default_factory=lambda: {0: 256})
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_epochs: float = 1
    gradient_clip: float = 1.0
    drop_rate: float = 0.0
    label_smoothing: float = 0.0
    class_weights: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixed_precision: str = "no"
    seed: int = 42
    workers: int = 1


def main() -> None:
    config, args = run.parse_config(Config, __doc__.split("\n")[0])
    output = create(args.output, args.resume)
    # One batch is divided among the processes: the number of processes doesn't change what a step sees.
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulation,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with="tensorboard",
        project_dir=output / LOGS,
    )
    set_seed(config.seed)
    quiet = not accelerator.is_local_main_process

    # Data.
    with accelerator.local_main_process_first():
        rows = {name: load_split(args.data, name, config.protocol) for name in ("train", "validation")}
    labels = rows["train"].features["label"].names
    images = TrainingImages(rows["train"].remove_columns(unused(rows["train"])), config.augmentation, not quiet)
    sampler = EpochSampler(images.labels, config.seed)
    train_loader = DataLoader(images, config.batch_size, sampler=sampler, num_workers=config.workers, drop_last=True)
    size = run.size_at(config.image_sizes, config.epochs)
    transform = eval_transform(preprocessing(size))
    validation_loader = DataLoader(
        EvaluationImages(rows["validation"], transform), config.batch_size, num_workers=config.workers
    )

    # Model, loss, optimizer, schedule.
    model = create_classifier(
        config.architecture, len(labels), pretrained=config.pretrained, drop_rate=config.drop_rate
    )
    if config.encoder_from:
        load_encoder(model, config.encoder_from, config.protocol)
    model = model.to(memory_format=torch.channels_last)
    weights = balanced_class_weights(torch.tensor(images.labels), len(labels)) if config.class_weights else None
    compute_loss = nn.CrossEntropyLoss(weights, label_smoothing=config.label_smoothing).to(accelerator.device)
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    steps = len(train_loader) // config.accumulation
    scheduler = get_cosine_schedule_with_warmup(optimizer, round(config.warmup_epochs * steps), config.epochs * steps)
    model, optimizer, train_loader, validation_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, validation_loader, scheduler
    )

    progress = run.Progress()
    accelerator.register_for_checkpointing(progress)
    if args.resume and run.load_checkpoint(accelerator, output):
        accelerator.print(f"resumed after epoch {progress.epoch - 1}, best F1 {progress.best:.4f}")
    accelerator.init_trackers("classifier")

    while progress.epoch < config.epochs and not progress.out_of_patience(config.patience):
        model.train()
        sampler.start_epoch(progress.epoch, run.size_at(config.image_sizes, progress.epoch))
        train_loss = 0.0
        for batch in tqdm(train_loader, desc=f"epoch {progress.epoch}", disable=quiet):
            with accelerator.accumulate(model):
                pixels = batch["pixel_values"].to(memory_format=torch.channels_last)  # (B, 3, H, W)
                loss = compute_loss(model(pixels), batch["labels"])
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), config.gradient_clip)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            train_loss += accelerator.reduce(loss.detach(), "mean").item() / len(train_loader)

        model.eval()
        predicted, expected, validation_losses = [], [], []
        for batch in tqdm(validation_loader, desc="validation", leave=False, disable=quiet):
            with torch.inference_mode():
                logits = model(batch["pixel_values"])  # (B, classes)
            validation_losses.append(accelerator.reduce(compute_loss(logits, batch["labels"]), "mean").item())
            logits, truth = accelerator.gather_for_metrics((logits, batch["labels"]))
            predicted.append(logits.argmax(dim=1))
            expected.append(truth)
        predicted, expected = torch.cat(predicted).cpu().numpy(), torch.cat(expected).cpu().numpy()
        row = {
            "train_loss": train_loss,
            "validation_loss": float(np.mean(validation_losses)),
            "validation_f1": float(
                f1_score(expected, predicted, average="binary" if len(labels) == 2 else "macro", zero_division=0)
            ),
            "validation_accuracy": float((predicted == expected).mean()),
            "learning_rate": scheduler.get_last_lr()[0],
            "image_size": sampler.size,
        }
        improved = progress.record(row, row["validation_f1"])
        accelerator.log(row, step=progress.epoch)
        accelerator.print(" ".join(f"{key} {value:.4g}" for key, value in progress.history[-1].items()))
        run.save_checkpoint(accelerator, output, progress, model, improved)
    accelerator.end_training()

    # The run folder.
    if accelerator.is_main_process:
        best = accelerator.unwrap_model(model).to("cpu")
        run.load_best(best, output)
        calibration = calibrate_classifier(Classifier(best.eval(), transform, labels, "cpu"), rows["validation"])
        run.write_records(
            output, config, args.data, config.protocol, rows, progress, processes=accelerator.num_processes
        )
        write_json(output / CALIBRATION, calibration)
        save_classifier(output, best, config.architecture, labels, size, calibration["temperature"])
        print(f"{output}: validation F1 {progress.best:.4f}; next: bthub evaluate {output}")


def unused(rows) -> list[str]:
    """Columns that a classifier doesn't look at."""
    return [name for name in rows.column_names if name not in ("image", "label")]


def load_encoder(model: nn.Module, source: str, protocol: str) -> None:
    """Start from the encoder of a ResUNet run; only of one that was kept away from the same patients."""
    encoder = RunFolder.open(source)
    if encoder.training["protocol"] != protocol:
        raise BthubError(
            f"{source} was trained on the protocol {encoder.training['protocol']!r}, this run is on {protocol!r}: "
            "its encoder has seen slices that this run is validated and tested on"
        )
    state = load_file(encoder.path / WEIGHTS)
    state = {key.removeprefix("encoder."): v.float() for key, v in state.items() if key.startswith("encoder.")}
    run.load_matching(model, state, f"the encoder of {source}")


if __name__ == "__main__":
    sys.exit(report_errors(main))
