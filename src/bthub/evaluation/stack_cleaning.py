"""The effect of removing isolated areas from a stack, from a localizer's saved predictions.

Predictions count pixels and don't say where they are, so a slice's mask is lone here where the neighboring slices have
none at all. `bthub.imaging.cleaning.clean_stack` looks at each area by itself and removes these and more.
"""

from collections import defaultdict
from collections.abc import Sequence

from bthub.errors import BthubError
from bthub.evaluation.scoring import measure, rounded
from bthub.evaluation.two_stage import NO_MASK, measured_entry
from bthub.imaging.cleaning import LONE_SHARE
from bthub.project import as_named
from bthub.runs.folder import SEGMENTATION, RunFolder

SHARES = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 1.0)
"""Shares of a slice's pixels below which a lone mask is removed, to choose from."""

Rows = Sequence[dict[str, str]]


def without_lone(rows: Rows, share: float) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows of a predictions file after cleaning, in their order; and the rows that lost their mask, as they were.

    Args:
        rows: of one split, with `patient_id`, `slice_index`, `predicted_px` and `pixels`.
        share: a lone mask below this share of the slice's pixels is removed, 0-1.
    """
    drawn: dict[str, dict[int, int]] = defaultdict(dict)
    for row in rows:
        drawn[row["patient_id"]][int(row["slice_index"])] = int(row["predicted_px"])
    kept, removed = [], []
    for row in rows:
        stack, index = drawn[row["patient_id"]], int(row["slice_index"])
        lone = stack[index] and not stack.get(index - 1) and not stack.get(index + 1)
        if lone and len(stack) > 1 and stack[index] < share * int(row["pixels"]):
            removed.append(row)
            kept.append({**row, **NO_MASK})
        else:
            kept.append(dict(row))
    return kept, removed


def stack_cleaning(localizer: RunFolder) -> dict:
    """Volumetric Dice with and without cleaning, on validation for each of SHARES and on test for the shipped one.

    Args:
        localizer: a run of patients' slices that was evaluated on validation and test.

    Returns:
        `localizer`, the `command`, `lone_share`, the `choice` on validation (share, mean Dice of the volumes, slices
        with and without tumor that lost their mask), and `validation` and `test` with the figures `without` and `with`.

    Raises:
        BthubError: the run is of the other kind, or wasn't evaluated there.
    """
    if localizer.task != SEGMENTATION:
        raise BthubError(f"expected a localizer, received {localizer.id} ({localizer.task})")
    protocol = localizer.training.protocol
    entry = measured_entry(localizer, f"{protocol}/test")
    measured_entry(localizer, f"{protocol}/validation")
    rows = {split: localizer.predictions(f"{protocol}/{split}") for split in ("validation", "test")}
    choice = []
    for share in SHARES:
        kept, removed = without_lone(rows["validation"], share)
        found = {"share": share, "dice_volume_mean": _dice(kept)["dice_volume_mean"].value}
        choice.append({**found, **_removed(removed)})
    splits = {}
    for split, of in rows.items():
        kept, removed = without_lone(of, LONE_SHARE)
        splits[split] = {"without": _dice(of), "with": _dice(kept), **_removed(removed)}
    return {
        "localizer": {"name": localizer.id, "weights": entry.weights},
        "command": f"bthub clean-stacks {as_named(localizer.path)}",
        "protocol": protocol,
        "lone_share": LONE_SHARE,
        "choice": choice,
        **splits,
    }


def _dice(rows: Rows) -> dict:
    metrics = rounded(measure(list(rows)))["metrics"]
    return {name: metrics[name] for name in ("dice_volume_mean", "tumor_free_slices_with_mask") if name in metrics}


def _removed(rows: Rows) -> dict[str, int]:
    with_tumor = sum(int(row["tumor_px"]) > 0 for row in rows)
    return {"removed_tumor_free": len(rows) - with_tumor, "removed_tumor": with_tumor}
