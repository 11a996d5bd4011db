"""Metrics of all folds of a cross-validation together, from the predictions in the run folders."""

from collections.abc import Iterable, Sequence

from bthub.data.splits import FOLD_PROTOCOLS
from bthub.errors import BthubError
from bthub.evaluation.scoring import Predictions, measure, rounded
from bthub.evaluation.two_stage import measured_entry
from bthub.project import as_named
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION, TRAINING, RunFolder
from bthub.runs.records import image_key


def cross_validation(runs: Sequence[RunFolder]) -> dict:
    """The test splits of all folds together: each patient once, by the run that didn't know them.

    Args:
        runs: one a fold, of one recipe, each evaluated on test.

    Returns:
        What `scoring.measure` gives for all patients, after `runs` (name, weights, protocol, and the fold's own
        metrics), the common `config`, and `tumor_slices`: the metrics without the tumor-free slices, and so without
        what masks on them cost.

    Raises:
        BthubError: a fold is missing or there twice, the recipes differ, or a run wasn't evaluated.
    """
    if any(run.task == CLASSIFICATION for run in runs):
        raise BthubError(
            "expected localizers: the folds of a detector have different thresholds, so their "
            "predictions can't be pooled"
        )
    by_protocol = {run.training.protocol: run for run in runs}
    if sorted(by_protocol) != sorted(FOLD_PROTOCOLS) or len(runs) != len(FOLD_PROTOCOLS):
        named = ", ".join(f"{run.id} ({run.training.protocol})" for run in runs)
        raise BthubError(f"expected a run for each of {', '.join(FOLD_PROTOCOLS)}, received {named}")
    # How many processes read the images is no matter of the recipe.
    aside = ("protocol", "workers")
    recipes = {run.id: {k: v for k, v in run.training.config.items() if k not in aside} for run in runs}
    first, *others = recipes.items()
    for name, recipe in others:
        different = sorted(key for key in recipe.keys() | first[1].keys() if recipe.get(key) != first[1].get(key))
        if different:
            raise BthubError(f"{name} and {first[0]} differ in {', '.join(different)} ({TRAINING}): train one recipe")
    pooled: Predictions = []
    folds = []
    for protocol in FOLD_PROTOCOLS:
        run, key = by_protocol[protocol], f"{protocol}/test"
        entry = measured_entry(run, key)
        pooled += run.predictions(key)
        folds.append({"name": run.id, "protocol": protocol, "weights": entry.weights, "metrics": entry.metrics})
    images = [image_key(row) for row in pooled]
    if len(set(images)) != len(images):
        raise BthubError("an image is in the test split of two folds: evaluate the folds on one data set")
    command = "bthub cross-validate " + " ".join(as_named(by_protocol[protocol].path) for protocol in FOLD_PROTOCOLS)
    ill = measure([row for row in pooled if row["tumor_px"] != "0"])["metrics"]
    facts = {"runs": folds, "config": first[1], "command": command, "tumor_slices": rounded(ill)}
    return facts | rounded(measure(pooled))


def folds(runs: Iterable[RunFolder]) -> dict[str, list[RunFolder]]:
    """The localizers that `cross_validation` can take together, where every fold was tested, by their common name."""
    found: dict[str, list[RunFolder]] = {}
    for run in runs:
        for evaluation in records.evaluations(run):
            common = without_fold(records.name(run), evaluation.protocol)
            if run.task == SEGMENTATION and evaluation.split == "test" and common:
                found.setdefault(common, []).append(run)
    return {common: members for common, members in found.items() if len(members) == len(FOLD_PROTOCOLS)}


def without_fold(name: str, protocol: str) -> str | None:
    """What the runs of all folds are called: `resunet18-lgg` for `resunet18-lgg-fold-1`; None for a run of no fold."""
    is_fold = protocol in FOLD_PROTOCOLS and name.endswith(f"-{protocol}")
    return name.removesuffix(f"-{protocol}") if is_fold else None
