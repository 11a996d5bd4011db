"""Metrics of a mixture by source and view: pure functions of the predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bthub.data.views import AS_IT_IS, View
from bthub.imaging.kinds import KINDS
from bthub.metrics.bootstrap import RESAMPLES, percentile_interval, ratio, resample_groups
from bthub.metrics.classification import classification_metrics
from bthub.metrics.info import CENTER_IN_BOX
from bthub.metrics.interval import Interval
from bthub.metrics.segmentation import segmentation_metrics
from bthub.runs.operating_point import OperatingPoint

MIX = "mix"
"""Stands for the protocol in the names of files and entries."""
LABELS = ["no_tumor", "tumor"]
COUNTS = ("tumor_px", "predicted_px", "intersection_px", "pixels")
OF_HEALTHY = ("tumor_free_slices_with_mask", "tumor_free_mask_px")
MASKED = ("predicted_px", "intersection_px", "in_box")
"""Columns that depend on what is a mask: as they are for a picture of unknown kind, after a kind's name for that."""
_DECISIONS = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1")
"""Figures that depend on the threshold, which differs by kind of input; the others are of the probability."""


def measure_detector(predictions: Sequence[dict[str, str]], points: dict[str | None, OperatingPoint]) -> dict[str, Any]:
    """Figures of each source and view: a pure function of the predictions file.

    Args:
        predictions: rows with `source`, `view`, `label`, `p_tumor`, `kind` (what it is taken for, or empty), `refused`
            (1 where the input check refuses it; it is measured all the same; empty without a check) and `group`.
        points: by kind what is done to the probability, and from where on it is called tumor.

    Returns:
        By `View.key`: `samples`, `tumor`, `refused`, `uncertain` (share), `kinds` (how many are taken for each), and
        `metrics` with intervals.
        AUC and calibration error are of the probability, the rest of the verdict at the threshold of its kind.
    """
    measured = {}
    for key, lines in _by_view(predictions).items():
        y = np.array([LABELS.index(line["label"]) for line in lines])
        used = [points.get(line["kind"], points[None]) for line in lines]
        p = np.array([point.calibrate(float(line["p_tumor"])) for point, line in zip(used, lines, strict=True)])
        # The same picture is called tumor, as if all had one threshold.
        called = np.array([value >= point.threshold for point, value in zip(used, p, strict=True)])
        groups = [line["group"] for line in lines]
        of_p = classification_metrics(y, _pair(p), LABELS, positive=1, threshold=0.5, groups=groups)
        of_calls = classification_metrics(y, _pair(called), LABELS, positive=1, threshold=0.5, groups=groups)
        metrics = {
            name: of_calls["metrics"][name] if name in _DECISIONS else value for name, value in of_p["metrics"].items()
        }
        measured[key] = {
            "samples": len(lines),
            "groups": of_p["groups"],
            "tumor": int(y.sum()),
            "refused": sum(line["refused"] == "1" for line in lines) if lines[0]["refused"] else None,
            "kinds": {kind: sum(line["kind"] == kind for line in lines) for kind in KINDS},
            "uncertain": float(np.mean([point.is_uncertain(v) for point, v in zip(used, p, strict=True)])),
            "confusion_matrix": of_calls["confusion_matrix"],
            "metrics": metrics,
        }
    return measured


def measure_kinds(predictions: Sequence[dict[str, str]], points: dict[str | None, OperatingPoint]) -> dict[str, Any]:
    """How often the verdict is right for pictures that are taken for a kind, whatever their source.

    Returns:
        By kind: `samples`, `tumor`, and of `metrics` only what is of tumor or of healthy pictures alone, `recall` and
        `specificity`: a figure of both would be one across sources.
    """
    measured = {}
    for kind in KINDS:
        lines = [line | {"source": kind, "view": AS_IT_IS} for line in predictions if line["kind"] == kind]
        if len({line["label"] for line in lines}) == len(LABELS):
            found = measure_detector(lines, points)[kind]
            metrics = {name: found["metrics"][name] for name in ("recall", "specificity")}
            measured[kind] = {"samples": found["samples"], "tumor": found["tumor"], "metrics": metrics}
    return measured


def at_kind(line: dict[str, str], kind: str) -> dict[str, str]:
    """A line of a localizer's predictions with the mask that it gives in a picture of this kind of input."""
    return line | {name: line[f"{kind} {name}"] for name in MASKED if f"{kind} {name}" in line}


def at_own_kind(line: dict[str, str]) -> dict[str, str]:
    """The same for the kind that the picture is."""
    return at_kind(line, View(0, line["source"], line["view"]).kind)


def measure_localizer(predictions: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Figures of each source and view: a pure function of the predictions file.

    Args:
        predictions: rows with `source`, `view`, `label`, `group`, the pixel counts, and `in_box`: 1 or 0 where the
            picture has a box, else empty. See `at_kind` for what they are of.

    Returns:
        By `View.key`: `samples`, `tumor`, and `metrics` with intervals: those of `segmentation_metrics` where there are
        outlines; `center_in_box`, the share of boxes that the center of the mask lies in, where there are boxes;
        else of the healthy pictures alone the share with a mask.
    """
    measured = {}
    for key, lines in _by_view(predictions).items():
        healthy = [line for line in lines if line["label"] == LABELS[0]]
        outlined = [line for line in lines if line["outlined"] == "1"]  # healthy ones too
        metrics: dict[str, Interval] = {}
        if outlined:
            counts = (np.array([int(line[n]) for line in outlined]) for n in COUNTS)
            metrics |= segmentation_metrics(*counts, groups=[line["group"] for line in outlined])["metrics"]
        if len(outlined) == len(healthy):  # no tumor has an outline: a Dice would be of false masks alone
            metrics = {name: value for name, value in metrics.items() if name in OF_HEALTHY}
        boxed = [line for line in lines if line["in_box"]]
        if boxed:
            hits = np.array([float(line["in_box"]) for line in boxed])
            drawn, member = resample_groups([line["group"] for line in boxed], len(boxed), RESAMPLES, 0)
            weights = drawn[:, member]
            samples = ratio(weights @ hits, weights.sum(axis=1))
            metrics[CENTER_IN_BOX] = percentile_interval(float(hits.mean()), samples)
        measured[key] = {
            "samples": len(lines),
            "tumor": len(lines) - len(healthy),
            "metrics": {name: value for name, value in metrics.items() if value.value is not None},
        }
    return measured


def _by_view(predictions: Sequence[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for line in predictions:
        found.setdefault(View(0, line["source"], line["view"]).key, []).append(line)
    return found


def _pair(p: np.ndarray) -> np.ndarray:
    p = p.astype(float)
    return np.stack([1 - p, p], axis=1)
