"""Try your own: one picture through all models that have weights here, made worse until one of them breaks."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import prepared
import sentences
import streamlit as st
from damage import KINDS, Damage, damaged
from PIL import Image

import charts
import frame
import models
import pictures
from bthub.errors import BthubError
from bthub.imaging.image_io import read_picture_bytes
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION, WEIGHTS, RunFolder

# Sides of a picture beyond this are made smaller: the models look at less than a quarter of it anyway.
LARGEST = 1024
TYPES = ["png", "jpg", "jpeg", "tif", "tiff", "webp", "bmp", "dcm"]


class Verdict(NamedTuple):
    """What a detector says of a picture: `call` in words, and the `p` it states."""

    call: str
    p: float


def main() -> None:
    view = frame.view()
    runs = {name: run for name, run in view.every.items() if (run.path / WEIGHTS).is_file()}
    detectors = {
        name: run
        for name, run in runs.items()
        if run.task == CLASSIFICATION and "tumor" in run.config["label_names"] and len(run.config["label_names"]) == 2
    }
    localizers = {name: run for name, run in runs.items() if run.task == SEGMENTATION}
    if not detectors:
        frame.missing("No detector's weights are here. To train a detector:", "make reproduce RUN=NAME")
        return
    head = st.container()
    found = chosen()
    left, right = st.columns([1, 3], gap="large")
    with left:
        change = sliders()
    if found is None:
        with head:
            frame.headline("Upload a slice of a brain MRI, or choose a test slice: all models look at it side by side.")
        return
    image, mask, key = found
    with right:
        now = damaged(image, change)
        rows = look(view, detectors, localizers, image, mask, key, now, change)
        frame.note(
            "How to read it: heat shows where a detector found evidence for a tumor, red is a localizer's outline, and "
            "cyan the experts' outline (only on an unchanged test slice). Each model has its own threshold; within its "
            "referral band a person should look. The thresholds were chosen for pictures like the training pictures, "
            "so be careful with other kinds. If a model has a threshold for each kind of picture, this page uses the "
            "one for color slices whatever the picture; the app chooses the one for the kind, so its verdict can "
            "differ. Research software: these are not medical findings.",
            rows,
            "try-your-own.csv",
        )
        sweep(view, detectors, image)
    with head:
        frame.headline(point(rows, change))


def chosen() -> tuple[Image.Image, np.ndarray | None, pictures.Key] | None:
    """The picture, the experts' outline if there is one, and its name."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        where = st.segmented_control(
            "Picture", ["A test slice", "Your own"], default="A test slice", required=True, key="where"
        )
        return test_slice() if where == "A test slice" else uploaded()


def test_slice() -> tuple[Image.Image, np.ndarray | None, pictures.Key]:
    """One of the slices that come with the dashboard, the largest tumor first."""
    at_hand = pictures.ShippedSlices()
    named = {" ".join(key): key for key, area in sorted(at_hand.keys.items(), key=lambda item: -item[1])}
    text = st.selectbox(
        "Slice", list(named), format_func=lambda text: pictures.label(named[text]), key="own_slice", width=320
    )
    key = named[text]
    return at_hand.image(key), at_hand.mask(key), key


def uploaded() -> tuple[Image.Image, None, pictures.Key] | None:
    """A picture of the class's own; None until there is one that can be read."""
    file = st.file_uploader(
        "A slice of a brain MRI",
        TYPES,
        key="own_file",
        help="An axial slice: FLAIR, contrast-enhanced or any other. It stays in this server's memory, for this "
        "session. Don't upload pictures that name a patient.",
    )
    if file is None:
        return None
    try:
        image = Image.fromarray(read_picture_bytes(file.getvalue(), file.name))
    except BthubError as error:
        st.error(str(error))
        return None
    image.thumbnail((LARGEST, LARGEST))
    return image, None, ("own", hashlib.sha256(image.tobytes()).hexdigest())


def sliders() -> Damage:
    """What the class does to the picture."""
    st.button("Reset", on_click=reset, icon=":material/restart_alt:")
    return Damage(
        st.slider("Brightness", 0.2, 2.0, 1.0, 0.05, key="brightness"),
        st.slider("Noise", 0, 60, 0, 2, key="noise", help="Standard deviation, in gray levels of 255."),
        st.slider("Rotation, degrees", -180, 180, 0, 5, key="rotation"),
        st.slider("Crop, percent", 0, 50, 0, 2, key="crop"),
        st.slider("JPEG quality", 1, 100, 100, key="quality", help="100: the picture isn't saved as JPEG."),
    )


def reset() -> None:
    for name, value in Damage()._asdict().items():
        st.session_state[name] = value


def look(
    view: frame.View,
    detectors: dict[str, RunFolder],
    localizers: dict[str, RunFolder],
    image: Image.Image,
    mask: np.ndarray | None,
    key: pictures.Key,
    now: Image.Image,
    change: Damage,
) -> list[dict]:
    """The picture as it is now, as each model sees it.

    Returns:
        Of each detector what it says: `model`, `threshold`, `before`, `now`, `call`, `changed`.
    """
    if not change.none:
        key, mask = (*key, hashlib.sha256(now.tobytes()).hexdigest()), None
    palette = charts.colors(list(view.every))
    tiles = [frame.Tile(now, "The picture", "as the models get it", "The picture as the models get it")]
    if mask is not None:
        tiles[0] = frame.Tile(
            pictures.outlined(now, {pictures.TRUE: mask}), "The picture", "cyan: the experts' outline", "The test slice"
        )
    rows: list[dict[str, Any]] = []

    def seen(name: str, run: RunFolder) -> frame.Tile:
        if run.task == SEGMENTATION:
            drawn = models.draw(run, now, key)
            said = f"outlines {drawn.sum():,} px" if drawn.any() else "outlines nothing"
            outlines = {pictures.TRUE: mask, pictures.DRAWN: drawn}
            return frame.Tile(pictures.outlined(now, outlines), name, said, f"{name} {said}", palette[name])
        found = models.look(run, now, mask, key)
        verdict = judged(run, found.probability)
        before = verdict if change.none else judged(run, models.look(run, image, None, key[:2]).probability)
        rows.append(
            {
                "model": name,
                "threshold": threshold(run),
                "before": before.p,
                "now": verdict.p,
                "call": verdict.call,
                "changed": before.call != verdict.call,
            }
        )
        said = f"{sentences.percent(verdict.p)}: {verdict.call}" + (
            ", was " + before.call if before.call != verdict.call else ""
        )
        return frame.Tile(prepared.heated(now, found.heatmap), name, said, f"{name} states {said}", palette[name])

    def known(run: RunFolder) -> bool:
        return (prepared.outline(run, key) if run.task == SEGMENTATION else prepared.look(run, key)) is not None

    tiles += [tile for _, tile in models.each({**detectors, **localizers}, seen, known)]
    frame.gallery(tiles)
    frame.grid(
        ["Model", "Threshold", "As it was", "Now", "Verdict"],
        [
            [
                row["model"],
                sentences.percent(row["threshold"]),
                sentences.percent(row["before"]),
                sentences.percent(row["now"]),
                row["call"] + (" (changed)" if row["changed"] else ""),
            ]
            for row in rows
        ],
        "What each model says of the picture",
    )
    return rows


def threshold(run: RunFolder) -> float:
    """The probability at and above which a detector predicts a tumor."""
    found = run.detector_calibration.threshold
    return 0.5 if found is None else found


def judged(run: RunFolder, p: float) -> Verdict:
    """A probability in words: tumor, no tumor, or that a person should look."""
    low, high = run.detector_calibration.referral_band or (None, None)
    if low is not None and low <= p < high:
        return Verdict("a person should look", p)
    return Verdict("tumor" if p >= threshold(run) else "no tumor", p)


def point(rows: list[dict], change: Damage) -> str:
    """What the models say, or which of them changed its mind."""
    if change.none:
        calls: dict[str, list[str]] = {}
        for row in rows:
            calls.setdefault(row["call"], []).append(row["model"])
        if len(calls) == 1 and len(rows) > 1:
            return f"All {len(rows)} models say **{rows[0]['call']}**. Move the sliders: which changes its mind first?"
        said = "; ".join(f"{sentences.listed(names)}: **{call}**" for call, names in calls.items())
        return f"{said}. Move the sliders: which model changes its mind first?"
    broken = [row["model"] for row in rows if row["changed"]]
    if not broken:
        return "All models still predict the same as on the unchanged picture."
    held = [row["model"] for row in rows if not row["changed"]]
    return f"**{sentences.listed(broken)}** changed {'its' if len(broken) == 1 else 'their'} mind" + (
        f"; {sentences.listed(held)} still {'says' if len(held) == 1 else 'say'} the same." if held else "."
    )


@st.fragment
def sweep(view: frame.View, detectors: dict[str, RunFolder], image: Image.Image) -> None:
    """One kind of damage from none to strong, and which model breaks first."""
    st.subheader("Which breaks first?", anchor=False)
    # One below the other: beside the button a phone has no room for the last kinds.
    kind = st.segmented_control(
        "Damage",
        list(KINDS),
        default="noise",
        required=True,
        format_func=lambda k: KINDS[k].title,
        key="kind_of_damage",
    )
    go = st.button("Make it worse step by step", type="primary")
    if not go:
        st.caption(
            "Every model analyzes six versions of the picture, each worse than the one before. This takes seconds."
        )
        return
    worse = [damaged(image, Damage(**{kind: step})) for step in KINDS[kind].steps]
    rows = [
        {"model": name, "strength": step, "p": float(p)}
        for name, found in models.each(detectors, lambda _, run: models.probabilities(run, worse), lambda _: False)
        for step, p in zip(KINDS[kind].steps, found, strict=True)
    ]
    lines = [{"model": name, "p": threshold(run)} for name, run in detectors.items()]
    st.markdown(first_to_break(rows, {line["model"]: line["p"] for line in lines}, kind))
    frame.figure(
        charts.breaking(rows, list(view.every), KINDS[kind].unit, lines),
        caption="How to read it: each mark is the picture at one strength of damage. Where a line crosses the dotted "
        "line of its threshold, the model changes its prediction. One picture proves nothing: try several.",
        alternative=f"Probability of tumor by {KINDS[kind].unit} of {sentences.listed(list(detectors), 9)}",
        rows=rows,
        file="breaking.csv",
    )


def first_to_break(rows: list[dict], thresholds: dict[str, float], kind: str) -> str:
    """Which model changes its verdict at the weakest damage."""
    steps = KINDS[kind].steps
    broken: dict[str, int] = {}
    for name, limit in thresholds.items():
        calls = [row["p"] >= limit for row in rows if row["model"] == name]
        place = next((i for i, call in enumerate(calls) if call != calls[0]), None) if calls else None
        if place is not None:
            broken[name] = place
    if not broken:
        return "No model changes its prediction, even at the strongest damage here."
    weakest = min(broken.values())
    first = [name for name, place in broken.items() if place == weakest]
    held = [name for name in thresholds if name not in broken]
    verb = "breaks" if len(first) == 1 else "break"
    said = f"**{sentences.listed(first)}** {verb} first, at {steps[weakest]:g} ({KINDS[kind].unit})"
    return (
        f"{said}; {sentences.listed(held)} {'keeps its prediction' if len(held) == 1 else 'keep their predictions'} "
        "to the end."
        if held
        else f"{said}."
    )


main()
