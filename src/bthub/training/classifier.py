"""Fine-tune a timm classifier; the result is a run folder.

    accelerate launch train/classifier.py --config resnet18-lgg --output runs/my-resnet

The epoch with the best validation F1 (of tumor; for more than two classes the mean over classes) is kept; on a mixture
of sources that with the best AUC, the mean over sources and, for LGG, over ways to show a slice. The last step
fits, on validation again, a temperature and the threshold of the tumor probability. The test split is not read.
"""

import copy
import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate.utils import DistributedDataParallelKwargs
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn

from bthub.data.views import views
from bthub.errors import BthubError, report_errors
from bthub.metrics.classification import positive_class
from bthub.models.classifier import Classifier, create_classifier, eval_transform, preprocessing, save_classifier
from bthub.runs.folder import LR_FINDER, write_rows
from bthub.training import freezing, lr_finder
from bthub.training.calibration import calibrate_classifier
from bthub.training.config import parse_config, size_at
from bthub.training.initialization import load_encoder, load_weights
from bthub.training.loop import BaseConfig, Run, Task, steps_of
from bthub.training.losses import balanced_class_weights
from bthub.training.optimization import create_optimizer, create_schedule
from bthub.training.samples import EvaluationImages, TrainingImages, augment, rows_of_sources, sampler_of


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
class Config(BaseConfig):
    """What is trained, on what, and how.

    Attributes:
        architecture: any timm name, or `simple_cnn`.
        head: dense layers, for the architectures that `bthub.models.mlp_head.BACKBONES` names.
        pretrained: start from timm's ImageNet weights (needs the Hub).
        encoder_from: start from the encoder of this ResUNet run, which must have the same backbone and splits.
        weights_from: start from this `.safetensors` file, or from this run, which must have the same splits.
        freeze_epochs: for so many epochs only the head learns.
        trainable_layers: after that the head and so many of the last layers learn (see `bthub.training.freezing`);
            null for all, 0 for none but the head.
        optimizer: adamw, or sgd with momentum 0.9.
        schedule: of the learning rate: cosine (after a warm-up), constant or one_cycle.
        lr_finder: null, or valley: the learning rate is what fastai's range test suggests, `learning_rate` isn't used.
        lr_finder_steps: batches that the range test trains a copy of the model on.
        class_weights: weigh classes in the loss by how rare they are.
        positive_share: share of tumor pictures in an epoch, of a mixture in each source; null for half in each source
            of a mixture, else for the data's own. Less than half makes up for tumors that `paste_tumor` adds.
    """

    architecture: str = "resnet18"
    head: Head = field(default_factory=Head)
    freeze_epochs: int = 0
    trainable_layers: int | None = None
    optimizer: str = "adamw"
    schedule: str = "cosine"
    lr_finder: str | None = None
    lr_finder_steps: int = 100
    drop_rate: float = 0.0
    label_smoothing: float = 0.0
    class_weights: bool = True
    positive_share: float | None = None


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    config, args = parse_config(Config, __doc__.split("\n")[0], arguments, prog)
    size = size_at(config.image_sizes, config.epochs)  # the last one, which is saved
    freezes = config.freeze_epochs > 0 or config.trainable_layers is not None
    # Several processes wait for every gradient unless they are told that frozen layers have none.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if freezes else []
    run = Run(config, args, *handlers)
    rows, accelerator = run.rows, run.accelerator
    train = rows_of_sources(rows["train"], config.source_shares)
    labels = rows["train"].features["label"].names
    # Of two classes that of tumor, of more the mean.
    f1_options = {"pos_label": positive_class(labels)} if len(labels) == 2 else {"average": "macro"}

    if config.positive_share is not None and len(labels) != 2:
        raise BthubError(f"positive_share is for two classes, these data have {', '.join(labels)}: set it to null")

    # Model. Before all pictures are read: initial weights that don't fit are told at once.
    model = create_classifier(
        config.architecture,
        len(labels),
        pretrained=config.pretrained,
        drop_rate=config.drop_rate,
        head_widths=config.head.widths,
        head_dropout=config.head.dropout,
    )
    initial_weights = []
    if config.weights_from:
        initial_weights.append(load_weights(model, config.weights_from, rows["validation"]))
    if config.encoder_from:
        initial_weights.append(load_encoder(model, config.encoder_from, rows["validation"]))
    run.check(model)
    model = model.to(memory_format=torch.channels_last)

    # Batches.
    images = TrainingImages(train, config.augmentation, not run.quiet, canvas=max(config.image_sizes.values()))
    transform = eval_transform(preprocessing(size))
    shown = views(rows["validation"]) if "source" in rows["validation"].column_names else None
    sampler = sampler_of(train, config.seed, config.source_shares, config.positive_share, length=config.epoch_samples)
    loaders = run.loaders(images, EvaluationImages(rows["validation"], transform, views=shown), sampler)
    steps = steps_of(loaders[0], config.accumulation)

    # Loss, optimizer, schedule.
    weights = balanced_class_weights(torch.tensor(images.labels), len(labels)) if config.class_weights else None
    compute_loss = nn.CrossEntropyLoss(weights, label_smoothing=config.label_smoothing).to(accelerator.device)
    learning_rate = config.learning_rate
    if config.lr_finder:
        loaders[0].sampler.start_epoch(0, size_at(config.image_sizes, 0))
        with accelerator.main_process_first():  # the others read what the first one has found
            learning_rate = find_learning_rate(run, model, loaders[0], compute_loss)
        accelerator.print(f"learning rate {learning_rate:.2e}, the {config.lr_finder} of {run.output / LR_FINDER}")
    optimizer = create_optimizer(config.optimizer, model.parameters(), learning_rate, config.weight_decay)
    scheduler = create_schedule(config.schedule, optimizer, round(config.warmup_epochs * steps), config.epochs * steps)

    def train_mode(model: nn.Module, epoch: int) -> None:
        freezing.train_last(accelerator.unwrap_model(model), layers_to_train(config, epoch))
        freezing.train_mode(model)

    def observe(logits: Tensor, batch: dict) -> Tensor:
        """Of each image (B, 3): the likeliest class, the true one, and the probability of the last class."""
        probability = logits.softmax(dim=1)
        return torch.stack([logits.argmax(dim=1), batch["labels"], probability[:, -1]], dim=1)

    def measure(observed: np.ndarray) -> dict[str, float]:
        predicted, expected, p_last = observed.T
        found = {
            "validation_f1": float(f1_score(expected, predicted, zero_division=0, **f1_options)),
            "validation_accuracy": float((predicted == expected).mean()),
        }
        if shown is not None:  # a mixture of tumor and no tumor: of each source and view by itself, then the mean
            keys = np.array([view.key for view in shown])
            found |= {
                f"validation_auc_{key}": float(roc_auc_score(expected[keys == key], p_last[keys == key]))
                for key in dict.fromkeys(keys.tolist())
                if len(set(expected[keys == key])) == 2
            }
            found["validation_auc"] = float(np.mean([found[name] for name in found if "_auc_" in name]))
        return found

    task = Task(
        name="classifier",
        metric="F1" if shown is None else "AUC",
        predict=lambda model, pixels: model(pixels),  # (B, classes)
        loss=lambda logits, batch: compute_loss(logits, batch["labels"]),
        observe=observe,
        measure=measure,
        train_mode=train_mode,
    )
    progress, best = run.train(task, model, loaders, optimizer, scheduler)

    # The run folder.
    if accelerator.is_main_process:
        freezing.train_last(best, layers_to_train(config, progress.epoch - 1))  # resumed after the last epoch, none was
        calibration = calibrate_classifier(Classifier(best, transform, labels, "cpu"), rows["validation"])
        run.finish(
            progress,
            initial_weights,
            calibration,
            learning_rate=learning_rate,
            trainable_parameters=freezing.trainable_parameters(best),
        )
        save_classifier(run.output, best, config.architecture, labels, size, calibration.temperature)
        run.tell(task.metric, progress.best)


def layers_to_train(config: Config, epoch: int) -> int | None:
    """How many of the body's last layers learn in an epoch; None for all."""
    return 0 if epoch < config.freeze_epochs else config.trainable_layers


def find_learning_rate(
    run: Run, model: nn.Module, batches: Iterable[dict], compute_loss: Callable[[Tensor, Tensor], Tensor]
) -> float:
    """What a range test on a copy of the model suggests, or has suggested before this run was resumed."""
    config, accelerator, file = run.config, run.accelerator, run.output / LR_FINDER
    if config.lr_finder != "valley":
        raise BthubError(f"lr_finder {config.lr_finder!r}: expected valley")
    if not file.exists():
        trial = copy.deepcopy(model).to(accelerator.device)
        freezing.train_last(trial, layers_to_train(config, 0))
        freezing.train_mode(trial)
        optimizer = create_optimizer(config.optimizer, trial.parameters(), config.learning_rate, config.weight_decay)

        def loss_of(batch: dict) -> Tensor:
            with accelerator.autocast():
                batch = augment({name: values.to(accelerator.device) for name, values in batch.items()})
                logits = trial(batch["pixel_values"])
            return compute_loss(logits.float(), batch["labels"].to(accelerator.device))

        # Dropout is drawn here too: training goes on from where it would be without this test.
        with torch.random.fork_rng():
            rows = lr_finder.range_test(loss_of, optimizer, batches, config.lr_finder_steps)
        write_rows(file, rows)
    with file.open(newline="", encoding="utf-8") as lines:
        return lr_finder.suggest([{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)])


if __name__ == "__main__":
    sys.exit(report_errors(main))
