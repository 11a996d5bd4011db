"""`bthub compare`: runs side by side, as Markdown and CSV, and which differences exceed noise.

results/
    compare.md                               every table below, to read
    compare-<data>-<protocol>-<split>-<task>.csv
    differences-<data>-<protocol>-<split>-<task>.csv
    folds-<name>.csv                         the folds of a cross-validation, and all patients together
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bthub.errors import BthubError
from bthub.evaluation.cross_validation import cross_validation, folds, without_fold
from bthub.evaluation.scoring import resampled, rounded
from bthub.metrics.bootstrap import COVERAGE, paired_difference
from bthub.metrics.info import COSTS, lower_is_better, readable
from bthub.metrics.interval import Interval
from bthub.reports import by_source
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION, RunFolder, results_in
from bthub.runs.records import Evaluation, Row

SHOWN = {
    CLASSIFICATION: ("roc_auc", "accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1", "ece"),
    SEGMENTATION: (
        "dice_volume_mean",
        "dice_volume_median",
        "dice_tumor_slices",
        "dice_pooled",
        "iou_pooled",
        "pixel_accuracy",
        "hd95_px",
        "tumor_free_slices_with_mask",
    ),
}
"""Columns of the Markdown table; the CSV has all there are."""
COMPARED = {
    CLASSIFICATION: ("roc_auc", "balanced_accuracy", "accuracy"),
    SEGMENTATION: ("dice_volume_mean", "dice_tumor_slices", "iou_pooled"),
}
"""Metrics that differences are taken of; the first one ranks the runs."""
OF_VOLUMES = {"dice_volume_mean": "dice_pooled", "dice_volume_median": None}
"""Of whole volumes, and what takes their place where slices are split: the few slices drawn of a patient are none."""
MEGA = 1e6


def write(runs: Sequence[RunFolder], out: Path, split: str = "test") -> str:
    """Compare runs that were evaluated on the same images, and write the tables.

    Args:
        runs: of any kind; those of one task, data set and protocol share a table.
        out: folder for the files, made if it isn't there.
        split: of the evaluations to compare.

    Returns:
        The Markdown.

    Raises:
        BthubError: none of the runs was evaluated on the split, two have one name, a run's files can't be read, or the
            tables can't be written.
    """
    names = [records.name(run) for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BthubError(f"several runs are called {', '.join(sorted(twice))}: rename the folders")
    together = folds(runs) if split == "test" else {}
    tables: dict[tuple[Evaluation, str], list[RunFolder]] = {}
    for run in runs:
        for evaluation in records.evaluations(run):
            if evaluation.split == split and without_fold(records.name(run), evaluation.protocol) not in together:
                tables.setdefault((evaluation, run.task), []).append(run)
    if not tables and not together:
        raise BthubError(f"none of {', '.join(run.id for run in runs)} was evaluated on split {split}")
    files: dict[str, str] = {}
    sections = [
        f"# Runs compared, split {split}\n\nIn each table the best run comes first; the list of differences below "
        "it says which of the others are clearly worse.\n\n"
        f"Written by `bthub compare`. Intervals cover {COVERAGE:.0%} and "
        "resample patients where the data set names them, else pictures with their near-duplicates. The interval of "
        "the calibration error may lie above its value, because resampling increases this error. Each run was trained "
        "once, so intervals do not include seed variance. Budgets differ (epochs, and the side of the pictures in the "
        "last one); a reduced budget is less than the recipe asks for. "
        "Research software, not a medical device.\n"
    ]
    for (evaluation, task), members in sorted(tables.items(), key=lambda item: item[0]):
        shown, compared = (_defined(names[task], evaluation) for names in (SHOWN, COMPARED))
        rows = ranked([records.row(run, evaluation) for run in members], compared[0])
        stem = f"{evaluation.data}-{evaluation.protocol}-{evaluation.split}-{task.removeprefix('image-')}"
        files[f"compare-{stem}.csv"] = as_csv(rows)
        sections.append(f"## {task}, {evaluation.data}, protocol {evaluation.protocol}\n\n{table(rows, shown)}")
        if task == CLASSIFICATION and all(records.entry(run, evaluation).threshold is None for run in members):
            sections.append("Predictions are argmax; precision, recall, specificity etc. are macro averages.\n")
        copies = [row for run in members for row in records.by_seen(run)] if split == "test" else []
        if copies:
            sections.append(copies_table(copies))
        apart = differences(members, evaluation, compared)
        if apart:
            files[f"differences-{stem}.csv"] = as_csv(apart)
            sections.append(difference_table(apart))
    for name, members in together.items():
        try:
            rows = cross_validated(name, members)
        except BthubError as error:  # of one fold, say, that was trained again in another way
            sections.append(f"## Cross-validation, {name}\n\nLeft out: {error}.\n")
            continue
        files[f"folds-{name}.csv"] = as_csv(rows)
        sections.append(
            f"## Cross-validation, {name}\n\nEach patient is tested once, by the run that was not trained on them.\n\n"
            + table(rows, SHOWN[SEGMENTATION])
        )
    text = "\n".join(sections)
    files["compare.md"] = text
    page = by_source.page(runs, split)
    if page is not None:
        files["inputs.md"] = page
    with results_in(out):
        for name, content in files.items():
            (out / name).write_text(content, encoding="utf-8")
    return text


def cross_validated(name: str, members: Sequence[RunFolder]) -> list[Row]:
    """A row a fold, and one of all patients together.

    Args:
        name: what the folds have in common, from `folds`.
        members: its runs.

    Raises:
        BthubError: as `cross_validation`.
    """
    whole = cross_validation(members)
    rows = [
        records.row(run, evaluation)
        for run in members
        for evaluation in records.evaluations(run)
        if evaluation.split == "test" and without_fold(records.name(run), evaluation.protocol)
    ]
    last: Row = {**rows[0], **dict.fromkeys(COSTS), "model": f"{name}, all folds"}
    last |= {key: whole[key] for key in ("samples", "groups")}
    for metric, value in whole["metrics"].items():
        last |= value.as_row(metric)
    return [*rows, last]


def _defined(names: Iterable[str], evaluation: Evaluation) -> list[str]:
    """Metrics that mean something under the evaluation's protocol, each once."""
    if evaluation.protocol != "slice":
        return list(names)
    return list(dict.fromkeys(kept for name in names if (kept := OF_VOLUMES.get(name, name))))


def ranked(rows: list[Row], metric: str) -> list[Row]:
    """Rows by a metric, best first; those without it last."""
    sign = 1 if lower_is_better(metric) else -1
    return sorted(rows, key=lambda row: (row.get(metric) is None, sign * (row.get(metric) or 0), row["model"]))


class Measured(NamedTuple):
    """Which images a run was measured on, and its figures with the resamples that `differences` pairs."""

    images: set[tuple[str, ...]]
    figures: dict[str, Any]


def measured(run: RunFolder, evaluation: Evaluation) -> Measured:
    """What `differences` needs of a run; it takes a moment, for who wants to keep it."""
    rows, settings = run.predictions(evaluation.key), records.entry(run, evaluation)
    return Measured({records.image_key(row) for row in rows}, resampled(rows, settings))


def differences(
    runs: Sequence[RunFolder], evaluation: Evaluation, names: Iterable[str], known: Sequence[Measured] | None = None
) -> list[Row]:
    """How far each run is from the best one, by a paired bootstrap: is it worse, or is it noise?

    Args:
        runs: to compare.
        evaluation: what they were measured on.
        names: of metrics.
        known: of each run what `measured` gave, where it was asked before.

    Returns:
        For each metric and each run but the best: `metric`, `best`, `model`, the `difference` (best minus model) with
        its ends `low` and `high`, and `apart`, whether its interval leaves out 0 (None without an interval).

    Raises:
        BthubError: the runs were measured on different images.
    """
    of_each = [measured(run, evaluation) for run in runs] if known is None else known
    by_run = dict(zip((run.id for run in runs), of_each, strict=True))
    first = next(iter(by_run))
    for name, run_measured in by_run.items():
        if run_measured.images != by_run[first].images:
            raise BthubError(
                f"{name} and {first} were measured on different images of {evaluation.key}: evaluate both "
                "again on the same data set"
            )
    found = []
    for metric in names:
        values = {name: m.figures["metrics"][metric].value for name, m in by_run.items()}
        defined = {name: value for name, value in values.items() if value is not None}
        if len(defined) < 2:
            continue
        # Of two that are equal the first by name, in whatever order they were given.
        best = (min if lower_is_better(metric) else max)(sorted(defined), key=defined.get)
        for name in sorted(defined.keys() - {best}, key=lambda n: (-defined[n], n)):
            away = paired_difference(by_run[best].figures, by_run[name].figures, metric)
            apart = None if away.low is None or away.high is None else not away.low <= 0 <= away.high
            ends = {"difference": away.value, "low": away.low, "high": away.high, "apart": apart}
            found.append({"metric": metric, "best": best, "model": name, **ends})
    return found


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """A Markdown table: a line a run, metrics with intervals, then costs."""
    head = [
        "model",
        "initial weights",
        "epochs",
        "pixels",
        "budget",
        *(readable(name) for name in names),
        "parameters, M",
        "G multiply-adds",
        "ms",
    ]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | ---: | ---: | --- |" + " ---: |" * (len(head) - 5)]
    for row in rows:
        cells = [str(row[key]) for key in ("model", "start", "epochs", "side", "budget")]
        cells += [f"{Interval(row.get(n), row.get(f'{n}_low'), row.get(f'{n}_high')):.3f}" for n in names]
        parameters, _, multiply_adds, latency = (row.get(cost) for cost in COSTS)
        cells.append("" if parameters is None else f"{parameters / MEGA:.1f}")
        cells.append("" if multiply_adds is None else f"{multiply_adds / 1e9:.2f}")
        cells.append("" if latency is None else f"{latency:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def copies_table(rows: Sequence[Row]) -> str:
    """Markdown of `records.by_seen`."""
    lines = [
        "Some of these test pictures are near-duplicates of pictures that the models were trained or tuned on:\n",
        "| model | accuracy on | pictures | |",
        "| --- | --- | ---: | ---: |",
    ]
    for row in rows:
        value = Interval(row["value"], row["low"], row["high"])
        lines.append(f"| {row['model']} | {row['part']} | {row['pictures']} | {value:.3f} |")
    return "\n".join(lines) + "\n"


def difference_table(rows: Sequence[Row]) -> str:
    """Markdown of `differences`."""
    lines = [
        "Paired differences from the best, with the same draws of patients or pictures for both. The best is the best "
        "on this very split, and nothing corrects for multiple comparisons: an interval just off 0 may be chance.\n",
        "| metric | best | model | difference | |",
        "| --- | --- | --- | ---: | --- |",
    ]
    verdicts = {True: "worse", False: "may be chance", None: "no interval"}
    for row in rows:
        value = Interval(row["difference"], row["low"], row["high"])
        name = readable(row["metric"])
        # An end that only rounds to 0 would read as the other verdict.
        digits = 4 if row["apart"] and 0 in (round(value.low, 3), round(value.high, 3)) else 3
        lines.append(f"| {name} | {row['best']} | {row['model']} | {value:.{digits}f} | {verdicts[row['apart']]} |")
    return "\n".join(lines) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV, with every column that any of them has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rounded(list(rows)))
    return buffer.getvalue()
