"""Runs side by side: the records of each folder, for the tables of the dashboard and of `bthub compare`.

Pure functions over run folders. Nothing is fitted and no model is loaded; what the predictions tell is in `per_image`.
What can't be read is a `BthubError` that names the run and the file.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from bthub.data.facts import Facts, derived
from bthub.errors import BthubError
from bthub.metrics.info import COSTS, lower_is_better
from bthub.metrics.interval import Interval
from bthub.runs.folder import (
    COST,
    GRADCAM,
    HISTORY,
    LR_FINDER,
    METRICS,
    SEGMENTATION,
    SPLIT,
    TRAINING,
    WEIGHTS,
    RunFolder,
    in_comparison,
)
from bthub.runs.schema import DataSet, Measured

# Rows of a CSV become one of these; a column that the file lacks isn't in it.
Row = dict[str, object]


class Evaluation(NamedTuple):
    """What a figure was measured on: a data set, how it was split, and which part of it."""

    data: str
    protocol: str
    split: str

    @property
    def key(self) -> str:
        """As `metrics.json` names it."""
        return f"{self.protocol}/{self.split}"


def open_run(source: str | Path) -> RunFolder:
    """Open a run; a local one may lack its weights, as in a clone that ships figures only.

    Raises:
        BthubError: nothing there, or neither weights nor metrics.
    """
    source = in_comparison(source)
    return RunFolder.open(source, weights=not (Path(source) / METRICS).is_file())


def name(run: RunFolder) -> str:
    """How a run is called on a page: without the organization."""
    return run.id.rpartition("/")[2]


def network(run: RunFolder) -> str:
    """The architecture, as timm names it; a ResUNet by its encoder."""
    if run.task == SEGMENTATION:
        return f"ResUNet ({run.localizer_config.backbone})"
    return str(run.config["architecture"])


def initialization(run: RunFolder) -> str:
    """What the initial weights were: random, ImageNet, or the encoder or all weights of another run or file."""
    with reading(run, TRAINING):
        kind, source = initial_weights(run.training.config)
    return f"{kind} of {source}" if kind in ("encoder", "weights") else kind


def initial_weights(config: dict[str, Any]) -> tuple[str, str | None]:
    """What a recipe starts from, and the run or file that holds it.

    Args:
        config: of `training.json`.

    Returns:
        `random`, `ImageNet`, or the part of another run or file: `encoder` or `weights`; and the name of that, None for
        random weights and for timm's.
    """
    # An encoder comes last: it is loaded over other weights.
    for key, part in (("encoder_from", "encoder"), ("weights_from", "weights")):
        if config.get(key):
            source = Path(config[key]).name
            return "ImageNet" if imagenet_file(source) else part, source
    return "ImageNet" if config["pretrained"] else "random", None


def imagenet_file(source: str) -> bool:
    """Whether `encoder_from` or `weights_from` names a file of `bthub imagenet-weights`."""
    return Path(source).match("imagenet-*.safetensors")


def data_facts(run: RunFolder) -> Facts:
    """What the data set is that a run was trained on; of an older run what the columns of its split tell."""
    name, known = run.training.dataset.name, run.training.dataset.facts
    if known is not None:
        return known
    rows = run.rows(SPLIT)
    if not rows:
        raise BthubError(f"{run.path / SPLIT} is empty, but says what the run was given: train the run again")
    patients = any(row.get("patient_id") for row in rows)
    columns = [key for key in rows[0] if patients or key != "patient_id"]
    return derived(name, columns, labels=run.config.get("label_names", ()))


def trained_on(run: RunFolder) -> tuple[str | None, str]:
    """The protocol and the name of the data set that a run was trained on.

    An image-folder set names no patients and has one split: its protocol is `default`, whatever the recipe says.
    """
    dataset = run.training.dataset
    patients = dataset.splits["train"].patients is not None
    return run.training.protocol if patients else "default", Path(dataset.name).name


def learning_rate(run: RunFolder) -> float:
    """The highest learning rate of a training: the finder's, where one chose it."""
    with reading(run, TRAINING):
        return run.training.highest_learning_rate


def best_epoch(run: RunFolder) -> int:
    """The epoch whose weights were kept."""
    return run.training.best.epoch


def budget(run: RunFolder) -> str:
    """What a training started from and how much of it there was, in a line."""
    epochs, side = trained_for(run)
    less = ", reduced budget" if reduced(run) else ""
    return f"initial weights: {initialization(run)}, {epochs} epochs, {side} pixels{less}"


def reduced(run: RunFolder) -> bool:
    """Whether a run was trained for less than its recipe asks for: fewer epochs, or smaller pictures at the end.

    Fewer were asked for, or it was stopped before its patience was at an end.
    """
    with reading(run, TRAINING):
        config, asked = run.training.config, run.training.recipe.changed if run.training.recipe else {}
        best = run.training.best
        fewer = "epochs" in asked and config["epochs"] < asked["epochs"]
        patient = best.epochs_trained - 1 - best.epoch < config.get("patience", 0)
        stopped = best.epochs_trained < config.get("epochs", 0) and patient
        return fewer or stopped or ("image_sizes" in asked and _last_side(config) < _last_side(asked))


def _last_side(config: dict[str, Any]) -> int:
    """The largest side of the pictures that a configuration trains on."""
    return max(map(int, config["image_sizes"].values()))


def trained_for(run: RunFolder) -> tuple[int, int]:
    """How many epochs a run was trained for, and the side of its pictures in the last one."""
    epochs = run.training.best.epochs_trained
    with reading(run, TRAINING):
        sizes = {int(epoch): int(side) for epoch, side in run.training.config["image_sizes"].items()}
    return epochs, sizes[max(first for first in sizes if first < epochs)]


def evaluations(run: RunFolder) -> list[Evaluation]:
    """What a run was measured on, in the order of its file."""
    return [_evaluation(key, entry.dataset) for key, entry in run.metrics.items()]


def entry(run: RunFolder, evaluation: Evaluation) -> Measured:
    """The figures of one evaluation.

    Raises:
        BthubError: the run wasn't measured on it, or with other weights than it has now.
    """
    found = run.metrics.get(evaluation.key)
    if found is None or _evaluation(evaluation.key, found.dataset) != evaluation:
        raise BthubError(
            f"{name(run)} has no metrics for {evaluation.key} of {evaluation.data}; run  "
            f"bthub evaluate {run.path} --data {evaluation.data} --split {evaluation.split}"
        )
    run.check_weights(f"{METRICS} of {evaluation.key}", found.weights, found.command)
    return found


def figures(run: RunFolder, evaluation: Evaluation, argmax: bool = False) -> dict[str, Interval]:
    """Each metric of an evaluation with its interval.

    Args:
        argmax: of a detector, use argmax predictions instead of the threshold, as published classifiers do.
    """
    found = entry(run, evaluation)
    return found.metrics | ((argmax and found.argmax) or {})


def row(run: RunFolder, evaluation: Evaluation) -> Row:
    """A line of the comparison: who, the costs that are known, and each metric with its interval's ends.

    Returns:
        `model`, `network`, `start`, `epochs` and `side` (`trained_for`), `budget` (full or reduced), `samples`,
        `groups`, costs, and `<metric>`, `<metric>_low`, `<metric>_high`; None where a value isn't known or defined.
    """
    found = entry(run, evaluation)
    epochs, side = trained_for(run)
    line: Row = {
        "model": name(run),
        "network": network(run),
        "start": initialization(run),
        "epochs": epochs,
        "side": side,
        "budget": "reduced" if reduced(run) else "full",
        "samples": found.samples,
        "groups": found.groups,
        **costs(run),
    }
    for metric, value in found.metrics.items():
        line |= value.as_row(metric)
    return line


def confusion(run: RunFolder, evaluation: Evaluation) -> tuple[list[str], list[list[int]]]:
    """A classifier's classes and its confusion matrix, whose rows are the truth."""
    found = entry(run, evaluation)
    return found.labels, found.confusion_matrix


SEEN = {"seen": "pictures with a copy in train or validation", "unseen": "pictures without such a copy"}
AS_PUBLISHED = "all pictures, as papers report"
"""How the parts of `by_seen` read, and the whole."""


def by_seen(run: RunFolder) -> list[Row]:
    """The accuracy on the test pictures that train or validation has a copy of, on the others, and on all.

    Returns:
        `model`, `part` (which pictures), `pictures` (how many), `value`, `low`, `high`; nothing where the run wasn't
        evaluated on test, or test holds no copies.
    """
    rows = []
    for key, found in run.metrics.items():
        if found.by_seen and key.endswith("/test"):
            rows += [(SEEN[part], measured) for part, measured in found.by_seen.items()] + [(AS_PUBLISHED, found)]
    return [
        {"model": name(run), "part": words, "pictures": part.samples, **part.metrics["accuracy"].as_row()}
        for words, part in rows
    ]


def gradcam(run: RunFolder, evaluation: Evaluation) -> Row | None:
    """How much of a detector's Grad-CAM lies on the tumor, over a split; None where `bthub explain` wasn't run on it.

    Returns:
        `mean`, `low`, `high`, `median`, `picture` and `head` (the chance levels), `samples`, `groups`, `empty_maps`.
    """
    found = run.gradcam.get(evaluation.key)
    if found is None or _evaluation(evaluation.key, found.dataset) != evaluation:
        return None
    run.check_weights(f"{GRADCAM} of {evaluation.key}", found.weights, found.command)
    mean = found.pointing_game.mean
    return {
        "mean": mean.value,
        "low": mean.low,
        "high": mean.high,
        "median": found.pointing_game.median.value,
        "picture": found.chance.picture,
        "head": found.chance.head,
        "samples": found.samples,
        "groups": found.groups,
        "empty_maps": found.empty_maps,
    }


def costs(run: RunFolder) -> dict[str, float | None]:
    """What a run costs: what `bthub cost` wrote, and what its weights tell by themselves."""
    measured = {}
    if (run.path / COST).exists():
        measured = {key: getattr(run.cost, key) for key in COSTS}
    weights = run.path / WEIGHTS
    if weights.exists():
        measured = {**measured, "parameters": parameters(run), "file_bytes": weights.stat().st_size}
    return {cost: measured.get(cost) for cost in COSTS}


def parameters(run: RunFolder) -> int:
    """Number of learned values, from the header of the weights."""
    try:
        with safe_open(run.path / WEIGHTS, "numpy") as weights:
            shapes = {key: weights.get_slice(key).get_shape() for key in weights.keys()}
    except SafetensorError as error:
        raise BthubError(f"{name(run)}: {WEIGHTS} can't be read ({error}): restore it or train again") from error
    # Batch normalization's averages are measured, not learned.
    measured = ("running_mean", "running_var", "num_batches_tracked")
    return sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(measured))


def best(rows: Sequence[Row], column: str) -> float | None:
    """The best value of a column: the lowest for errors and costs, else the highest; None without values."""
    values = [float(value) for line in rows if isinstance(value := line.get(column), (int, float))]
    if not values:
        return None
    return min(values) if lower_is_better(column) else max(values)


def seen(run: RunFolder, key: tuple[str, ...]) -> str | None:
    """The split that an image was in when the run was trained; None where it was in none.

    Args:
        run: the run.
        key: (patient_id, slice_index) or (file,).
    """
    return _given(run).get(key)


@cache
def _given(run: RunFolder) -> dict[tuple[str, ...], str]:
    rows = run.rows(SPLIT)
    with reading(run, SPLIT):
        return {image_key(line): line["split"] for line in rows}


def image_key(line: dict[str, str]) -> tuple[str, ...]:
    """What names an image: its patient and slice, or its file."""
    return (line["patient_id"], line["slice_index"]) if "patient_id" in line else (line["file"],)


def history(run: RunFolder) -> list[dict[str, float]]:
    """One line an epoch, as numbers."""
    rows = run.rows(HISTORY)
    with reading(run, HISTORY):
        return [{key: float(value) for key, value in line.items()} for line in rows]


def lr_finder(run: RunFolder) -> list[dict[str, float]]:
    """The learning-rate range test: `learning_rate` and `loss` of each step; empty where the run made none."""
    if not (run.path / LR_FINDER).is_file():
        return []
    rows = run.rows(LR_FINDER)
    with reading(run, LR_FINDER):
        return [{key: float(line[key]) for key in ("learning_rate", "loss")} for line in rows]


def by_initialization(runs: Iterable[RunFolder]) -> dict[str, list[RunFolder]]:
    """Networks that were trained from different initial weights, protocol and data being the same."""
    groups: dict[tuple[str, str | None, str], list[RunFolder]] = {}
    for run in runs:
        groups.setdefault((network(run), *trained_on(run)), []).append(run)
    groups = {key: group for key, group in groups.items() if len({initialization(run) for run in group}) > 1}
    several = len({data for _, _, data in groups}) > 1
    return {
        known
        + (f", protocol {protocol}" if protocol not in (None, "patient", "default") else "")
        + (f", {data}" if several else ""): group
        for (known, protocol, data), group in groups.items()
    }


@contextmanager
def reading(run: RunFolder, file: str) -> Iterator[None]:
    """Name the run and the file where what is in the file isn't as expected."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BthubError(
            f"{name(run)}: {file} isn't in the format of this version ({type(error).__name__}: {error}): "
            "write it again with this version, or leave out the run"
        ) from error


def _evaluation(key: str, data: DataSet) -> Evaluation:
    protocol, _, split = key.partition("/")
    return Evaluation(Path(data.name).name, protocol, split)
