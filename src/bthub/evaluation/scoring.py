"""From saved predictions to metrics: pure functions, so every number in `metrics.json` can be recomputed."""

import math
import sys
from typing import Any

import numpy as np
from msgspec.structs import replace

from bthub.metrics.classification import classification_metrics, referred
from bthub.metrics.info import readable
from bthub.metrics.interval import Interval
from bthub.metrics.segmentation import segmentation_metrics
from bthub.runs.schema import Settings

IDS = ("patient_id", "slice_index", "institution", "file", "group", "also_in")
COUNTS = ("tumor_px", "predicted_px", "intersection_px", "pixels")
HD95 = "hd95_px"
"""Column of the 95th-percentile Hausdorff distance; empty where there isn't a reference and a mask."""
TUMOR_SIZES = {"small": (1, 500), "medium": (500, 2000), "large": (2000, None)}
"""Pixels of tumor on a slice, from and below, by which tumor slices are told apart."""
TOP_LOSSES = 6
ARGMAX = ("accuracy", "precision", "recall", "f1")
"""The figures that published classifiers report, which call the likelier class."""
DIGITS = 6
PROBABILITY = "p_"
"""What the columns of the classes' probabilities start with: `p_tumor`."""
TUMOR = "tumor"

UNSET = Settings()

Predictions = list[dict[str, str]]
"""Rows of a predictions file, as `RunFolder.predictions` gives them."""


def measure(predictions: Predictions, settings: Settings = UNSET) -> dict:
    """The metrics of a predictions file: a pure function, so every number can be recomputed from saved predictions.

    Args:
        predictions: rows with ids and, of a classifier, `label` and one probability per class, or, of a ResUNet, the
            pixel counts.
        settings: of a classifier; a ResUNet needs none.

    Returns:
        What `classification_metrics` or `segmentation_metrics` returns, and these keys:

            - `referral`: what a classifier's referral band does, see `referred`; None without one.
            - `argmax`: ARGMAX metrics of a classifier's argmax predictions, as published classifiers
              predict; None where `metrics` already are those, because there is no threshold.
            - `by_institution`: the same for each institution.
            - `by_tumor_size`: for the tumor slices of each of TUMOR_SIZES; empty if there are none.
            - `by_seen`: for images with a near-duplicate in an earlier split (`seen`) and the others (`unseen`);
              empty if there are none.
            - `top_losses`: the images with the highest loss: of a classifier the negative log-likelihood, of a
              ResUNet 1 - Dice.
    """
    measured = _measure(predictions, settings)
    if "label" in predictions[0]:
        measured["referral"] = _referral(predictions, settings)
        measured["argmax"] = _argmax(predictions, settings)
    institutions = sorted({row["institution"] for row in predictions if "institution" in row})
    measured["by_institution"] = {
        name: _measure([row for row in predictions if row["institution"] == name], settings) for name in institutions
    }
    measured["by_tumor_size"] = {}
    for name, (least, below) in TUMOR_SIZES.items():
        pixels = [int(row.get("tumor_px", 0)) for row in predictions]
        rows = [row for row, n in zip(predictions, pixels, strict=True) if least <= n and (below is None or n < below)]
        if rows:
            measured["by_tumor_size"][name] = {"tumor_px": [least, below], **_measure(rows, settings)}
    seen = [row for row in predictions if row.get("also_in")]
    unseen = [row for row in predictions if not row.get("also_in")]
    parts = {"seen": seen, "unseen": unseen} if seen else {}
    measured["by_seen"] = {name: _measure(rows, settings) for name, rows in parts.items() if rows}
    losses = [(loss, row) for row in predictions if (loss := loss_of(row)) is not None]
    worst = sorted(losses, key=lambda pair: -pair[0])[:TOP_LOSSES]
    measured["top_losses"] = [{**{k: row[k] for k in (*IDS, "label") if k in row}, "loss": loss} for loss, row in worst]
    return measured


def _referral(predictions: Predictions, settings: Settings) -> dict | None:
    """What a detector's referral band does to these images."""
    band = settings.referral_band
    if band is None or settings.threshold is None:
        return None
    tumor = [row["label"] == TUMOR for row in predictions]
    return referred(tumor, [float(row[PROBABILITY + TUMOR]) for row in predictions], band, _groups(predictions))


def _argmax(predictions: Predictions, settings: Settings) -> dict | None:
    """What a detector's figures would be without its threshold."""
    if settings.threshold is None:
        return None
    found = _measure(predictions, replace(settings, threshold=0.5))["metrics"]
    return {name: found[name] for name in ARGMAX}


def loss_of(row: dict[str, str]) -> float | None:
    """How badly a run does on one image, from its row of a predictions file; None where there is nothing to tell."""
    if "label" in row:
        return log_loss(float(row[PROBABILITY + row["label"]]))
    tumor, found, both, _ = (int(row[name]) for name in COUNTS)
    return 1 - 2 * both / (tumor + found) if tumor + found else None


def log_loss(p_true: float) -> float:
    """The negative logarithm of the probability of what is true; at most 709, where that is nothing at all."""
    return -math.log(max(p_true, sys.float_info.min))


def resampled(predictions: Predictions, settings: Settings) -> dict:
    """The figures alone, with the resamples that `paired_difference` compares two runs by."""
    return _measure(predictions, settings, keep_resamples=True)


def rounded(found: Any) -> Any:
    """Everything in it with floats of DIGITS decimals: beyond them a sum depends on the processor that makes it."""
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    if isinstance(found, Interval):
        return Interval(rounded(found.value), rounded(found.low), rounded(found.high))
    if isinstance(found, list):
        return [rounded(value) for value in found]
    return round(found, DIGITS) if isinstance(found, float) else found


def figures_table(metrics: dict[str, Interval]) -> list[str]:
    """Lines of a table of metrics with their intervals."""
    lines = [f"{'':48}value      95% interval"]
    for name, found in metrics.items():
        value = "-" if found.value is None else f"{found.value:.4f}"
        lines.append(f"{readable(name):48}{value:11}{found.bounds('.4f') or '- to -'}")
    return lines


def _measure(predictions: Predictions, settings: Settings, keep_resamples: bool = False) -> dict:
    groups = _groups(predictions)
    if "label" not in predictions[0]:
        counts = (np.array([int(row[name]) for row in predictions]) for name in COUNTS)
        distances = np.array([float(row[HD95] or "nan") for row in predictions])
        return segmentation_metrics(*counts, hd95_px=distances, groups=groups, keep_resamples=keep_resamples)
    labels, threshold = settings.labels, settings.threshold
    return classification_metrics(
        np.array([labels.index(row["label"]) for row in predictions]),
        np.array([[float(row[PROBABILITY + label]) for label in labels] for row in predictions]),
        labels,
        positive=None if threshold is None else labels.index(TUMOR),
        threshold=threshold,
        temperature=settings.temperature,
        groups=groups,
        keep_resamples=keep_resamples,
    )


def _groups(predictions: Predictions) -> list[str] | None:
    """What belongs together: the slices of a patient, the copies of a picture; None where nothing does."""
    together = next((name for name in ("patient_id", "group") if name in predictions[0]), None)
    return [row[together] for row in predictions] if together else None
