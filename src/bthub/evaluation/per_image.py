"""Results image by image: the worst cases, other thresholds, calibration, and the masks slice by slice.

Pure functions over the rows in `predictions/`; no model is loaded, and nothing is fitted but the threshold asked for.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from bthub.errors import BthubError
from bthub.evaluation.scoring import TUMOR_SIZES, log_loss
from bthub.metrics.classification import (
    calibrated_outcome,
    expected_calibration_error,
    is_healthy,
    positive_class,
)
from bthub.runs.folder import PREDICTIONS, RunFolder
from bthub.runs.records import Evaluation, Row, entry, name, reading
from bthub.training.thresholds import middle

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
    def predicted(self) -> np.ndarray:
        """(N,) index of the class that was called."""
        if self.threshold is None:
            return self.p.argmax(axis=1)
        return np.where(self.p_tumor >= self.threshold, self.tumor, 1 - self.tumor)

    @property
    def tumor(self) -> int:
        """The place of the class that means tumor, whatever its data set calls it. Only for a detector."""
        return positive_class(self.labels)

    @property
    def is_tumor(self) -> np.ndarray:
        """(N,) bool. Only for a detector."""
        return self.y == self.tumor

    @property
    def p_tumor(self) -> np.ndarray:
        """(N,) probability of tumor. Only for a detector."""
        return self.p[:, self.tumor]


def scores(run: RunFolder, evaluation: Evaluation) -> Scores:
    """A classifier's predictions."""
    found, rows = entry(run, evaluation), run.predictions(evaluation.key)
    with reading(run, _predictions_file(evaluation)):
        labels = found.labels
        return Scores(
            rows,
            labels,
            np.array([labels.index(line["label"]) for line in rows]),
            np.array([[float(line[f"p_{label}"]) for label in labels] for line in rows]),
            found.threshold,
        )


def detector_scores(run: RunFolder, evaluation: Evaluation) -> Scores:
    """The predictions of a classifier that tells tumor from no tumor, whatever its data set calls the two.

    One that has no threshold of its own calls the likelier class: its threshold is 0.5.

    Raises:
        BthubError: it knows other classes.
    """
    found = scores(run, evaluation)
    if len(found.labels) != 2 or sum(map(is_healthy, found.labels)) != 1:
        raise BthubError(
            f"{name(run)} has the classes {', '.join(found.labels)}. A threshold decides only between two classes, "
            "one of them without a tumor: choose another model"
        )
    return found if found.threshold is not None else replace(found, threshold=0.5)


def top_losses(found: Scores) -> list[Row]:
    """Images by how wrong the model was, worst first.

    Returns:
        The ids, `label`, `predicted`, `p_label` (probability of the true class), `loss` (its negative logarithm) and
        `kind`: missed, false alarm, confused or right.
    """
    p_true = found.p[np.arange(len(found.y)), found.y]
    predicted = found.predicted
    lines = []
    for i in np.argsort(p_true, kind="stable"):
        label, guess = found.labels[found.y[i]], found.labels[predicted[i]]
        lines.append(
            {
                **{key: found.rows[i][key] for key in found.rows[i] if not key.startswith("p_") and key != "label"},
                "label": label,
                "predicted": guess,
                "p_label": float(p_true[i]),
                "loss": log_loss(p_true[i]),
                "kind": _kind(label, guess),
            }
        )
    return lines


def _kind(label: str, predicted: str) -> str:
    if label == predicted:
        return "right"
    if is_healthy(predicted):
        return "missed"
    return "false alarm" if is_healthy(label) else "confused"


# -- threshold


def at_threshold(found: Scores, threshold: float) -> dict:
    """The metrics of a detector at another threshold, without intervals, and its confusion matrix."""
    predicted, tumor = found.p_tumor >= threshold, found.is_tumor
    tp, fn = int((tumor & predicted).sum()), int((tumor & ~predicted).sum())
    fp, tn = int((~tumor & predicted).sum()), int((~tumor & ~predicted).sum())
    # Counted here and not by `classification_metrics`, which ranks as well: a slider asks for many of these.
    return {
        "threshold": threshold,
        "precision": _share(tp, tp + fp),
        "recall": _share(tp, tp + fn),
        "specificity": _share(tn, tn + fp),
        "f1": _share(2 * tp, 2 * tp + fn + fp),
        "false_positive_rate": _share(fp, tn + fp),
        "tp": tp,
        "fn": fn,
        "fp": fp,
        "tn": tn,
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
    predicted = found.p_tumor >= threshold
    return float((miss_cost * (found.is_tumor & ~predicted) + (~found.is_tumor & predicted)).mean())


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
    return middle(lower[widest], upper[widest])


# -- calibration


def temperature(run: RunFolder) -> float:
    """The temperature that was fitted on validation."""
    return run.detector_calibration.temperature


def calibration_error(found: Scores, p: np.ndarray) -> float:
    """Expected calibration error of `p` for the images of `found`, as the evaluation computes it."""
    return expected_calibration_error(found.y, p, positive_class(found.labels))


FEWEST_IN_BIN = 25
"""So many images a point of a reliability diagram stands for, at least: with fewer it lies anywhere by chance."""


def reliability(found: Scores, p: np.ndarray, bins: int = 10, fewest: int = FEWEST_IN_BIN) -> list[Row]:
    """Stated probability against observed share, in bins of equal width; those of few images are taken together.

    With two classes of the probability of tumor, with more of the most probable class.

    Args:
        found: the images.
        p: (N, classes) their probabilities.
        bins: of equal width, to begin with.
        fewest: a bin with fewer images goes together with the next ones, until there are so many.

    Returns:
        `stated` and `observed`, both means, `low` and `high` (Wilson's 95% interval of the share, as if images were
        independent), `images` and `bin`.
    """
    outcome, confidence = calibrated_outcome(found.y, p, positive_class(found.labels))
    member = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = []
    for first, last in _merged(np.bincount(member, minlength=bins), fewest):
        inside = (member >= first) & (member <= last)
        count, hits = int(inside.sum()), int(outcome[inside].sum())
        low, high = map(float, binomtest(hits, count).proportion_ci(method="wilson"))
        rows.append(
            {
                "stated": float(confidence[inside].mean()),
                "observed": hits / count,
                "low": low,
                "high": high,
                "images": count,
                "bin": f"{first / bins:.0%} to {(last + 1) / bins:.0%}",
            }
        )
    return rows


def _merged(counts: np.ndarray, fewest: int) -> list[tuple[int, int]]:
    """Ranges of neighboring bins, first and last, that hold so many images each, as far as there are so many."""
    ranges, first, held = [], 0, 0
    for k, count in enumerate(counts):
        held += int(count)
        if held >= fewest:
            ranges.append((first, k))
            first, held = k + 1, 0
    if held:  # too few are left: they go to the last range
        start = ranges.pop()[0] if ranges else 0
        ranges.append((start, len(counts) - 1))
    return ranges


def review(found: Scores, low: float, high: float) -> dict[str, float | int | None]:
    """What happens when probabilities from `low` to below `high` go to a person.

    Returns:
        `reviewed` (share of all images), `fn` and `fp` (counts among the others) and `errors` (their
        share among the others, None when nobody is left).
    """
    p, tumor = found.p_tumor, found.is_tumor
    unsure = (p >= low) & (p < high)
    missed, alarms = int((tumor & (p < low)).sum()), int((~tumor & (p >= high)).sum())
    return {
        "reviewed": float(unsure.mean()),
        "fn": missed,
        "fp": alarms,
        "errors": _share(missed + alarms, int((~unsure).sum())),
    }


# -- masks

SIZES = {
    f"{least:,} and more" if below is None else f"{least:,} to {below:,}" if least > 1 else f"under {below:,}": below
    or math.inf
    for least, below in TUMOR_SIZES.values()
}
"""Ranges of tumor area on a slice in pixels, by the end that they don't reach."""
FALSE_MASK = "mask on a tumor-free slice"


def masks(run: RunFolder, evaluation: Evaluation) -> list[Row]:
    """What a localizer outlined on each slice.

    Returns:
        The ids, `tumor_px`, `predicted_px`, `intersection_px`, `dice` (None where nothing is and nothing was
        outlined), `size` (see `SIZES`; "no tumor") and `kind`: outlined, missed, `FALSE_MASK` or tumor-free.
    """
    entry(run, evaluation)
    rows = run.predictions(evaluation.key)
    with reading(run, _predictions_file(evaluation)):
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
                    "kind": ("outlined" if drawn else "missed") if tumor else (FALSE_MASK if drawn else "tumor-free"),
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
            total[key] += int(line[column])
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


def _predictions_file(evaluation: Evaluation) -> str:
    return f"{PREDICTIONS}/{evaluation.protocol}-{evaluation.split}.csv"


def _share(part: float, of: float) -> float | None:
    return float(part / of) if of else None
