"""How well a model does: pure functions on arrays, with 95 % intervals that resample whole patients.

Point values come from scikit-learn wherever it computes them; the bootstrap computes the same in bulk, for
all resamples at once. A value that isn't defined (a recall without a positive, an AUC of one class) is None,
never NaN and never a made-up 0 or 1; a mean over classes is defined only when each of its terms is.

Intervals are percentile intervals of a bootstrap over groups: as many patients as there are, drawn with
replacement, each with all its slices, because slices of one patient resemble each other. Without groups every
image is its own. A resample in which a metric isn't defined (all its patients healthy, say) is left out of
that metric's interval; where that is more than `MAX_UNDEFINED` of them there is no interval. Nor is there one for
fewer than `FEWEST_GROUPS`: of two patients the percentiles are just the better and the worse one. Of fifteen they
still are somewhat too narrow. The calibration error is biased upwards in every resample, so its interval may lie
above its value.
"""

import re
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

RESAMPLES = 1000
COVERAGE = 0.95
MAX_UNDEFINED = 0.1
FEWEST_GROUPS = 5
ECE_BINS = 15
TEMPERATURE_BOUNDS = (0.05, 20.0)

# How people read the names of metrics and counts that aren't just words.
_NAMES = {
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "ece_uncalibrated": "expected calibration error without the temperature",
    "dice_volume_mean": "Dice per patient, mean",
    "dice_volume_median": "Dice per patient, median",
    "iou_volume_mean": "IoU per patient, mean",
    "dice_tumor_slices": "Dice per tumor slice, mean",
    "dice_all_slices": "Dice per slice with tumor or mask, mean",
    "dice_pooled": "Dice of all pixels",
    "dice_tumor_slices_pooled": "Dice of all pixels of tumor slices",
    "iou_pooled": "IoU of all pixels",
    "iou_tumor_slices_pooled": "IoU of all pixels of tumor slices",
    "pixel_accuracy_tumor_slices": "pixel accuracy of tumor slices",
    "tumor_slices_missed": "share of tumor slices without a mask",
    "healthy_slices_with_mask": "share of healthy slices with a mask",
    "healthy_mask_px": "mask on healthy slices, mean pixels",
    "hd95_px": "95th-percentile Hausdorff distance, mean pixels",
}

Interval = dict[str, float | None]
"""`value` with the `low` and `high` end of its 95 % interval."""


def classification(
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
        keep_resamples: for `difference`.

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

    drawn, member = _resample(groups, len(y), resamples, seed)
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
        "metrics": {name: interval(value, samples[name]) for name, value in values.items()},
        "class_accuracy": {label: interval(class_accuracy[k], class_samples[:, k]) for k, label in enumerate(labels)},
        "confusion_matrix": confusion_matrix(y, predicted, labels=range(classes)).tolist(),
        **({"resampled": samples} if keep_resamples else {}),
    }


def segmentation(
    tumor_px: np.ndarray,
    predicted_px: np.ndarray,
    intersection_px: np.ndarray,
    pixels: np.ndarray,
    *,
    hd95_px: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    keep_resamples: bool = False,
) -> dict:
    """Measure masks from the pixel counts of each slice: reference, prediction, both, and the whole slice.

    Metrics, each with its `Interval`:
        dice_volume_mean, dice_volume_median, iou_volume_mean: over patients, the slices of each together.
            A patient without tumor has none: excluded and counted; a mask on it is a false positive.
        dice_tumor_slices: mean over slices with tumor; a slice without a mask counts 0.
        dice_all_slices: mean over slices with tumor or a mask; a mask on a healthy slice counts 0.
        dice_pooled, iou_pooled: of all pixels of all slices.
        dice_tumor_slices_pooled, iou_tumor_slices_pooled: of all pixels of the slices with tumor.
        pixel_accuracy, pixel_accuracy_tumor_slices: share of the pixels that agree, of all slices and of those with
            tumor. Nearly 1 for an empty mask too, because most pixels are healthy.
        tumor_slices_missed: share of the slices with tumor that got no mask.
        healthy_slices_with_mask: share of the slices without tumor that got any mask.
        healthy_mask_px: mean predicted area of the slices without tumor, in pixels.
        hd95_px: mean over slices with tumor and a mask of the 95th-percentile Hausdorff distance between the two
            outlines, in pixels; of the others there is none, and the Dice of missed slices tells of them.

    Args:
        tumor_px, predicted_px, intersection_px, pixels: (N,) counts in pixels.
        hd95_px: (N,) distances in pixels, NaN where there isn't a reference and a prediction.
        groups: (N,) patient of each slice; None makes each slice its own volume.
        keep_resamples: for `difference`.

    Returns:
        `samples`, `groups`, `metrics`, and `counts` of slices and volumes of each kind (marked: with a mask). With
        `keep_resamples` also `resampled`, each metric's values (R,).

    Raises:
        ValueError: no samples, or counts that can't be.
    """
    tumor, predicted, both, size = (np.asarray(a) for a in (tumor_px, predicted_px, intersection_px, pixels))
    if len(tumor) == 0:
        raise ValueError("there are no samples to measure")
    if not tumor.shape == predicted.shape == both.shape == size.shape:
        raise ValueError("expected the same number of counts for reference, prediction, intersection and pixels")
    if np.any(both < 0) or np.any(both > np.minimum(tumor, predicted)) or np.any(tumor + predicted - both > size):
        raise ValueError("an intersection exceeds its mask, or a union its slice")
    drawn, member = _resample(groups, len(tumor), resamples, seed)
    slices = np.stack([tumor, predicted, both, size], axis=1)
    volumes = np.zeros((drawn.shape[1], 4), dtype=np.int64)
    np.add.at(volumes, member, slices)

    everyone = np.ones((1, len(volumes)), dtype=drawn.dtype)
    values = _segmentation_values(slices, volumes, member, everyone)
    samples = _segmentation_values(slices, volumes, member, drawn)
    if hd95_px is not None:
        distance = np.asarray(hd95_px, dtype=float)
        measured = ~np.isnan(distance)
        if np.any(measured != (tumor > 0) & (predicted > 0)):
            raise ValueError("expected a distance for each slice with a reference and a prediction, and for no other")
        for found, weights in ((values, everyone[:, member]), (samples, drawn[:, member])):
            found["hd95_px"] = _ratio(weights @ np.where(measured, distance, 0), weights @ measured)
    healthy = tumor == 0
    healthy_volumes = volumes[:, 0] == 0
    return {
        "samples": len(tumor),
        "groups": len(volumes),
        "metrics": {name: interval(float(value[0]), samples[name]) for name, value in values.items()},
        "counts": {
            "tumor_slices": int((~healthy).sum()),
            "missed_tumor_slices": int((~healthy & (predicted == 0)).sum()),
            "healthy_slices": int(healthy.sum()),
            "marked_healthy_slices": int((healthy & (predicted > 0)).sum()),
            "volumes_with_tumor": int((~healthy_volumes).sum()),
            "volumes_without_tumor": int(healthy_volumes.sum()),
            "marked_volumes_without_tumor": int((healthy_volumes & (volumes[:, 1] > 0)).sum()),
        },
        **({"resampled": samples} if keep_resamples else {}),
    }


def difference(one: dict, other: dict, metric: str) -> Interval:
    """How much more `one` has of a metric than `other`, measured on the same images: a paired bootstrap.

    Both are resampled by the same draws of patients, so what makes a patient hard for everyone cancels out. An interval
    that holds 0 says that the two can't be told apart on these patients.

    Args:
        one, other: of `classification` or `segmentation` with `keep_resamples`, with the same groups and seed.
        metric: a name of `metrics`.
    """
    values = [measured["metrics"][metric]["value"] for measured in (one, other)]
    resampled = [np.asarray(measured["resampled"][metric], dtype=float) for measured in (one, other)]
    if one["groups"] != other["groups"] or len(resampled[0]) != len(resampled[1]):
        raise ValueError(f"expected the same groups, received {one['groups']} and {other['groups']}")
    if None in values:
        return interval(float("nan"), resampled[0])
    return interval(values[0] - values[1], resampled[0] - resampled[1])


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


def is_healthy(label: str) -> bool:
    """Whether a class is the one without a tumor, by the names that data sets give it."""
    return re.sub("[^a-z]", "", label.lower()) in ("notumor", "notumour", "no", "healthy", "normal", "negative")


def positive_class(labels: Sequence[str]) -> int:
    """The class that figures of two classes are about: tumor, or the last that isn't a healthy one's name."""
    if "tumor" in labels:
        return labels.index("tumor")
    return max((i for i, label in enumerate(labels) if not is_healthy(label)), default=len(labels) - 1)


def readable(name: str) -> str:
    """A metric's or a count's name as people read it."""
    return _NAMES.get(name, name.replace("_", " "))


def interval(value: float, samples: np.ndarray) -> Interval:
    """A value with the percentile interval of its resamples; NaN means not defined and becomes None."""
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    defined = samples[~np.isnan(samples)]
    if len(samples) == 0 or len(defined) < (1 - MAX_UNDEFINED) * len(samples):
        return {"value": float(value), "low": None, "high": None}
    low, high = np.quantile(defined, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return {"value": float(value), "low": float(low), "high": float(high)}


def centre(values: np.ndarray, groups: Sequence[str] | None = None) -> dict[str, Interval]:
    """`mean` and `median` of one value an image, each with its `Interval`.

    Args:
        values: (N,).
        groups: (N,) patient of each image, or the picture that it is a copy of; None where images are independent.

    Raises:
        ValueError: no values.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise ValueError("there are no values to summarise")
    drawn, member = _resample(groups, len(values), RESAMPLES, 0)
    weights = drawn[:, member]
    return {
        "mean": interval(float(values.mean()), _ratio(weights @ values, weights.sum(axis=1))),
        "median": interval(float(np.median(values)), _medians(values, weights)),
    }


def choose_threshold(y_true: np.ndarray, p_tumor: np.ndarray) -> float:
    """The threshold on the tumor probability (called tumor when reached) with the best balanced accuracy.

    Every threshold between two neighbouring probabilities calls the same images tumor. Of the ranges that
    reach the best balanced accuracy the widest is taken, and its middle returned.

    Args:
        y_true: (N,) 1 or True where there is a tumor.
        p_tumor: (N,) probabilities.

    Raises:
        ValueError: there aren't both images with and without tumor.
    """
    y, p = np.asarray(y_true).astype(bool), np.asarray(p_tumor, dtype=np.float64)
    if y.all() or not y.any():
        raise ValueError("choosing a threshold needs images with and without tumor")
    upper = np.unique(p)  # the threshold range of the k-th choice is (upper[k - 1], upper[k]]
    lower = np.append(0.0, upper[:-1])
    found = 1 - np.searchsorted(np.sort(p[y]), upper) / y.sum()
    spared = np.searchsorted(np.sort(p[~y]), upper) / (~y).sum()
    best = np.isclose(found + spared, (found + spared).max(), rtol=0, atol=1e-12)
    widest = np.argmax(np.where(best, upper - lower, -1))
    return middle(lower[widest], upper[widest])


def review_band(y_true: np.ndarray, p_tumor: np.ndarray, threshold: float, error: float) -> tuple[float, float]:
    """The band around a threshold in which a person should look: outside it, a call is wrong as rarely as asked.

    Below `low` lie at most `error` of the tumor images, and at most `error` of the healthy images reach `high`. Of all
    such bands that hold the threshold it is the narrowest, give or take the gap between two neighbouring
    probabilities: an end other than the threshold is the middle of its gap, as in `choose_threshold`.

    Args:
        y_true: (N,) 1 or True where there is a tumor.
        p_tumor: (N,) probabilities.
        threshold: from which an image is called tumor.
        error: share of the images of either kind, at least 0 and below 1.

    Returns:
        `low` and `high`, `low <= threshold <= high`; an image is uncertain where `low <= p < high`. Equal where no
        image needs to be. `high` is just above 1 where too many healthy images have a probability of 1.

    Raises:
        ValueError: there aren't both images with and without tumor, or `error` is out of range.
    """
    y, p = np.asarray(y_true).astype(bool), np.asarray(p_tumor, dtype=np.float64)
    if y.all() or not y.any():
        raise ValueError("choosing a review band needs images with and without tumor")
    if not 0 <= error < 1:
        raise ValueError(f"expected a share of errors from 0 to below 1, received {error}")
    tumor, healthy = np.sort(p[y]), np.sort(p[~y])[::-1]
    # A product such as 0.29 * 100 comes out just below the whole number that it stands for.
    first_kept, first_spared = tumor[int(error * len(tumor) + 1e-9)], healthy[int(error * len(healthy) + 1e-9)]
    low = high = float(threshold)
    if first_kept < threshold:
        low = middle(p[p < first_kept].max(initial=0.0), first_kept)
    if first_spared >= threshold:
        high = middle(first_spared, p[p > first_spared].min(initial=max(1.0, np.nextafter(first_spared, 2))))
    return low, high


def reviewed(
    y_true: np.ndarray, p_tumor: np.ndarray, band: Sequence[float], groups: Sequence[str] | None = None
) -> dict[str, Interval]:
    """What a review band does on a split.

    Args:
        y_true: (N,) 1 or True where there is a tumor.
        p_tumor: (N,) probabilities.
        band: of `review_band`.
        groups: (N,) patient of each image; None where images are independent.

    Returns:
        Each with its `Interval`: `to_review`, the share of all images that fall into the band; and of those that the
        model is left alone with `missed`, as a share of all tumor images, and `false_alarms`, of all healthy images.
        The last two are what the band was to hold down.
    """
    y, p = np.asarray(y_true).astype(bool), np.asarray(p_tumor, dtype=np.float64)
    low, high = band
    drawn, member = _resample(groups, len(y), RESAMPLES, 0)
    weights = np.vstack([np.ones(len(y)), drawn[:, member]])  # the split itself, then its resamples
    shares = {
        "to_review": _ratio(weights @ ((p >= low) & (p < high)), weights.sum(axis=1)),
        "missed": _ratio(weights @ (y & (p < low)), weights @ y),
        "false_alarms": _ratio(weights @ (~y & (p >= high)), weights @ ~y),
    }
    return {name: interval(float(share[0]), share[1:]) for name, share in shares.items()}


def middle(lower: float, upper: float) -> float:
    """A number above `lower`, up to `upper`: their middle, but between neighbouring floats that may round down."""
    half = (lower + upper) / 2
    return float(half if half > lower else upper)


def uncalibrated(p: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as they were before temperature scaling, which is folded into the weights: (N, classes)."""
    # softmax(T log p) equals softmax(logits): the constant that log p lacks cancels out.
    return softmax(temperature * np.log(np.maximum(p, np.finfo(float).tiny)), axis=1)


def fit_temperature(logits: np.ndarray, y_true: np.ndarray) -> float:
    """The temperature that minimises the negative log-likelihood of softmax(logits / temperature).

    Args:
        logits: (N, classes).
        y_true: (N,) class indices.

    Returns:
        A temperature within `TEMPERATURE_BOUNDS`; 1 leaves the probabilities as they are.

    Raises:
        ValueError: no samples, or arrays that don't fit each other.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(y_true)
    if z.ndim != 2 or y.shape != (len(z),) or len(y) == 0:
        raise ValueError(f"expected logits (N, classes) and N labels, received {z.shape} and {y.shape}")
    rows = np.arange(len(y))
    fit = minimize_scalar(
        lambda log_t: -log_softmax(z / np.exp(log_t), axis=1)[rows, y].mean(),
        bounds=np.log(TEMPERATURE_BOUNDS),
        method="bounded",
    )
    return float(np.exp(fit.x))


def _resample(groups: Sequence[str] | None, n: int, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw groups with replacement.

    Returns:
        (resamples, groups) how often each group was drawn, empty when there are fewer than FEWEST_GROUPS; and (n,)
        the group of each sample.
    """
    if groups is None:
        member = np.arange(n)
    elif len(groups) == n:
        member = np.unique(np.asarray(groups), return_inverse=True)[1]
    else:
        raise ValueError(f"expected a group for each of {n} samples, received {len(groups)}")
    count = member.max() + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples if count >= FEWEST_GROUPS else 0)
    return drawn.astype(np.float64), member


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Numerator / denominator, NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)


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
    recall = _ratio(hits, reference)
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
        "precision": _ratio(hits, called)[:, scored].mean(axis=1),
        "recall": recall[:, scored].mean(axis=1),
        "specificity": _ratio(rejected, total[:, None] - reference)[:, scored].mean(axis=1),
        "f1": _ratio(2 * hits, reference + called)[:, scored].mean(axis=1),
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
    precision = np.nan_to_num(_ratio(found, found + false))[:, 1:]  # 0 / 0 only where nothing was drawn yet
    auc = _ratio(area, found[:, -1] * false[:, -1])
    average_precision = _ratio((np.diff(found) * precision).sum(axis=1), found[:, -1])
    return auc, np.where(np.isnan(auc), np.nan, average_precision)


def _segmentation_values(
    slices: np.ndarray, volumes: np.ndarray, member: np.ndarray, drawn: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics for each row of `drawn` (R, volumes); the columns of `slices` and `volumes` are the counts."""
    tumor, predicted, both, size = slices.T
    weights = drawn[:, member]

    def mean(values: np.ndarray, of: np.ndarray, weights: np.ndarray = weights) -> np.ndarray:
        return _ratio(weights @ np.where(of, values, 0), weights @ of)

    def pooled(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        return _ratio(weights @ numerator, weights @ denominator)

    dice = _ratio(2 * both, tumor + predicted)
    volume_tumor, volume_predicted, volume_both, _ = volumes.T
    volume_dice = _ratio(2 * volume_both, volume_tumor + volume_predicted)
    volume_iou = _ratio(volume_both, volume_tumor + volume_predicted - volume_both)
    has_tumor, healthy, ill = tumor > 0, tumor == 0, volume_tumor > 0
    return {
        "dice_volume_mean": mean(volume_dice, ill, drawn),
        "dice_volume_median": _medians(volume_dice[ill], drawn[:, ill]),
        "iou_volume_mean": mean(volume_iou, ill, drawn),
        "dice_tumor_slices": mean(dice, has_tumor),
        "dice_all_slices": mean(dice, tumor + predicted > 0),
        "dice_pooled": pooled(2 * both, tumor + predicted),
        "dice_tumor_slices_pooled": pooled(2 * both, (tumor + predicted) * has_tumor),
        "iou_pooled": pooled(both, tumor + predicted - both),
        "iou_tumor_slices_pooled": pooled(both * has_tumor, (tumor + predicted - both) * has_tumor),
        "pixel_accuracy": pooled(size - tumor - predicted + 2 * both, size),
        "pixel_accuracy_tumor_slices": pooled((size - tumor - predicted + 2 * both) * has_tumor, size * has_tumor),
        "tumor_slices_missed": mean(predicted == 0, has_tumor),
        "healthy_slices_with_mask": mean(predicted > 0, healthy),
        "healthy_mask_px": mean(predicted, healthy),
    }


def _medians(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Medians of `values` (G,), each repeated as often as drawn, for each row of `drawn` (R, G)."""
    repeated = (np.repeat(values, row.astype(int)) for row in drawn)
    return np.array([np.median(row) if len(row) else np.nan for row in repeated])
