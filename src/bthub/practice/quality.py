"""Measured quality of the models, and how much two measurements of one tumor differ by error alone."""

from typing import Any

import numpy as np

from bthub.runs.folder import RunFolder

SEED, PAIRS = 0, 20_000
SIZES = {"small": (0.0, 0.0075), "medium": (0.0075, 0.03), "large": (0.03, 1.0)}
"""Share of the picture that is tumor, from and below; in evaluation's terms under 500 and 2,000 pixels of 256 x 256."""
LEAST_PATIENTS = 5
UNKNOWN: dict[str, Any] = {"percent": None, "verdict": "unknown", "low": None, "high": None}
"""What `change` says where nothing can be said."""


def facts(detector: RunFolder, localizer: RunFolder) -> dict[str, Any]:
    """What a report says of the models: figures of the test split, each with its interval, and the error of areas.

    Args:
        detector, localizer: the runs; those whose weights were not evaluated on the test split have no figures.
    """
    found: dict[str, Any] = {}
    for stage, run, names in (
        ("detector", detector, ("recall", "specificity")),
        ("localizer", localizer, ("dice_tumor_slices", "dice_volume_mean")),
    ):
        key = f"{run.training.protocol}/test"
        entry = run.metrics.get(key)
        if entry is None or not run.same_weights(entry.weights):
            continue
        found[stage] = {
            "split": key,
            "samples": entry.samples,
            "patients": entry.groups,
            "figures": {name: entry.metrics[name].as_row() for name in names if name in entry.metrics},
        }
        if stage == "localizer":
            found["area_error"] = area_error(run.predictions(key))
    return found


def area_error(rows: list[dict[str, str]]) -> dict[str, Any]:
    """How far two areas of an unchanged tumor may lie apart by the localizer's errors.

    Args:
        rows: a localizer's predictions, pixel counts a slice.

    Returns:
        For `slices` of each of SIZES and `all`, and for `volumes`: `factor`, by which the larger of two measurements
        exceeds the smaller in at most 5% of pairs of patients (each patient weighs the same), `patients`, and
        `missed`, the share of tumors without any outline, which no factor covers. None where there are too few.
    """
    patients = np.array([row["patient_id"] for row in rows])
    tumor, predicted, pixels = (
        np.array([float(row[name]) for row in rows]) for name in ("tumor_px", "predicted_px", "pixels")
    )
    share = tumor / pixels
    answer: dict[str, Any] = {"slices": {}, "volumes": None}
    for name, (least, below) in {"all": (0.0, 1.0), **SIZES}.items():
        chosen = (tumor > 0) & (share >= least) & (share < below)
        answer["slices"][name] = _factor(patients[chosen], tumor[chosen], predicted[chosen])
    names = sorted(set(patients))
    sums = np.array([[counts[patients == name].sum() for name in names] for counts in (tumor, predicted)])
    there = sums[0] > 0
    answer["volumes"] = _factor(np.array(names)[there], sums[0][there], sums[1][there])
    return answer


def _factor(patients: np.ndarray, tumor: np.ndarray, predicted: np.ndarray) -> dict[str, Any] | None:
    outlined = predicted > 0
    names = sorted(set(patients[outlined]))
    if len(names) < LEAST_PATIENTS:
        return None
    errors = np.log(predicted[outlined] / tumor[outlined])
    of_patient = [errors[patients[outlined] == name] for name in names]
    rng = np.random.default_rng(SEED)
    # Two measurements err apart from each other as those of two patients do, who are drawn anew each time.
    first = rng.integers(len(names), size=PAIRS)
    second = (first + rng.integers(1, len(names), size=PAIRS)) % len(names)
    apart = [
        abs(of_patient[a][rng.integers(len(of_patient[a]))] - of_patient[b][rng.integers(len(of_patient[b]))])
        for a, b in zip(first, second, strict=True)
    ]
    return {
        "factor": float(np.exp(np.quantile(apart, 0.95))),
        "patients": len(names),
        "missed": float(np.mean(~outlined)),
    }


def change(before: float, after: float, error: dict[str, Any] | None, *, by_hand: bool = False) -> dict[str, Any]:
    """What a difference of two areas or volumes says.

    Args:
        before, after: the two, in the same unit.
        error: `factor` of two measurements, as `area_error` gives it; None where it isn't known.
        by_hand: one of the two was drawn by hand, for which the model's error says nothing.

    Returns:
        `percent` (None from zero), and `verdict`: "noise" where the model's errors explain the difference, "change"
        where they don't, "unknown" where that can't be said; `low` and `high`, percent between which an unchanged
        tumor is measured.
    """
    percent = None if before == 0 else 100 * (after - before) / before
    answer: dict[str, Any] = {**UNKNOWN, "percent": percent}
    if by_hand or error is None or before <= 0 or after <= 0:
        return answer
    factor = error["factor"]
    answer["low"], answer["high"] = 100 * (1 / factor - 1), 100 * (factor - 1)
    answer["verdict"] = "noise" if 1 / factor <= after / before <= factor else "change"
    return answer


def error_for(facts: dict[str, Any] | None, share: float | None) -> dict[str, Any] | None:
    """The error of areas that applies to a slice with this share of tumor; of volumes where the share is None."""
    error = (facts or {}).get("area_error")
    if not error:
        return None
    if share is None:
        found: dict[str, Any] | None = error["volumes"]
        return found
    for name, (least, below) in SIZES.items():
        if least <= share < below and error["slices"].get(name):
            sized: dict[str, Any] = error["slices"][name]
            return sized
    fallback: dict[str, Any] | None = error["slices"]["all"]
    return fallback
