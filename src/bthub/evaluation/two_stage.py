"""Metrics of both stages together, from the predictions of two runs: no model is loaded, nothing is fitted."""

from typing import Any

from bthub.errors import BthubError
from bthub.evaluation.scoring import HD95, PROBABILITY, TUMOR, measure, rounded
from bthub.evaluation.source_metrics import MIX, at_kind, measure_localizer
from bthub.project import as_named
from bthub.runs import records
from bthub.runs.folder import CALIBRATION, CLASSIFICATION, METRICS, SEGMENTATION, SOURCES, RunFolder
from bthub.runs.records import image_key
from bthub.runs.schema import Measured

NO_MASK = {"predicted_px": "0", "intersection_px": "0", HD95: ""}


def two_stage(detector: RunFolder, localizer: RunFolder, split: str = "test") -> dict:
    """Detect, then localize: the localizer's masks count where the detector said tumor, elsewhere nothing is drawn.

    Args:
        detector, localizer: runs of one protocol, both evaluated on `split`.

    Returns:
        What `scoring.measure` gives for the masks that are left, after `detector`, `localizer` (name, weights), the
        detector's `threshold`, `protocol` and `split`.

    Raises:
        BthubError: a run is of the other kind, wasn't evaluated there, or they were measured on different images.
    """
    _check_tasks(detector, localizer)
    protocol = detector.training.protocol
    key = f"{protocol}/{split}"
    stages = {"detector": detector, "localizer": localizer}
    entries = {stage: measured_entry(run, key) for stage, run in stages.items()}
    threshold = detector.detector_calibration.threshold
    if threshold is None:
        raise BthubError(f"{detector.id}: {CALIBRATION} has no threshold, so it isn't a detector")
    gate = {image_key(row): float(row[PROBABILITY + TUMOR]) >= threshold for row in detector.predictions(key)}
    rows = localizer.predictions(key)
    if gate.keys() != {image_key(row) for row in rows}:
        raise BthubError(
            f"{detector.id} and {localizer.id} were evaluated on different images: evaluate both on one set"
        )
    kept = [row if gate[image_key(row)] else {**row, **NO_MASK} for row in rows]
    return {
        **{stage: {"name": run.id, "weights": entries[stage].weights} for stage, run in stages.items()},
        "threshold": threshold,
        "protocol": protocol,
        "split": split,
        "dataset": entries["localizer"].dataset,
        "command": f"bthub two-stage {as_named(detector.path)} {as_named(localizer.path)} --split {split}",
        **rounded(measure(kept)),
    }


def two_stage_by_source(detector: RunFolder, localizer: RunFolder, split: str = "test") -> dict[str, Any]:
    """The same on a mixture: what is left of the localizer's masks for each source and way to show a slice.

    Both the detector's threshold and what is a mask are those of the kind of input that the picture was taken for.

    Args:
        detector, localizer: runs that were evaluated on `split` of one mixture.

    Returns:
        `detector`, `localizer` (name, weights), `split`, `dataset`, and `by_source` as `measure_localizer` gives it.

    Raises:
        BthubError: a run is of the other kind, wasn't evaluated there, or has other weights now, or they were measured
            on different images.
    """
    _check_tasks(detector, localizer)
    stages = {"detector": detector, "localizer": localizer}
    for run in stages.values():
        if split not in run.sources or run.sources[split].weights != run.revision:
            raise BthubError(
                f"{run.id}: {SOURCES} has no figures of split {split} and these weights: "
                f"run bthub evaluate {as_named(run.path)} --data data/mix --split {split}"
            )
    points = detector.detector_calibration.points

    def key(row: dict[str, str]) -> tuple[str, str, str]:
        return row["source"], row["view"], row["file"]

    def called(row: dict[str, str]) -> bool:
        point = points.get(row["kind"], points[None])
        return point.calibrate(float(row["p_tumor"])) >= point.threshold

    seen = {key(row): row for row in detector.predictions(f"{MIX}/{split}")}
    rows = localizer.predictions(f"{MIX}/{split}")
    if not seen.keys() >= {key(row) for row in rows}:
        raise BthubError(
            f"{detector.id} and {localizer.id} were evaluated on different images: evaluate both on one mixture"
        )
    kept = [
        at_kind(row, one["kind"]) if called(one) else {**row, **NO_MASK, "in_box": row["in_box"] and "0"}
        for row, one in ((row, seen[key(row)]) for row in rows)
    ]
    return {
        **{stage: {"name": run.id, "weights": run.revision} for stage, run in stages.items()},
        "split": split,
        "dataset": localizer.sources[split].dataset,
        "by_source": measure_localizer(kept),
    }


def _check_tasks(detector: RunFolder, localizer: RunFolder) -> None:
    if (detector.task, localizer.task) != (CLASSIFICATION, SEGMENTATION):
        raise BthubError(
            f"expected a detector and a localizer, received {detector.id} ({detector.task}) and {localizer.id} "
            f"({localizer.task}): give the detector first"
        )


def measured_entry(run: RunFolder, key: str) -> Measured:
    """The figures under a key of `metrics.json`, if they are of the weights that the run has now."""
    found = next((evaluation for evaluation in records.evaluations(run) if evaluation.key == key), None)
    if found is None:
        split = key.rpartition("/")[2]
        raise BthubError(f"{run.id}: {METRICS} has no {key}: run bthub evaluate {run.path} --data ... --split {split}")
    return records.entry(run, found)
