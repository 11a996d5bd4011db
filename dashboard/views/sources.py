"""Sources: the same detector within one source of pictures and across sources."""

import names
import sentences
import streamlit as st

import charts
import frame
from bthub.errors import BthubError
from bthub.evaluation import pooling
from bthub.runs.folder import CLASSIFICATION, RunFolder


def figures(run: RunFolder) -> tuple[pooling.Pooled, list[dict], list[dict]]:
    """The figures of all sources together, within each, and across them; the sources in words."""
    rows = pooling.once(pooling.predicted(run))
    pooled = pooling.pooled(run, rows)
    return (
        pooled._replace(rows=called(pooled.rows, "source")),
        called(pooling.within(run), "source"),
        called(pooling.crossed(rows), "tumor_from", "healthy_from"),
    )


def called(rows: list[dict], *columns: str) -> list[dict]:
    """Rows with these columns' sources in words: "lgg, FLAIR" is read as "LGG, FLAIR", "253" as "253 set"."""
    return [{**row, **{column: names.source(row[column]) for column in columns}} for row in rows]


def main() -> None:
    view = frame.view()
    measured = {
        name: run
        for name, run in view.every.items()
        if run.task == CLASSIFICATION and (run.path / "sources.json").is_file()
    }
    found = frame.collect(measured, figures)
    if not found:
        frame.missing(
            "No run was measured on pictures of several sources yet. For the default detector:",
            "bthub evaluate runs/NAME --data data/mix --split test",
        )
        return
    head = st.container()
    model = next(iter(found))
    if len(found) > 1:
        model = st.selectbox("Model", list(found), key="sources_model", bind="query-params")
    pooled, within, crossed = found[model]
    with head:
        frame.headline(sentences.sources(pooled.auc, {row["source"]: row["value"] for row in within}, pooled.knows))
    frame.explain(
        "Pictures with and without tumor often come from different places: one hospital for the sick, another for the "
        "healthy, or a data set collected from several websites. A model may then learn to recognize the place, by its "
        "scanner, margins and gray values. In a test with the same places it looks as if it recognized tumors; in a "
        "new hospital this is useless. So only results within one source count. The sources: **LGG** is the data set "
        "of the other pages (lower-grade gliomas, The Cancer Imaging Archive), the **4-class set** and the **253 set** "
        "are collections of pictures from the web, and the **T1 set** has contrast-enhanced T1 slices with tumors, and "
        "tumor-free slices of other sequences."
    )
    inside(view, model, within, pooled)
    left, right = st.columns(2, gap="large")
    with left:
        shares(pooled)
    with right:
        across(crossed)


def inside(view: frame.View, model: str, within: list[dict], pooled: pooling.Pooled) -> None:
    rows = [{"model": model, "line": row["source"], "kind": "within one source", **row} for row in within]
    # A sum over different places has no interval of its own.
    ends = {"low": None, "high": None}
    rows += [
        {"model": model, "line": "all sources together", "kind": "all sources together", "value": pooled.auc, **ends},
        {
            "model": "a guess",
            "line": "a guess that knows only the source",
            "kind": "knows only the source",
            "value": pooled.knows,
            **ends,
        },
    ]
    st.subheader(f"{model}: ROC AUC within each source, and of all together", anchor=False)
    frame.figure(
        charts.within_sources(rows),
        caption="How to read it: blue dots are results within one source, with 95% intervals over patients or "
        "pictures; “LGG, FLAIR” is the FLAIR sequence of the LGG slices alone, in gray, and so on. The orange square "
        "is all pictures together. The gray triangle is a guess without looking at the picture: it always states the "
        "proportion of tumors in the picture's source. What it has above 0.5 comes from knowing the source alone. As "
        "in the app, each picture's probability is calibrated for its kind; the page Compare has one calibration for "
        "all slices, so its values for LGG differ a little.",
        alternative="; ".join(f"{row['line']}: {row['value']:.3f}" for row in rows),
        rows=rows,
        file="within-sources.csv",
        kinds=charts.KINDS,
    )


def shares(pooled: pooling.Pooled) -> None:
    st.subheader("Where the tumors come from", anchor=False)
    frame.grid(
        ["Source", "Pictures", "With tumor", "Proportion"],
        [
            [row["source"], f"{row['images']:,}", f"{row['tumor']:,}", sentences.percent(row["share"])]
            for row in pooled.rows
        ],
        "Pictures and tumors of each source",
    )
    frame.note(
        "How to read it: if every source had the same proportion of tumors, knowing the source would not help, and the "
        "AUC of the guess would be 0.5.",
        pooled.rows,
        "tumors-by-source.csv",
    )


def across(crossed: list[dict]) -> None:
    st.subheader("A tumor from one source, a tumor-free picture from another", anchor=False)
    frame.draw(
        charts.crossing(crossed),
        "; ".join(
            f"tumor from {row['tumor_from']}, tumor-free from {row['healthy_from']}: {row['value']:.3f}"
            for row in crossed
        ),
    )
    frame.note(
        "How to read it: how often a tumor picture from the row's source gets a higher probability than a tumor-free "
        "picture from the column's source. On the diagonal both are from the same source: an honest AUC. Elsewhere "
        "they also differ in the source, which raises the value or lowers it.",
        crossed,
        "across-sources.csv",
    )


try:
    main()
except BthubError as error:
    frame.say([str(error)])
