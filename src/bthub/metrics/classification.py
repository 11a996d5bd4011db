"""Classification metrics: pure functions on arrays.

Point values come from scikit-learn wherever it computes them; the bootstrap computes the same in bulk, for all
resamples at once. A value that isn't defined (a recall without a positive, an AUC of one class) is None, never NaN and
never a made-up 0 or 1; a mean over classes is defined only when each of its terms is. The calibration error is biased
upwards in every resample, so its interval may lie above its value.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from bthub.imaging.labels import is_healthy
from bthub.metrics.bootstrap import RESAMPLES, percentile_interval, ratio, resample_groups
from bthub.metrics.interval import Interval

ECE_BINS = 15


def classification_metrics(
    y_true: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    *,
    positive: int | None = None,
    threshold: float | None = None,
    temperature: float | None = None,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    keep_resamples: bool = False,
) -> dict:
    """Measure a classifier.

    Two classes with `positive` and `threshold`: an image is called positive when its probability reaches the
    threshold; precision, recall, specificity, F1, AUC and average precision are those of the positive class.
    Otherwise the most probable class is called, and these are unweighted means over the classes, one against the
    rest. The Brier score of two classes is that of one class's probability (0 to 1), of more the sum over the
    classes (0 to 2). Calibration error: see `expected_calibration_error`.

    Args:
        y_true: (N,) indices into `labels`.
        probabilities: (N, classes), each row a distribution.
        labels: names of the classes.
        positive: index of the positive class, for two classes.
        threshold: operating threshold on its probability, needed with `positive`.
        temperature: that the logits were divided by. With it, the calibration error that there would be without is
            measured too.
        groups: (N,) patient of each image, or the picture that it is a copy of; None where images are independent.
        keep_resamples: for `paired_difference`.

    Returns:
        `samples`, `groups` (counts), `labels`, `threshold`, `metrics` and `class_accuracy` (each name with
        its `Interval`; the class accuracy is the recall of that class), `confusion_matrix` (rows are the
        reference). With `keep_resamples` also `resampled`, each metric's values (R,).

    Raises:
        ValueError: no samples, or arrays that don't fit each other.
    """
    y, p = np.asarray(y_true), np.asarray(probabilities, dtype=np.float64)
    classes = len(labels)
    if len(y) == 0:
        raise ValueError("there are no samples to measure")
    if p.shape != (len(y), classes) or not (0 <= y.min() and y.max() < classes):
        raise ValueError(f"expected {classes} probabilities and a label below {classes} for each of {len(y)} samples")
    if not (np.all(p >= 0) and np.allclose(p.sum(axis=1), 1, atol=1e-3)):
        raise ValueError("probabilities must lie between 0 and 1 and sum to 1 in each row")
    if positive is None:
        scored = list(range(classes))
        predicted = p.argmax(axis=1)
    else:
        if classes != 2 or threshold is None:
            raise ValueError("a positive class needs exactly two classes and an operating threshold")
        scored = [positive]
        predicted = np.where(p[:, positive] >= threshold, positive, 1 - positive)

    drawn, member = resample_groups(groups, len(y), resamples, seed)
    values, class_accuracy = _classification_values(y, p, predicted, scored)
    samples, class_samples = _classification_resamples(y, p, predicted, scored, drawn[:, member])
    if temperature is not None:
        plain = uncalibrated(p, temperature)
        outcome, confidence = calibrated_outcome(y, plain, scored[-1])
        values["ece_uncalibrated"] = expected_calibration_error(y, plain, scored[-1])
        samples["ece_uncalibrated"] = _calibration_errors(outcome, confidence, drawn[:, member])
    return {
        "samples": len(y),
        "groups": drawn.shape[1],
        "labels": list(labels),
        "threshold": threshold,
        "metrics": {name: percentile_interval(value, samples[name]) for name, value in values.items()},
        "class_accuracy": {
            label: percentile_interval(class_accuracy[k], class_samples[:, k]) for k, label in enumerate(labels)
        },
        "confusion_matrix": confusion_matrix(y, predicted, labels=range(classes)).tolist(),
        **({"resampled": samples} if keep_resamples else {}),
    }


def expected_calibration_error(y_true: np.ndarray, probabilities: np.ndarray, positive: int = 1) -> float:
    """Expected calibration error, 0 to 1, over 15 bins of equal width.

    With two classes, of the probability of the positive one: within each bin, the share of images that are positive
    is compared with their mean probability. With more, of the highest probability: the share of images whose most
    probable class is right is compared with the mean of that probability. The error is the mean absolute difference,
    each bin weighted by its images. A bin holds its lower end, the last one both ends.

    Args:
        y_true: (N,) class indices.
        probabilities: (N, classes).
        positive: index of the positive class, for two classes.
    """
    y, p = np.asarray(y_true), np.asarray(probabilities, dtype=np.float64)
    outcome, confidence = calibrated_outcome(y, p, positive)
    return float(_calibration_errors(outcome, confidence, np.ones((1, len(y))))[0])


def calibration_error_by_chance(probabilities: np.ndarray, draws: int = 1000, seed: int = 0) -> float:
    """What `expected_calibration_error` would be on average if these probabilities were exactly right.

    Not 0: the fewer images a bin holds, the further their share of positives is from their mean probability by chance.

    Args:
        probabilities: (N,) of the positive class, 0 to 1.
        draws: how many sets of N outcomes are drawn.
        seed: of what is drawn.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    outcomes = np.random.default_rng(seed).random((draws, len(p))) < p
    weights = np.ones((1, len(p)))
    return float(np.mean([_calibration_errors(outcome, p, weights)[0] for outcome in outcomes]))


def positive_class(labels: Sequence[str]) -> int:
    """The class that figures of two classes are about: tumor, or the last that isn't a healthy one's name."""
    if "tumor" in labels:
        return labels.index("tumor")
    return max((i for i, label in enumerate(labels) if not is_healthy(label)), default=len(labels) - 1)


def referred(
    y_true: np.ndarray, p_tumor: np.ndarray, band: Sequence[float], groups: Sequence[str] | None = None
) -> dict[str, Interval]:
    """What a referral band does on a split.

    Args:
        y_true: (N,) 1 or True where there is a tumor.
        p_tumor: (N,) probabilities.
        band: of `referral_band`.
        groups: (N,) patient of each image; None where images are independent.

    Returns:
        Each with its `Interval`: `referred`, the share of all images that fall into the band; and of those that the
        model is left alone with `false_negative_rate`, as a share of all tumor images, and `false_positive_rate`, of
        all tumor-free images. The last two are what the band was to hold down.
    """
    y, p = np.asarray(y_true).astype(bool), np.asarray(p_tumor, dtype=np.float64)
    low, high = band
    drawn, member = resample_groups(groups, len(y), RESAMPLES, 0)
    weights = np.vstack([np.ones(len(y)), drawn[:, member]])  # the split itself, then its resamples
    shares = {
        "referred": ratio(weights @ ((p >= low) & (p < high)), weights.sum(axis=1)),
        "false_negative_rate": ratio(weights @ (y & (p < low)), weights @ y),
        "false_positive_rate": ratio(weights @ (~y & (p >= high)), weights @ ~y),
    }
    return {name: percentile_interval(float(share[0]), share[1:]) for name, share in shares.items()}


def uncalibrated(p: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as they were before temperature scaling, which is folded into the weights: (N, classes)."""
    # softmax(T log p) equals softmax(logits): the constant that log p lacks cancels out.
    return softmax(temperature * np.log(np.maximum(p, np.finfo(float).tiny)), axis=1)


def _classification_values(
    y: np.ndarray, p: np.ndarray, predicted: np.ndarray, scored: list[int]
) -> tuple[dict[str, float], np.ndarray]:
    """Metrics of all samples, and the recall of each class. `scored` are the classes that means go over."""
    classes = range(p.shape[1])
    precision, recall, f1, _ = precision_recall_fscore_support(y, predicted, labels=classes, zero_division=np.nan)
    # specificity of a class is the recall of "not this class"
    specificity = [recall_score(y != k, predicted != k, zero_division=np.nan) for k in scored]
    ranked = all(0 < (y == k).sum() < len(y) for k in scored)  # ranking needs samples on both sides
    outcome, confidence = calibrated_outcome(y, p, scored[-1])
    if p.shape[1] == 2:
        brier = brier_score_loss(outcome, confidence, labels=[False, True])
    else:
        # In single precision a row sums to one but for rounding, which scikit-learn would warn of.
        shares = p / p.sum(axis=1, keepdims=True)
        brier = brier_score_loss(y, shares, labels=classes, scale_by_half=False)
    values = {
        "accuracy": accuracy_score(y, predicted),
        "balanced_accuracy": np.mean(recall),
        "precision": np.mean(precision[scored]),
        "recall": np.mean(recall[scored]),
        "specificity": np.mean(specificity),
        "f1": np.mean(f1[scored]),
        "roc_auc": np.mean([roc_auc_score(y == k, p[:, k]) for k in scored]) if ranked else np.nan,
        "average_precision": (
            np.mean([average_precision_score(y == k, p[:, k]) for k in scored]) if ranked else np.nan
        ),
        "brier": brier,
        "ece": expected_calibration_error(y, p, scored[-1]),
    }
    return values, recall


def _classification_resamples(
    y: np.ndarray, p: np.ndarray, predicted: np.ndarray, scored: list[int], weights: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What `_classification_values` gives, for each row of `weights` (R, N): (R,) arrays and (R, classes)."""
    classes = p.shape[1]
    confusion = np.stack(
        [weights @ ((y == i) & (predicted == j)) for i in range(classes) for j in range(classes)], axis=1
    ).reshape(-1, classes, classes)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    reference, called = confusion.sum(axis=2), confusion.sum(axis=1)
    total = weights.sum(axis=1)
    recall = ratio(hits, reference)
    rejected = total[:, None] - reference - called + hits
    ranking = np.array([_ranking(y == k, p[:, k], weights) for k in scored])
    outcome, confidence = calibrated_outcome(y, p, scored[-1])
    if classes == 2:
        error = (confidence - outcome) ** 2
    else:
        error = ((p - np.eye(classes)[y]) ** 2).sum(axis=1)
    values = {
        "accuracy": hits.sum(axis=1) / total,
        "balanced_accuracy": recall.mean(axis=1),
        "precision": ratio(hits, called)[:, scored].mean(axis=1),
        "recall": recall[:, scored].mean(axis=1),
        "specificity": ratio(rejected, total[:, None] - reference)[:, scored].mean(axis=1),
        "f1": ratio(2 * hits, reference + called)[:, scored].mean(axis=1),
        "roc_auc": ranking[:, 0].mean(axis=0),
        "average_precision": ranking[:, 1].mean(axis=0),
        "brier": weights @ error / total,
        "ece": _calibration_errors(outcome, confidence, weights),
    }
    return values, recall


def calibrated_outcome(y: np.ndarray, p: np.ndarray, positive: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) outcome and (N,) its probability: the positive class of two, else that the most probable is right."""
    if p.shape[1] == 2:
        return y == positive, p[:, positive]
    return y == p.argmax(axis=1), p.max(axis=1)


def _calibration_errors(outcome: np.ndarray, confidence: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error for each row of `weights` (R, N)."""
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    excess = np.zeros((len(confidence), ECE_BINS))
    excess[np.arange(len(bins)), bins] = outcome - confidence
    return np.abs(weights @ excess).sum(axis=1) / weights.sum(axis=1)


def _ranking(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ROC AUC and average precision for each row of `weights` (R, N); NaN without samples on both sides."""
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    weights = weights[:, order]
    zero = np.zeros((len(weights), 1))
    found = np.hstack([zero, np.cumsum(weights * positive[order], axis=1)[:, last_of_tie]])
    false = np.hstack([zero, np.cumsum(weights * ~positive[order], axis=1)[:, last_of_tie]])
    area = (np.diff(false) * (found[:, 1:] + found[:, :-1]) / 2).sum(axis=1)
    precision = np.nan_to_num(ratio(found, found + false))[:, 1:]  # 0 / 0 only where nothing was drawn yet
    auc = ratio(area, found[:, -1] * false[:, -1])
    average_precision = ratio((np.diff(found) * precision).sum(axis=1), found[:, -1])
    return auc, np.where(np.isnan(auc), np.nan, average_precision)
