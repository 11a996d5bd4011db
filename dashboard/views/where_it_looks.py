"""Where it looks: Grad-CAM of every chosen classifier on one slice, beside what is there and what is drawn."""

import numpy as np
import prepared
import sentences
import streamlit as st
from PIL.Image import Image

import charts
import frame
import models
import pictures
from bthub.metrics.interval import Interval
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION, RunFolder


def main() -> None:
    view = frame.view()
    head = st.container()
    frame.explain(
        "A model can be right for the wrong reason. **Grad-CAM** shows which parts of the slice raised the tumor's "
        "score in the last convolutional stage. It is coarse, a few cells across: it shows roughly where the evidence "
        "lay, and is not an outline."
    )
    found = pictures.slices(view.evaluation)
    if isinstance(found, pictures.NoSlices):
        st.info(
            f"No pictures of {view.evaluation.data} come with the dashboard. To see them, set the environment variable "
            f"`BTHUB_DATA` to the data set: a folder of `bthub data build` or a Hub id, named {view.evaluation.data}."
        )
        return
    controls = st.columns([1, 2], vertical_alignment="bottom")
    with controls[0]:
        keys = choose(found)
    if not keys:
        over_all(view)
        return
    named = {" ".join(key): key for key in keys}
    text = controls[1].selectbox(
        "Slice",
        list(named),
        format_func=lambda text: describe(named[text], found),
        key="slice",
        bind="query-params",
        help="Arrow keys go through the list.",
    )
    rows = show(view, found, named[text])
    if rows:
        with head:
            frame.headline(sentences.looking(rows))
    over_all(view)


def choose(found: pictures.Slices) -> list[pictures.Key]:
    kind = st.segmented_control(
        "Show", ["Tumor", "Tumor-free", "All"], default="Tumor", required=True, key="kind", bind="query-params"
    )
    return [key for key, area in found.keys.items() if kind == "All" or (area > 0) == (kind == "Tumor")]


def describe(key: pictures.Key, found: pictures.Slices) -> str:
    area = found.keys[key]
    return f"{pictures.label(key)} · {f'tumor of {area:,} px' if area else 'no tumor'}"


def show(view: frame.View, found: pictures.Slices, key: pictures.Key) -> list[dict]:
    """The slice as each model sees it.

    Returns:
        What each classifier says.
    """
    image, mask = found.image(key), found.mask(key)
    area = f"{mask.sum():,} px" if mask is not None and mask.any() else "none"
    palette = charts.colors(list(view.every))
    tiles = [
        frame.Tile(image, "The slice", "as the models get it", f"MRI slice, {pictures.label(key)}"),
        frame.Tile(
            pictures.outlined(image, {pictures.TRUE: mask}),
            "Experts' outline",
            area,
            f"The slice with the experts' outline in cyan, {area}",
        ),
    ]
    rows = []

    def seen(name: str, run: RunFolder) -> frame.Tile:
        if run.task == SEGMENTATION:
            return drawn(name, run, image, mask, key, palette[name])
        said = models.look(run, image, mask, key)
        rows.append(
            {
                "model": name,
                "predicted": said.label,
                "probability": said.probability,
                "pointing_game": said.pointing_game,
                "chance": said.chance,
            }
        )
        return looked(rows[-1], run, image, said.heatmap, mask, key, palette[name])

    def known(run: RunFolder) -> bool:
        return (prepared.outline(run, key) if run.task == SEGMENTATION else prepared.look(run, key)) is not None

    tiles += [tile for _, tile in models.each(models.ready(view.runs), seen, known)]
    frame.gallery(tiles)
    if not found.all_there:
        st.caption(
            f"{len(found.keys)} test slices come with the dashboard, with maps and outlines computed beforehand. To "
            "see all slices of a split, set the environment variable `BTHUB_DATA` to the data set; the models then "
            "work while you wait."
        )
    caption = (
        "How to read it: bright is where a detector found evidence for a tumor; cyan is the experts' outline, red a "
        "localizer's. **Heat on the tumor** is the fraction of the heat inside the experts' outline (energy-based "
        "pointing game). **By chance** is what heat spread evenly over the head would give: a map near this value says "
        "nothing about the tumor."
    )
    if rows:
        frame.grid(
            ["Model", "Heat for", "Its probability", "Heat on the tumor", "By chance"],
            [
                [
                    row["model"],
                    row["predicted"],
                    *(sentences.percent(row[key]) for key in ("probability", "pointing_game", "chance")),
                ]
                for row in rows
            ],
            "Probability and heat on the tumor of each classifier",
        )
        frame.note(caption, rows, "where-it-looks.csv")
    else:
        frame.how(caption)
    return rows


def over_all(view: frame.View) -> None:
    """How much of each chosen detector's heat lies on the tumor over all tumor slices, where it was measured."""
    runs = view.of(CLASSIFICATION)
    if view.evaluation.protocol == "default" or not runs:
        return  # without outlines nobody knows where the tumor is
    st.subheader("Over all tumor slices of the split")
    found = frame.collect(runs, records.gradcam, view.evaluation)
    rows = [{"model": name, **row} for name, row in found.items() if row is not None]
    if not rows:
        frame.missing(
            "No chosen model was measured yet. This needs the weights and takes minutes:",
            f"bthub explain runs/NAME --data data/{view.evaluation.data} --split {view.evaluation.split}",
        )
        return
    frame.grid(
        ["Model", "Heat on the tumor", "Median", "Chance, head", "Chance, picture", "Slices", "No heat"],
        [
            [
                row["model"],
                (sentences.percent(row["mean"]), Interval(row["mean"], row["low"], row["high"]).bounds(".1%", "–")),
                *(sentences.percent(row[key]) for key in ("median", "head", "picture")),
                f"{row['samples']:,}",
                row["empty_maps"],
            ]
            for row in rows
        ],
        "Mean heat on the tumor of each classifier over the split",
        [
            None,
            "Fraction of the heat inside the experts' outline: the mean over slices, with its 95% interval over "
            "patients.",
            "The slice in the middle.",
            "Heat spread evenly over the head.",
            "Heat spread evenly over the picture.",
            "Tumor slices with a map.",
            "Tumor slices where nothing raised the score.",
        ],
    )
    lacking = [name for name in runs if name not in {row["model"] for row in rows}]
    frame.note(
        "How to read it: heat on the tumor well above both chance levels means that the model looks at the tumor. A "
        "value near “Chance, head” means that the heat is spread over the head: the map is coarse, or the model also "
        "looks elsewhere." + (f" Not measured: {', '.join(lacking)}." if lacking else ""),
        rows,
        "heat-on-the-tumor.csv",
    )


def drawn(
    name: str, run: RunFolder, image: Image, mask: np.ndarray | None, key: pictures.Key, color: str
) -> frame.Tile:
    """What a ResUNet outlines."""
    found = models.draw(run, image, key)
    said = f"{found.sum():,} px"
    if mask is not None and mask.any():
        said += f", Dice {2 * (found & mask).sum() / (found.sum() + mask.sum()):.2f}"
    outlined = pictures.outlined(image, {pictures.TRUE: mask, pictures.DRAWN: found})
    return frame.Tile(outlined, name, f"{said}{trained_on(run, key)}", f"Outline drawn by {name} in red: {said}", color)


def looked(
    row: dict,
    run: RunFolder,
    image: Image,
    heatmap: np.ndarray,
    mask: np.ndarray | None,
    key: pictures.Key,
    color: str,
) -> frame.Tile:
    """Where a classifier looks."""
    said = f"{row['predicted']} {sentences.percent(row['probability'])}"
    if row["pointing_game"] is not None:
        said += f", {sentences.percent(row['pointing_game'])} of the heat on the tumor"
    heat = pictures.outlined(prepared.heated(image, heatmap), {pictures.TRUE: mask})
    return frame.Tile(heat, row["model"], f"{said}{trained_on(run, key)}", f"Heat map of {row['model']}: {said}", color)


def trained_on(run: RunFolder, key: pictures.Key) -> str:
    """A warning where the run was given this very slice."""
    split = records.seen(run, key)
    return f" · was in its {split} split" if split else ""


main()
