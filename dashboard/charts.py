"""The charts, as Altair specifications: each takes rows and the names of all models, which fix the colors."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from bthub.runs.records import AS_PUBLISHED, SEEN

# At least 3 to 1 against white and against the dark background, so that a model has one color in both themes.
PALETTE = (
    "#2f7ed8",
    "#d9480f",
    "#0f9d77",
    "#a855f7",
    "#c98a04",
    "#e0338a",
    "#0891b2",
    "#7a8f0a",
    "#e03131",
    "#6d7be8",
    "#a0714f",
    "#6b7f95",
)
SPLITS = {"train": "#7fa7cc", "validation": "#e0b252", "test": "#d9480f", "benchmark": "#7f8a99"}
GRAY = "#7f8a99"
# What leaks, what doesn't, and the third thing beside them.
PROTOCOLS = {"patient": "#0f9d77", "slice": "#d9480f", "paper": GRAY}
COPIES = {SEEN["unseen"]: "#0f9d77", SEEN["seen"]: "#d9480f", AS_PUBLISHED: GRAY}
# Few labels, none of them moved: streamlit's theme would push the first into the second.
FEW = alt.Axis(tickCount=5, labelFlush=False)

Rows = Sequence[dict]


def colors(names: Sequence[str]) -> dict[str, str]:
    """The color of each model."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def _color(names: Sequence[str]) -> alt.Color:
    """The models' own colors; the page shows them above the chart, where they wrap and take nothing of its height."""
    palette = colors(names)
    return alt.Color("model:N", scale=alt.Scale(domain=list(palette), range=list(palette.values())), legend=None)


def intervals(rows: Rows, names: Sequence[str], title: str) -> alt.LayerChart:
    """A dot with its interval for each model; rows of `model`, `value`, `low`, `high`."""
    data = alt.Chart(pd.DataFrame(rows))
    model = alt.Y("model:N", title=None, sort=list(names), axis=alt.Axis(labelLimit=200, grid=True))
    color = _color(names)
    tooltip = ["model", *(alt.Tooltip(f"{end}:Q", format=".4f") for end in ("value", "low", "high"))]
    bar = data.mark_rule(strokeWidth=3, opacity=0.55).encode(
        alt.X("low:Q", title=title, scale=alt.Scale(zero=False, padding=14), axis=FEW),
        model,
        x2="high:Q",
        color=color,
    )
    dot = data.mark_point(filled=True, size=130, opacity=1).encode(x="value:Q", y=model, color=color, tooltip=tooltip)
    text = data.mark_text(dy=-13, fontSize=12, color=GRAY).encode(
        x="value:Q", y=model, text=alt.Text("value:Q", format=".3f")
    )
    return (bar + dot + text).properties(height=alt.Step(44))


def cost_against_quality(rows: Rows, names: Sequence[str], cost: str, quality: str) -> alt.LayerChart:
    """Rows of `model`, `cost`, `value`, `low`, `high`; the cost on a logarithmic axis."""
    data = alt.Chart(pd.DataFrame(rows))
    color = _color(names)
    scale = alt.Scale(type="log", padding=40, nice=False)
    x = alt.X("cost:Q", title=f"{cost} (logarithmic)", scale=scale, axis=alt.Axis(format=".3~s", tickCount=5))
    y = alt.Y("value:Q", title=quality, scale=alt.Scale(zero=False, padding=12))
    tooltip = ["model", *(alt.Tooltip(f"{name}:Q", format=".4~s") for name in ("cost", "value", "low", "high"))]
    bar = data.mark_rule(strokeWidth=2, opacity=0.5).encode(x, alt.Y("low:Q", title=quality), y2="high:Q", color=color)
    dot = data.mark_point(filled=True, size=170, opacity=1).encode(x, y, color, tooltip=tooltip)
    return (bar + dot).properties(height=340)


def operating_curve(
    curve: Rows, points: Rows, names: Sequence[str], x: tuple[str, str], y: tuple[str, str]
) -> alt.LayerChart:
    """A ROC or precision-recall curve with the operating points on it.

    Args:
        curve, points: rows of `model` and the two columns.
        x, y: column and title.
    """
    color = _color(names)
    axes = {
        "x": alt.X(f"{x[0]}:Q", title=x[1], scale=alt.Scale(domain=[0, 1])),
        "y": alt.Y(f"{y[0]}:Q", title=y[1], scale=alt.Scale(domain=[0, 1])),
    }
    line = (
        alt.Chart(pd.DataFrame(curve))
        .mark_line(strokeWidth=2, opacity=0.75)
        .encode(**axes, color=color, order="order:O")
    )
    tooltip = [
        "model",
        *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("threshold", "precision", "recall", "specificity")),
    ]
    dots = (
        alt.Chart(pd.DataFrame(points))
        .mark_point(filled=True, size=190, opacity=1, stroke="white", strokeWidth=1.5)
        .encode(**axes, color=color, tooltip=tooltip)
    )
    return (line + dots).properties(height=360)


def cost_by_threshold(curve: Rows, points: Rows, names: Sequence[str]) -> alt.LayerChart:
    """Cost of 1,000 slices by threshold; rows of `model`, `threshold`, `cost`."""
    color = _color(names)
    x = alt.X("threshold:Q", title="threshold on the probability of tumor", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("cost:Q", title="cost of 1,000 slices", scale=alt.Scale(type="sqrt"))
    line = alt.Chart(pd.DataFrame(curve)).mark_line(strokeWidth=2, opacity=0.75).encode(x, y, color)
    tooltip = ["model", alt.Tooltip("threshold:Q", format=".3f"), alt.Tooltip("cost:Q", format=".0f")]
    dots = (
        alt.Chart(pd.DataFrame(points))
        .mark_point(filled=True, size=190, opacity=1, stroke="white", strokeWidth=1.5)
        .encode(x, y, color, tooltip=tooltip)
    )
    return (line + dots).properties(height=300)


def by_epoch(rows: Rows, names: Sequence[str], title: str, best: Rows, log: bool = False) -> alt.LayerChart:
    """Rows of `model`, `epoch`, `value`, `of` (train or validation); `best`: the epoch that was kept of each."""
    color = _color(names)
    dash = alt.StrokeDash("of:N", legend=None, scale=alt.Scale(domain=["validation", "train"], range=[[1, 0], [5, 3]]))
    epochs = max(row["epoch"] for row in rows)
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(domain=[0, epochs]))
    # A loss may jump to ten times the others' for an epoch.
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
    y = alt.Y("value:Q", title=f"{title} (logarithmic)" if log else title, scale=scale)
    line = (
        alt.Chart(pd.DataFrame(rows))
        .mark_line(strokeWidth=2.2)
        .encode(
            x,
            y,
            color,
            strokeDash=dash if len({row["of"] for row in rows}) > 1 else alt.Undefined,
            tooltip=["model", "of", "epoch", alt.Tooltip("value:Q", format=".4f"), "image_size"],
        )
    )
    kept = (
        alt.Chart(pd.DataFrame(best, columns=["model", "epoch", "value"]))
        .mark_point(filled=True, size=150, opacity=1, stroke="white", strokeWidth=1.5)
        .encode(x, y, color, tooltip=["model", "epoch", alt.Tooltip("value:Q", format=".4f")])
    )
    return (line + kept).properties(height=320)


def learning_rates(rows: Rows, names: Sequence[str], used: Rows) -> alt.LayerChart:
    """The learning-rate range test: rows of `model`, `learning_rate`, `loss`; `used`: the rate of each training."""
    color = _color(names)
    x = alt.X("learning_rate:Q", title="learning rate (logarithmic)", scale=alt.Scale(type="log"))
    line = alt.Chart(pd.DataFrame(rows)).mark_line().encode(x, alt.Y("loss:Q", scale=alt.Scale(zero=False)), color)
    rule = alt.Chart(pd.DataFrame(used)).mark_rule(strokeDash=[5, 3], strokeWidth=2).encode(x, color=color)
    return (line + rule).properties(height=300)


def by_start(rows: Rows, names: Sequence[str], title: str) -> alt.LayerChart:
    """Each network from different first weights: rows of `network`, `start`, `model`, `value`, `low`, `high`."""
    order = [f"{row['network']}, {row['start']}" for row in rows]
    # Two recipes for the same network and start: each has a line.
    order = [
        words if order.count(words) == 1 else f"{words} ({row['model']})"
        for words, row in zip(order, rows, strict=True)
    ]
    data = alt.Chart(pd.DataFrame([{**row, "from": words} for words, row in zip(order, rows, strict=True)]))
    y = alt.Y("from:N", title=None, sort=order, axis=alt.Axis(labelLimit=340, grid=True))
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=14))
    color = _color(names)
    bar = data.mark_rule(strokeWidth=3, opacity=0.55).encode(
        alt.X("low:Q", title=title, axis=FEW), y, x2="high:Q", color=color
    )
    dot = data.mark_point(filled=True, size=130, opacity=1).encode(
        x, y, color, tooltip=["model", "network", "start", alt.Tooltip("value:Q", format=".4f")]
    )
    return (bar + dot).properties(height=alt.Step(40))


def reliability(rows: Rows, names: Sequence[str], before: bool) -> alt.LayerChart:
    """Rows of `model`, `scaling` (before or after), `stated`, `observed`, `images`."""
    share = alt.Scale(domain=[0, 1])
    x = alt.X("stated:Q", title="probability that the model states", scale=share, axis=alt.Axis(format="%"))
    y = alt.Y("observed:Q", title="share that it is true of", scale=share, axis=alt.Axis(format="%"))
    color = _color(names)
    dash = alt.StrokeDash("scaling:N", legend=None, scale=alt.Scale(domain=["after", "before"], range=[[1, 0], [4, 3]]))
    tooltip = [
        "model",
        "scaling",
        "bin",
        "images",
        alt.Tooltip("stated:Q", format=".1%"),
        alt.Tooltip("observed:Q", format=".1%"),
    ]
    ideal = (
        alt.Chart(pd.DataFrame([{"stated": 0, "observed": 0}, {"stated": 1, "observed": 1}]))
        .mark_line(color=GRAY, strokeDash=[2, 3], strokeWidth=1.5)
        .encode(x, y)
    )
    data = alt.Chart(pd.DataFrame(rows))
    line = data.mark_line(strokeWidth=2).encode(x, y, color, strokeDash=dash if before else alt.Undefined)
    dots = (
        data.transform_filter(alt.datum.scaling == "after")
        .mark_point(filled=True, opacity=0.9)
        .encode(
            x,
            y,
            color,
            size=alt.Size("images:Q", legend=None, scale=alt.Scale(type="sqrt", range=[40, 420])),
            tooltip=tooltip,
        )
    )
    return (ideal + line + dots).properties(height=420)


def errors_by_review(rows: Rows, points: Rows, names: Sequence[str]) -> alt.LayerChart:
    """Share of errors left by share of slices that a person looks at; rows of `model`, `reviewed`, `errors`."""
    x = alt.X("reviewed:Q", title="slices that go to a person", axis=alt.Axis(format="%"))
    y = alt.Y("errors:Q", title="errors among the others", axis=alt.Axis(format=".1%"))
    color = _color(names)
    line = alt.Chart(pd.DataFrame(rows)).mark_line(strokeWidth=2, opacity=0.75).encode(x, y, color, order="width:Q")
    tooltip = [
        "model",
        alt.Tooltip("reviewed:Q", format=".1%"),
        alt.Tooltip("errors:Q", format=".2%"),
        "missed",
        "false_alarms",
    ]
    dots = (
        alt.Chart(pd.DataFrame(points))
        .mark_point(filled=True, size=190, opacity=1, stroke="white", strokeWidth=1.5)
        .encode(x, y, color, tooltip=tooltip)
    )
    return (line + dots).properties(height=300)


def dice_by_patient(rows: Rows, names: Sequence[str], means: Rows) -> alt.LayerChart:
    """A dot a patient and model, the worst patient on top; `means`: rows of `model` and `value`."""
    order = list(dict.fromkeys(row["patient_id"] for row in sorted(rows, key=lambda row: row["dice"])))
    color = _color(names)
    x = alt.X("dice:Q", title="Dice over all slices of the patient", scale=alt.Scale(domain=[0, 1]))
    dots = (
        alt.Chart(pd.DataFrame(rows))
        .mark_point(filled=True, opacity=0.95)
        .encode(
            x,
            alt.Y("patient_id:N", title=None, sort=order, axis=alt.Axis(labelLimit=190, grid=True)),
            color,
            size=alt.Size("tumor_px:Q", legend=None, scale=alt.Scale(type="sqrt", range=[50, 380])),
            tooltip=["model", "patient_id", "institution", "slices", "tumor_px", alt.Tooltip("dice:Q", format=".3f")],
        )
    )
    mean = (
        alt.Chart(pd.DataFrame(means))
        .mark_rule(strokeDash=[5, 3], strokeWidth=2)
        .encode(alt.X("value:Q"), color=color, tooltip=["model", alt.Tooltip("value:Q", format=".3f", title="mean")])
    )
    return (dots + mean).properties(height=alt.Step(22))


def dice_by_size(rows: Rows, names: Sequence[str], sizes: Sequence[str]) -> alt.LayerChart:
    """Dice of each tumor slice by the size of its tumor: the middle half as a box, every slice as a tick."""
    data = alt.Chart(pd.DataFrame(rows))
    x = alt.X(
        "size:N",
        title="area of the tumor on the slice, pixels",
        sort=list(sizes),
        axis=alt.Axis(labelAngle=0, labelOverlap=False),
    )
    y = alt.Y("dice:Q", title="Dice of the slice", scale=alt.Scale(domain=[0, 1]))
    color, offset = _color(names), alt.XOffset("model:N", sort=list(names))
    box = data.mark_boxplot(size=26, outliers=False, opacity=0.75, extent=0, median={"color": "white"}).encode(
        x, y, color=color, xOffset=offset
    )
    ticks = data.mark_tick(size=16, thickness=1, opacity=0.45).encode(x, y, color=color, xOffset=offset)
    return (ticks + box).properties(height=340)


def leakage(rows: Rows, title: str, kinds: dict[str, str] = PROTOCOLS) -> alt.LayerChart:
    """What each model reaches where something leaks and where nothing does, joined.

    Rows of `line` (its name), `protocol`, `model`, `value`, `low`, `high`; `kinds` gives each protocol its color.
    """
    data = alt.Chart(pd.DataFrame(rows))
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=14))
    y = alt.Y("line:N", title=None, axis=alt.Axis(labelLimit=340, grid=True))
    color = alt.Color(
        "protocol:N",
        scale=alt.Scale(domain=list(kinds), range=list(kinds.values())),
        legend=alt.Legend(orient="top", title=None, symbolOpacity=1, labelLimit=0),
    )
    gap = data.mark_line(color=GRAY, strokeWidth=2, strokeDash=[3, 3]).encode(x, y, detail="line:N")
    bar = data.mark_rule(strokeWidth=3, opacity=0.5).encode(
        alt.X("low:Q", title=title, axis=FEW), y, x2="high:Q", color=color
    )
    dot = data.mark_point(filled=True, size=150, opacity=1).encode(
        x, y, color, tooltip=["line", "protocol", "model", alt.Tooltip("value:Q", format=".4f")]
    )
    return (gap + bar + dot).properties(height=alt.Step(52))


def split_strips(rows: Rows) -> tuple[alt.Chart, alt.Chart]:
    """Each slice of some patients, colored by its split, under protocol patient and under slice.

    Rows of `patient_id`, `slice_index`, `patient`, `slice`.
    """
    data = pd.DataFrame(rows)

    def strip(protocol: str) -> alt.Chart:
        return (
            alt.Chart(data, title=f"split by {protocol}")
            .mark_rect()
            .encode(
                alt.X("slice_index:O", title="slice", axis=alt.Axis(values=list(range(0, 100, 10)), labelAngle=0)),
                alt.Y("patient_id:N", title=None, axis=alt.Axis(labelLimit=180, labelOverlap=False, labelFontSize=10)),
                alt.Color(
                    f"{protocol}:N",
                    scale=alt.Scale(domain=list(SPLITS), range=list(SPLITS.values())),
                    legend=alt.Legend(orient="top", title=None, values=["train", "validation", "test"]),
                ),
                tooltip=["patient_id", "slice_index", alt.Tooltip(f"{protocol}:N", title="split")],
            )
            .properties(height=alt.Step(15))
        )

    return strip("patient"), strip("slice")


def scoreboard(rows: Rows, names: Sequence[str], you: str) -> alt.LayerChart:
    """Right answers of the class and of each model: rows of `model`, `right`, `of`."""
    palette = colors(names) | {you: "#0f172a"}
    shown = [row["model"] for row in rows]
    data = alt.Chart(pd.DataFrame(rows))
    y = alt.Y("model:N", title=None, sort="-x", axis=alt.Axis(labelLimit=200))
    x = alt.X("right:Q", title="right answers", axis=alt.Axis(tickMinStep=1))
    color = alt.Color(
        "model:N",
        legend=None,
        scale=alt.Scale(domain=shown, range=[GRAY if name == you else palette[name] for name in shown]),
    )
    bar = data.mark_bar(cornerRadiusEnd=4).encode(x, y, color, tooltip=["model", "right", "of"])
    text = data.mark_text(align="left", dx=6, fontSize=13, color=GRAY).encode(x, y, text="right:Q")
    return (bar + text).properties(height=alt.Step(40))
