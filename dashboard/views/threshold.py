"""Threshold: one slider moves the operating point of all chosen detectors."""

import numpy as np
import sentences
import streamlit as st

import charts
import frame
from bthub.errors import BthubError
from bthub.evaluation import per_image
from bthub.evaluation.per_image import Scores
from bthub.metrics.info import definition
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, RunFolder
from bthub.runs.records import Evaluation

ONE, OWN, CHEAPEST = "One for all", "Each its own", "Cheapest for each"
GRID = np.round(np.linspace(0, 1, 101), 3)


def main() -> None:
    view = frame.view()
    runs = view.of(CLASSIFICATION)
    several = [name for name, run in runs.items() if len(run.config.get("label_names", [])) > 2]
    found = frame.collect(
        {n: r for n, r in runs.items() if n not in several}, per_image.detector_scores, view.evaluation
    )
    if several:
        st.info(
            f"{sentences.listed(several)} {'distinguishes' if len(several) == 1 else 'distinguish'} several kinds of "
            f"tumor and {'predicts' if len(several) == 1 else 'predict'} the most probable class (argmax), so there is "
            "no threshold to move. Choose a data set with tumor and no tumor."
        )
    if not found:
        if not several:
            st.info("Choose a model that predicts tumor or no tumor and was measured on this split.")
        return
    try:
        lines = {name: frame.cached(_curves, view.runs[name], view.evaluation) for name in found}
    except BthubError as error:
        st.info(str(error))
        return
    operate(view, found, lines)


PLACES = {ONE: "With one threshold for all", OWN: "With its own threshold", CHEAPEST: "At its cheapest threshold"}


def _curves(run: RunFolder, evaluation: Evaluation) -> tuple[list[dict], list[dict]]:
    return per_image.curves(per_image.detector_scores(run, evaluation))


# Only this part runs again when a slider moves.
@st.fragment
def operate(view: frame.View, found: dict[str, Scores], lines: dict) -> None:
    names = list(view.every)
    head = st.container()
    how = st.segmented_control(
        "Threshold",
        [ONE, OWN, CHEAPEST],
        default=ONE,
        required=True,
        key="how",
        bind="query-params",
        help="One for all: the slider. Each its own: the threshold with the best balanced accuracy on validation. "
        "Cheapest: the threshold with the lowest cost on validation, for the cost of a miss that you enter; the page "
        "then says what it costs on this split.",
    )
    controls = st.columns([3, 1], gap="large", vertical_alignment="bottom")
    slider = controls[0].slider(
        "Predict a tumor at this probability or higher",
        0.0,
        1.0,
        0.5,
        0.01,
        key="threshold",
        bind="query-params",
        disabled=how != ONE,
    )
    miss_cost = controls[1].number_input(
        "Cost of a missed tumor slice, in false alarms",
        1.0,
        1000.0,
        10.0,
        1.0,
        format="%.0f",
        key="miss_cost",
        bind="query-params",
        help="A false alarm costs 1. What a miss costs is for people to decide, not for a model.",
    )

    cheapest, chosen_on = cheapest_thresholds(view, found, miss_cost)
    thresholds = {
        name: {ONE: slider, OWN: scores.threshold, CHEAPEST: cheapest[name]}[how] for name, scores in found.items()
    }
    points = [
        {
            "model": name,
            **per_image.at_threshold(scores, thresholds[name]),
            "cost": 1000 * per_image.expected_cost(scores, thresholds[name], miss_cost),
            "own_cost": 1000 * per_image.expected_cost(scores, scores.threshold, miss_cost),
            "cheapest": cheapest[name],
        }
        for name, scores in found.items()
    ]

    with head:
        frame.headline(sentences.threshold(points, PLACES[how].replace("for all", f"of {slider:.2f} for all") + ","))
        frame.explain(
            "A detector gives a probability; the **threshold** turns it into a prediction. Lower it, and fewer tumors "
            "are missed, but there are more false alarms."
        )
    if how == CHEAPEST:
        st.info(price(points, found, cheapest, chosen_on, miss_cost), icon=":material/savings:")
    frame.confusions(
        {p["model"]: (["no tumor", "tumor"], [[p["tn"], p["fp"]], [p["fn"], p["tp"]]]) for p in points},
        names,
    )
    frame.how("How to read it: rows are the truth, columns the model's predictions at this threshold.")
    table(points)
    if how != CHEAPEST:
        where = (
            "on validation"
            if chosen_on == "validation"
            else "on this very split (too optimistic, but not every chosen model was measured on validation)"
        )
        st.caption(
            f"If a miss costs as much as {miss_cost:.0f} false alarms, the cheapest threshold, chosen {where}, is "
            + ", ".join(f"{name} **{value:.3f}**" for name, value in cheapest.items())
            + "."
        )

    left, right = st.columns(2, gap="large")
    said = "; ".join(f"{p['model']} at {p['threshold']:.2f}" for p in points)
    with left:
        st.subheader("ROC curve")
        rows = labeled(lines, 0)
        frame.figure(
            charts.operating_curve(
                rows,
                points,
                names,
                ("false_positive_rate", "false alarms among tumor-free slices"),
                ("recall", "recall: tumor slices found"),
            ),
            caption="How to read it: the tumor slices found against the false alarms, for every threshold; the dot is "
            "the present one. Nearer to the top left is better.",
            alternative=f"ROC curves with operating points: {said}",
            rows=rows,
            file="roc.csv",
        )
    with right:
        st.subheader("Precision-recall curve")
        rows = labeled(lines, 1)
        frame.figure(
            charts.operating_curve(
                rows,
                [p for p in points if p["precision"] is not None] or points,
                names,
                ("recall", "recall: tumor slices found"),
                ("precision", "precision"),
            ),
            caption="How to read it: closer to the top right is better. It reveals false alarms that a ROC curve hides "
            "when most slices are tumor-free.",
            alternative=f"Precision-recall curves with operating points: {said}",
            rows=rows,
            file="precision-recall.csv",
        )
    st.subheader("What it costs")
    rows = [
        {"model": name, "threshold": float(t), "cost": 1000 * per_image.expected_cost(scores, t, miss_cost)}
        for name, scores in found.items()
        for t in GRID
    ]
    frame.figure(
        charts.cost_by_threshold(rows, points, names),
        caption="How to read it: the cost is lowest in the valley; the dot is the present threshold. In a flat valley, "
        "the exact threshold hardly matters.",
        alternative=f"Cost of 1,000 slices by threshold, a miss costing {miss_cost:.0f} false alarms: {said}",
        rows=rows,
        file="cost-by-threshold.csv",
    )


def price(points: list[dict], found: dict[str, Scores], cheapest: dict[str, float], on: str, miss_cost: float) -> str:
    """Where the cheapest thresholds were chosen, and what they cost here against the models' own."""
    where = (
        "chosen on validation, as it must be, and is applied here to other patients"
        if on == "validation"
        else "chosen on this very split (too optimistic, but not every chosen model was measured on validation)"
    )
    moves = "; ".join(f"{p['model']} {p['own_cost']:.0f} → **{p['cost']:.0f}**" for p in points)
    dearer = [p["model"] for p in points if p["cost"] > p["own_cost"]]
    said = (
        f"If a miss costs as much as {miss_cost:.0f} false alarms: the cheapest threshold was {where}. "
        f"Cost of 1,000 slices at the model's own threshold → at this one: {moves}."
    )
    if dearer:
        said += (
            f" On this split it makes {sentences.listed(dearer)} more expensive: a threshold that is cheapest for the "
            "few validation patients need not be cheapest for others."
        )
    return said


def cheapest_thresholds(view: frame.View, found: dict[str, Scores], miss_cost: float) -> tuple[dict[str, float], str]:
    """The cheapest threshold of each model, and the split it was chosen on: validation where all have it."""
    validation = view.evaluation._replace(split="validation")
    measured = all(validation in frame.cached(records.evaluations, view.runs[name]) for name in found)
    of_each = {name: view.runs[name] for name in found}
    scores = frame.collect(of_each, per_image.detector_scores, validation) if measured else {}
    if scores.keys() != found.keys():
        return {name: per_image.cheapest_threshold(s, miss_cost) for name, s in found.items()}, view.evaluation.split
    return {name: per_image.cheapest_threshold(s, miss_cost) for name, s in scores.items()}, "validation"


def labeled(lines: dict, which: int) -> list[dict]:
    return [{"model": name, "order": i, **row} for name, both in lines.items() for i, row in enumerate(both[which])]


def table(points: list[dict]) -> None:
    """What each model's threshold gives; what it costs first, for phones."""
    shares = {"recall": "Recall", "specificity": "Specificity", "precision": "Precision", "f1": "F1"}
    frame.grid(
        ["Model", "Threshold", "Missed", "False alarms", "Cost", *shares.values()],
        [
            [
                point["model"],
                f"{point['threshold']:.3f}",
                point["fn"],
                point["fp"],
                f"{point['cost']:,.0f}",
                *("–" if point[key] is None else f"{point[key]:.3f}" for key in shares),
            ]
            for point in points
        ],
        "Errors, cost, recall, specificity, precision and F1 of each model at its threshold",
        [
            None,
            "The probability from which the model predicts a tumor.",
            "Tumor slices predicted as tumor-free.",
            "Tumor-free slices predicted as tumor.",
            "Cost of 1,000 slices in false alarms, with the cost of a miss entered above.",
            *map(definition, shares),
        ],
    )


main()
