"""A run while it trains: its configuration, its progress, its checkpoints and what it leaves behind."""

import argparse
import csv
import dataclasses
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from accelerate import Accelerator
from datasets import Dataset as Rows
from safetensors.torch import load_file, save_file
from torch import nn

from bthub.data.identity import describe_rows
from bthub.errors import BthubError
from bthub.run_folder import CHECKPOINT, HISTORY, SPLIT, TRAINING, write_json

BEST = "best.safetensors"
LAST = "last"


def parse_config(kind: type, description: str) -> tuple[Any, argparse.Namespace]:
    """The configuration of a script: its dataclass's defaults, then the YAML file, then `--set key=value`.

    Returns:
        An instance of `kind`, and the other arguments: `data`, `output`, `resume`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see train/configs")
    parser.add_argument("--data", default="data/lgg", help="folder of `bthub data build`, or a Hub id")
    parser.add_argument("--output", type=Path, required=True, help="the run folder to write")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change a value")
    args = parser.parse_args()
    try:
        values = yaml.safe_load(args.config.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise BthubError(f"can't read the configuration {args.config}: {error}") from error
    for setting in args.set:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BthubError(f"--set {setting}: expected KEY=VALUE")
        values[key] = yaml.safe_load(value)
    return build_config(kind, values, str(args.config)), args


def build_config(kind: type, values: dict, name: str) -> Any:
    """Fill a dataclass (and the dataclasses in it) from a mapping; an unknown key is an error that names it."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = set(values) - set(fields)
    if unknown:
        raise BthubError(f"{name}: unknown key {', '.join(sorted(unknown))}; expected some of {', '.join(fields)}")
    filled = {
        key: build_config(fields[key].type, value, f"{name}: {key}")
        if dataclasses.is_dataclass(fields[key].type) and isinstance(value, dict)
        else value
        for key, value in values.items()
    }
    return kind(**filled)


def size_at(sizes: dict[int, int], epoch: int) -> int:
    """The image size of an epoch, from {first epoch: size}; the last one is the size that is saved and used."""
    return sizes[max(first for first in sizes if first <= epoch)]


@dataclasses.dataclass
class Progress:
    """How far a run has come; saved with each checkpoint.

    Attributes:
        epoch: the next one to train.
        best: best validation metric so far, and `best_epoch` where it was reached.
        history: one row an epoch.
    """

    epoch: int = 0
    best: float = float("-inf")
    best_epoch: int = -1
    history: list[dict] = dataclasses.field(default_factory=list)

    def state_dict(self) -> dict:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict) -> None:
        for key, value in state.items():
            setattr(self, key, value)

    def record(self, row: dict, metric: float) -> bool:
        """Add an epoch's row; True when its metric is the best so far."""
        self.history.append({"epoch": self.epoch, **row})
        improved = metric > self.best
        if improved:
            self.best, self.best_epoch = metric, self.epoch
        self.epoch += 1
        return improved

    def out_of_patience(self, patience: int) -> bool:
        return self.epoch - 1 - self.best_epoch >= patience


def save_checkpoint(accelerator: Accelerator, output: Path, progress: Progress, model: nn.Module, improved: bool):
    """Save everything that the next epoch depends on, so that a kill at any moment loses one epoch at most."""
    folder = output / CHECKPOINT
    fresh = folder / "next"
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        if improved:
            state = accelerator.unwrap_model(model).state_dict()
            save_file({k: v.contiguous() for k, v in state.items()}, fresh / BEST)
        elif (folder / LAST / BEST).exists():
            os.link(folder / LAST / BEST, fresh / BEST)
        write_history(output, progress.history)
        # The old checkpoint leaves its place only when the new one is complete.
        old = folder / "old"
        shutil.rmtree(old, ignore_errors=True)
        if (folder / LAST).exists():
            (folder / LAST).rename(old)
        fresh.rename(folder / LAST)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, output: Path) -> bool:
    """Go back to the last complete checkpoint, if there is one."""
    folder = output / CHECKPOINT
    # Killed between the two renames: the old checkpoint is complete, the new one too, and neither is in place.
    if accelerator.is_main_process and not (folder / LAST).exists() and (folder / "old").exists():
        (folder / "old").rename(folder / LAST)
    if accelerator.is_main_process:
        shutil.rmtree(folder / "next", ignore_errors=True)
    accelerator.wait_for_everyone()
    if not (folder / LAST).exists():
        return False
    accelerator.load_state(str(folder / LAST))
    return True


def load_imagenet(model: nn.Module, architecture: str) -> None:
    """Start from the ImageNet weights that timm names for an architecture (needs the Hub)."""
    source = timm.create_model(architecture, pretrained=True).state_dict()
    load_matching(model, source, f"the ImageNet weights of {architecture}")


def load_matching(model: nn.Module, source: dict[str, torch.Tensor], name: str) -> None:
    """Copy all weights but the last layer's: the source may have more layers than the model, or lack its head."""
    head = {
        key for key in model.state_dict() if key not in source or source[key].shape != model.state_dict()[key].shape
    }
    if len(head) > 2:
        raise BthubError(
            f"{name} lack {len(head)} of the model's weights, {min(head)} first: is it the same architecture?"
        )
    model.load_state_dict(
        {key: value for key, value in source.items() if key in model.state_dict() and key not in head},
        strict=False,
    )


def load_best(model: nn.Module, output: Path) -> None:
    """Put the best epoch's weights into the model."""
    model.load_state_dict(load_file(output / CHECKPOINT / LAST / BEST))


def write_history(output: Path, history: list[dict]) -> None:
    with (output / HISTORY).open("w", newline="") as file:
        writer = csv.DictWriter(file, history[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def write_records(
    output: Path,
    config: Any,
    data: str,
    protocol: str | None,
    splits: dict[str, Rows],
    progress: Progress,
    **facts,
) -> None:
    """Write `training.json` and `split.csv`: what this run was given, and what it ran on."""
    keys = ["patient_id", "slice_index"] if "patient_id" in splits["train"].column_names else ["file"]
    with (output / SPLIT).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*keys, "split"])
        for name, rows in splits.items():
            writer.writerows((*key, name) for key in zip(*(rows[key][:] for key in keys), strict=True))
    record = {
        "config": dataclasses.asdict(config),
        "protocol": protocol,
        "dataset": {
            "name": Path(data).name if Path(data).exists() else data,
            "splits": {name: describe_rows(rows) for name, rows in splits.items()},
        },
        "best": {
            "epoch": progress.best_epoch,
            "validation_metric": progress.best,
            "epochs_trained": progress.epoch,
        },
        **facts,
        "environment": environment(),
    }
    write_json(output / TRAINING, record)


def environment() -> dict[str, str | int]:
    """Versions and processor: what a retraining needs to know."""
    packages = ("torch", "torchvision", "timm", "transformers", "accelerate", "datasets")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": device,
        "threads": torch.get_num_threads(),
    }
