"""Leakage: the same model split by slice and by patient, and why the figures differ."""

import sentences
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
TITLES = {
    SEGMENTATION: "The same network's outlines under both splits",
    CLASSIFICATION: "The same detector under both splits",
}
PATIENTS = 14
ARGMAX = " Here detectors predict the more probable class (argmax), as in the papers, instead of using their threshold."


def main() -> None:
    view = frame.view()
    leaking, tests = leakage.with_neighbor_in_train("slice")
    clean, patient_tests = leakage.with_neighbor_in_train("patient")
    pairs = pairs_of(view)
    seen = copies_of(view)
    head = st.container()
    frame.explain(
        "A scan is a stack of slices a few millimeters apart, and neighboring slices look almost alike. Many papers "
        "split the slices at random. Nearly every test slice then has a near-twin in the training set, and a model "
        "that merely remembers patients can look as good as one that recognizes tumors. A split by patient asks what "
        "a clinic would ask: how good is it on new patients? This page shows all runs under both protocols, the "
        "strongest evidence first."
    )
    if seen:
        copies(view, seen)
    measured(view, SEGMENTATION, pairs)
    st.subheader("Why: test slices with a neighbor in training", anchor=False)
    for column, (title, some, of) in zip(
        st.columns(2),
        (
            ("Split by slice", leaking, tests),
            ("Split by patient", clean, patient_tests),
        ),
        strict=True,
    ):
        column.metric(title, f"{some / of:.0%}", f"{some} of {of}", delta_color="off", delta_arrow="off", border=True)
    strips()
    measured(view, CLASSIFICATION, pairs)
    if not any(pair.comparable for pair in pairs):
        st.subheader("The same network under both splits", anchor=False)
        frame.missing(
            "This comparison needs a network that was trained and evaluated under both protocols, and no such pair is "
            "among the runs yet. To train a ResUNet and a detector on the split by slice:",
            f"{frame.COMMANDS[SEGMENTATION]}-resunet --set protocol=slice\n"
            f"{frame.COMMANDS[CLASSIFICATION]}-detector --set protocol=slice encoder_from=runs/NAME-resunet\n"
            "bthub evaluate runs/NAME-resunet --data data/lgg --split test\n"
            "bthub evaluate runs/NAME-detector --data data/lgg --split test",
        )
    with head:
        frame.headline(sentences.leaking(leaking / tests, clean / patient_tests, largest_gap(seen)))
    left_out(view, pairs)


def pairs_of(view: frame.View) -> list[leakage.Pair]:
    """Runs split by slice, each with its partner split by patient."""
    known = frame.collect(view.every, records.trained_on)
    known = frame.collect({name: view.every[name] for name in known}, records.initialization)
    return leakage.leakage_pairs(view.every[name] for name in known)


def copies_of(view: frame.View) -> list[dict]:
    """Accuracy on copies of known pictures and on the others, of all models that were measured on such a set."""
    found = frame.collect(view.every, records.by_seen)
    return [{**row, "model": words} for words, rows in found.items() for row in rows if row["value"] is not None]


def largest_gap(rows: list[dict]) -> dict | None:
    """The model that lives most on copies: its accuracy on them and on the other pictures."""
    gaps = {}
    for row in rows:
        part = next((part for part, words in records.SEEN.items() if words == row["part"]), None)
        if part:
            gaps.setdefault(row["model"], {"model": row["model"]})[part] = row["value"]
    whole = [gap for gap in gaps.values() if {"seen", "unseen"} <= gap.keys()]
    return max(whole, key=lambda gap: gap["seen"] - gap["unseen"], default=None)


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
        with column:
            frame.draw(chart, f"Splits of the slices of {len(shown)} patients under protocol {protocol}")
    frame.note(
        f"How to read it: each line is a patient ({len(shown)} of 100 are shown, some from each split), each cell a "
        "slice. Split by patient, a line has one color. Split by slice, orange test cells lie between blue training "
        "cells: the model has seen their neighbors.",
        rows,
        "splits.csv",
    )


def measured(view: frame.View, task: str, pairs: list[leakage.Pair]) -> None:
    """The same network under both splits, and whether the data show a gap."""
    own = [pair for pair in pairs if pair.patient.task == task and pair.comparable]
    rows = [row for pair in own for row in both(view, pair)]
    if not rows:
        return
    st.subheader(TITLES[task], anchor=False)
    metrics = METRICS[task]
    metric = st.segmented_control(
        "Metric", metrics, default=metrics[0], required=True, format_func=frame.titled, key=f"leakage {task}"
    )
    points = [row for row in rows if row["metric"] == metric]
    st.markdown(f"{verdict(points, readable(metric))} {definition(metric)}")
    points += reported(metric)
    frame.figure(
        charts.leakage(points, f"{frame.titled(metric)} on the test split"),
        caption="How to read it: the same network and recipe, trained and tested under each protocol; a line is named "
        "after the run that was split by slice. The dashed part is the gap. Leakage raises the result by slice, but "
        "the two test sets also have different slices, so a gap smaller than the bars may be chance. Gray triangles "
        "are published results, all split by slice or image. Bars are 95% intervals over patients."
        + (ARGMAX if task == CLASSIFICATION else ""),
        alternative=f"{readable(metric)} by protocol: "
        + "; ".join(f"{p['line']}, {p['protocol']}: {p['value']:.3f}" for p in points),
        rows=points,
        file=f"leakage-{task}.csv",
        kinds=charts.of_kinds(charts.PROTOCOLS),
    )


def verdict(points: list[dict], metric: str) -> str:
    """Whether the data show that a split by slice flatters, in a sentence."""
    lines: dict[str, dict] = {}
    for point in points:
        lines.setdefault(point["line"], {})[point["protocol"]] = point
    up = [line for line in lines.values() if line["slice"]["value"] > line["patient"]["value"]]
    clear = [line for line in up if (line["slice"]["low"] or 0) > (line["patient"]["high"] or 1)]
    best = max(lines.values(), key=lambda line: line["slice"]["value"] - line["patient"]["value"])
    both = f"{best['patient']['value']:.3f} by patient, {best['slice']['value']:.3f} by slice"
    many = "in the one pair here" if len(lines) == 1 else f"in {len(up) or 'none'} of {len(lines)} pairs"
    if up:
        gap = best["slice"]["value"] - best["patient"]["value"]
        said = f"Split by slice the {metric} is higher {many}, by up to {gap:.3f} ({both})."
    else:
        said = f"Split by slice the {metric} is {'not higher' if len(lines) == 1 else 'higher'} {many} ({both})."
    if clear:
        of_these = "In this pair" if len(lines) == 1 else f"In {len(clear)} of these pairs"
        return f"{said} {of_these} the intervals don't overlap: **a split by slice is too optimistic.**"
    if len(up) * 2 > len(lines):
        return (
            f"{said} The intervals overlap, so each single gap may be chance: **these results suggest leakage, but "
            "don't prove it.**"
        )
    return (
        f"{said} **These results don't show leakage.** There may still be some: the two test sets have different "
        "slices, and with so few patients the intervals are wide."
    )


def left_out(view: frame.View, pairs: list[leakage.Pair]) -> None:
    """What else sets the two runs of a pair apart."""
    longer, other = [], []
    for pair in pairs:
        if pair.differences:
            words = f"{view.called(pair.slice)} and {view.called(pair.patient)} differ in {', '.join(pair.differences)}"
            (longer if pair.comparable else other).append(words)
    if not (longer or other):
        return
    with st.expander("Other differences within the pairs"):
        if longer:
            st.markdown("Shown, although trained for different times:\n" + "".join(f"\n- {words}" for words in longer))
        if other:
            st.markdown(
                "Not shown, because they differ in more than the protocol:\n"
                + "".join(f"\n- {words}" for words in other)
            )


def copies(view: frame.View, rows: list[dict]) -> None:
    st.subheader("The same picture twice", anchor=False)
    gap = largest_gap(rows)
    if gap and gap["seen"] > gap["unseen"]:
        st.markdown(
            "The clearest evidence: data sets from the web may contain the same picture twice, in another size or with "
            "another margin. Comparing thumbnails finds such copies, unless they were rotated. Part of the gap has "
            "another cause: the two groups have different proportions of each class. The model card has the confusion "
            "matrices."
        )
    points = [{"line": row["model"], "protocol": row["part"], **row} for row in rows]
    frame.figure(
        charts.leakage(points, "accuracy on the test split", charts.COPIES),
        caption="How to read it: each line is a model. The orange square is its accuracy on test pictures with a copy "
        "in train or validation, the green dot on pictures without one, and the gray triangle on all, as papers report "
        "it. Bars are 95% intervals over pictures.",
        alternative="Accuracy on copies and on the other pictures: "
        + "; ".join(f"{p['model']}, {p['part']} ({p['pictures']}): {p['value']:.3f}" for p in points),
        rows=rows,
        file="copies.csv",
        kinds=charts.of_kinds(charts.COPIES),
    )


def both(view: frame.View, pair: leakage.Pair) -> list[dict]:
    """The figures of both runs of a pair on their own test split; none where either lacks them."""
    rows, line = [], view.called(pair.slice)
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
                {"line": line, "protocol": protocol, "model": view.called(run), "metric": name, **value.as_row()}
                for name, value in figures.items()
                if value.value is not None
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
