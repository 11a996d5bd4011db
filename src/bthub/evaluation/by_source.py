"""`bthub evaluate` on a mixture: metrics for each source and kind of picture, never across sources.

Tumor and healthy pictures of different sets come from different places. A network that tells the places apart would
seem to see tumors in figures over all of them; within a source it has to look.
"""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset as Rows

from bthub.data.fingerprint import describe_rows
from bthub.data.views import View, view_batches, views
from bthub.errors import BthubError
from bthub.evaluation.source_metrics import (
    LABELS,
    MASKED,
    MIX,
    at_own_kind,
    measure_detector,
    measure_kinds,
    measure_localizer,
)
from bthub.imaging.kinds import kind_of
from bthub.metrics.info import CENTER_IN_BOX
from bthub.metrics.segmentation import center_in_box
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
    provenance,
    write_rows,
)
from bthub.runs.schema import MeasuredSources


def evaluate_sources(
    folder: RunFolder, rows: Rows, split: str, *, name: str, command: str, batch_size: int, device: str
) -> MeasuredSources:
    """Measure a run on a split of a mixture.

    Writes `predictions/mix-<split>.csv` and the entry of that split in `sources.json`.

    Args:
        folder: a detector's run, whose input check tells the kinds of gray pictures apart, or a localizer's. Without a
            check, gray pictures get the threshold of an unknown kind, as they do in its pipeline.
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
        measured, by_kind = measure_localizer([at_own_kind(line) for line in predictions]), {}
    (folder.path / PREDICTIONS).mkdir(exist_ok=True)
    write_rows(folder.path / PREDICTIONS / f"{MIX}-{split}.csv", predictions)
    entry = {
        "task": folder.task,
        "by_source": measured,
        **({"by_kind": by_kind} if by_kind else {}),
        "dataset": {"name": name, **describe_rows(rows)},
        "weights": folder.revision,
        **provenance(command),
    }
    return folder.record(SOURCES, entry, split).sources[split]


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
        seen = check.inspect(pictures) if check else [(None, None)] * len(pictures)
        for picture, p, (accepted, gray) in zip(pictures, probabilities, seen, strict=True):
            refused = "" if accepted is None else str(int(not accepted))
            next(rest).update({"refused": refused, "kind": kind_of(picture, gray) or "", "p_tumor": repr(float(p))})
    return lines


def _localize(
    folder: RunFolder, rows: Rows, shown: Sequence[View], batch_size: int, device: str
) -> list[dict[str, str]]:
    localizer = load_localizer(folder, device)
    lines = _ids(rows, shown)
    rest = iter(lines)
    for batch in view_batches(rows, shown, batch_size, "evaluating"):
        for (view, _), probability in zip(batch, localizer.predict([picture for _, picture in batch]), strict=True):
            row = rows[view.row]
            healthy = row["label"] == 0
            reference = np.zeros(probability.shape, bool) if row["mask"] is None else np.asarray(row["mask"]) > 0
            line = next(rest)
            line |= {
                "outlined": str(int(healthy or row["mask"] is not None)),
                "tumor_px": str(reference.sum()),
                "pixels": str(reference.size),
            }
            for kind in (None, *localizer.points):
                found = localizer.mask(probability, kind)
                in_box = str(int(center_in_box(found, row["box"]))) if row["box"] else ""
                masked = zip(MASKED, (str(found.sum()), str((reference & found).sum()), in_box), strict=True)
                line |= {name if kind is None else f"{kind} {name}": value for name, value in masked}
    return lines


def summary(entry: MeasuredSources) -> str:
    """The main figures of an entry of `sources.json` as a table."""
    wanted = (
        ("roc_auc", "balanced_accuracy", "recall", "specificity", "ece")
        if entry.task == CLASSIFICATION
        else ("dice_volume_mean", "dice_tumor_slices", "tumor_free_slices_with_mask", CENTER_IN_BOX)
    )
    lines = [entry.command, f"{'':24}{'images':>7}{'tumor':>7}" + "".join(f"{name[:22]:>24}" for name in wanted)]
    for key, found in entry.by_source.items():
        figures = "".join(f"{format(found.metrics.get(name, ''), '') or '-':>24}" for name in wanted)
        lines.append(f"{key:24}{found.samples:>7}{found.tumor:>7}{figures}")
    return "\n".join(lines)
