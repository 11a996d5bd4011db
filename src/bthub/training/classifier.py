"""Fine-tune a timm classifier, and leave a run folder.

    accelerate launch train/classifier.py --config resnet18-lgg --output runs/my-resnet

The epoch with the best validation F1 (of tumor; for more than two classes the mean over classes) is kept. The last step
fits, on validation again, a temperature and the threshold of the tumor probability. The test split is not read.
"""

import copy
import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from bthub.data.dataset import load_split
from bthub.errors import BthubError, report_errors
from bthub.metrics.classification import positive_class
from bthub.models.classifier import Classifier, create_classifier, eval_transform, preprocessing, save_classifier
from bthub.runs.folder import CALIBRATION, LOGS, LR_FINDER, create, write_json, write_rows
from bthub.training import freezing, lr_finder
from bthub.training.calibration import calibrate_classifier
from bthub.training.checkpoint import Progress, best_model, load_checkpoint, save_checkpoint
from bthub.training.config import few, parse_config, size_at
from bthub.training.initialization import load_encoder, load_weights
from bthub.training.loop import steps_of
from bthub.training.losses import balanced_class_weights
from bthub.training.optimization import create_optimizer, create_schedule
from bthub.training.records import write_records
from bthub.training.samples import Augmentation, EpochSampler, EvaluationImages, TrainingImages


@dataclass
class Head:
    """Dense layers with ReLU between the pooled features and the last layer.

    Attributes:
        widths: their outputs, in order; null for the architecture's own head.
        dropout: share dropped after each of them; none where it is empty.
    """

    widths: list[int] | None = None
    dropout: list[float] = field(default_factory=list)


@dataclass
class Config:
    """What is trained, on what, and how.

    Attributes:
        architecture: any timm name, or `simple_cnn`.
        head: dense layers, for the architectures that `bthub.models.mlp_head.BACKBONES` names.
        pretrained: start from timm's ImageNet weights (needs the Hub).
        encoder_from: start from the encoder of this ResUNet run, which must have the same backbone and splits.
        weights_from: start from this `.safetensors` file, or from this run, which must have the same splits.
        protocol: which split: `patient`, `slice`, or `fold-1` to `fold-5`; image-folder sets have but one.
        epochs: at most; `patience` is the number of epochs without a better validation F1 after which to stop.
        image_sizes: {first epoch: side}; the last side is the one the model is saved and used with.
        batch_size: images of one optimizer step are batch_size * accumulation, over all processes together.
        freeze_epochs: for so many epochs only the head learns.
        trainable_layers: after that the head and so many of the last layers learn (see `bthub.training.freezing`);
            null for all, 0 for none but the head.
        optimizer: adamw, or sgd with momentum 0.9.
        schedule: of the learning rate: cosine (after a warm-up), constant or one_cycle.
        lr_finder: null, or valley: the learning rate is what fastai's range test suggests, `learning_rate` isn't used.
        lr_finder_steps: batches that the range test trains a copy of the model on.
        gradient_clip: longest gradient; null for no limit.
        class_weights: weigh classes in the loss by how rare they are.
    """

    architecture: str = "resnet18"
    head: Head = field(default_factory=Head)
    pretrained: bool = False
    encoder_from: str | None = None
    weights_from: str | None = None
    protocol: str = "patient"
    epochs: int = 20
    patience: int = 8
    image_sizes: dict[int, int] = field(default_factory=lambda: {0: 256})
    batch_size: int = 32
    accumulation: int = 1
    freeze_epochs: int = 0
    trainable_layers: int | None = None
    optimizer: str = "adamw"
    schedule: str = "cosine"
    learning_rate: float = 1e-3
    lr_finder: str | None = None
    lr_finder_steps: int = 100
    weight_decay: float = 0.01
    warmup_epochs: float = 1
    gradient_clip: float | None = 1.0
    drop_rate: float = 0.0
    label_smoothing: float = 0.0
    class_weights: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixed_precision: str = "no"
    seed: int = 42
    workers: int = 1


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    config, args = parse_config(Config, __doc__.split("\n")[0], arguments, prog)
    size = size_at(config.image_sizes, config.epochs)  # the last one, which is saved
    output = args.output
    # One batch is divided among the processes: the number of processes doesn't change what a step sees.
    freezes = config.freeze_epochs > 0 or config.trainable_layers is not None
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulation,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with="tensorboard",
        project_dir=output / LOGS,
        # Several processes wait for every gradient unless they are told that frozen layers have none.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)] if freezes else None,
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
    labels = rows["train"].features["label"].names
    # Of two classes that of tumor, of more the mean.
    f1_options = {"pos_label": positive_class(labels)} if len(labels) == 2 else {"average": "macro"}

    # Model. Before all pictures are read: first weights that don't fit are told at once.
    model = create_classifier(
        config.architecture,
        len(labels),
        pretrained=config.pretrained,
        drop_rate=config.drop_rate,
        head_widths=config.head.widths,
        head_dropout=config.head.dropout,
    )
    first_weights = []
    if config.weights_from:
        first_weights.append(load_weights(model, config.weights_from, rows["validation"]))
    if config.encoder_from:
        first_weights.append(load_encoder(model, config.encoder_from, rows["validation"]))
    model = model.to(memory_format=torch.channels_last)

    # Batches.
    images = TrainingImages(rows["train"].select_columns(["image", "label"]), config.augmentation, not quiet)
    sampler = EpochSampler(images.labels, config.seed)
    train_loader = DataLoader(images, config.batch_size, sampler=sampler, num_workers=config.workers, drop_last=True)
    steps = steps_of(train_loader, config.accumulation)
    transform = eval_transform(preprocessing(size))
    validation_loader = DataLoader(
        EvaluationImages(rows["validation"], transform), config.batch_size, num_workers=config.workers
    )

    # Loss, optimizer, schedule.
    weights = balanced_class_weights(torch.tensor(images.labels), len(labels)) if config.class_weights else None
    compute_loss = nn.CrossEntropyLoss(weights, label_smoothing=config.label_smoothing).to(accelerator.device)
    learning_rate = config.learning_rate
    if config.lr_finder:
        sampler.start_epoch(0, size_at(config.image_sizes, 0))
        with accelerator.main_process_first():  # the others read what the first one has found
            learning_rate = find_learning_rate(output, model, train_loader, compute_loss, config, accelerator)
        accelerator.print(f"learning rate {learning_rate:.2e}, the {config.lr_finder} of {output / LR_FINDER}")
    optimizer = create_optimizer(config.optimizer, model.parameters(), learning_rate, config.weight_decay)
    scheduler = create_schedule(config.schedule, optimizer, round(config.warmup_epochs * steps), config.epochs * steps)
    model, optimizer, train_loader, validation_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, validation_loader, scheduler
    )

    progress = Progress(asdict(config))
    accelerator.register_for_checkpointing(progress)
    if args.resume and load_checkpoint(accelerator, output):
        accelerator.print(f"resumed after epoch {progress.epoch - 1}, best F1 {progress.best:.4f}")
    accelerator.init_trackers("classifier")

    while progress.epoch < config.epochs and not progress.out_of_patience(config.patience):
        freezing.train_last(accelerator.unwrap_model(model), layers_to_train(config, progress.epoch))
        freezing.train_mode(model)
        sampler.start_epoch(progress.epoch, size_at(config.image_sizes, progress.epoch))
        train_loss = 0.0
        for batch in tqdm(train_loader, desc=f"epoch {progress.epoch}", disable=quiet):
            with accelerator.accumulate(model):
                pixels = batch["pixel_values"].to(memory_format=torch.channels_last)  # (B, 3, H, W)
                loss = compute_loss(model(pixels), batch["labels"])
                accelerator.backward(loss)
                if accelerator.sync_gradients and config.gradient_clip:
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
            "validation_f1": float(f1_score(expected, predicted, zero_division=0, **f1_options)),
            "validation_accuracy": float((predicted == expected).mean()),
            "learning_rate": scheduler.get_last_lr()[0],
            "image_size": sampler.size,
        }
        improved = progress.record(row, row["validation_f1"])
        accelerator.log(row, step=progress.epoch)
        accelerator.print(" ".join(f"{key} {value:.4g}" for key, value in progress.history[-1].items()))
        save_checkpoint(accelerator, output, progress, model, improved)
    accelerator.end_training()

    # The run folder.
    if accelerator.is_main_process:
        best = best_model(accelerator, model, output)
        freezing.train_last(best, layers_to_train(config, progress.epoch - 1))  # resumed after the last epoch, none was
        calibration = calibrate_classifier(Classifier(best, transform, labels, "cpu"), rows["validation"])
        write_records(
            output,
            config,
            args.data,
            config.protocol,
            rows,
            progress,
            first_weights,
            recipe=args.recipe,
            learning_rate=learning_rate,
            trainable_parameters=freezing.trainable_parameters(best),
            processes=accelerator.num_processes,
        )
        write_json(output / CALIBRATION, calibration)
        save_classifier(output, best, config.architecture, labels, size, calibration["temperature"])
        print(f"{output}: validation F1 {progress.best:.4f}")
        print(f"next: bthub evaluate {output} --data {args.data} --split test")


def layers_to_train(config: Config, epoch: int) -> int | None:
    """How many of the body's last layers learn in an epoch; None for all."""
    return 0 if epoch < config.freeze_epochs else config.trainable_layers


def find_learning_rate(
    output: Path,
    model: nn.Module,
    batches: Iterable[dict],
    compute_loss: Callable[[Tensor, Tensor], Tensor],
    config: Config,
    accelerator: Accelerator,
) -> float:
    """What a range test on a copy of the model suggests, or has suggested before this run was resumed."""
    if config.lr_finder != "valley":
        raise BthubError(f"lr_finder {config.lr_finder!r}: expected valley")
    file = output / LR_FINDER
    if not file.exists():
        trial = copy.deepcopy(model).to(accelerator.device)
        freezing.train_last(trial, layers_to_train(config, 0))
        freezing.train_mode(trial)
        optimizer = create_optimizer(config.optimizer, trial.parameters(), config.learning_rate, config.weight_decay)

        def loss_of(batch: dict) -> Tensor:
            with accelerator.autocast():
                logits = trial(batch["pixel_values"].to(accelerator.device))
            return compute_loss(logits.float(), batch["labels"].to(accelerator.device))

        # Dropout is drawn here too: training goes on from where it would be without this test.
        with torch.random.fork_rng():
            rows = lr_finder.range_test(loss_of, optimizer, batches, config.lr_finder_steps)
        write_rows(file, rows)
    with file.open(newline="") as lines:
        return lr_finder.suggest([{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)])


if __name__ == "__main__":
    sys.exit(report_errors(main))
