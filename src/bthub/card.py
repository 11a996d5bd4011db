"""The model card: a pure function of the run folder's files. Nothing is typed in that a file says, nothing invented."""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from bthub import metrics
from bthub.errors import BthubError
from bthub.run_folder import (
    CALIBRATION,
    CARD,
    CLASSIFICATION,
    CONFIG,
    HISTORY,
    METRICS,
    PREPROCESSOR,
    SEGMENTATION,
    SPLIT,
    TRAINING,
    WEIGHTS,
    RunFolder,
    hub_id,
)

DATASET = "lgg-mri-segmentation"
# Metrics of a run's head line, with the names that the Hub knows them by.
HEADLINE = {
    CLASSIFICATION: {
        "roc_auc": "roc_auc",
        "balanced_accuracy": "balanced_accuracy",
        "accuracy": "accuracy",
        "f1": "f1",
        "recall": "recall",
        "specificity": "specificity",
    },
    SEGMENTATION: {
        "dice_volume_mean": "dice",
        "dice_pooled": "dice_pooled",
        "iou_volume_mean": "iou",
        "pixel_accuracy": "pixel_accuracy",
        "healthy_slices_with_mask": "false_positive_rate",
    },
}
# Splits on which nothing was trained, chosen or calibrated: only their figures become metadata.
UNSEEN = ("test", "benchmark")
# Saved beside the parameters, but measured by batch normalisation, not learned.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Record:
    """The content of one file, where a missing or empty value is an error that names the file and the key."""

    def __init__(self, content: dict, file: Path | str, key: str = "") -> None:
        self._content, self._file, self._key = content, file, key

    def __getitem__(self, key: str) -> Any:
        value = self.optional(key)
        if value is None:
            raise BthubError(f"{self._file}: {self._key}{key} is empty, and the card needs it")
        return value

    def optional(self, key: str) -> Any:
        """A value that may be null, but not missing."""
        if key not in self._content:
            raise BthubError(f"{self._file}: there is no {self._key}{key}, and the card needs it")
        value = self._content[key]
        return Record(value, self._file, f"{self._key}{key}.") if isinstance(value, dict) else value

    def keys(self) -> list[str]:
        """The keys, in the file's order."""
        return list(self._content)

    def flat(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Dotted keys and plain values of everything in it."""
        for key in self._content:
            value = self.optional(key)
            if isinstance(value, Record):
                yield from value.flat(f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", "none" if value is None else value


def write(run: str | Path, repo_id: str | None = None) -> Path:
    """Write the card of a local run folder into it; returns the card's path."""
    if not Path(run).is_dir():
        raise BthubError(f"{run} isn't a local folder: download the run first, the card is written into it")
    card = render(run, repo_id)
    path = Path(run) / CARD
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(card, encoding="utf-8")
    temporary.replace(path)
    return path


def render(run: str | Path, repo_id: str | None = None) -> str:
    """The model card of a run: README.md with its metadata.

    Args:
        run: run folder or Hub id.
        repo_id: id that the usage snippets load; by default that of the folder's name under the project's org.

    Raises:
        BthubError: a file or a value is missing, the metrics were measured with other weights, or the run was
            trained on data whose terms aren't known here.
    """
    folder = RunFolder.open(run)
    name = folder.id.rpartition("/")[2]
    repo_id = repo_id or hub_id(name)
    config = Record(folder.config, folder.path / CONFIG)
    training = Record(folder.training, folder.path / TRAINING)
    recipe = training["config"]
    # only classifiers may start from another run's encoder
    encoder = recipe.optional("encoder_from") if "encoder_from" in recipe.keys() else None
    results = _results(folder)
    body = (
        _environment()
        .get_template("model_card.md.j2")
        .render(
            name=name,
            repo_id=repo_id,
            dataset_id=hub_id(DATASET),
            task=folder.task,
            revision=folder.revision,
            config=config,
            remote_code="auto_map" in folder.config,
            encoder_from=encoder and Path(encoder).name,
            preprocessor=_preprocessor(folder.path / PREPROCESSOR) if folder.task == SEGMENTATION else None,
            training=training,
            protocol=training["protocol"],
            calibration=Record(folder.calibration, folder.path / CALIBRATION),
            weights=_weights(folder.path / WEIGHTS),
            splits=_splits(folder, training["protocol"], results),
            best_epoch=_best_epoch(folder, training["best"]["epoch"]),
            results=[_result(entry, folder.task) for entry in results],
            headline={metric: metrics.readable(metric) for metric in HEADLINE[folder.task]},
            coverage=f"{100 * metrics.COVERAGE:.0f} %",
        )
    )
    return f"---\n{_metadata(folder, name, config, results).to_yaml()}\n---\n\n{body}"


def _metadata(folder: RunFolder, name: str, config: Record, results: list[Record]) -> ModelCardData:
    """The card's YAML, with the figures on unseen splits as `model-index`."""
    headline = HEADLINE[folder.task]
    evaluations = [
        EvalResult(
            task_type=folder.task,
            dataset_type=hub_id(DATASET),
            dataset_name="LGG MRI Segmentation",
            dataset_config=entry["protocol"],
            dataset_split=entry["split"],
            metric_type=metric_type,
            metric_name=metrics.readable(metric),
            metric_value=round(entry["metrics"][metric]["value"], 4),
        )
        for entry in results
        if entry["split"] in UNSEEN
        for metric, metric_type in headline.items()
        if entry["metrics"][metric].optional("value") is not None
    ]
    network = config["architecture"] if folder.task == CLASSIFICATION else config["model_type"]
    return ModelCardData(
        license="cc-by-nc-sa-4.0",
        library_name="timm" if folder.task == CLASSIFICATION else "transformers",
        pipeline_tag=folder.task,
        tags=[folder.task, network, "medical", "mri", "brain-tumor", "lower-grade-glioma", "bthub"],
        datasets=[hub_id(DATASET)],
        metrics=list(headline.values()),
        model_name=name,
        # an empty list would become a model-index without results, which the Hub refuses
        eval_results=evaluations or None,
    )


def _results(folder: RunFolder) -> list[Record]:
    """The entries of `metrics.json`, each with its `protocol` and `split`; unseen splits first."""
    entries = []
    for key, entry in folder.metrics.items():
        protocol, _, split = key.partition("/")
        record = Record({**entry, "protocol": protocol, "split": split}, folder.path / METRICS, f"{key}: ")
        if record["weights"] != _local_revision(folder):
            raise BthubError(
                f"{folder.path / METRICS}: {key} was measured with the weights {record['weights']}, the folder has "
                f"{_local_revision(folder)}: run again {record['command']}"
            )
        entries.append(record)
    rank = {split: i for i, split in enumerate((*UNSEEN, "validation", "train"))}
    return sorted(entries, key=lambda entry: (entry["protocol"], rank.get(entry["split"], len(rank))))


def _local_revision(folder: RunFolder) -> str:
    # A repo's revision is a commit, but `metrics.json` names the weights themselves.
    return RunFolder.open(folder.path).revision


def _result(entry: Record, task: str) -> dict:
    """An entry as the template shows it."""
    shown = {key: entry[key] for key in ("protocol", "split", "samples", "groups", "date")}
    shown["metrics"] = [(metrics.readable(name), entry["metrics"][name]) for name in entry["metrics"].keys()]
    if task == CLASSIFICATION:
        shown |= {key: entry[key] for key in ("labels", "confusion_matrix")}
        shown["class_accuracy"] = [(label, entry["class_accuracy"][label]) for label in entry["labels"]]
    else:
        shown["class_accuracy"] = []
        shown["counts"] = [(metrics.readable(name), entry["counts"][name]) for name in entry["counts"].keys()]
    shown["institutions"] = [
        {
            "name": name,
            "groups": part["groups"],
            "samples": part["samples"],
            "figures": [part["metrics"][metric] for metric in HEADLINE[task]],
        }
        for name in entry["by_institution"].keys()
        for part in [entry["by_institution"][name]]
    ]
    return shown


def _splits(folder: RunFolder, protocol: str, results: list[Record]) -> list[dict]:
    """Patients and slices of each split: what the run was given, and what it was measured on beyond that."""
    rows = _rows(folder, SPLIT)
    if "patient_id" not in rows[0]:
        raise BthubError(
            f"{folder.path / SPLIT} has no patient_id: the card knows the terms and the description of LGG MRI "
            "Segmentation only"
        )
    slices = Counter(row["split"] for row in rows)
    patients = Counter(split for split, _ in {(row["split"], row["patient_id"]) for row in rows})
    uses = {"train": "training", "validation": "choosing the epoch, calibration, thresholds"}
    splits = [{"name": name, "patients": patients[name], "slices": slices[name], "use": uses[name]} for name in slices]
    return splits + [
        {"name": e["split"], "patients": e["groups"], "slices": e["samples"], "use": "the results below"}
        for e in results
        if e["protocol"] == protocol and e["split"] in UNSEEN
    ]


def _best_epoch(folder: RunFolder, epoch: int) -> dict[str, float]:
    for row in _rows(folder, HISTORY):
        if row["epoch"] == str(epoch):
            return {metrics.readable(key): float(value) for key, value in row.items()}
    raise BthubError(f"{folder.path / HISTORY} has no epoch {epoch}, which {TRAINING} names as the best")


def _weights(path: Path) -> dict:
    """Number of parameters and their types, from the header of the weights."""
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    tensors = {key: tensor for key, tensor in header.items() if key != "__metadata__" and not key.endswith(_BUFFERS)}
    return {
        "parameters": sum(prod(tensor["shape"]) for tensor in tensors.values()),
        "dtypes": sorted({tensor["dtype"] for tensor in tensors.values()}),
    }


def _preprocessor(path: Path) -> Record:
    if not path.is_file():
        raise BthubError(f"{path} is missing, and the card needs it: train the run again")
    return Record(json.loads(path.read_text()), path)


def _rows(folder: RunFolder, name: str) -> list[dict[str, str]]:
    rows = folder.rows(name)
    if not rows:
        raise BthubError(f"{folder.path / name} is empty, and the card needs it: train the run again")
    return rows


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bthub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "figure": lambda number: f"{number:.4g}",
        "value": lambda found: _number(found.optional("value"), "not defined"),
        "bounds": _bounds,
    }
    return environment


def _bounds(found: Record) -> str:
    low, high = found.optional("low"), found.optional("high")
    return "not defined" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _number(number: float | None, otherwise: str = "") -> str:
    if number is None:
        return otherwise
    return f"{number:.3f}" if number < 10 else f"{number:.1f}"  # shares and scores, or pixels
