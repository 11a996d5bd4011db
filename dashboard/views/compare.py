"""Compare: the table of models, their intervals, and what quality costs."""

import names
import pandas as pd
import sentences
import streamlit as st

import charts
import frame
from bthub.errors import BthubError
from bthub.metrics.info import COSTS, definition, lower_is_better, readable
from bthub.metrics.interval import Interval
from bthub.reports import tables
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION

TITLES = {CLASSIFICATION: "Classifiers: is there a tumor?", SEGMENTATION: "Localizers: where is it?"}
# Of the many metrics, those that say most; another table has the rest.
MAIN = {
    CLASSIFICATION: ["roc_auc", "balanced_accuracy", "recall", "specificity", "ece"],
    SEGMENTATION: ["dice_volume_mean", "dice_volume_median", "tumor_slices_missed", "tumor_free_slices_with_mask"],
}
SHORT = {
    "roc_auc": "ROC AUC",
    "balanced_accuracy": "Balanced accuracy",
    "recall": "Tumor slices found",
    "specificity": "No false alarm",
    "ece": "Calibration error",
    "dice_volume_mean": "Dice, mean of patients",
    "dice_volume_median": "Dice, median",
    "tumor_slices_missed": "Tumor slices missed",
    "tumor_free_slices_with_mask": "Tumor-free with a mask",
    "parameters": "Parameters",
    "latency_ms": "Time per slice",
}
UNITS = {"parameters": (1e6, "M"), "file_bytes": (1e6, "MB"), "multiply_adds": (1e9, "G"), "latency_ms": (1, "ms")}
SHOWN_COSTS = ("parameters", "latency_ms")


def main() -> None:
    view = frame.view()
    found = {task: rows_of(task) for task in TITLES}
    apart = {task: differences(view, rows, MAIN[task][0]) for task, rows in found.items()}
    said = sentences.comparison(
        found[CLASSIFICATION], apart[CLASSIFICATION], found[SEGMENTATION], view.evaluation.protocol == "default"
    )
    if said:
        frame.headline(said)
    for task, rows in found.items():
        if rows:
            section(task, rows, apart[task])


def rows_of(task: str) -> list[dict]:
    """A line of the comparison for each chosen model of a kind, the best first."""
    view = frame.view()
    found = frame.collect(view.of(task), records.row, view.evaluation)
    return tables.ranked([{**row, "model": words} for words, row in found.items()], MAIN[task][0])


def section(task: str, rows: list[dict], first: list[dict]) -> None:
    """The comparison of one kind of model."""
    view = frame.view()
    st.subheader(TITLES[task], anchor=False)
    metrics = [key for key in rows[0] if f"{key}_low" in rows[0]]
    table(rows, [key for key in MAIN[task] if key in metrics], task)
    with st.expander("All metrics (sortable table)"):
        everything(rows, metrics, task)

    left, right = st.columns(2, gap="large")
    with left:
        metric = st.selectbox("Quality", metrics, metrics.index(MAIN[task][0]), frame.titled, key=f"metric {task}")
        st.caption(definition(metric))
        intervals(rows, metric, task)
    with right:
        known = [cost for cost in COSTS if any(row[cost] is not None for row in rows)]
        if known:
            cost = st.selectbox("Cost", known, format_func=heading, key=f"cost {task}")
            st.caption(definition(cost))
            scatter(rows, metric, cost, task)
        unknown = [readable(cost) for cost in COSTS if cost not in known]
        if unknown:
            st.caption(f"Not in any chosen run: {' and '.join(unknown)}. `bthub cost RUN` measures them.")
    if len(rows) > 1:
        better(view, task, metric, first if metric == MAIN[task][0] else differences(view, rows, metric))
    if task == CLASSIFICATION:
        matrices(view)


def table(rows: list[dict], metrics: list[str], task: str) -> None:
    """The table: metrics with their intervals and two costs, the best of each column marked with a star."""
    costs = [cost for cost in SHOWN_COSTS if any(row[cost] is not None for row in rows)]
    columns = [*metrics, *costs]
    best = {column: records.best(rows, column) if len(rows) > 1 else None for column in columns}
    frame.grid(
        ["Model", *(SHORT[column] for column in columns)],
        [[row["model"], *(cell(row, column, best[column]) for column in columns)] for row in rows],
        f"{len(rows)} models with {', '.join(SHORT[column].lower() for column in columns)}",
        [None, *(definition(column) for column in columns)],
    )
    direction = [SHORT[column].lower() for column in columns if lower_is_better(column)]
    evaluation = frame.view().evaluation
    macro = task == CLASSIFICATION and evaluation.protocol == "default"
    frame.note(
        f"How to read it: below each value is its 95% interval: how much the value might change with other "
        f"{frame.view().groups}. ★ marks the best of a column (the lowest for {sentences.listed(direction, 9)}). "
        "If intervals overlap widely, the order may be chance: see “Better, or noise?” below. "
        f"Measured on {rows[0]['samples']:,} images {measured_groups(rows[0]['groups'], evaluation.protocol)}, "
        f"{names.evaluation(evaluation)}."
        + (" ROC AUC, “Tumor slices found” and “No false alarm” are means over the classes." if macro else ""),
        rows,
        f"compare-{task}.csv",
    )


def measured_groups(count: int, protocol: str) -> str:
    """Of how many patients the images are; where none are named, in how many groups of near-duplicates."""
    return f"in {count:,} groups of near-duplicates" if protocol == "default" else f"of {count:,} patients"


def cell(row: dict, column: str, best: float | None) -> tuple[str, str]:
    """A figure and its interval."""
    value, _, interval = text(row, column, best).partition(" (")
    return value, interval.rstrip(")")


def everything(rows: list[dict], metrics: list[str], task: str) -> None:
    """All metrics and costs, to sort."""
    columns = [*metrics, *COSTS]
    best = {column: records.best(rows, column) if len(rows) > 1 else None for column in columns}
    data = pd.DataFrame(rows)[["model", "budget", *columns, "network", "start"]]
    style = data.style.hide(axis="index")
    for i, row in enumerate(rows):
        # By place, not by value: two models with the same value have intervals of their own.
        cells = {column: text(row, column, best[column]) for column in columns}
        style = style.format(cells, subset=([i], columns))
    titles = {"model": "Model", "budget": "Budget", "network": "Network", "start": "Initial weights"}
    st.dataframe(
        style,
        hide_index=True,
        key=f"table {task}",
        alt=f"{len(rows)} models with {', '.join(map(readable, metrics))} and their costs",
        column_config={
            **{name: st.column_config.TextColumn(title, pinned=name == "model") for name, title in titles.items()},
            **{
                name: st.column_config.NumberColumn(
                    heading(name),
                    help=definition(name),
                    # Auto width measures the plain text, and the best has a star.
                    width=195 if name in metrics else 110,
                )
                for name in columns
            },
        },
    )
    st.caption(
        "Click a column's name to sort by it; hover over it for its definition. A reduced budget is less "
        "training than the recipe asks for."
    )


def heading(column: str) -> str:
    """The name of a metric or a cost."""
    return readable(column).capitalize() if column in COSTS else frame.titled(column)


def text(row: dict, column: str, best: float | None) -> str:
    """A cell: the value in its unit, or with its interval."""
    value = row[column]
    if value is None:
        return "–"
    star = "★ " if value == best else ""
    if column in UNITS:
        divisor, unit = UNITS[column]
        return f"{star}{value / divisor:,.1f} {unit}"
    digits = 1 if value >= 10 else 3
    ends = Interval(value, row[f"{column}_low"], row[f"{column}_high"]).bounds(f".{digits}f", "–")
    return f"{star}{value:.{digits}f}" + (f" ({ends})" if ends else "")


def intervals(rows: list[dict], metric: str, task: str) -> None:
    view = frame.view()
    points = [
        {"model": r["model"], "value": r[metric], "low": r[f"{metric}_low"], "high": r[f"{metric}_high"]}
        for r in rows
        if r[metric] is not None
    ]
    if not points:
        st.caption("Not defined on this split.")
        return
    said = "; ".join(f"{p['model']} {p['value']:.3f}" for p in points)
    frame.figure(
        charts.intervals(points, list(view.every), frame.titled(metric)),
        caption=f"How to read it: the dot is the value, the bar its 95% interval over {view.groups}. Where two "
        f"bars don't overlap, the choice of {view.groups} hardly explains the difference.",
        alternative=f"Dots with intervals: {readable(metric)} of {said}",
        rows=points,
        file=f"intervals-{task}.csv",
        key=False,
    )


def differences(view: frame.View, shown: list[dict], metric: str) -> list[dict]:
    """How far the other models are from the best, on the same draws; in words, the closest first."""
    runs = {row["model"]: view.runs[row["model"]] for row in shown}
    if len(runs) < 2:
        return []
    measured = frame.collect(runs, tables.measured, view.evaluation)
    try:
        rows = tables.differences(
            [runs[words] for words in measured], view.evaluation, [metric], list(measured.values())
        )
    except BthubError as error:
        frame.say([str(error)])
        return []
    by_id = {run.id: words for words, run in runs.items()}
    rows = [{**row, "best": by_id[row["best"]], "model": by_id[row["model"]]} for row in rows]
    return sorted(rows, key=lambda row: abs(row["difference"]))


def better(view: frame.View, task: str, metric: str, rows: list[dict]) -> None:
    """Whether the best one is better, or whether it is noise."""
    if not rows:
        st.caption("Not defined on this split.")
        return
    best = rows[0]["best"]
    st.subheader(f"Better, or noise? {frame.titled(metric)}", anchor=False)
    # Ahead is up, also where lower values are better.
    sign = -1 if lower_is_better(metric) else 1
    verdict = {True: f"{best} is better", False: "may be chance", None: f"too few {view.groups} to say"}
    frame.grid(
        ["Model", f"{best} is ahead by", "Verdict"],
        [
            [
                row["model"],
                ahead(row, sign),
                verdict[row["apart"]],
            ]
            for row in rows
        ],
        "; ".join(f"{row['model']}: {verdict[row['apart']]}" for row in rows),
    )
    frame.note(
        f"How to read it: the difference in {readable(metric)} from {best}, with its 95% interval. Both models are "
        f"measured on the same draws of {view.groups}, so hard {view.groups} affect both alike, and this interval is "
        "narrower than those above. If it includes 0, the difference may be chance. Each model was trained once: the "
        "interval does not include seed variance, and there is no correction for the number of models compared.",
        rows,
        f"differences-{task}.csv",
    )


def ahead(row: dict, sign: int) -> tuple[str, str]:
    """How far the best is ahead, and the interval of that."""
    ends = [None if end is None else sign * end for end in (row["low"], row["high"])][::sign]
    return f"{sign * row['difference']:+.3f}", Interval(row["difference"], *ends).bounds("+.3f")


def scatter(rows: list[dict], metric: str, cost: str, task: str) -> None:
    names = list(frame.view().every)
    points = [
        {
            "model": r["model"],
            "cost": r[cost],
            "value": r[metric],
            "low": r[f"{metric}_low"],
            "high": r[f"{metric}_high"],
        }
        for r in rows
        if r[cost] and r[metric] is not None
    ]
    if not points:
        return
    said = "; ".join(f"{p['model']} {p['cost']:,.0f} and {p['value']:.3f}" for p in points)
    frame.figure(
        charts.cost_against_quality(points, names, heading(cost), frame.titled(metric)),
        caption="How to read it: models further right cost more. Consider those that no other model beats on both "
        "axes. The page Learning shows how long each was trained.",
        alternative=f"Scatter of {readable(cost)} against {readable(metric)}: {said}",
        rows=points,
        file=f"cost-{task}.csv",
    )


def matrices(view: frame.View) -> None:
    with st.expander("Confusion matrices"):
        frame.confusions(frame.collect(view.of(CLASSIFICATION), records.confusion, view.evaluation), list(view.every))
        frame.how("How to read it: rows are the truth, columns the model's predictions at its own threshold.")


main()
