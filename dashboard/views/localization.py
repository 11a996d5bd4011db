"""Localization: Dice by patient and by tumor size, and the masks themselves, the worst first."""

import statistics

import prepared
import sentences
import streamlit as st

import charts
import frame
import models
import pictures
from bthub.errors import BthubError
from bthub.evaluation import per_image
from bthub.runs import records
from bthub.runs.folder import SEGMENTATION, RunFolder

SHOWN = 12
KINDS = {
    "Tumor slices": ("outlined", "missed"),
    "Missed tumor slices": ("missed",),
    "Masks on tumor-free slices": (per_image.FALSE_MASK,),
}


def main() -> None:
    view = frame.view()
    head = st.container()
    frame.explain(
        "**Dice** is twice the overlap of two outlines divided by the sum of their areas: 1 if they are identical, 0 "
        "if they don't overlap. Two expert readers agree at about 0.84 on these scans (Buda, Saha and Mazurowski, "
        "2019)."
    )
    found = frame.collect(view.of(SEGMENTATION), per_image.masks, view.evaluation)
    if not found:
        st.info("Choose a localizer that was measured on this split. To train one:")
        st.code(frame.COMMANDS[SEGMENTATION], "sh")
        return
    if said := point(view, found):
        with head:
            frame.headline(said)
    left, right = st.columns([1, 1], gap="large")
    with left:
        patients(view, found)
    with right:
        sizes(view, found)
    gallery(view, found)


def point(view: frame.View, found: dict[str, list[dict]]) -> str | None:
    """How well the best model outlines, and which tumors are hard for it."""
    means = means_of(view, found)
    if not means:
        return None
    best = max(means, key=lambda row: row["value"])["model"]
    of_size = {
        size: [line["dice"] for line in found[best] if line["size"] == size and line["dice"] is not None]
        for size in per_image.SIZES
    }
    medians = [statistics.median(dice) if dice else None for dice in of_size.values()]
    return sentences.localization(means, medians[0], medians[-1])


def means_of(view: frame.View, found: dict[str, list[dict]]) -> list[dict]:
    """The mean Dice over patients of each model, where it is known."""
    figures = frame.collect({n: view.runs[n] for n in found}, records.figures, view.evaluation)
    return [
        {"model": name, "value": of_run["dice_volume_mean"].value}
        for name, of_run in figures.items()
        if "dice_volume_mean" in of_run and of_run["dice_volume_mean"].value is not None
    ]


def patients(view: frame.View, found: dict[str, list[dict]]) -> None:
    st.subheader("By patient")
    rows = [{"model": name, **line} for name, lines in found.items() for line in per_image.dice_by_patient(lines)]
    if not rows:
        st.caption("No patient of this split has a tumor.")
        return
    means = means_of(view, found)
    frame.figure(
        charts.dice_by_patient(rows, list(view.every), means),
        caption="How to read it: each dot is one patient, all slices together, the worst at the top; large dots are "
        "large tumors. The dashed line is the mean, as on the page Compare.",
        alternative="Dice of each patient; "
        + "; ".join(f"{m['model']} has a mean of {m['value']:.3f}" for m in means)
        + f"; the worst is {rows[0]['patient_id']} with {rows[0]['dice']:.3f}",
        rows=rows,
        file="dice-by-patient.csv",
    )


def sizes(view: frame.View, found: dict[str, list[dict]]) -> None:
    st.subheader("By size of the tumor")
    rows = [
        {"model": name, "size": line["size"], "dice": line["dice"], "tumor_px": line["tumor_px"]}
        for name, lines in found.items()
        for line in lines
        if line["tumor_px"]
    ]
    if not rows:
        st.caption("No slice of this split has a tumor.")
        return
    frame.figure(
        charts.dice_by_size(rows, list(view.every), list(per_image.SIZES)),
        caption="How to read it: each tick is a slice; the box spans the middle half, its line is the median. The "
        "models are in the order of the legend. Small tumors have long edges for their area, so equally careful "
        "outlines have a lower Dice. A tick at 0 is a missed tumor slice.",
        alternative="Dice of each tumor slice by the tumor's size",
        rows=rows,
        file="dice-by-size.csv",
    )


def gallery(view: frame.View, found: dict[str, list[dict]]) -> None:
    st.subheader("The masks, worst first")
    at_hand = pictures.previews(view.evaluation)
    controls = st.columns([2, 2, 2, 2], vertical_alignment="bottom")
    name = controls[0].selectbox("Model", list(found), key="gallery_model", bind="query-params")
    kind = controls[1].selectbox("Slices", list(KINDS), key="gallery_kind", bind="query-params")
    institutions = sorted({line["institution"] for line in found[name] if "institution" in line})
    institution = controls[2].selectbox("Hospital", ["All", *institutions], key="institution", bind="query-params")
    live = controls[3].toggle(
        "Draw its masks",
        value=True,
        help="Masks of the shipped models are ready; other models draw theirs while you wait.",
    )
    lines = [
        line
        for line in sorted(found[name], key=lambda line: (line["dice"] or 0, -line["predicted_px"]))
        if line["kind"] in KINDS[kind] and institution in ("All", line.get("institution"))
    ]
    shown = [line for line in lines if records.image_key(line) in at_hand.keys][:SHOWN]
    st.caption(
        f"{len(lines)} such slices in this split; "
        + (
            f"the {len(shown)} worst are shown"
            if at_hand.all_there
            else f"{len(shown)} of them come with the dashboard"
        )
        + ". Cyan is the experts' outline, red the model's."
        + ("" if at_hand.all_there else " To see all, set `BTHUB_DATA` to the data set.")
    )
    run = view.runs[name]
    live = live and name in models.ready({name: run})
    waiting = [line for line in shown if prepared.outline(run, records.image_key(line)) is None] if live else []
    bar = st.progress(0.0, f"{name}: drawing masks") if waiting else None
    tiles = []
    try:
        for i, line in enumerate(shown):
            tiles.append(tile(at_hand, run, line, live))
            if bar:
                bar.progress((i + 1) / len(shown), f"{name}: drawing masks")
    except BthubError as error:
        frame.say([str(error)])
    if bar:
        bar.empty()
    frame.gallery(tiles)
    with st.expander(f"All {len(lines)} slices as a table"):
        st.dataframe(
            lines,
            hide_index=True,
            column_order=["patient_id", "slice_index", "institution", "dice", "tumor_px", "predicted_px", "kind"],
            column_config={
                "patient_id": "Patient",
                "slice_index": "Slice",
                "institution": "Hospital",
                "dice": st.column_config.NumberColumn("Dice", format="%.3f"),
                "tumor_px": "Tumor, pixels",
                "predicted_px": "Outlined, pixels",
                "kind": "Result",
            },
            alt="The slices with their Dice, worst first",
        )
    if lines:
        frame.note("Every slice with its counts of pixels, worst first.", lines, f"masks-{name}.csv")


def tile(at_hand: pictures.Slices, run: RunFolder, line: dict, live: bool) -> frame.Tile:
    """A slice with both outlines."""
    key = records.image_key(line)
    image = at_hand.image(key)
    drawn = models.draw(run, image, key) if live else None
    said = f"Dice {line['dice']:.2f}" if line["kind"] == "outlined" else line["kind"]
    return frame.Tile(
        pictures.outlined(image, {pictures.TRUE: at_hand.mask(key), pictures.DRAWN: drawn}),
        said,
        f"{pictures.label(key)} · tumor {line['tumor_px']:,} px, outlined {line['predicted_px']:,} px",
        f"{pictures.label(key)}: {said}",
    )


main()
