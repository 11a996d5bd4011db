"""`bthub evaluate` on a mixture: metrics for each source and kind of picture, never across sources.

Tumor and healthy pictures of different sets come from different places. A network that tells the places apart would
seem to see tumors in figures over all of them; within a source it has to look.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from datasets import Dataset as Rows

from bthub.data.fingerprint import describe_rows
from bthub.data.views import AS_IT_IS, View, view_batches, views
from bthub.errors import BthubError
from bthub.imaging.kinds import KINDS, kind_of
from bthub.metrics.bootstrap import RESAMPLES, percentile_interval, ratio, resample_groups
from bthub.metrics.classification import classification_metrics
from bthub.metrics.info import CENTER_IN_BOX
from bthub.metrics.interval import Interval
from bthub.metrics.segmentation import segmentation_metrics
from bthub.models.classifier import load_classifier
from bthub.models.input_check import load_input_check
from bthub.models.localizer import load_localizer
from bthub.runs.folder import (
    CLASSIFICATION,
    INPUT_CHECK,
    INPUT_CHECK_WEIGHTS,
    PREDICTIONS,
    SOURCES,
    RunFolder,
    write_json,
    write_rows,
)
from bthub.runs.operating_point import OperatingPoint

MIX = "mix"
"""What stands for the protocol in the names of files and entries."""
LABELS = ["no_tumor", "tumor"]
_DECISIONS = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1")
"""Figures that depend on the threshold, which differs by kind of input; the others are of the probability."""


def evaluate_sources(
    folder: RunFolder, rows: Rows, split: str, *, name: str, command: str, batch_size: int, device: str
) -> dict:
    """Measure a run on a split of a mixture.

    Writes `predictions/mix-<split>.csv` and the entry of that split in `sources.json`.

    Args:
        folder: a detector's run, whose input check decides the kind of input, or a localizer's.
        rows: of the split.
        split: its name.
        name: of the data set, `command` what wrote this, both for the record.
        batch_size: images in a batch.
        device: of torch.

    Returns:
        The entry: of a detector `by_kind`, see `measure_kinds`; and `by_source`, for each source and view what
        `measure_detector` or `measure_localizer` gives.

    Raises:
        BthubError: the run tells other classes than tumor and no tumor.
    """
    shown = views(rows)
    if folder.task == CLASSIFICATION:
        points = folder.detector_calibration.points
        predictions = _detect(folder, rows, shown, batch_size, device)
        measured = measure_detector(predictions, points)
        by_kind = measure_kinds(predictions, points)
    else:
        predictions = _localize(folder, rows, shown, batch_size, device)
        measured, by_kind = measure_localizer(predictions), {}
    (folder.path / PREDICTIONS).mkdir(exist_ok=True)
    write_rows(folder.path / PREDICTIONS / f"{MIX}-{split}.csv", predictions)
    entry = {
        "task": folder.task,
        "by_source": measured,
        **({"by_kind": by_kind} if by_kind else {}),
        "dataset": {"name": name, **describe_rows(rows)},
        "weights": folder.revision,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = folder.path / SOURCES
    # Read again: another split may have been evaluated meanwhile.
    write_json(path, {**(replace(folder).sources if path.exists() else {}), split: entry})
    return entry


def measure_detector(predictions: Sequence[dict[str, str]], points: dict[str | None, OperatingPoint]) -> dict[str, Any]:
    """Figures of each source and view: a pure function of the predictions file.

    Args:
        predictions: rows with `source`, `view`, `label`, `p_tumor`, `kind` (what it is taken for, or empty), `refused`
            (1 where the input check refuses it; it is measured all the same) and `group`.
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
            "refused": sum(line["refused"] == "1" for line in lines),
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


def measure_localizer(predictions: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Figures of each source and view: a pure function of the predictions file.

    Args:
        predictions: rows with `source`, `view`, `label`, `group`, the pixel counts, and `in_box`: 1 or 0 where the
            picture has a box, else empty.

    Returns:
        By `View.key`: `samples`, `tumor`, and `metrics` with intervals: those of `segmentation_metrics` where there are
        outlines; `center_in_box`, the share of boxes that the center of the mask lies in, where there are boxes;
        else of the healthy pictures alone the share with a mask.
    """
    measured = {}
    for key, lines in _by_view(predictions).items():
        healthy = [line for line in lines if line["label"] == LABELS[0]]
        outlined = [line for line in lines if line["outlined"] == "1"] or healthy
        metrics: dict[str, Interval] = {}
        if outlined:
            counts = (np.array([int(line[n]) for line in outlined]) for n in _COUNTS)
            metrics |= segmentation_metrics(*counts, groups=[line["group"] for line in outlined])["metrics"]
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
            "metrics": {name: value for name, value in metrics.items() if value["value"] is not None},
        }
    return measured


_COUNTS = ("tumor_px", "predicted_px", "intersection_px", "pixels")


def _by_view(predictions: Sequence[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for line in predictions:
        found.setdefault(View(0, line["source"], line["view"]).key, []).append(line)
    return found


def _pair(p: np.ndarray) -> np.ndarray:
    p = p.astype(float)
    return np.stack([1 - p, p], axis=1)


def _ids(rows: Rows, shown: Sequence[View]) -> list[dict[str, str]]:
    """What each view's line begins with; slices of a patient belong together, as copies of a picture do."""
    names = rows.features["label"].names
    columns = {name: rows[name][:] for name in ("patient_id", "file", "group", "label")}
    return [
        {
            "source": view.source,
            "view": view.name,
            "file": columns["file"][view.row],
            "group": columns["patient_id"][view.row] or str(columns["group"][view.row]),
            "label": names[columns["label"][view.row]],
        }
        for view in shown
    ]


def _detect(folder: RunFolder, rows: Rows, shown: Sequence[View], batch_size: int, device: str) -> list[dict[str, str]]:
    classifier = load_classifier(folder, device)
    if classifier.labels != LABELS:
        raise BthubError(
            f"{folder.id} has the classes {', '.join(classifier.labels)}, but a mixture has {', '.join(LABELS)}: "
            "evaluate it on a data set with its own classes"
        )
    settings, weights = folder.path / INPUT_CHECK, folder.path / INPUT_CHECK_WEIGHTS
    check = load_input_check(settings, weights, device) if settings.is_file() else None
    lines = _ids(rows, shown)
    rest = iter(lines)
    for batch in view_batches(rows, shown, batch_size, "evaluating"):
        pictures = [picture for _, picture in batch]
        probabilities = classifier.predict(pictures)[:, 1]
        seen = check.inspect(pictures) if check else [(True, None)] * len(pictures)
        for picture, p, (accepted, gray) in zip(pictures, probabilities, seen, strict=True):
            kind = kind_of(picture, gray) or ""
            next(rest).update({"refused": str(int(not accepted)), "kind": kind, "p_tumor": repr(float(p))})
    return lines


def _localize(
    folder: RunFolder, rows: Rows, shown: Sequence[View], batch_size: int, device: str
) -> list[dict[str, str]]:
    localizer = load_localizer(folder, device)
    lines = _ids(rows, shown)
    rest = iter(lines)
    for batch in view_batches(rows, shown, batch_size, "evaluating"):
        for (view, _), found in zip(batch, localizer.masks([picture for _, picture in batch]), strict=True):
            row = rows[view.row]
            healthy = row["label"] == 0
            reference = np.zeros_like(found) if row["mask"] is None else np.asarray(row["mask"]) > 0
            in_box = ""
            if row["box"]:
                in_box = str(int(found.any() and _center_in(found, row["box"])))
            counts = (reference.sum(), found.sum(), (reference & found).sum(), found.size)
            next(rest).update(
                {
                    "outlined": str(int(healthy or row["mask"] is not None)),
                    "in_box": in_box,
                    **{name: str(int(n)) for name, n in zip(_COUNTS, counts, strict=True)},
                }
            )
    return lines


def _center_in(mask: np.ndarray, box: Sequence[float]) -> bool:
    """Whether the center of mass of a mask (H, W) lies in a box x0, y0, x1, y1."""
    y, x = (places.mean() + 0.5 for places in np.nonzero(mask))
    return bool(box[0] <= x <= box[2] and box[1] <= y <= box[3])


def summary(entry: dict) -> str:
    """The main figures of an entry of `sources.json` as a table."""
    wanted = (
        ("roc_auc", "balanced_accuracy", "recall", "specificity", "ece")
        if entry["task"] == CLASSIFICATION
        else ("dice_volume_mean", "dice_tumor_slices", "healthy_slices_with_mask", CENTER_IN_BOX)
    )
    lines = [entry["command"], f"{'':24}{'images':>7}{'tumor':>7}" + "".join(f"{name[:18]:>20}" for name in wanted)]
    for key, found in entry["by_source"].items():
        figures = "".join(f"{_figure(found['metrics'].get(name)):>20}" for name in wanted)
        lines.append(f"{key:24}{found['samples']:>7}{found['tumor']:>7}{figures}")
    return "\n".join(lines)


def _figure(value: Interval | None) -> str:
    if value is None or value["value"] is None:
        return "-"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.2f}-{value['high']:.2f})"
