"""Results by source and kind of picture: tables of the metrics of a run."""

from collections.abc import Mapping, Sequence
from itertools import product

from msgspec import convert

from bthub.evaluation.two_stage import two_stage_by_source
from bthub.metrics.info import CENTER_IN_BOX, readable
from bthub.project import DEFAULTS, as_named
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION, RunFolder
from bthub.runs.schema import SourcePart

DETECTOR = ("roc_auc", "balanced_accuracy", "recall", "specificity", "ece")
LOCALIZER = (
    "dice_volume_mean",
    "dice_volume_median",
    "dice_tumor_slices",
    "tumor_free_slices_with_mask",
    CENTER_IN_BOX,
)
TITLES = {CENTER_IN_BOX: "center of the mask in the box"}

INTRODUCTION = """# Results by source and kind of picture, split {split}

{finding}[Data sets](../docs/data.md) says what the sources are. Each row is one source by itself: across sources, a
network could separate tumor from tumor-free pictures by where they come from. "lgg, FLAIR" is the FLAIR sequence of the
LGG slices alone, in gray, and so on. Intervals cover 95% and resample patients, or pictures with their near-duplicates.
The t1 set doesn't name its patients, so its intervals are too narrow. A prediction is uncertain if the probability lies
in the referral band; the other metrics count it by the threshold alone. Written by `bthub compare` from the
`sources.json` of the runs (`bthub evaluate RUN --data data/mix`). Research software, not a medical device.
"""

BOTH_STAGES = "Masks count only where the detector calls the picture tumor. A tumor that it misses counts as Dice 0."


def page(runs: Sequence[RunFolder], split: str) -> str | None:
    """The page of all runs that were measured on a mixture; None where none was.

    Args:
        runs: of any kind.
        split: of the mixture.
    """
    # Detectors first. The page is the same in whatever order the runs are given.
    ordered = sorted(runs, key=lambda run: (run.task != CLASSIFICATION, run.id))
    measured = [run for run in ordered if split in run.sources]
    if not measured:
        return None
    sections = [INTRODUCTION.format(split=split, finding=_finding(measured, split))]
    for run in measured:
        entry = run.sources[split]
        sections.append(
            f"## {run.id} ({entry.dataset.name})\n\n{table(entry.task, entry.by_source)}\n\n`{command(run, split)}`\n"
        )
    detectors = [run for run in measured if run.task == CLASSIFICATION]
    pairs = list(product(detectors, [run for run in measured if run not in detectors]))
    shipped = [pair for pair in pairs if (pair[0].id, pair[1].id) == (DEFAULTS["detector"], DEFAULTS["localizer"])]
    for detector, localizer in shipped or pairs:
        if detector.sources[split].dataset.sha256 != localizer.sources[split].dataset.sha256:
            continue
        joined = convert(two_stage_by_source(detector, localizer, split)["by_source"], dict[str, SourcePart])
        rows = table(SEGMENTATION, joined)
        sections.append(f"## {detector.id}, then {localizer.id}\n\n{BOTH_STAGES}\n\n{rows}\n")
    return "\n".join(sections)


def _finding(runs: Sequence[RunFolder], split: str) -> str:
    """On which source the default detector, or else the first, is best and worst; nothing where there is none."""
    detectors = [run for run in runs if run.task == CLASSIFICATION]
    if not detectors:
        return ""
    run = next((run for run in detectors if run.id == DEFAULTS["detector"]), detectors[0])
    parts = run.sources[split].by_source.items()
    reached = sorted((part.metrics["roc_auc"].value or 0, key) for key, part in parts if "roc_auc" in part.metrics)
    if not reached:
        return ""
    (low, worst), (high, best) = reached[0], reached[-1]
    return f"{run.id} is best on {best} (ROC AUC {high:.3f}) and worst on {worst} ({low:.3f}).\n\n"


def command(run: RunFolder, split: str) -> str:
    """What measures a run on a mixture, as it is typed at the root of a clone."""
    return f"bthub evaluate {as_named(run.path)} --data data/{run.sources[split].dataset.name} --split {split}"


def table(task: str, by_source: Mapping[str, SourcePart]) -> str:
    """The sources of an entry of `sources.json` as Markdown: a row for each source and view."""
    detects = task == CLASSIFICATION
    names = DETECTOR if detects else LOCALIZER
    heads = ["pictures", "images", "with tumor", *(TITLES.get(name) or readable(name) for name in names)]
    if detects:
        heads += ["uncertain", "refused"]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for key, found in by_source.items():
        cells = [key, f"{found.samples:,}", f"{found.tumor:,}"]
        cells += [f"{found.metrics[name]:.3f}" if name in found.metrics else "" for name in names]
        if detects:
            cells.append("" if found.uncertain is None else f"{found.uncertain:.1%}")
            cells.append("" if found.refused is None else f"{found.refused:,}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
