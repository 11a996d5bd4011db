"""Two models: every slice of the split by what two detectors state, and the slice itself at a click."""

import sentences
import streamlit as st

import charts
import frame
import pictures
from bthub.evaluation import per_image
from bthub.evaluation.per_image import Scores
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION

WHO = {
    (False, False): "both right",
    (True, False): "only the first wrong",
    (False, True): "only the second wrong",
    (True, True): "both wrong",
}


def main() -> None:
    view = frame.view()
    runs = {name: run for name, run in view.of(CLASSIFICATION).items() if len(run.config.get("label_names", [])) == 2}
    found = frame.collect(runs, per_image.detector_scores, view.evaluation)
    if len(found) < 2:
        st.info("Choose two models that predict tumor or no tumor and were measured on this split.")
        return
    head = st.container()
    columns = st.columns(2)
    names = list(found)
    first = columns[0].selectbox("First model (horizontal axis)", names, key="first", bind="query-params")
    rest = [name for name in names if name != first]
    if st.session_state.get("second") not in [None, *rest]:
        st.session_state["second"] = rest[0]
    second = columns[1].selectbox("Second model (vertical axis)", rest, key="second", bind="query-params")
    rows = pairs(found[first], found[second])
    counts = {who: sum(row["who"] == who for row in rows) for who in WHO.values()}
    with head:
        frame.headline(
            sentences.two_models(
                first,
                second,
                counts["both wrong"],
                counts["only the first wrong"],
                counts["only the second wrong"],
                len(rows),
            )
        )
    show(view, rows, first, second, (found[first].threshold, found[second].threshold))


def pairs(one: Scores, other: Scores) -> list[dict]:
    """A row for each slice that both models were measured on."""
    known = {
        records.image_key(row): (float(p), bool(call == y))
        for row, p, call, y in zip(other.rows, other.p_tumor, other.predicted, other.y, strict=True)
    }
    rows = []
    for row, p, call, y in zip(one.rows, one.p_tumor, one.predicted, one.y, strict=True):
        key = records.image_key(row)
        if key not in known:
            continue
        q, right = known[key]
        rows.append(
            {
                "slice": " ".join(key),
                "label": "tumor" if y == one.tumor else "no tumor",
                "first": float(p),
                "second": q,
                "who": WHO[(bool(call != y), not right)],
            }
        )
    # What both get wrong is drawn last, above the many that both get right.
    return sorted(rows, key=lambda row: list(charts.AGREE).index(row["who"]))


@st.fragment
def show(view: frame.View, rows: list[dict], first: str, second: str, thresholds: tuple) -> None:
    left, right = st.columns([3, 2], gap="large")
    with left:
        frame.legend({who: (color, "square") for who, color in charts.AGREE.items()})
        frame.legend({truth: (charts.GRAY, shape) for truth, shape in charts.TRUTH.items()})
        st.caption("Probability of tumor according to each model, one mark per slice.")
        event = frame.draw(
            charts.two_models(rows, first, second, thresholds),
            f"Each slice by the probability of tumor that {first} and {second} state",
            key=f"pairs {first} {second} {view.evaluation.key}",
            on_select="rerun",
            selection_mode="picked",
        )
        frame.note(
            f"How to read it: each mark is a slice; triangles have a tumor. On the right, {first} is sure of a tumor; "
            f"at the top, {second} is. The lines are their thresholds. On the diagonal both agree; at the top left and "
            "bottom right one of them is wrong. Click a mark to see its slice.",
            rows,
            "two-models.csv",
        )
    with right:
        chosen = event.selection.get("picked") or []
        disagree = max(rows, key=lambda row: abs(row["first"] - row["second"]))
        row = next((row for row in rows if chosen and row["slice"] == chosen[0].get("slice")), disagree)
        if not chosen:
            st.caption("Click a mark to see its slice. This is where the two models disagree most.")
        picture(view, row, first, second)


def picture(view: frame.View, row: dict, first: str, second: str) -> None:
    """The slice of a row, with what both models say."""
    at_hand = pictures.previews(view.evaluation)
    key = tuple(row["slice"].split(" ", 1)) if " " in row["slice"] else (row["slice"],)
    one, other = (sentences.percent(row[place]) for place in ("first", "second"))
    said = f"{first} states {one}, {second} {other}: {row['who']}"
    if key not in at_hand.keys:
        st.info(
            f"{pictures.label(key)} is {row['label']}. {said}. Its picture isn't here: set `BTHUB_DATA` to the data "
            "set."
        )
        return
    frame.gallery(
        [
            frame.Tile(
                pictures.outlined(at_hand.image(key), {pictures.TRUE: at_hand.mask(key)}),
                f"{pictures.label(key)}: {row['label']}",
                said,
                f"{pictures.label(key)} with the experts' outline in cyan; {said}",
            )
        ],
        wide=True,
    )


main()
