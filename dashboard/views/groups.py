"""Subgroups: the figures of each hospital and of each size of tumor, with intervals."""

import sentences
import streamlit as st

import charts
import frame
from bthub.data.views import INSTITUTIONS
from bthub.metrics.info import definition, readable
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION, RunFolder
from bthub.runs.records import Evaluation
from bthub.runs.schema import SizePart

TITLES = {CLASSIFICATION: "Classifiers", SEGMENTATION: "Localizers"}
# Of tumors of one size no tumor-free slice is known: recall is what there is.
METRICS = {
    "by_institution": {
        CLASSIFICATION: ["balanced_accuracy", "recall", "specificity"],
        SEGMENTATION: ["dice_volume_mean"],
    },
    "by_tumor_size": {CLASSIFICATION: ["recall"], SEGMENTATION: ["dice_tumor_slices"]},
}
WORDS = {"by_tumor_size": "By size of the tumor on the slice", "by_institution": "By hospital that the scans come from"}


def parts(run: RunFolder, evaluation: Evaluation, by: str) -> list[dict]:
    """The figures of each part: `part`, `samples`, `groups`, `metrics`."""
    return [
        {
            "part": f"hospital {name}" if by == "by_institution" else sized(name, part),
            "samples": part.samples,
            "groups": part.groups,
            "metrics": part.metrics,
        }
        for name, part in getattr(records.entry(run, evaluation), by).items()
    ]


def sized(name: str, part: SizePart) -> str:
    least, below = part.tumor_px
    return f"{name} tumor, " + (f"{least:,} px and more" if below is None else f"{least:,} to {below:,} px")


def main() -> None:
    view = frame.view()
    head = st.container()
    frame.explain(
        "A mean over all slices hides for whom a model fails. This page shows the results by size of the tumor on the "
        "slice and by hospital. Bars are 95% intervals over patients. Groups of fewer than five patients have no "
        "bar, because so few patients say nothing about others."
    )
    said = None
    for by, title in WORDS.items():
        st.subheader(title, anchor=False)
        columns = st.columns(2, gap="large")
        for column, task in zip(columns, TITLES, strict=True):
            with column:
                rows = section(view, task, by)
                if by == "by_tumor_size" and task == CLASSIFICATION and rows:
                    said = rows
    if said:
        best = max({row["model"] for row in said}, key=lambda m: sum(r["value"] or 0 for r in said if r["model"] == m))
        of_best = [
            {**row, "group": f"the tumor is {row['part'].split(' ')[0]}"} for row in said if row["model"] == best
        ]
        with head:
            frame.headline(sentences.groups(of_best, "recall"))


def hospitals(parts: list[str]) -> str:
    """The names behind the codes that are shown."""
    known = [f"{code} is {name}" for code, name in INSTITUTIONS.items() if f"hospital {code}" in parts]
    return f" {'; '.join(known)}." if known else ""


def section(view: frame.View, task: str, by: str) -> list[dict]:
    """One chart: a kind of model, by institution or by size."""
    found = frame.collect(view.of(task), parts, view.evaluation, by)
    found = {name: lines for name, lines in found.items() if lines}
    if not found:
        if view.of(task):
            st.caption(f"{TITLES[task]}: not known for this data set.")
        return []
    metrics = METRICS[by][task]
    metric = metrics[0]
    if len(metrics) > 1:
        metric = st.selectbox("Metric", metrics, format_func=frame.titled, key=f"groups {task} {by}")
    st.caption(f"{TITLES[task]}. {definition(metric)}")
    rows = [
        {
            "model": name,
            "part": line["part"],
            "images": line["samples"],
            "patients": line["groups"],
            **line["metrics"][metric].as_row(),
        }
        for name, lines in found.items()
        for line in lines
        if metric in line["metrics"] and line["metrics"][metric].value is not None
    ]
    if not rows:
        st.caption("Not defined on this split.")
        return []
    frame.figure(
        charts.by_part(rows, list(view.every), frame.titled(metric)),
        caption="How to read it: each mark is a model, its bar the 95% interval over patients. Groups of fewer than "
        "five patients have no bar. A group is clearly harder only if its bars don't overlap those of the other "
        "groups." + (hospitals([row["part"] for row in rows]) if by == "by_institution" else ""),
        alternative=f"{readable(metric)}: "
        + "; ".join(f"{row['model']}, {row['part']} {row['value']:.3f}" for row in rows),
        rows=rows,
        file=f"groups-{task}-{by}.csv",
    )
    return rows


main()
