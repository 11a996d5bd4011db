"""The records of a finished run: `training.json` and `split.csv`."""

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset as Rows

from bthub.data.dataset import facts_of
from bthub.data.fingerprint import describe_rows, identified, name_of
from bthub.runs.folder import SPLIT, TRAINING, write_json, write_rows
from bthub.training.checkpoint import Progress


def write_records(
    output: Path,
    config: Any,
    data: str,
    protocol: str,
    splits: dict[str, Rows],
    progress: Progress,
    initial_weights: list[dict],
    **facts,
) -> None:
    """Write `training.json` and `split.csv`: what this run was given and started from, and what it ran on."""
    lines = [line | {"split": name} for name, rows in splits.items() for line in identified(rows)]
    write_rows(output / SPLIT, lines)
    record = {
        "config": dataclasses.asdict(config),
        "protocol": protocol,
        "dataset": {
            "name": name_of(data),
            "splits": {name: describe_rows(rows) for name, rows in splits.items()},
            "facts": facts_of(data),
        },
        "initial_weights": initial_weights,
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
