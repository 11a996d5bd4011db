"""Calibration: can a stated probability be believed? Before and after temperature scaling, and the referral band."""

import numpy as np
import sentences
import streamlit as st

import charts
import frame
from bthub.evaluation import per_image
from bthub.evaluation.per_image import Scores
from bthub.metrics.classification import uncalibrated
from bthub.metrics.info import definition
from bthub.runs.folder import CLASSIFICATION, RunFolder
from bthub.runs.records import Evaluation

WIDTHS = np.round(np.linspace(0, 0.5, 26), 3)


def both(run: RunFolder, evaluation: Evaluation) -> dict:
    """Reliability and calibration error of a run, before and after its temperature."""
    found, temperature = per_image.scores(run, evaluation), per_image.temperature(run)
    plain = uncalibrated(found.p, temperature)
    return {
        "temperature": temperature,
        "before": per_image.calibration_error(found, plain),
        "after": per_image.calibration_error(found, found.p),
        "rows": [
            {"scaling": scaling, **row}
            for scaling, p in (("before", plain), ("after", found.p))
            for row in per_image.reliability(found, p)
        ],
    }


def main() -> None:
    view = frame.view()
    found = frame.collect(view.of(CLASSIFICATION), both, view.evaluation)
    if not found:
        st.info("Choose a classifier that was measured on this split.")
        return
    errors = [
        {"model": name, **{key: result[key] for key in ("before", "after", "temperature")}}
        for name, result in found.items()
    ]
    frame.headline(sentences.calibration(errors))
    frame.explain(
        "A model that says 80% should be right about 8 times in 10. **Temperature scaling** divides the model's "
        "raw scores (logits) by one number, fitted on validation; it changes how sure the model says it is, "
        "but hardly ever its verdict."
    )
    left, right = st.columns(2, gap="large")
    with left:
        before = st.toggle("Show before scaling", value=len(found) < 2, key="before", bind="query-params")
        rows = [
            {"model": name, **row}
            for name, result in found.items()
            for row in result["rows"]
            if before or row["scaling"] == "after"
        ]
        frame.figure(
            charts.reliability(rows, list(view.every), before),
            caption="How to read it: on the dotted diagonal, stated probabilities match observed frequencies. Below it "
            f"they are too high, above it too low. Each dot stands for at least {per_image.FEWEST_IN_BIN} slices; "
            "sparse neighboring bins are merged. Bars are 95% intervals, somewhat too narrow because slices of one "
            "patient are alike; if a bar reaches the diagonal, the distance may be chance. With two classes the "
            "probability is that of tumor, with more classes that of the predicted class.",
            alternative="Reliability diagram of " + ", ".join(found),
            rows=rows,
            file="reliability.csv",
        )
    with right:
        st.subheader("Expected calibration error")
        frame.grid(
            ["Model", "Before", "After", "Temperature"],
            [[e["model"], f"{e['before']:.3f}", f"{e['after']:.3f}", f"{e['temperature']:.3f}"] for e in errors],
            "Calibration error of each model before and after temperature scaling",
            [
                None,
                definition("ece"),
                definition("ece"),
                "Above 1: the model was too sure. Below 1: not sure enough.",
            ],
        )
        frame.note(
            "How to read it: the mean distance from the diagonal over 15 bins, weighted by their slices. Around 0.02 "
            "is good and 0 is perfect, but a model that always states the proportion of tumors also scores 0, and "
            "finds nothing. Scaling can make it worse, even on validation, because the temperature is fitted to the "
            "likelihood, not to this error.",
            errors,
            "calibration-error.csv",
        )
    detectors = {
        name: frame.cached(per_image.scores, view.runs[name], view.evaluation)
        for name in found
        if frame.cached(per_image.scores, view.runs[name], view.evaluation).threshold is not None
    }
    if detectors:
        review(view, detectors)


@st.fragment
def review(view: frame.View, found: dict[str, Scores]) -> None:
    st.subheader("The referral band")
    st.caption(
        "A model need not decide every slice. Slices whose probability lies in a band around the threshold are "
        "referred to a person (selective prediction)."
    )
    width = st.slider(
        "Half the width of the band around each model's threshold",
        0.0,
        0.5,
        0.1,
        0.02,
        key="band",
        bind="query-params",
    )
    names = list(view.every)

    def at(name: str, half: float) -> dict:
        middle = found[name].threshold
        low, high = max(0.0, middle - half), min(1.0, middle + half)
        return {"model": name, "width": half, "low": low, "high": high, **per_image.review(found[name], low, high)}

    points = [at(name, width) for name in found]
    curve = [row for name in found for half in WIDTHS if (row := at(name, float(half)))["reviewed"] <= 0.5]
    left, right = st.columns([5, 7], gap="large")
    with left:
        frame.figure(
            charts.errors_by_review(curve, [p for p in points if p["errors"] is not None] or points, names),
            caption="How to read it: further right, a person looks at more slices; lower, fewer errors are left among "
            "the rest. A steep start means that the model knows when it is unsure.",
            alternative="Errors left by share of slices reviewed: "
            + "; ".join(f"{p['model']} reviews {sentences.percent(p['reviewed'])}" for p in points),
            rows=curve,
            file="review-band.csv",
        )
    with right:
        frame.grid(
            ["Model", "Band", "To a person", "Errors left", "Missed", "False alarms"],
            [
                [
                    p["model"],
                    f"{p['low']:.2f}–{p['high']:.2f}",
                    sentences.percent(p["reviewed"]),
                    sentences.percent(p["errors"]),
                    p["fn"],
                    p["fp"],
                ]
                for p in points
            ],
            "Slices and errors that this band leaves to each model",
        )
        saved = {name: band for name in found if (band := view.runs[name].detector_calibration.referral_band)}
        shares = {name: per_image.review(found[name], *band)["reviewed"] for name, band in saved.items()}
        if not saved:
            st.caption(
                "No chosen run has a band of its own. If `calibration.json` has a `referral_band`, it is shown here."
            )
            return
        with st.expander("The bands chosen on validation in training"):
            frame.grid(
                ["Model", "Band", "To a person"],
                [[name, f"{a:.2f}–{b:.2f}", sentences.percent(shares[name])] for name, (a, b) in saved.items()],
                "The referral band saved with each run, and the share of these slices that goes to a person",
            )


main()
