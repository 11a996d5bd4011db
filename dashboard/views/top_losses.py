"""Top losses: the slices that the models got most wrong, each once."""

import sentences
import streamlit as st

import frame
import pictures
from bthub.evaluation import per_image
from bthub.imaging.labels import is_healthy
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, RunFolder
from bthub.runs.records import Evaluation

SHOWN = 12


def losses(run: RunFolder, evaluation: Evaluation) -> list[dict]:
    """`per_image.top_losses`; of a detector with `p_tumor`, what a reader thinks in whatever the truth is."""
    found = per_image.scores(run, evaluation)
    lines = per_image.top_losses(found)
    if len(found.labels) != 2 or sum(map(is_healthy, found.labels)) != 1:
        return lines
    return [
        {**line, "p_tumor": 1 - line["p_label"] if is_healthy(line["label"]) else line["p_label"]} for line in lines
    ]


def main() -> None:
    view = frame.view()
    found = frame.collect(view.of(CLASSIFICATION), losses, view.evaluation)
    if not found:
        st.info("Choose a classifier that was measured on this split.")
        return
    rows = [{"model": name, **line} for name, lines in found.items() for line in lines]
    wrong: dict[tuple, set[str]] = {}
    for row in rows:
        if row["kind"] != "right":
            wrong.setdefault(records.image_key(row), set()).add(row["model"])
    shared = sum(len(models) == len(found) for models in wrong.values())
    frame.headline(sentences.losses(len(wrong), len({records.image_key(row) for row in rows}), shared, len(found)))
    frame.explain(
        "The **loss** of a slice is large if the model was sure and wrong. The slices at the top show what a model "
        "has not learned, or where a label is wrong."
    )
    rows = filtered(rows, list(found))
    if not rows:
        st.info("Nothing fits these filters.")
        return
    rows.sort(key=lambda row: -row["loss"])
    gallery(view, rows, len(found))
    st.subheader("The list", anchor=False)
    stated = "p_tumor" if all("p_tumor" in row for row in rows) else "p_label"
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
            "predicted",
            stated,
            "loss",
            "kind",
        ],
        column_config={
            "model": st.column_config.TextColumn("Model", pinned=True),
            "patient_id": "Patient",
            "slice_index": "Slice",
            "file": "File",
            "institution": "Hospital",
            "label": "Truth",
            "predicted": "Predicted",
            "p_label": st.column_config.NumberColumn("Probability of the true class", format="percent"),
            "p_tumor": st.column_config.NumberColumn("Probability of tumor", format="percent"),
            "loss": st.column_config.NumberColumn(
                "Loss", format="%.3f", help="-ln of the probability of the true class."
            ),
            "kind": "Error",
        },
    )
    frame.note(
        "How to read it: sorted by loss; the first 200 are shown, the download has all. A slice that several models "
        "get wrong is hard; one that a single model gets wrong shows a weakness of that model.",
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
        help="missed: a tumor slice predicted as tumor-free. false alarm: a tumor-free slice predicted as tumor. "
        "confused: one kind of tumor predicted as another. If nothing is chosen, all are shown.",
    )
    institutions = sorted({row["institution"] for row in rows if "institution" in row})
    institution = columns[2].selectbox("Hospital", ["All", *institutions], key="losses_at", bind="query-params")
    return [
        row
        for row in rows
        if model in ("All", row["model"])
        and (not kind or row["kind"] in kind)
        and institution in ("All", row.get("institution"))
    ]


def gallery(view: frame.View, rows: list[dict], models: int) -> None:
    """The worst slices, each once, with every model that got it wrong.

    Args:
        view: what is shown.
        rows: of `per_image.top_losses`, the worst first.
        models: how many there are.
    """
    at_hand = pictures.previews(view.evaluation)
    # What was called right is shown only where it is asked for.
    wrong = [row for row in rows if row["kind"] != "right"] or rows
    by_slice: dict[tuple, list[dict]] = {}
    for row in wrong:
        by_slice.setdefault(records.image_key(row), []).append(row)
    shown = [key for key in by_slice if key in at_hand.keys][:SHOWN]
    what = "misclassified slices" if wrong[0]["kind"] != "right" else "slices"
    with_picture = "" if at_hand.all_there else " whose picture is available"
    st.caption(
        f"{len(shown)} of {len(by_slice)} {what}{with_picture}, the worst first. Cyan is the experts' outline."
        + ("" if at_hand.all_there else " To see all pictures, set `BTHUB_DATA` to the data set.")
    )
    frame.gallery(tile(at_hand, key, by_slice[key], models) for key in shown)


def tile(at_hand: pictures.Slices, key: tuple, rows: list[dict], models: int) -> frame.Tile:
    """A slice with what each model said of it."""
    first = rows[0]
    said = "; ".join(f"{row['model']} {sentences.percent(row.get('p_tumor', row['p_label']))}" for row in rows)
    what = first["label"].replace("_", " ")
    of = "tumor" if "p_tumor" in first else what
    who = "the only model here" if models == 1 else f"{len(rows)} of {models} models"
    kind = {"missed": "Missed", "false alarm": "False alarm", "confused": "Confused", "right": "Right"}[first["kind"]]
    return frame.Tile(
        pictures.outlined(at_hand.image(key), {pictures.TRUE: at_hand.mask(key)}),
        f"{kind} by {who}" if first["kind"] != "right" else "Right",
        f"Truth: {what}. Probability of {of}: {said} · {pictures.label(key)}",
        f"{pictures.label(key)}: the truth is {what}; probability of {of}: {said}",
    )


main()
