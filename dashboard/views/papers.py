"""Papers: what five systems report, against what was measured here."""

import html
import re
from collections.abc import Iterable

import names
import sentences
import streamlit as st

import charts
import frame
from bthub.data.splits import FOLD_PROTOCOLS
from bthub.errors import BthubError
from bthub.evaluation import published
from bthub.evaluation.cross_validation import cross_validation, folds, without_fold
from bthub.metrics.info import readable as in_words
from bthub.metrics.interval import Interval
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, RunFolder

TOGETHER = "folds"
SPLIT = {protocol: f"split {names.protocol(protocol)}" for protocol in ("patient", "slice", "default")} | {
    fold: f"{fold} of {len(FOLD_PROTOCOLS)}, split by patient" for fold in FOLD_PROTOCOLS
}
SPLIT[TOGETHER] = f"{len(FOLD_PROTOCOLS)}-fold cross-validation by patient, all patients together"


def main() -> None:
    head = st.container()
    frame.explain(
        "Published results, and what comparable runs here reach in the same metric on their test splits. Every "
        "difference has a reason: another split, another data set or another recipe. The tables below name it. "
        "Here detectors predict the more probable class (argmax), as in the papers, instead of using their threshold. "
        "This page shows all runs and both protocols."
    )
    every = frame.view().every
    runs = [every[name] for name in frame.collect(every, readable)]
    whole = cross_validations(runs)
    papers = published.reported()
    rows = {
        key: [row for figure in paper["figures"] for row in compared(key, figure, runs, whole)]
        for key, paper in papers.items()
    }
    downloads = [{"paper": key, **row} for key, of_paper in rows.items() for row in of_paper]
    with head:
        frame.headline(sentences.papers(*standing(downloads)))
    plots(papers, rows)
    st.subheader("Each paper in a table", anchor=False)
    for key, paper in papers.items():
        with st.expander(f"**{key}** · {paper['title']}"):
            st.markdown(f"**Data** {paper['data']}  \n**Split** {paper['split']}  \n**Recipe** {paper['recipe']}")
            st.html(table(paper["figures"], rows[key]))
    frame.note(
        "How to read it: beside each published result are the runs here with a comparable network, task and kind of "
        "data, those with the paper's own recipe first. Each row states the run's initial weights, epochs and picture "
        "size. The recipes are in `src/bthub/training/configs/papers`; `experiments.yaml` beside them says how they "
        "were reduced for two CPU cores.",
        downloads,
        "papers.csv",
    )


def standing(rows: list[dict]) -> tuple[int, int, int]:
    """How many reported figures lie above, below and within the interval of what was measured the same way.

    Of each figure the run counts that stands first: that of the paper's own recipe, if there is one.
    """
    first: dict[tuple[str, str], dict] = {}
    for row in rows:
        if row["reported"] is not None and row["low"] is not None:
            first.setdefault((row["paper"], row["what"]), row)
    above = sum(row["reported"] > row["high"] for row in first.values())
    below = sum(row["reported"] < row["low"] for row in first.values())
    return above, below, len(first) - above - below


def plots(papers: dict[str, dict], rows: dict[str, list[dict]]) -> None:
    """A dot plot for each metric: what each paper reports, and what was measured like it."""
    metrics: dict[str, list[dict]] = {}
    for key, paper in papers.items():
        for figure in paper["figures"]:
            metrics.setdefault(figure["like"]["metric"], []).extend(points(key, figure, rows[key]))
    metrics = {metric: found for metric, found in metrics.items() if len({point["kind"] for point in found}) > 1}
    if not metrics:
        return
    metric = st.segmented_control(
        "Metric",
        list(metrics),
        default=next(iter(metrics)),
        required=True,
        format_func=frame.titled,
        key="papers_metric",
    )
    frame.figure(
        charts.dot_plot(metrics[metric], frame.titled(metric)),
        caption="How to read it: each line is a published result, the orange diamond its value. Blue dots are runs "
        "here with the paper's recipe, gray squares other comparable runs, each with its 95% interval. A diamond to "
        "the right of all dots is a value that no run here reaches, mostly because the paper's test slices share "
        "patients with training. The tables below give the reason for each.",
        alternative=f"{in_words(metric)}: "
        + "; ".join(f"{p['line']}, {p['kind']} {p['value']:.3f}" for p in metrics[metric]),
        rows=metrics[metric],
        file=f"papers-{metric}.csv",
        kinds=charts.SAID,
    )


def points(paper: str, figure: dict, rows: list[dict]) -> list[dict]:
    """The marks of one reported figure; none where nothing was measured like it."""
    here = [row for row in rows if row["what"] == figure["what"]]
    if not here:
        return []
    # The metric is the chart's.
    said = ", " + in_words(figure["like"]["metric"])
    # A phone has no room for what is in parentheses; the table has it.
    line = f"{paper}: {re.sub(r' [(].*?[)]', '', figure['what'].removesuffix(said))}"
    found = []
    if figure["value"] is not None:
        found.append(
            {
                "line": line,
                "kind": next(iter(charts.SAID)),
                "model": paper,
                "value": figure["value"],
                "low": None,
                "high": None,
            }
        )
    for row in here:
        kind = "here, the paper's recipe" if row["recipe"] == "the paper's" else "here, another recipe"
        found.append(
            {"line": line, "kind": kind, "model": row["model"], **{end: row[end] for end in ("value", "low", "high")}}
        )
    return found


def compared(paper: str, figure: dict, runs: Iterable[RunFolder], whole: dict[str, dict]) -> list[dict]:
    """A row for each run that the figure can be held against, those of the paper's own recipe first.

    One row stands for all folds of a cross-validation that is in `whole`.
    """
    rows = {}
    for run, protocol, value in published.measured_like(figure, runs):
        name = records.name(run)
        called = frame.view().called(run)
        if (common := without_fold(name, protocol)) in whole:
            name, protocol, value = common, TOGETHER, whole[common]["metrics"][figure["like"]["metric"]]
            called = f"{names.network(run)}, all folds"
        difference = None if figure["value"] is None else value.value - figure["value"]
        follows = published.recipe_of(name)
        recipe = "the paper's" if follows == paper else "another paper's" if follows else "this project's"
        row = {"what": figure["what"], "reported": figure["value"], "model": called, "recipe": recipe}
        row |= {
            "data": records.trained_on(run)[1],
            "protocol": protocol,
            "budget": trained(run),
            **value.as_row(),
            "difference": difference,
        }
        rows.setdefault((name, protocol), row)
    return sorted(rows.values(), key=lambda row: row["recipe"] != "the paper's")


def trained(run: RunFolder) -> str:
    """What a training started from and how long it took, in words."""
    epochs, side = records.trained_for(run)
    less = ", shortened for two CPU cores" if records.reduced(run) else ""
    return f"from {names.start(records.initialization(run))}, {epochs} epochs, {side} pixels{less}"


def cross_validations(runs: Iterable[RunFolder]) -> dict[str, dict]:
    """The figures of all folds together by the folds' common name, where every fold is there."""
    whole, problems = {}, []
    for common, members in folds(runs).items():
        try:
            whole[common] = cross_validated(members, tuple(frame.files_of(run.path) for run in members))
        except BthubError as error:
            problems.append(str(error))
    frame.say(problems)
    return whole


@st.cache_resource(show_spinner=False)
def cross_validated(_folds: list[RunFolder], files: tuple) -> dict:
    """`cross_validation`, computed once for the files that the folds have now."""
    return cross_validation(_folds)


def readable(run: RunFolder) -> bool:
    """True; a run whose figures can't be read raises, and is named once instead of beside every figure."""
    for evaluation in records.evaluations(run):
        records.row(run, evaluation)
        if run.task == CLASSIFICATION:
            records.confusion(run, evaluation)
    records.budget(run)
    return True


def table(figures: list[dict], rows: list[dict]) -> str:
    """A paper's figures, each with what was measured here and why it may differ."""
    body = ""
    for figure in figures:
        value = "–" if figure["value"] is None else f"{figure['value']:.4f}"
        here = "".join(measured(row) for row in rows if row["what"] == figure["what"])
        note = re.sub("`(.+?)`", r"<code>\1</code>", html.escape(figure["note"]))
        body += (
            f"<tr><th scope=row>{html.escape(figure['what'])}</th><td class=number>{value}</td>"
            f"<td>{here or '<span class=none>no run yet</span>'}</td><td>{note}</td></tr>"
        )
    return (
        "<div class=scroll tabindex=0><table class=figures><thead><tr>"
        "<th scope=col>Result</th><th scope=col>In the paper</th><th scope=col>Measured here, with 95% interval</th>"
        "<th scope=col>Why they may differ</th></tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def measured(row: dict) -> str:
    """A run's figure in a line."""
    ends = Interval(row["value"], row["low"], row["high"]).bounds(".3f", " – ")
    away = "" if row["difference"] is None else f", {row['difference']:+.3f}"
    split = SPLIT.get(row["protocol"], row["protocol"])
    who = f"{row['model']}; {row['recipe']} recipe; {names.data_set(str(row['data']))}, {split}; {row['budget']}"
    value = f"<span class=number><b>{row['value']:.4f}</b>{ends and f' ({ends})'}{away}</span>"
    return f"<div class=run>{value} <small>{html.escape(who, quote=False)}</small></div>"


main()
