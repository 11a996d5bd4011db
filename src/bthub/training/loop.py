"""The training loop: start a run, train and validate epochs, keep the best one as the run folder.

A script makes the model and says how it learns (`Task`); what both scripts do is here (`Run`).
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import KwargsHandler, set_seed
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from bthub.data.dataset import load_split
from bthub.data.progress import progress_bar
from bthub.errors import BthubError
from bthub.runs.folder import CALIBRATION, LOGS, create, write_json
from bthub.runs.schema import DetectorCalibration, LocalizerCalibration
from bthub.training.checkpoint import Progress, best_model, load_checkpoint, save_checkpoint
from bthub.training.config import few, size_at
from bthub.training.memory import keep_freed_memory
from bthub.training.ranges import check_forward, check_processes
from bthub.training.records import write_records
from bthub.training.samples import Augmentation, EpochSampler, EvaluationImages, TrainingImages, augment

Loaders = tuple[DataLoader, DataLoader]


@dataclass
class BaseConfig:
    """What the configurations of both scripts have.

    Attributes:
        protocol: which split: `patient`, `slice`, or `fold-1` to `fold-5`; image-folder sets have but one.
        epochs: at most; `patience` is the number of epochs without a better validation metric after which to stop.
        image_sizes: {first epoch: side}; the last side is the one the model is saved and used with.
        batch_size: images of one optimizer step are batch_size * accumulation, over all processes together.
        gradient_clip: longest gradient; null for no limit.
        source_shares: of a mixture, the share of each source in an epoch; empty for plain draws.
        epoch_samples: draws in an epoch; null for as many as there are rows.
        average_decay: measure and keep a moving average of the weights with this decay; null for none.
    """

    pretrained: bool = False
    encoder_from: str | None = None
    weights_from: str | None = None
    protocol: str = "patient"
    epochs: int = 20
    patience: int = 8
    image_sizes: dict[int, int] = field(default_factory=lambda: {0: 256})
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_epochs: float = 1
    gradient_clip: float | None = 1.0
    source_shares: dict[str, float] = field(default_factory=dict)
    epoch_samples: int | None = None
    average_decay: float | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixed_precision: str = "no"
    seed: int = 42
    workers: int = 1


@dataclass
class Task:
    """What the loop asks of a script."""

    name: str  # of the training, in its logs
    metric: str  # the epoch with the highest is kept: "F1" is `validation_f1` of what `measure` gives
    predict: Callable[[nn.Module, Tensor], Tensor]  # model and pixels (B, 3, H, W) -> logits
    loss: Callable[[Tensor, dict], Tensor]  # logits and their batch -> a scalar
    observe: Callable[[Tensor, dict], Tensor]  # likewise -> what `measure` needs of each image, (B, N)
    measure: Callable[[np.ndarray], dict[str, float]]  # that of all validation images -> an epoch's metrics
    train_mode: Callable[[nn.Module, int], Any] = lambda model, epoch: model.train()  # model and epoch: what learns


def steps_of(batches: DataLoader, accumulation: int) -> int:
    """Optimizer steps of an epoch: the last of them may be of fewer batches, Accelerate makes it nevertheless.

    Raises:
        BthubError: there isn't one whole batch, so that nothing would be learned.
    """
    if len(batches) == 0:
        raise BthubError(
            f"{len(batches.sampler)} training images don't fill a batch of {batches.batch_size}: "
            "set a smaller one with --set batch_size=N"
        )
    return math.ceil(len(batches) / accumulation)


def as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What collates a batch that the data set makes as a whole."""
    return batch


class Run:
    """A run in the making: its processes, its folder, and the rows of train and validation."""

    def __init__(self, config: BaseConfig, args: argparse.Namespace, *handlers: KwargsHandler):
        self.config, self.args, self.output = config, args, args.output
        # One batch is divided among the processes: the number of processes doesn't change what a step sees.
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.accumulation,
            dataloader_config=DataLoaderConfiguration(split_batches=True),
            log_with="tensorboard",
            project_dir=self.output / LOGS,
            kwargs_handlers=list(handlers),
        )
        check_processes(self.accelerator.num_processes, config.batch_size)
        if self.accelerator.device.type == "cpu":
            keep_freed_memory()
        self.quiet = not self.accelerator.is_local_main_process
        if self.accelerator.is_main_process:  # the others would find the folder of the first
            create(self.output, args.resume)
        self.accelerator.wait_for_everyone()
        set_seed(config.seed)
        with self.accelerator.local_main_process_first():
            rows = {name: load_split(args.data, name, config.protocol) for name in ("train", "validation")}
        self.rows = {name: few(split) for name, split in rows.items()} if args.dry_run else rows

    def check(self, model: nn.Module) -> None:
        """Refuse a network that can't take the batches of the configuration, before the pictures are read."""
        check_forward(model, self.config.image_sizes, self.config.batch_size // self.accelerator.num_processes)

    def loaders(self, train: TrainingImages, validation: EvaluationImages, sampler: EpochSampler) -> Loaders:
        """Batches of training, which `augment` takes, and of validation."""
        size, workers = self.config.batch_size, self.config.workers
        return (
            DataLoader(train, size, sampler=sampler, num_workers=workers, drop_last=True, collate_fn=as_it_is),
            DataLoader(validation, size, num_workers=workers),
        )

    def train(
        self, task: Task, model: nn.Module, loaders: Loaders, optimizer: Optimizer, scheduler: LRScheduler
    ) -> tuple[Progress, nn.Module | None]:
        """Train to the last epoch or out of patience; how it went and, in the main process, the best network."""
        config, output, accelerator, sampler = self.config, self.output, self.accelerator, loaders[0].sampler
        average = None
        if config.average_decay is not None:  # made before `prepare`, which binds the network's own forward to it
            mean = get_ema_multi_avg_fn(config.average_decay)
            average = AveragedModel(model, accelerator.device, multi_avg_fn=mean, use_buffers=True)
            accelerator.register_for_checkpointing(average)
        model, optimizer, train_loader, validation_loader, scheduler = accelerator.prepare(
            model, optimizer, *loaders, scheduler
        )
        progress = Progress(asdict(config))
        accelerator.register_for_checkpointing(progress)
        if self.args.resume and load_checkpoint(accelerator, output):
            accelerator.print(f"resumed after epoch {progress.epoch - 1}, best {task.metric} {progress.best:.4f}")
        accelerator.init_trackers(task.name)

        while not self.args.finish and progress.epoch < config.epochs and not progress.out_of_patience(config.patience):
            task.train_mode(model, progress.epoch)
            sampler.start_epoch(progress.epoch, size_at(config.image_sizes, progress.epoch))
            train_loss = 0.0
            for batch in progress_bar(train_loader, desc=f"epoch {progress.epoch}", disable=self.quiet):
                with accelerator.accumulate(model):
                    batch = augment(batch)
                    pixels = batch["pixel_values"].to(memory_format=torch.channels_last)  # (B, 3, H, W)
                    loss = task.loss(task.predict(model, pixels), batch)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and config.gradient_clip:
                        accelerator.clip_grad_norm_(model.parameters(), config.gradient_clip)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                    if average is not None and accelerator.sync_gradients:
                        average.update_parameters(accelerator.unwrap_model(model))
                train_loss += accelerator.reduce(loss.detach(), "mean").item() / len(train_loader)

            measured = model if average is None else average.module  # the network that is measured, and kept
            measured.eval()
            observed, losses = [], []
            for batch in progress_bar(validation_loader, desc="validation", leave=False, disable=self.quiet):
                with torch.inference_mode(), accelerator.autocast():
                    logits = task.predict(measured, batch["pixel_values"]).float()
                losses.append(accelerator.reduce(task.loss(logits, batch), "mean").item())
                observed.append(accelerator.gather_for_metrics(task.observe(logits, batch)))
            row = {
                "train_loss": train_loss,
                "validation_loss": float(np.mean(losses)),
                **task.measure(torch.cat(observed).cpu().numpy()),
                "learning_rate": scheduler.get_last_lr()[0],
                "image_size": sampler.size,
            }
            improved = progress.record(row, row[f"validation_{task.metric.lower()}"])
            accelerator.log(row, step=progress.epoch)
            accelerator.print(" ".join(f"{key} {value:.4g}" for key, value in progress.history[-1].items()))
            save_checkpoint(accelerator, output, progress, measured, improved)
        accelerator.end_training()
        return progress, best_model(accelerator, model, output) if accelerator.is_main_process else None

    def finish(
        self,
        progress: Progress,
        initial_weights: list[dict],
        calibration: DetectorCalibration | LocalizerCalibration,
        **facts: Any,
    ) -> None:
        """Write what a run says of itself. The weights come after it: they tell that the run is finished."""
        facts = {"recipe": self.args.recipe, **facts, "processes": self.accelerator.num_processes}
        config, data = self.config, self.args.data
        write_records(self.output, config, data, config.protocol, self.rows, progress, initial_weights, **facts)
        write_json(self.output / CALIBRATION, calibration)

    def tell(self, metric: str, value: float) -> None:
        """What has come out, and what comes next."""
        print(f"{self.output}: validation {metric} {value:.4f}")
        print(f"next: bthub evaluate {self.output} --data {self.args.data} --split test")
