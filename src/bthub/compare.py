"""Runs side by side: what their folders say, as tables that the dashboard shows and `bthub compare` prints.

Pure functions over run folders. Nothing is fitted and no model is loaded: figures come from `metrics.json`, curves and
lists from `predictions/`. What can't be read is a `BthubError` that names the run and the file.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open

from bthub import metrics
from bthub.data.splits import patient_split, slice_table
from bthub.errors import BthubError
from bthub.run_folder import (
    CALIBRATION,
    CLASSIFICATION,
    CONFIG,
    COST,
    DEFAULTS,
    GRADCAM,
    HISTORY,
    LR_FINDER,
    METRICS,
    PREDICTIONS,
    SEGMENTATION,
    SHIPPED_RUNS,
    SPLIT,
    TRAINING,
    WEIGHTS,
    RunFolder,
)
from bthub.scoring import TUMOR_SIZES

TUMOR = "tumor"
HEALTHY = ("no_tumor", "no")
"""What the classes without a tumor are called."""
PAPERS = Path(__file__).with_name("papers.yaml")

# Rows of a CSV become one of these; a column that the file lacks isn't in it.
Row = dict[str, object]

COSTS = {
    "parameters": "parameters",
    "file_bytes": "size of the weights",
    "multiply_adds": "multiply-adds",
    "latency_ms": "latency",
}
LOWER_IS_BETTER = {
    "brier",
    "ece",
    "ece_uncalibrated",
    "hd95_px",
    "tumor_slices_missed",
    "healthy_slices_with_mask",
    "healthy_mask_px",
    *COSTS,
}
DEFINITIONS = {
    "accuracy": "Share of the slices that got the right class.",
    "balanced_accuracy": "Mean of the classes' own accuracies: a rare class counts as much as a common one.",
    "precision": "Of the slices called tumor, the share that has one.",
    "recall": "Of the slices with a tumor, the share that was called tumor (sensitivity).",
    "specificity": "Of the slices without a tumor, the share that was passed as healthy.",
    "f1": "Harmonic mean of precision and recall.",
    "roc_auc": "Chance that a random tumor slice gets a higher probability than a random healthy one. No threshold.",
    "average_precision": "Area under the precision-recall curve. No threshold.",
    "brier": "Mean squared difference between probability and truth. Lower is better.",
    "ece": "Expected calibration error: how far stated probabilities are from observed shares. Lower is better.",
    "ece_uncalibrated": "The same before temperature scaling. Lower is better.",
    "dice_volume_mean": "Overlap of drawn and true tumor over all slices of a patient, 0 to 1; mean over patients.",
    "dice_volume_median": "As the mean, but of the patient in the middle: one bad patient doesn't move it.",
    "iou_volume_mean": "Intersection over union of drawn and true tumor of a patient; mean over patients.",
    "dice_tumor_slices": "Overlap on each slice with a tumor, a slice without a mask counting 0; mean.",
    "dice_all_slices": "As per tumor slice, a mask on a healthy slice counting 0 as well.",
    "dice_pooled": "Overlap of all pixels of all slices thrown together: large tumors dominate it.",
    "dice_tumor_slices_pooled": "Overlap of all pixels of the slices with a tumor thrown together.",
    "iou_pooled": "Intersection over union of all pixels of all slices thrown together.",
    "pixel_accuracy": "Share of pixels that agree. Near 1 even for an empty mask, because most pixels are background.",
    "tumor_slices_missed": "Share of the tumor slices on which nothing was drawn. Lower is better.",
    "healthy_slices_with_mask": "Share of the healthy slices on which something was drawn. Lower is better.",
    "hd95_px": "How far the two outlines lie apart: the 95th percentile of the distance, in pixels. Lower is better.",
    "healthy_mask_px": "Mean pixels drawn on a healthy slice. Lower is better.",
    "parameters": "Learned numbers in the model. Fewer is cheaper.",
    "file_bytes": "Size of the weights file, in half precision.",
    "multiply_adds": "Multiplications with addition for one slice: the work, whatever the machine.",
    "latency_ms": "Milliseconds for one slice on the CPU, the median, on an idle machine.",
}
"""What each metric means, in a sentence."""


# -- runs


class Evaluation(NamedTuple):
    """What a figure was measured on: a data set, how it was split, and which part of it."""

    data: str
    protocol: str
    split: str

    @property
    def key(self) -> str:
        """As `metrics.json` names it."""
        return f"{self.protocol}/{self.split}"


def shipped_runs() -> list[str]:
    """The run folders of the clone, by name."""
    if not SHIPPED_RUNS.is_dir():
        return []
    return [str(path) for path in sorted(SHIPPED_RUNS.iterdir()) if path.is_dir()]


def open_run(source: str | Path) -> RunFolder:
    """Open a run; a local one may lack its weights, as in a clone that ships figures only.

    Raises:
        BthubError: nothing there, or neither weights nor metrics.
    """
    return RunFolder.open(source, weights=not (Path(source) / METRICS).is_file())


def name(run: RunFolder) -> str:
    """How a run is called on a page: without the organisation."""
    return run.id.rpartition("/")[2]


def network(run: RunFolder) -> str:
    """The architecture, as timm names it; a ResUNet by its encoder."""
    with _reading(run, CONFIG):
        if run.task == SEGMENTATION:
            return f"ResUNet ({run.config['backbone']})"
        return run.config["architecture"]


def initialisation(run: RunFolder) -> str:
    """What the first weights were: random, ImageNet, or the encoder or all weights of another run or file."""
    with _reading(run, TRAINING):
        config = run.training["config"]
        # An encoder comes last: it is loaded over other weights.
        for key, part in (("encoder_from", "encoder"), ("weights_from", "weights")):
            if config.get(key):
                source = Path(config[key]).name
                return "ImageNet" if imagenet_file(source) else f"{part} of {source}"
        return "ImageNet" if config["pretrained"] else "random"


def imagenet_file(source: str) -> bool:
    """Whether `encoder_from` or `weights_from` names a file of train/imagenet.py."""
    return Path(source).match("imagenet-*.safetensors")


def trained_on(run: RunFolder) -> tuple[str | None, str]:
    """The protocol and the name of the data set that a run was trained on.

    An image-folder set names no patients and has one split: its protocol is `default`, whatever the recipe says.
    """
    with _reading(run, TRAINING):
        dataset = run.training["dataset"]
        patients = "patients" in dataset["splits"]["train"]
        return run.training["protocol"] if patients else "default", Path(dataset["name"]).name


def learning_rate(run: RunFolder) -> float:
    """The highest learning rate of a training."""
    with _reading(run, TRAINING):
        return float(run.training["config"]["learning_rate"])


def best_epoch(run: RunFolder) -> int:
    """The epoch whose weights were kept."""
    with _reading(run, TRAINING):
        return int(run.training["best"]["epoch"])


def budget(run: RunFolder) -> str:
    """What a training started from and how much of it there was, in a line."""
    with _reading(run, TRAINING):
        epochs = int(run.training["best"]["epochs_trained"])
        sizes = {int(epoch): int(side) for epoch, side in run.training["config"]["image_sizes"].items()}
    side = sizes[max(first for first in sizes if first < epochs)]
    return f"first weights: {initialisation(run)}, {epochs} epochs, {side} pixels"


def evaluations(run: RunFolder) -> list[Evaluation]:
    """What a run was measured on, in the order of its file."""
    with _reading(run, METRICS):
        return [_evaluation(key, entry) for key, entry in run.metrics.items()]


def entry(run: RunFolder, evaluation: Evaluation) -> dict:
    """The figures of one evaluation.

    Raises:
        BthubError: the run wasn't measured on it, or with other weights than it has now.
    """
    with _reading(run, METRICS):
        found = run.metrics.get(evaluation.key)
        if found is None or _evaluation(evaluation.key, found) != evaluation:
            raise BthubError(
                f"{name(run)} has no figures for {evaluation.key} of {evaluation.data}: "
                f"bthub evaluate {name(run)} --data {evaluation.data} --split {evaluation.split}"
            )
        # On the Hub a revision is a commit, which says nothing about the weights alone.
        if run.revision.startswith("sha256:") and found["weights"] != run.revision:
            raise BthubError(
                f"{name(run)}: {evaluation.key} was measured with the weights {found['weights']}, the folder has "
                f"{run.revision}: run again {found['command']}"
            )
        if not isinstance(found["metrics"], dict):
            raise TypeError("metrics isn't an object")
        return found


def figures(run: RunFolder, evaluation: Evaluation) -> dict[str, metrics.Interval]:
    """Each metric of an evaluation with its interval."""
    found = entry(run, evaluation)
    with _reading(run, METRICS):
        return {
            metric: {end: value[end] for end in ("value", "low", "high")} for metric, value in found["metrics"].items()
        }


def row(run: RunFolder, evaluation: Evaluation) -> Row:
    """A line of the comparison: who, the costs that are known, and each metric with its interval's ends.

    Returns:
        `model`, `network`, `start`, `samples`, `groups`, costs, and `<metric>`, `<metric>_low`, `<metric>_high`;
        None where a value isn't known or defined.
    """
    found = entry(run, evaluation)
    with _reading(run, METRICS):
        line: Row = {
            "model": name(run),
            "network": network(run),
            "start": initialisation(run),
            "samples": found["samples"],
            "groups": found["groups"],
            **costs(run),
        }
    for metric, value in figures(run, evaluation).items():
        line |= {metric: value["value"], f"{metric}_low": value["low"], f"{metric}_high": value["high"]}
    return line


def confusion(run: RunFolder, evaluation: Evaluation) -> tuple[list[str], list[list[int]]]:
    """A classifier's classes and its confusion matrix, whose rows are the truth."""
    found = entry(run, evaluation)
    with _reading(run, METRICS):
        return found["labels"], found["confusion_matrix"]


SEEN = {"seen": "copies of known pictures", "unseen": "new pictures"}
AS_PUBLISHED = "all, as published"
"""How the parts of `by_seen` read, and the whole."""


def by_seen(run: RunFolder) -> list[Row]:
    """The accuracy on the test pictures that train or validation has a copy of, on the others, and on all.

    Returns:
        `model`, `part` (which pictures), `pictures` (how many), `value`, `low`, `high`; nothing where the run wasn't
        evaluated on test, or test holds no copies.
    """
    rows = []
    with _reading(run, METRICS):
        for key, found in run.metrics.items():
            parts = found.get("by_seen", {})
            if parts and key.endswith("/test"):
                rows += [(SEEN[part], parts[part]) for part in parts] + [(AS_PUBLISHED, found)]
        return [
            {"model": name(run), "part": words, "pictures": part["samples"], **part["metrics"]["accuracy"]}
            for words, part in rows
        ]


def gradcam(run: RunFolder, evaluation: Evaluation) -> Row | None:
    """How much of a detector's Grad-CAM lies on the tumor, over a split; None where `bthub explain` wasn't run on it.

    Returns:
        `mean`, `low`, `high`, `median`, `picture` and `head` (the chance levels), `samples`, `groups`, `empty_maps`.
    """
    with _reading(run, GRADCAM):
        found = run.gradcam.get(evaluation.key)
        if found is None or _evaluation(evaluation.key, found) != evaluation:
            return None
        if run.revision.startswith("sha256:") and found["weights"] != run.revision:
            raise BthubError(
                f"{name(run)}: {GRADCAM} of {evaluation.key} was measured with the weights {found['weights']}, the "
                f"folder has {run.revision}: run again {found['command']}"
            )
        mean = found["agreement"]["mean"]
        return {
            "mean": mean["value"],
            "low": mean["low"],
            "high": mean["high"],
            "median": found["agreement"]["median"]["value"],
            **{of: found["chance"][of] for of in ("picture", "head")},
            **{count: found[count] for count in ("samples", "groups", "empty_maps")},
        }


def rank(run: RunFolder) -> int:
    """Which runs come first: the default pair, networks from pretrained weights, from random ones, papers' recipes."""
    if name(run) in DEFAULTS.values():
        return 0
    if any(name(run).startswith(f"{paper}-") for paper in papers()):
        return 3
    return 2 if initialisation(run) == "random" else 1


def costs(run: RunFolder) -> dict[str, float | None]:
    """What a run costs: what `bthub cost` wrote, and what its weights tell by themselves."""
    measured = {}
    if (run.path / COST).exists():
        with _reading(run, COST):
            measured = {key: run.cost[key] for key in COSTS}
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
    # Batch normalisation's averages are measured, not learned.
    measured = ("running_mean", "running_var", "num_batches_tracked")
    return sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(measured))


def best(rows: Sequence[Row], column: str) -> float | None:
    """The best value of a column: the lowest for errors and costs, else the highest; None without values."""
    values = [line[column] for line in rows if line.get(column) is not None]
    if not values:
        return None
    return min(values) if column in LOWER_IS_BETTER else max(values)


def seen(run: RunFolder, key: tuple[str, ...]) -> str | None:
    """The split that an image was in when the run was trained; None where it was in none.

    Args:
        run: the run.
        key: (patient_id, slice_index) or (file,).
    """
    return _given(run.path / SPLIT, run).get(key)


@cache
def _given(path: Path, run: RunFolder) -> dict[tuple[str, ...], str]:
    rows = run.rows(SPLIT)
    with _reading(run, SPLIT):
        return {image_key(line): line["split"] for line in rows}


# -- predictions


@dataclass(frozen=True)
class Scores:
    """What a classifier said about each image.

    Attributes:
        rows: the ids of each image.
        labels: the classes.
        y: (N,) index of the true class.
        p: (N, classes) probabilities, calibrated.
        threshold: from which a tumor is called; None where the most probable class is.
    """

    rows: list[dict[str, str]]
    labels: list[str]
    y: np.ndarray
    p: np.ndarray
    threshold: float | None

    @property
    def called(self) -> np.ndarray:
        """(N,) index of the class that was called."""
        if self.threshold is None:
            return self.p.argmax(axis=1)
        tumor = self.labels.index(TUMOR)
        return np.where(self.p[:, tumor] >= self.threshold, tumor, 1 - tumor)

    @property
    def is_tumor(self) -> np.ndarray:
        """(N,) bool. Only for a detector."""
        return self.y == self.labels.index(TUMOR)

    @property
    def p_tumor(self) -> np.ndarray:
        """(N,) probability of tumor. Only for a detector."""
        return self.p[:, self.labels.index(TUMOR)]


def image_key(line: dict[str, str]) -> tuple[str, ...]:
    """What names an image: its patient and slice, or its file."""
    return (line["patient_id"], line["slice_index"]) if "patient_id" in line else (line["file"],)


def scores(run: RunFolder, evaluation: Evaluation) -> Scores:
    """A classifier's predictions."""
    found, rows = entry(run, evaluation), run.predictions(evaluation.key)
    with _reading(run, _predictions_file(evaluation)):
        labels = found["labels"]
        return Scores(
            rows,
            labels,
            np.array([labels.index(line["label"]) for line in rows]),
            np.array([[float(line[f"p_{label}"]) for label in labels] for line in rows]),
            found["threshold"],
        )


def detector_scores(run: RunFolder, evaluation: Evaluation) -> Scores:
    """The predictions of a classifier that tells tumor from no tumor.

    Raises:
        BthubError: it knows other classes.
    """
    found = scores(run, evaluation)
    if found.threshold is None or TUMOR not in found.labels:
        raise BthubError(
            f"{name(run)} tells {', '.join(found.labels)} apart, so no threshold decides: it isn't shown here"
        )
    return found


def top_losses(found: Scores) -> list[Row]:
    """Images by how wrong the model was, worst first.

    Returns:
        The ids, `label`, `called`, `p_label` (probability of the true class), `loss` (its negative logarithm) and
        `kind`: missed, false alarm, confused or right.
    """
    p_true = found.p[np.arange(len(found.y)), found.y]
    called = found.called
    lines = []
    for i in np.argsort(p_true, kind="stable"):
        label, guess = found.labels[found.y[i]], found.labels[called[i]]
        lines.append(
            {
                **{key: found.rows[i][key] for key in found.rows[i] if not key.startswith("p_") and key != "label"},
                "label": label,
                "called": guess,
                "p_label": float(p_true[i]),
                "loss": float(-np.log(max(p_true[i], 1e-12))),
                "kind": _kind(label, guess),
            }
        )
    return lines


def _kind(label: str, called: str) -> str:
    if label == called:
        return "right"
    if called in HEALTHY:
        return "missed"
    return "false alarm" if label in HEALTHY else "confused"


# -- threshold


def at_threshold(found: Scores, threshold: float) -> dict:
    """The metrics of a detector at another threshold, without intervals, and its confusion matrix."""
    called, tumor = found.p_tumor >= threshold, found.is_tumor
    hits, missed = int((tumor & called).sum()), int((tumor & ~called).sum())
    alarms, passed = int((~tumor & called).sum()), int((~tumor & ~called).sum())
    # Counted here and not by `metrics.classification`, which ranks as well: a slider asks for many of these.
    return {
        "threshold": threshold,
        "precision": _share(hits, hits + alarms),
        "recall": _share(hits, hits + missed),
        "specificity": _share(passed, passed + alarms),
        "f1": _share(2 * hits, 2 * hits + missed + alarms),
        "false_positive_rate": _share(alarms, passed + alarms),
        "found": hits,
        "missed": missed,
        "false_alarms": alarms,
        "passed": passed,
    }


def curves(found: Scores) -> tuple[list[Row], list[Row]]:
    """The ROC curve and the precision-recall curve of a detector, points on straight lines left out."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    if found.is_tumor.all() or not found.is_tumor.any():
        raise BthubError("a curve needs slices with and without tumor, and this split has only one kind")
    false_rate, recall, _ = roc_curve(found.is_tumor, found.p_tumor)
    roc = [{"false_positive_rate": float(x), "recall": float(y)} for x, y in zip(false_rate, recall, strict=True)]
    precision, recall, _ = precision_recall_curve(found.is_tumor, found.p_tumor, drop_intermediate=True)
    # The last point, precision 1 at recall 0, is a convention and no threshold.
    pr = [{"recall": float(x), "precision": float(y)} for x, y in zip(recall[:-1], precision[:-1], strict=True)]
    return roc, pr


def expected_cost(found: Scores, threshold: float, miss_cost: float) -> float:
    """Mean cost of an image when a false alarm costs 1 and a missed tumor `miss_cost`."""
    called = found.p_tumor >= threshold
    return float((miss_cost * (found.is_tumor & ~called) + (~found.is_tumor & called)).mean())


def cheapest_threshold(found: Scores, miss_cost: float) -> float:
    """The threshold with the lowest cost; of equally cheap ranges the middle of the widest.

    Args:
        found: predictions to choose it on: those of the validation split, or the choice flatters.
        miss_cost: what a missed tumor costs, in false alarms.
    """
    p, tumor = found.p_tumor, found.is_tumor
    # The k-th choice is any threshold in (lower[k], upper[k]]; the last calls nothing a tumor.
    upper = np.unique(np.append(p, np.nextafter(max(1.0, p.max()), 2)))
    lower = np.append(0.0, upper[:-1])
    missed = np.searchsorted(np.sort(p[tumor]), upper)
    alarms = (~tumor).sum() - np.searchsorted(np.sort(p[~tumor]), upper)
    cost = miss_cost * missed + alarms
    widest = np.argmax(np.where(np.isclose(cost, cost.min()), upper - lower, -1))
    return float(min((lower[widest] + upper[widest]) / 2, 1.0) if upper[widest] > lower[widest] else upper[widest])


# -- calibration


def uncalibrated(p: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as they were before temperature scaling, which is folded into the weights: (N, classes)."""
    z = np.log(np.clip(p, 1e-12, 1)) * temperature
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def temperature(run: RunFolder) -> float:
    """The temperature that was fitted on validation."""
    with _reading(run, CALIBRATION):
        return float(run.calibration["temperature"])


def calibration_error(found: Scores, p: np.ndarray) -> float:
    """Expected calibration error of `p` for the images of `found`, as the evaluation computes it."""
    return metrics.expected_calibration_error(found.y, p, _positive(found))


def reliability(found: Scores, p: np.ndarray, bins: int = 10) -> list[Row]:
    """Stated probability against observed share, in bins of equal width; empty bins are left out.

    With two classes of the probability of tumor, with more of the most probable class.
    """
    if p.shape[1] == 2:
        confidence, outcome = p[:, _positive(found)], found.y == _positive(found)
    else:
        confidence, outcome = p.max(axis=1), found.y == p.argmax(axis=1)
    member = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "stated": float(confidence[member == k].mean()),
            "observed": float(outcome[member == k].mean()),
            "images": int((member == k).sum()),
            "bin": f"{k / bins:.0%} to {(k + 1) / bins:.0%}",
        }
        for k in range(bins)
        if (member == k).any()
    ]


def review(found: Scores, low: float, high: float) -> dict[str, float | int | None]:
    """What happens when probabilities from `low` to below `high` go to a person.

    Returns:
        `reviewed` (share of all images), `missed` and `false_alarms` (counts among the others) and `errors` (their
        share among the others, None when nobody is left).
    """
    p, tumor = found.p_tumor, found.is_tumor
    unsure = (p >= low) & (p < high)
    missed, alarms = int((tumor & (p < low) & ~unsure).sum()), int((~tumor & (p >= high)).sum())
    return {
        "reviewed": float(unsure.mean()),
        "missed": missed,
        "false_alarms": alarms,
        "errors": _share(missed + alarms, int((~unsure).sum())),
    }


def _positive(found: Scores) -> int:
    return found.labels.index(TUMOR) if TUMOR in found.labels else len(found.labels) - 1


# -- masks

SIZES = {
    f"{least:,} and more" if below is None else f"{least:,} to {below:,}" if least > 1 else f"under {below:,}": below
    or math.inf
    for least, below in TUMOR_SIZES.values()
}
"""Ranges of tumor area on a slice in pixels, by the end that they don't reach."""


def masks(run: RunFolder, evaluation: Evaluation) -> list[Row]:
    """What a ResUNet drew on each slice.

    Returns:
        The ids, `tumor_px`, `predicted_px`, `intersection_px`, `dice` (None where nothing is and nothing was drawn),
        `size` (see `SIZES`; "no tumor") and `kind`: drawn, missed, false mask or healthy.
    """
    entry(run, evaluation)
    rows = run.predictions(evaluation.key)
    with _reading(run, _predictions_file(evaluation)):
        lines = []
        for line in rows:
            tumor, drawn, both = (int(line[column]) for column in ("tumor_px", "predicted_px", "intersection_px"))
            lines.append(
                {
                    **line,
                    "tumor_px": tumor,
                    "predicted_px": drawn,
                    "intersection_px": both,
                    "dice": _share(2 * both, tumor + drawn),
                    "size": next(label for label, end in SIZES.items() if tumor < end) if tumor else "no tumor",
                    "kind": ("drawn" if drawn else "missed") if tumor else ("false mask" if drawn else "healthy"),
                }
            )
        return lines


def dice_by_patient(lines: Iterable[Row]) -> list[Row]:
    """Dice over all slices of each patient with a tumor, worst first."""
    totals: dict[str, dict] = {}
    for line in lines:
        total = totals.setdefault(
            line["patient_id"], {"institution": line.get("institution", ""), "slices": 0, "tumor": 0, "d": 0, "b": 0}
        )
        total["slices"] += 1
        for key, column in (("tumor", "tumor_px"), ("d", "predicted_px"), ("b", "intersection_px")):
            total[key] += line[column]
    patients = [
        {
            "patient_id": patient,
            "institution": total["institution"],
            "slices": total["slices"],
            "tumor_px": total["tumor"],
            "dice": 2 * total["b"] / (total["tumor"] + total["d"]),
        }
        for patient, total in totals.items()
        if total["tumor"]
    ]
    return sorted(patients, key=lambda patient: patient["dice"])


# -- history


def history(run: RunFolder) -> list[dict[str, float]]:
    """One line an epoch, as numbers."""
    rows = run.rows(HISTORY)
    with _reading(run, HISTORY):
        return [{key: float(value) for key, value in line.items()} for line in rows]


def lr_finder(run: RunFolder) -> list[dict[str, float]]:
    """The learning-rate range test: `learning_rate` and `loss` of each step; empty where the run made none."""
    if not (run.path / LR_FINDER).is_file():
        return []
    rows = run.rows(LR_FINDER)
    with _reading(run, LR_FINDER):
        return [{key: float(line[key]) for key in ("learning_rate", "loss")} for line in rows]


def by_initialisation(runs: Iterable[RunFolder]) -> dict[str, list[RunFolder]]:
    """Networks that were trained from different first weights, protocol and data being the same."""
    groups: dict[tuple, list[RunFolder]] = {}
    for run in runs:
        groups.setdefault((network(run), *trained_on(run)), []).append(run)
    groups = {key: group for key, group in groups.items() if len({initialisation(run) for run in group}) > 1}
    several = len({data for _, _, data in groups}) > 1
    return {
        known
        + (f", protocol {protocol}" if protocol not in (None, "patient", "default") else "")
        + (f", {data}" if several else ""): group
        for (known, protocol, data), group in groups.items()
    }


# -- leakage


class Pair(NamedTuple):
    """The same model under both protocols, and what else differs between the two recipes."""

    network: str
    patient: RunFolder
    slice: RunFolder
    differences: list[str]


def leakage_pairs(runs: Iterable[RunFolder]) -> list[Pair]:
    """Runs that differ in protocol, with the most similar recipe there is."""
    by_protocol: dict[str, list[RunFolder]] = {"patient": [], "slice": []}
    for run in runs:
        by_protocol.get(trained_on(run)[0], []).append(run)
    pairs = []
    for other in by_protocol["slice"]:
        same = [run for run in by_protocol["patient"] if (run.task, network(run)) == (other.task, network(other))]
        if same:
            closest = min(same, key=lambda run: len(_differences(run, other)))
            pairs.append(Pair(network(other), closest, other, _differences(closest, other)))
    return pairs


def _differences(one: RunFolder, other: RunFolder) -> list[str]:
    # What a slice run starts from is itself trained on the slice protocol: another name, not another recipe.
    a, b = ({**run.training["config"]} for run in (one, other))
    for config in (a, b):
        for key in ("encoder_from", "weights_from"):
            source = config.get(key)
            config[key] = source and (Path(source).name if imagenet_file(source) else "another run")
        for key in ("protocol", "workers"):  # how many processes read the images is no matter of the recipe
            config.pop(key, None)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def split_map() -> list[Row]:
    """Every slice of the committed splits: `patient_id`, `slice_index`, and its split under `patient` and `slice`."""
    return [
        {"patient_id": patient, "slice_index": index, "slice": split, "patient": patient_split(patient)}
        for (patient, index), split in slice_table().items()
    ]


def with_neighbour_in_train(protocol: str) -> tuple[int, int]:
    """Of the test slices of a protocol: how many have a neighbouring slice (one up or down) in train, and how many
    there are."""
    where = {(line["patient_id"], line["slice_index"]): line[protocol] for line in split_map()}
    test = [key for key, split in where.items() if split == "test"]
    leaking = [
        (patient, index)
        for patient, index in test
        if "train" in (where.get((patient, index - 1)), where.get((patient, index + 1)))
    ]
    return len(leaking), len(test)


# -- papers


@cache
def papers() -> dict[str, dict]:
    """The five systems and the references: what each reports, from the committed file."""
    return yaml.safe_load(PAPERS.read_text(encoding="utf-8"))


def measured_like(figure: dict, runs: Iterable[RunFolder]) -> Iterator[tuple[RunFolder, str, dict]]:
    """What was measured here that a reported figure can be held against.

    Args:
        figure: of a paper, with `like`: the task, networks, classes and metric of comparable runs.

    Yields:
        Run, protocol, and the interval of the metric, on test splits, or on the split that `like` names.
    """
    like = figure["like"]
    for run in runs:
        if run.task != like["task"] or not any(known in network(run) for known in like["networks"]):
            continue
        if "start" in like and (initialisation(run) == "random") != (like["start"] == "random"):
            continue
        for evaluation in evaluations(run):
            found = figures(run, evaluation)
            if evaluation.split != like.get("split", "test") or like["metric"] not in found:
                continue
            # The classes tell the data sets apart: their names are up to who built them.
            if run.task == CLASSIFICATION and len(confusion(run, evaluation)[0]) != like.get("classes", 2):
                continue
            if ("patients" in entry(run, evaluation)["dataset"]) == like["by_patient"]:
                yield run, evaluation.protocol, found[like["metric"]]


# -- reading


@contextmanager
def _reading(run: RunFolder, file: str) -> Iterator[None]:
    """Name the run and the file where what is in the file isn't as expected."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BthubError(
            f"{name(run)}: {file} isn't laid out as this version writes it ({type(error).__name__}: {error}): "
            "write it again with this version, or leave the run out"
        ) from error


def _evaluation(key: str, found: dict) -> Evaluation:
    protocol, _, split = key.partition("/")
    return Evaluation(Path(found["dataset"]["name"]).name, protocol, split)


def _predictions_file(evaluation: Evaluation) -> str:
    return f"{PREDICTIONS}/{evaluation.protocol}-{evaluation.split}.csv"


def _share(part: float, of: float) -> float | None:
    return float(part / of) if of else None
