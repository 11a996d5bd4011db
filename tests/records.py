"""Runs for the tests: a tiny one with all that training leaves, and copies of a run with another recipe or data set."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from bthub.data.dataset import load_split
from bthub.evaluation import cost
from bthub.runs import records
from bthub.runs.folder import CALIBRATION, SEGMENTATION, TRAINING, RunFolder, write_json
from bthub.runs.records import Evaluation
from bthub.training.checkpoint import Progress, write_history
from bthub.training.records import write_records

TEST = Evaluation("lgg", "patient", "test")


@dataclass
class Config:
    """Stands for a training script's configuration."""

    architecture: str = "resnet10t"
    pretrained: bool = False
    encoder_from: str | None = None
    protocol: str = "patient"
    learning_rate: float = 0.00125
    seed: int = 42


def complete_run(source: Path, target: Path, data: Path) -> Path:
    """Copy an untrained run to `target`, as if it had been trained for two epochs on `data`.

    A classifier that doesn't tell no_tumor from tumor has no threshold.
    """
    shutil.copytree(source, target)
    progress = Progress(asdict(Config()))
    progress.record({"train_loss": 0.75, "validation_loss": 0.625, "validation_score": 0.5}, 0.5)
    progress.record({"train_loss": 0.5, "validation_loss": 0.6875, "validation_score": 0.375}, 0.375)
    write_history(target, progress.history)
    rows = {name: load_split(data, name) for name in ("train", "validation")}
    write_records(
        target,
        Config(),
        str(data),
        "patient",
        rows,
        progress,
        [],
        recipe={"file": "tiny.yaml", "changed": {}},
        processes=1,
    )
    validation = {"split": "validation", "samples": len(rows["validation"])}
    if RunFolder.open(target).task == SEGMENTATION:
        fitted = {
            "mask_threshold": 0.45,
            "min_area_share": 0.0002,
            "criterion": "mean Dice over patient volumes",
            "validation_dice": 0.5,
            "sweep": [],
        }
    else:
        fitted = {
            "temperature": 1.25,
            "expected_calibration_error": {"before": 0.1875, "after": 0.0625},
            "threshold": 0.4375,
            "criterion": "balanced accuracy",
            "referral_band": [0.1875, 0.8125],
            "referral_error": 0.01,
        }
        if "tumor" not in RunFolder.open(target).config["label_names"]:
            fitted |= {"threshold": None, "criterion": None, "referral_band": None, "referral_error": None}
    write_json(target / CALIBRATION, validation | fitted)
    cost.write(target)
    return target


def variant(source: Path, target: Path, **changes) -> RunFolder:
    """A copy of a run with another recipe."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint", "logs"))
    training = json.loads((target / TRAINING).read_text())
    training["protocol"] = changes.get("protocol", training["protocol"])
    training["config"] |= changes
    write_json(target / TRAINING, training)
    return records.open_run(target)


def image_folder_run(source: Path, target: Path) -> RunFolder:
    """A copy of a run, as if it had been trained on an image-folder set: no patients, whatever protocol was asked."""
    run = variant(source, target)
    training = json.loads((target / TRAINING).read_text())
    training["dataset"]["name"] = "pictures"
    for facts in training["dataset"]["splits"].values():
        del facts["patients"]
    write_json(target / TRAINING, training)
    return records.open_run(run.path)
