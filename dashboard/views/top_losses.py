"""Top losses: the slices that each model got most wrong."""

import streamlit as st

import charts
import frame
import pictures
from bthub.evaluation import per_image
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, RunFolder
from bthub.runs.records import Evaluation

SHOWN = 12


def losses(run: RunFolder, evaluation: Evaluation) -> list[dict]:
    return per_image.top_losses(per_image.scores(run, evaluation))


def main() -> None:
    view = frame.view()
    st.markdown(
        "The **loss** of a slice is large where the model was sure and wrong. What tops the list shows what a model "
        "has not learned, or what the labels get wrong."
    )
    found = frame.collect(view.of(CLASSIFICATION), losses, view.evaluation)
    if not found:
        st.info("Choose a classifier that was measured on this split.")
        return
    rows = [{"model": name, **line} for name, lines in found.items() for line in lines]
    rows = filtered(rows, list(found))
    if not rows:
        st.info("Nothing fits these filters.")
        return
    rows.sort(key=lambda row: -row["loss"])
    gallery(view, rows)
    st.subheader("The list")
    st.dataframe(
        rows[:200],
        hide_index=True,
        alt="The slices with the highest loss",
        column_order=[
            "model",
            "patient_id",
            "slice_index",
            "file",
            "institution",
            "label",
            "called",
            "p_label",
            "loss",
            "kind",
        ],
        column_config={
            "model": st.column_config.TextColumn("Model", pinned=True),
            "label": "Is",
            "called": "Called",
            "p_label": st.column_config.NumberColumn("Probability of what it is", format="percent"),
            "loss": st.column_config.NumberColumn("Loss", format="%.3f", help="-ln of that probability."),
            "kind": "Error",
        },
    )
    frame.note(
        "How to read it: sorted by loss; the first 200 are shown, the download has all. A slice that several models "
        "get wrong is hard; one that a single model gets wrong is that model's own.",
        rows,
        "top-losses.csv",
    )


def filtered(rows: list[dict], names: list[str]) -> list[dict]:
    columns = st.columns(3, vertical_alignment="bottom")
    model = columns[0].selectbox("Model", ["All", *names], key="losses_model", bind="query-params")
    kinds = ["missed", "false alarm", "confused", "right"]
    kind = columns[1].pills(
        "Error",
        [kind for kind in kinds if any(row["kind"] == kind for row in rows)],
        selection_mode="multi",
        key="losses_kind",
        bind="query-params",
        help="missed: a tumor called healthy. false alarm: a healthy slice called tumor. confused: one tumor for "
        "another. Nothing chosen shows all.",
    )
    institutions = sorted({row["institution"] for row in rows if "institution" in row})
    institution = columns[2].selectbox("Institution", ["All", *institutions], key="losses_at", bind="query-params")
    return [
        row
        for row in rows
        if model in ("All", row["model"])
        and (not kind or row["kind"] in kind)
        and institution in ("All", row.get("institution"))
    ]


def gallery(view: frame.View, rows: list[dict]) -> None:
    at_hand = pictures.slices(view.evaluation)
    palette = charts.colors(list(view.every))
    # What was called right is shown only where it is asked for.
    wrong = [row for row in rows if row["kind"] != "right"] or rows
    shown = [row for row in wrong if records.image_key(row) in at_hand.keys][:SHOWN]
    with_picture = (
        "the worst first" if at_hand.all_there else "those whose picture comes with the dashboard, the worst first"
    )
    st.caption(
        f"{len(shown)} of {len(wrong)} {'errors' if wrong[0]['kind'] != 'right' else 'slices'}: {with_picture}. Cyan "
        "is the experts' outline." + ("" if at_hand.all_there else " All pictures: name a data set with `BTHUB_DATA`.")
    )
    frame.gallery(
        frame.Tile(
            pictures.outlined(at_hand.image(key), {pictures.TRUE: at_hand.mask(key)}),
            f"{row['kind']}, loss {row['loss']:.2f}",
            f"{row['model']} gave what it is ({row['label'].replace('_', ' ')}) {frame.percent(row['p_label'])} · "
            f"{pictures.label(key)}",
            f"{pictures.label(key)}: is {row['label']}, {row['model']} called it {row['called']}",
            palette[row["model"]],
        )
        for row in shown
        for key in [records.image_key(row)]
    )


main()
