"""Compare: the table of models, their intervals, and what quality costs."""

import pandas as pd
import streamlit as st

import charts
import frame
from bthub.errors import BthubError
from bthub.metrics.info import COSTS, definition, lower_is_better, readable
from bthub.reports import tables
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION

TITLES = {CLASSIFICATION: "Classifiers: is there a tumor?", SEGMENTATION: "Localizers: where is it?"}
# Of the many metrics, those that say most; a toggle shows the rest.
MAIN = {
    CLASSIFICATION: ["roc_auc", "balanced_accuracy", "accuracy", "recall", "specificity", "ece"],
    SEGMENTATION: [
        "dice_volume_mean",
        "dice_volume_median",
        "iou_volume_mean",
        "tumor_slices_missed",
        "healthy_slices_with_mask",
    ],
}
UNITS = {"parameters": (1e6, "M"), "file_bytes": (1e6, "MB"), "multiply_adds": (1e9, "G"), "latency_ms": (1, "ms")}


def section(task: str) -> None:
    """The comparison of one kind of model."""
    view = frame.view()
    found = frame.collect(view.of(task), records.row, view.evaluation)
    if not found:
        return
    rows = list(found.values())
    st.subheader(TITLES[task])
    everything = st.toggle("All metrics", key=f"all {task}")
    metrics = [key for key in rows[0] if f"{key}_low" in rows[0]]
    shown = metrics if everything else [key for key in MAIN[task] if key in metrics]
    table(rows, shown, task)

    left, right = st.columns(2, gap="large")
    with left:
        metric = st.selectbox("Quality", metrics, metrics.index(MAIN[task][0]), frame.titled, key=f"metric {task}")
        st.caption(definition(metric))
        intervals(rows, metric, task)
        if len(rows) > 1 and st.toggle("Is the best one better, or is it noise?", key=f"apart {task}"):
            apart(view, task, metric)
    with right:
        known = [cost for cost in COSTS if any(row[cost] is not None for row in rows)]
        if known:
            cost = st.selectbox("Cost", known, format_func=heading, key=f"cost {task}")
            st.caption(definition(cost))
            scatter(rows, metric, cost, task)
        unknown = [readable(cost) for cost in COSTS if cost not in known]
        if unknown:
            st.caption(f"Not in any chosen run: {' and '.join(unknown)}. `bthub cost RUN` measures them.")
    if task == CLASSIFICATION:
        matrices(view)


def table(rows: list[dict], metrics: list[str], task: str) -> None:
    """The sortable table: metric with interval, the best of each column marked with a star."""
    columns = [*metrics, *COSTS]
    best = {column: records.best(rows, column) if len(rows) > 1 else None for column in columns}
    data = pd.DataFrame(rows)[["model", "budget", *columns, "network", "start"]]
    style = data.style.hide(axis="index")
    for i, row in enumerate(rows):
        # By place, not by value: two models with the same value have intervals of their own.
        cells = {column: text(row, column, best[column]) for column in columns}
        style = style.format(cells, subset=([i], columns))
    for column in columns:
        style = style.set_properties(
            subset=(data.index[data[column] == best[column]], [column]),
            **{"font-weight": "700", "background-color": "rgba(15, 157, 119, .18)"},
        )
    titles = {"model": "Model", "budget": "Budget", "network": "Network", "start": "First weights"}
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
                    # Auto width measures the plain text, and the best is bold with a star.
                    width=215 if name in metrics else 120,
                )
                for name in columns
            },
        },
    )
    direction = [readable(column) for column in metrics if lower_is_better(column)]
    evaluation = frame.view().evaluation
    macro = task == CLASSIFICATION and evaluation.protocol == "default"
    frame.note(
        f"How to read it: each figure with its 95 % interval, which says how far it might move with other "
        f"{frame.view().groups}; ★ marks the best of a column (the lowest for {', '.join([*direction, 'costs'])}). "
        f"Where intervals overlap widely, the order may be chance. A click on a column's name sorts, resting on it "
        "explains. A reduced budget is less training than the recipe asks for. "
        f"{rows[0]['samples']:,} images of {rows[0]['groups']:,} groups (patients, where the set names "
        f"them), {evaluation.data}, {evaluation.key}."
        + (" Precision, recall, specificity, F1 and AUC are means over the classes." if macro else ""),
        rows,
        f"compare-{task}.csv",
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
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    ends = "" if low is None else f" ({low:.{digits}f}–{high:.{digits}f})"
    return f"{star}{value:.{digits}f}{ends}"


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
        caption=f"How to read it: the dot is the value, the bar its 95 % interval over {view.groups}. Where two "
        f"bars don't overlap, chance in which {view.groups} were drawn hardly explains the difference.",
        alternative=f"Dots with intervals: {readable(metric)} of {said}",
        rows=points,
        file=f"intervals-{task}.csv",
        key=False,
    )


def apart(view: frame.View, task: str, metric: str) -> None:
    """How far the other models are from the best, on the same draws."""
    try:
        rows = tables.differences(list(view.of(task).values()), view.evaluation, [metric])
    except BthubError as error:
        frame.say([str(error)])
        return
    if not rows:
        st.caption("Not defined on this split.")
        return
    best = rows[0]["best"]
    verdict = {True: f"{best} is better", False: "can't be told apart", None: f"too few {view.groups} to say"}
    data = pd.DataFrame(
        {
            "Model": [row["model"] for row in rows],
            f"{best} is ahead by": [row["difference"] for row in rows],
            "from": [row["low"] for row in rows],
            "to": [row["high"] for row in rows],
            "Verdict": [verdict[row["apart"]] for row in rows],
        }
    )
    st.dataframe(data.style.format("{:+.3f}", subset=list(data.columns[1:4]), na_rep="–"), hide_index=True)
    frame.note(
        f"How to read it: the difference in {readable(metric)} from {best}, with its 95 % interval. Both models are "
        f"measured on the same draws of {view.groups}, so those that are hard for both cancel out, and this interval "
        "is narrower than those above. Where it includes 0, the two can't be told apart. Each model was trained once: "
        "the interval doesn't cover another seed, and isn't corrected for how many models are compared.",
        rows,
        f"differences-{task}.csv",
    )


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
        caption="How to read it: a step to the right is a dearer model. Worth considering are those that no "
        "other one beats on both axes. How long each was trained is on the page Learning.",
        alternative=f"Scatter of {readable(cost)} against {readable(metric)}: {said}",
        rows=points,
        file=f"cost-{task}.csv",
    )


def matrices(view: frame.View) -> None:
    with st.expander("Confusion matrices"):
        frame.confusions(frame.collect(view.of(CLASSIFICATION), records.confusion, view.evaluation), list(view.every))
        st.caption(
            "How to read it: a row is what the slices are, a column what the model called them, at its own threshold."
        )


for kind in (CLASSIFICATION, SEGMENTATION):
    section(kind)
