"""Leakage: the same model split by slice and by patient, and why the figures differ."""

import streamlit as st

import charts
import frame
from bthub.evaluation import leakage, published
from bthub.metrics.info import definition, readable
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION

# No mean over patients: split by slice, test has a few slices of each, not the volume.
METRICS = {
    CLASSIFICATION: ["accuracy", "roc_auc", "f1"],
    SEGMENTATION: ["dice_tumor_slices_pooled", "iou_tumor_slices_pooled"],
}
PATIENTS = 14
LIKELIER = " A detector calls the likelier class here, as published ones do, whatever its threshold."


def main() -> None:
    view = frame.view()
    leaking, tests = leakage.with_neighbor_in_train("slice")
    clean, patient_tests = leakage.with_neighbor_in_train("patient")
    st.markdown(
        "A scan is a pile of slices a few millimeters apart, and two neighbors look almost alike. Papers often deal "
        "the slices out at random. Then nearly every test slice has its twin in the training set, and a model that "
        "merely *remembers patients* can look as good as one that *knows tumors*. Split by patient, the test asks "
        "what a clinic would ask: what about somebody new? This page shows all runs and both protocols, whatever is "
        "chosen above."
    )
    columns = st.columns(2)
    columns[0].metric(
        "Test slices with a neighbor in training, split by slice",
        f"{leaking / tests:.0%}",
        f"{leaking} of {tests}",
        delta_color="off",
        delta_arrow="off",
        border=True,
    )
    columns[1].metric(
        "The same, split by patient",
        f"{clean / patient_tests:.0%}",
        f"{clean} of {patient_tests}",
        delta_color="off",
        delta_arrow="off",
        border=True,
    )
    strips()
    measured(view)
    copies(view)


def strips() -> None:
    rows = leakage.split_map()
    # Of each split some patients: enough to see the pattern, few enough to read.
    first = {}
    for row in rows:
        first.setdefault(row["patient"], {}).setdefault(row["patient_id"])
    shown = {
        patient for split in ("train", "validation", "test") for patient in list(first[split])[: PATIENTS // 3 + 1]
    }
    rows = [row for row in rows if row["patient_id"] in shown]
    for column, chart, protocol in zip(
        st.columns(2, gap="medium"), charts.split_strips(rows), ("patient", "slice"), strict=True
    ):
        column.altair_chart(
            chart, width="stretch", alt=f"Splits of the slices of {len(shown)} patients under protocol {protocol}"
        )
    frame.note(
        f"How to read it: a line is a patient ({len(shown)} of 100, from each split some), a cell a slice. Split by "
        "patient, a line has one color. Split by slice, red test cells sit between blue training cells: their "
        "neighbors are known.",
        rows,
        "splits.csv",
    )


def measured(view: frame.View) -> None:
    st.subheader("What it does to the figures")
    known = frame.collect(view.every, records.trained_on)
    known = frame.collect({name: view.every[name] for name in known}, records.initialization)
    pairs = leakage.leakage_pairs(view.every[name] for name in known)
    if not any(pair.comparable for pair in pairs):
        frame.missing(
            "It takes one network trained and measured under both protocols. No such pair is among the runs yet. For a "
            "ResUNet and a detector split by slice:",
            f"{frame.COMMANDS[SEGMENTATION]}-resunet --set protocol=slice\n"
            f"{frame.COMMANDS[CLASSIFICATION]}-detector --set protocol=slice encoder_from=runs/NAME-resunet\n"
            "bthub evaluate runs/NAME-resunet --data data/lgg --split test\n"
            "bthub evaluate runs/NAME-detector --data data/lgg --split test",
        )
        return
    for task, metrics in METRICS.items():
        own = [pair for pair in pairs if pair.patient.task == task and pair.comparable]
        rows = [row for pair in own for row in both(pair)]
        if not rows:
            continue
        metric = st.segmented_control(
            "Metric", metrics, default=metrics[0], required=True, format_func=frame.titled, key=f"leakage {task}"
        )
        st.caption(definition(metric))
        points = [row for row in rows if row["metric"] == metric] + reported(metric)
        frame.figure(
            charts.leakage(points, f"{frame.titled(metric)} on the test split"),
            caption="How to read it: the same network and recipe, trained and tested under either protocol. A line has "
            "the name of the run split by slice. Its dashed part is the gap: what leaks moves the slice dot up, but "
            "the test slices differ too, so a gap within the bars is no lesson. Gray dots are what papers report, all "
            "split by slice or image. Bars are 95 % intervals over patients."
            + (LIKELIER if task == CLASSIFICATION else ""),
            alternative=f"{readable(metric)} by protocol: "
            + "; ".join(f"{p['line']}, {p['protocol']}: {p['value']:.3f}" for p in points),
            rows=points,
            file=f"leakage-{task}.csv",
            key=False,
        )
    longer, other = [], []
    for pair in pairs:
        if pair.differences:
            words = (
                f"{records.name(pair.slice)} and {records.name(pair.patient)} differ in {', '.join(pair.differences)}"
            )
            (longer if pair.comparable else other).append(words)
    if longer:
        st.caption("Trained for a different length: " + "; ".join(longer) + ".")
    if other:
        st.caption("Not shown, because it isn't the protocol alone: " + "; ".join(other) + ".")


def copies(view: frame.View) -> None:
    rows = [row for found in frame.collect(view.every, records.by_seen).values() for row in found]
    if not rows:
        return
    st.subheader("The same picture twice")
    st.markdown(
        "A set of pictures without names of patients leaks in a plainer way: the test folder may hold pictures of the "
        "training folder, in another size or with another margin. Such copies aren't seen by comparing files; "
        "thumbnails find them, unless they were turned. "
        "A model that remembers them is right on the copies, and only the others test it. Which classes the others "
        "are of matters too: the card has the confusion matrix."
    )
    points = [{"line": row["model"], "protocol": row["part"], **row} for row in rows if row["value"] is not None]
    frame.figure(
        charts.leakage(points, "accuracy on the test split", charts.COPIES),
        caption="How to read it: a line is a model. The orange dot is its accuracy on test pictures that have a copy "
        "in train or validation, the green one on those that have none, the gray one on all, as papers report it. "
        "Bars are 95 % intervals over pictures.",
        alternative="Accuracy on copies and on the other pictures: "
        + "; ".join(f"{p['model']}, {p['pictures']} {p['part']}: {p['value']:.3f}" for p in points),
        rows=rows,
        file="copies.csv",
        key=False,
    )


def both(pair: leakage.Pair) -> list[dict]:
    """The figures of both runs of a pair on their own test split; none where either lacks them."""
    rows, line = [], f"{records.name(pair.slice)}, {pair.network}"
    for protocol, run in (("patient", pair.patient), ("slice", pair.slice)):
        known = frame.collect({records.name(run): run}, records.evaluations).get(records.name(run), [])
        evaluation = next((e for e in known if e.key == f"{protocol}/test"), None)
        if evaluation is None:
            frame.missing(
                f"{records.name(run)} was not measured on {protocol}/test yet:",
                f"bthub evaluate runs/{records.name(run)} --data data/lgg --split test",
            )
            return []
        found = frame.collect({records.name(run): run}, records.figures, evaluation, True)
        for figures in found.values():
            rows += [
                {"line": line, "protocol": protocol, "model": records.name(run), "metric": name, **value}
                for name, value in figures.items()
                if value["value"] is not None
            ]
    return rows


def reported(metric: str) -> list[dict]:
    """What papers on the same data report in this metric."""
    return [
        {
            "line": f"{figure['what'].split(',')[0]} ({key})",
            "protocol": "paper",
            "model": paper["title"],
            "metric": metric,
            "value": figure["value"],
            "low": None,
            "high": None,
        }
        for key, paper in published.reported().items()
        for figure in paper["figures"]
        if paper["data"].startswith("LGG") and key != "references" and figure["like"]["metric"] == metric
    ]


main()
