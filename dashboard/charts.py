"""The charts, as Altair specifications: each takes rows and the names of all models, which fix the colors.

Channels are objects: for a name in their place Altair walks through its whole schema, each time.
"""

from collections.abc import Sequence
from functools import partial

import altair as alt
import pandas as pd

from bthub.runs.records import AS_PUBLISHED, SEEN

# Whether Altair holds a chart against its schema once more before it is shown: half of a page's time. The tests do.
CHECKED = False

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
# Shapes tell the models apart where colors can't: Vega's names for them, which `style.css` draws in the legend.
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
)
# Words on charts against either background: at least 4.5 to 1.
INK = {False: "#334155", True: "#cbd5e1"}
FEW = alt.Axis(tickCount=5)
# The name of a row stands above its line: beside it, long names would leave a phone no room for the line.
ABOVE = alt.Axis(
    grid=True,
    ticks=False,
    domain=False,
    labelAlign="left",
    labelBaseline="bottom",
    labelPadding=0,
    labelOffset=-5,
    # Longer than its line, a name would push the chart together.
    labelLimit=alt.ExprRef("width"),
    labelFlush=False,
    minExtent=0,
    maxExtent=0,
)
# A patient of TCGA without what all have in common: TCGA_DU_6405_19851005 is DU 6405.
PATIENTS = alt.Axis(
    labelExpr="indexof(datum.label, 'TCGA_') == 0 ? replace(slice(datum.label, 5, 12), '_', ' ') : datum.label",
    labelFlush=False,
    labelOverlap=False,
    grid=True,
)

Rows = Sequence[dict]


def colors(names: Sequence[str]) -> dict[str, str]:
    """The color of each model."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def marks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The color and the shape of each model."""
    return {name: (color, SHAPES[i % len(SHAPES)]) for i, (name, color) in enumerate(colors(names).items())}


def _shape(names: Sequence[str]) -> alt.Shape:
    """The models' own shapes, beside their colors."""
    shapes = {name: shape for name, (_, shape) in marks(names).items()}
    return alt.Shape("model:N", scale=alt.Scale(domain=list(shapes), range=list(shapes.values())), legend=None)


def of_kinds(kinds: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Colors of kinds, with a shape beside each: a kind is told without seeing colors."""
    return {kind: (color, shape) for (kind, color), shape in zip(kinds.items(), SHAPES, strict=False)}


def _kinds(column: str, kinds: dict[str, tuple[str, str]]) -> tuple[alt.Color, alt.Shape]:
    """Color and shape of kinds that aren't models; the page shows them above the chart, as those of models."""
    color, shape = ([mark[i] for mark in kinds.values()] for i in (0, 1))
    return (
        alt.Color(f"{column}:N", scale=alt.Scale(domain=list(kinds), range=color), legend=None),
        alt.Shape(f"{column}:N", scale=alt.Scale(domain=list(kinds), range=shape), legend=None),
    )


def legible(chart: alt.TopLevelMixin, dark: bool, large: bool) -> alt.TopLevelMixin:
    """A chart whose words are read on its background, and from afar if they are `large`."""
    ink, size = INK[dark], 17 if large else 13
    words = {"labelColor": ink, "titleColor": ink, "labelFontSize": size, "titleFontSize": size}
    if large:
        words["labelLimit"] = 420
    # At once: each call of `configure_axis` and its like copies the whole chart.
    shown = chart.configure(
        axis=alt.AxisConfig(**words),
        # None of them moved: Streamlit's theme would push the first into the second.
        axisX=alt.AxisConfig(labelFlush=False),
        legend=alt.LegendConfig(**words),
        title=alt.TitleConfig(color=ink, fontSize=size + 1),
        header=alt.HeaderConfig(**words),
        text=alt.MarkConfig(color=ink, fontSize=size),
    )
    if not CHECKED:
        # Streamlit calls it. Past Altair, which takes an attribute for a part of the chart.
        object.__setattr__(shown, "to_dict", partial(shown.to_dict, validate=False))
    return shown


def _color(names: Sequence[str]) -> alt.Color:
    """The models' own colors; the page shows them above the chart, where they wrap and take nothing of its height."""
    palette = colors(names)
    return alt.Color("model:N", scale=alt.Scale(domain=list(palette), range=list(palette.values())), legend=None)


def intervals(rows: Rows, names: Sequence[str], title: str) -> alt.LayerChart:
    """A dot with its interval for each model; rows of `model`, `value`, `low`, `high`."""
    data = alt.Chart(pd.DataFrame(rows))
    model = alt.Y("model:N", title=None, sort=list(names), axis=ABOVE)
    color = _color(names)
    tooltip = [alt.Tooltip("model"), *(alt.Tooltip(f"{end}:Q", format=".4f") for end in ("value", "low", "high"))]
    bar = data.mark_rule(strokeWidth=3, opacity=0.55).encode(
        alt.X("low:Q", title=title, scale=alt.Scale(zero=False, padding=14), axis=FEW),
        model,
        x2=alt.X2("high:Q"),
        color=color,
    )
    dot = data.mark_point(filled=True, size=130, opacity=1).encode(
        x=alt.X("value:Q"), y=model, color=color, shape=_shape(names), tooltip=tooltip
    )
    text = data.mark_text(dy=16).encode(x=alt.X("value:Q"), y=model, text=alt.Text("value:Q", format=".3f"))
    return (bar + dot + text).properties(height=alt.Step(56))


def cost_against_quality(rows: Rows, names: Sequence[str], cost: str, quality: str) -> alt.LayerChart:
    """Rows of `model`, `cost`, `value`, `low`, `high`; the cost on a logarithmic axis."""
    data = alt.Chart(pd.DataFrame(rows))
    color = _color(names)
    scale = alt.Scale(type="log", padding=40, nice=False)
    x = alt.X("cost:Q", title=f"{cost} (logarithmic)", scale=scale, axis=alt.Axis(format=".3~s", tickCount=5))
    y = alt.Y("value:Q", title=quality, scale=alt.Scale(zero=False, padding=12))
    tooltip = [
        alt.Tooltip("model"),
        *(alt.Tooltip(f"{name}:Q", format=".4~s") for name in ("cost", "value", "low", "high")),
    ]
    bar = data.mark_rule(strokeWidth=2, opacity=0.5).encode(
        x, alt.Y("low:Q", title=quality), y2=alt.Y2("high:Q"), color=color
    )
    dot = data.mark_point(filled=True, size=170, opacity=1).encode(x, y, color, _shape(names), tooltip=tooltip)
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
        alt.Tooltip("model"),
        *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("threshold", "precision", "recall", "specificity")),
    ]
    dots = (
        alt.Chart(pd.DataFrame(points))
        .mark_point(filled=True, size=190, opacity=1, stroke="white", strokeWidth=1.5)
        .encode(**axes, color=color, shape=_shape(names), tooltip=tooltip)
    )
    return (line + dots).properties(height=360)


def cost_by_threshold(curve: Rows, points: Rows, names: Sequence[str]) -> alt.LayerChart:
    """Cost of 1,000 slices by threshold; rows of `model`, `threshold`, `cost`."""
    color = _color(names)
    x = alt.X("threshold:Q", title="threshold on the probability of tumor", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("cost:Q", title="cost of 1,000 slices", scale=alt.Scale(type="sqrt"))
    line = alt.Chart(pd.DataFrame(curve)).mark_line(strokeWidth=2, opacity=0.75).encode(x, y, color)
    tooltip = [alt.Tooltip("model"), alt.Tooltip("threshold:Q", format=".3f"), alt.Tooltip("cost:Q", format=".0f")]
    dots = (
        alt.Chart(pd.DataFrame(points))
        .mark_point(filled=True, size=190, opacity=1, stroke="white", strokeWidth=1.5)
        .encode(x, y, color, _shape(names), tooltip=tooltip)
    )
    return (line + dots).properties(height=300)


def by_epoch(rows: Rows, names: Sequence[str], title: str, best: Rows, log: bool = False) -> alt.LayerChart:
    """Rows of `model`, `epoch` (from 1), `value`, `of` (train or validation); `best`: the epoch kept of each."""
    color = _color(names)
    dash = alt.StrokeDash("of:N", legend=None, scale=alt.Scale(domain=["validation", "train"], range=[[1, 0], [5, 3]]))
    epochs = max(2, *(row["epoch"] for row in rows))
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(domain=[1, epochs]))
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
            tooltip=[
                alt.Tooltip("model"),
                alt.Tooltip("of"),
                alt.Tooltip("epoch"),
                alt.Tooltip("value:Q", format=".4f"),
                alt.Tooltip("image_size"),
            ],
        )
    )
    kept = (
        alt.Chart(pd.DataFrame(best, columns=["model", "epoch", "value"]))
        .mark_point(filled=True, size=150, opacity=1, stroke="white", strokeWidth=1.5)
        .encode(
            x,
            y,
            color,
            _shape(names),
            tooltip=[alt.Tooltip("model"), alt.Tooltip("epoch"), alt.Tooltip("value:Q", format=".4f")],
        )
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
    y = alt.Y("from:N", title=None, sort=order, axis=ABOVE)
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=14))
    color = _color(names)
    bar = data.mark_rule(strokeWidth=3, opacity=0.55).encode(
        alt.X("low:Q", title=title, axis=FEW), y, x2=alt.X2("high:Q"), color=color
    )
    dot = data.mark_point(filled=True, size=130, opacity=1).encode(
        x,
        y,
        color,
        tooltip=[
            alt.Tooltip("model"),
            alt.Tooltip("network"),
            alt.Tooltip("start"),
            alt.Tooltip("value:Q", format=".4f"),
        ],
    )
    return (bar + dot).properties(height=alt.Step(40))


def reliability(rows: Rows, names: Sequence[str], before: bool) -> alt.LayerChart:
    """Rows of `model`, `scaling` (before or after), `stated`, `observed`, `low`, `high`, `images`."""
    share = alt.Scale(domain=[0, 1])
    x = alt.X("stated:Q", title="stated probability", scale=share, axis=alt.Axis(format="%"))
    title = "observed frequency"
    y = alt.Y("observed:Q", title=title, scale=share, axis=alt.Axis(format="%"))
    color = _color(names)
    dash = alt.StrokeDash("scaling:N", legend=None, scale=alt.Scale(domain=["after", "before"], range=[[1, 0], [4, 3]]))
    tooltip = [
        alt.Tooltip("model"),
        alt.Tooltip("scaling"),
        alt.Tooltip("bin"),
        alt.Tooltip("images"),
        *(alt.Tooltip(f"{of}:Q", format=".1%") for of in ("stated", "observed", "low", "high")),
    ]
    ideal = (
        alt.Chart(pd.DataFrame([{"stated": 0, "observed": 0}, {"stated": 1, "observed": 1}]))
        .mark_line(color=GRAY, strokeDash=[2, 3], strokeWidth=1.5)
        .encode(x, y)
    )
    data = alt.Chart(pd.DataFrame(rows))
    line = data.mark_line(strokeWidth=2).encode(x, y, color, strokeDash=dash if before else alt.Undefined)
    after = data.transform_filter(alt.datum.scaling == "after")
    bars = after.mark_rule(strokeWidth=2, opacity=0.5).encode(
        x, alt.Y("low:Q", title=title), y2=alt.Y2("high:Q"), color=color
    )
    dots = after.mark_point(filled=True, size=110, opacity=1).encode(x, y, color, _shape(names), tooltip=tooltip)
    return (ideal + bars + line + dots).properties(height=380)


def errors_by_review(rows: Rows, points: Rows, names: Sequence[str]) -> alt.LayerChart:
    """Share of errors left by share of slices that a person looks at; rows of `model`, `reviewed`, `errors`."""
    x = alt.X("reviewed:Q", title="slices referred to a person", axis=alt.Axis(format="%"))
    y = alt.Y("errors:Q", title="errors among the others", axis=alt.Axis(format=".1%"))
    color = _color(names)
    line = alt.Chart(pd.DataFrame(rows)).mark_line(strokeWidth=2, opacity=0.75).encode(x, y, color, order="width:Q")
    tooltip = [
        alt.Tooltip("model"),
        alt.Tooltip("reviewed:Q", format=".1%"),
        alt.Tooltip("errors:Q", format=".2%"),
        alt.Tooltip("fn"),
        alt.Tooltip("fp"),
    ]
    dots = (
        alt.Chart(pd.DataFrame(points))
        .mark_point(filled=True, size=190, opacity=1, stroke="white", strokeWidth=1.5)
        .encode(x, y, color, _shape(names), tooltip=tooltip)
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
            alt.Y("patient_id:N", title=None, sort=order, axis=PATIENTS),
            color,
            _shape(names),
            size=alt.Size("tumor_px:Q", legend=None, scale=alt.Scale(type="sqrt", range=[50, 380])),
            tooltip=[
                alt.Tooltip("model"),
                alt.Tooltip("patient_id"),
                alt.Tooltip("institution"),
                alt.Tooltip("slices"),
                alt.Tooltip("tumor_px"),
                alt.Tooltip("dice:Q", format=".3f"),
            ],
        )
    )
    mean = (
        alt.Chart(pd.DataFrame(means))
        .mark_rule(strokeDash=[5, 3], strokeWidth=2)
        .encode(
            alt.X("value:Q"),
            color=color,
            tooltip=[alt.Tooltip("model"), alt.Tooltip("value:Q", format=".3f", title="mean")],
        )
    )
    return (dots + mean).properties(height=alt.Step(24))


def dice_by_size(rows: Rows, names: Sequence[str], sizes: Sequence[str]) -> alt.LayerChart:
    """Dice of each tumor slice by the size of its tumor: the middle half as a box, every slice as a tick."""
    data = alt.Chart(pd.DataFrame(rows))
    x = alt.X(
        "size:N",
        title="area of the tumor on the slice, pixels",
        sort=list(sizes),
        # Short enough for a phone: "500 to 2,000" is "500–2,000", "2,000 and more" is "≥2,000".
        axis=alt.Axis(
            labelAngle=0,
            labelOverlap=False,
            labelLimit=0,
            labelExpr="indexof(datum.label, 'under ') == 0 ? '<' + slice(datum.label, 6)"
            " : indexof(datum.label, ' and more') > 0 ? '≥' + replace(datum.label, ' and more', '')"
            " : replace(datum.label, ' to ', '–')",
        ),
    )
    y = alt.Y("dice:Q", title="Dice of the slice", scale=alt.Scale(domain=[0, 1]))
    color, offset = _color(names), alt.XOffset("model:N", sort=list(names))
    # Beside each other on a phone, too.
    wide = 64 // len({row["model"] for row in rows})
    box = data.mark_boxplot(size=wide, outliers=False, opacity=0.75, extent=0, median={"color": "white"}).encode(
        x, y, color=color, xOffset=offset
    )
    ticks = data.mark_tick(size=wide, thickness=1, opacity=0.45).encode(x, y, color=color, xOffset=offset)
    return (ticks + box).properties(height=340)


def leakage(rows: Rows, title: str, kinds: dict[str, str] = PROTOCOLS) -> alt.LayerChart:
    """What each model reaches where something leaks and where nothing does, joined.

    Rows of `line` (its name), `protocol`, `model`, `value`, `low`, `high`; `kinds` gives each protocol its color.
    """
    data = alt.Chart(pd.DataFrame(rows))
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=14))
    y = alt.Y("line:N", title=None, axis=ABOVE)
    color, shape = _kinds("protocol", of_kinds(kinds))
    gap = data.mark_line(color=GRAY, strokeWidth=2, strokeDash=[3, 3]).encode(x, y, detail="line:N")
    bar = data.mark_rule(strokeWidth=3, opacity=0.5).encode(
        alt.X("low:Q", title=title, axis=FEW), y, x2=alt.X2("high:Q"), color=color
    )
    dot = data.mark_point(filled=True, size=150, opacity=1).encode(
        x,
        y,
        color,
        shape,
        tooltip=[
            alt.Tooltip("line"),
            alt.Tooltip("protocol"),
            alt.Tooltip("model"),
            alt.Tooltip("value:Q", format=".4f"),
        ],
    )
    return (gap + bar + dot).properties(height=alt.Step(40))


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
                alt.Y("patient_id:N", title=None, axis=PATIENTS),
                alt.Color(
                    f"{protocol}:N",
                    scale=alt.Scale(domain=list(SPLITS), range=list(SPLITS.values())),
                    legend=alt.Legend(orient="top", title=None, values=["train", "validation", "test"]),
                ),
                tooltip=[
                    alt.Tooltip("patient_id"),
                    alt.Tooltip("slice_index"),
                    alt.Tooltip(f"{protocol}:N", title="split"),
                ],
            )
            .properties(height=alt.Step(18))
        )

    return strip("patient"), strip("slice")


def scoreboard(rows: Rows, names: Sequence[str], you: str) -> alt.LayerChart:
    """Right answers of the class and of each model: rows of `model`, `right`, `of`."""
    palette = colors(names) | {you: "#0f172a"}
    shown = [row["model"] for row in rows]
    data = alt.Chart(pd.DataFrame(rows))
    y = alt.Y("model:N", title=None, sort="-x", axis=alt.Axis(labelLimit=300))
    x = alt.X("right:Q", title="right answers", axis=alt.Axis(tickMinStep=1))
    color = alt.Color(
        "model:N",
        legend=None,
        scale=alt.Scale(domain=shown, range=[GRAY if name == you else palette[name] for name in shown]),
    )
    bar = data.mark_bar(cornerRadiusEnd=4).encode(
        x, y, color, tooltip=[alt.Tooltip("model"), alt.Tooltip("right"), alt.Tooltip("of")]
    )
    text = data.mark_text(align="left", dx=6).encode(x, y, text="right:Q")
    return (bar + text).properties(height=alt.Step(40))


def by_part(rows: Rows, names: Sequence[str], title: str) -> alt.LayerChart:
    """Groups of slices, each with a mark and an interval a model: rows of `model`, `part`, `value`, `low`, `high`."""
    order = list(dict.fromkeys(row["part"] for row in rows))
    data = alt.Chart(pd.DataFrame(rows))
    # In two lines, so that a phone has room for the marks: "large tumor", below it "2,000 px and more".
    axis = alt.Axis(labelLimit=300, labelFlush=False, grid=True, labelExpr="split(datum.label, ', ')")
    y = alt.Y("part:N", title=None, sort=order, axis=axis)
    offset = alt.YOffset("model:N", sort=list(names))
    color = _color(names)
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=14))
    bar = (
        data.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=3, opacity=0.5)
        .encode(alt.X("low:Q", title=title, axis=FEW), y, x2=alt.X2("high:Q"), color=color, yOffset=offset)
    )
    tooltip = [
        alt.Tooltip("model"),
        alt.Tooltip("part"),
        alt.Tooltip("images"),
        alt.Tooltip("patients"),
        *(alt.Tooltip(f"{of}:Q", format=".3f") for of in ("value", "low", "high")),
    ]
    dot = data.mark_point(filled=True, size=110, opacity=1).encode(
        x, y, color, _shape(names), yOffset=offset, tooltip=tooltip
    )
    models = len({row["model"] for row in rows})
    # The axis is within the height.
    return (bar + dot).properties(height=max(44, 16 + 16 * models) * len(order) + 60)


AGREE = {
    "both right": "#7f8a99",
    "only the first wrong": "#d9480f",
    "only the second wrong": "#2f7ed8",
    "both wrong": "#a855f7",
}
TRUTH = {"tumor": "triangle-up", "no tumor": "circle"}


def two_models(rows: Rows, first: str, second: str, thresholds: tuple[float, float]) -> alt.LayerChart:
    """Each slice by what two models state: rows of `slice`, `label`, `first`, `second`, `who` (see `AGREE`)."""
    chosen = alt.selection_point(name="picked", fields=["slice"], on="click", clear="dblclick")
    share = alt.Scale(domain=[-0.02, 1.02], nice=False)
    axis = alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    # The page says that these are probabilities: with it the titles would be too long for a phone.
    x = alt.X("first:Q", title=first, scale=share, axis=axis)
    y = alt.Y("second:Q", title=second, scale=share, axis=axis)
    dots = (
        alt.Chart(pd.DataFrame(rows))
        .mark_point(filled=True, size=85)
        .encode(
            x,
            y,
            alt.Color("who:N", scale=alt.Scale(domain=list(AGREE), range=list(AGREE.values())), legend=None),
            alt.Shape("label:N", scale=alt.Scale(domain=list(TRUTH), range=list(TRUTH.values())), legend=None),
            opacity=alt.condition(chosen, alt.value(0.9), alt.value(0.3)),
            tooltip=[
                alt.Tooltip("slice"),
                alt.Tooltip("label"),
                alt.Tooltip("first:Q", format=".1%"),
                alt.Tooltip("second:Q", format=".1%"),
                alt.Tooltip("who"),
            ],
        )
        .add_params(chosen)
    )
    at = alt.Chart(pd.DataFrame([{"first": thresholds[0], "second": thresholds[1]}]))
    lines = [at.mark_rule(color=GRAY, strokeDash=[4, 3]).encode(**way) for way in ({"x": "first:Q"}, {"y": "second:Q"})]
    return alt.layer(*lines, dots).properties(height=460)


def dot_plot(rows: Rows, title: str) -> alt.LayerChart:
    """What a paper reports beside what was measured: rows of `line`, `kind` (see `SAID`), `value`, `low`, `high`."""
    order = list(dict.fromkeys(row["line"] for row in rows))
    data = alt.Chart(pd.DataFrame(rows))
    y = alt.Y("line:N", title=None, sort=order, axis=ABOVE)
    color, shape = _kinds("kind", SAID)
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=14))
    bar = (
        data.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2, opacity=0.4)
        .encode(alt.X("low:Q", title=title, axis=FEW), y, x2=alt.X2("high:Q"), color=color)
    )
    dot = data.mark_point(filled=True, size=110, opacity=0.9).encode(
        x,
        y,
        color,
        shape,
        tooltip=[alt.Tooltip("line"), alt.Tooltip("kind"), alt.Tooltip("model"), alt.Tooltip("value:Q", format=".4f")],
    )
    return (bar + dot).properties(height=alt.Step(40))


SAID = {
    "reported by the paper": ("#d9480f", "diamond"),
    "here, the paper's recipe": ("#2f7ed8", "circle"),
    "here, another recipe": ("#7f8a99", "square"),
}


def breaking(rows: Rows, names: Sequence[str], title: str, thresholds: Rows) -> alt.LayerChart:
    """What each model states as a picture gets worse: rows of `model`, `strength`, `p`; `thresholds`: `model`, `p`."""
    color = _color(names)
    # Damage grows to the right, whether its number grows or not.
    reverse = rows[0]["strength"] > rows[-1]["strength"]
    x = alt.X("strength:Q", title=title, scale=alt.Scale(reverse=reverse, nice=False, padding=8))
    y = alt.Y("p:Q", title="probability of tumor", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    tooltip = [alt.Tooltip("model"), alt.Tooltip("strength"), alt.Tooltip("p:Q", format=".1%")]
    data = alt.Chart(pd.DataFrame(rows))
    line = data.mark_line(strokeWidth=2).encode(x, y, color)
    dots = data.mark_point(filled=True, size=80, opacity=1).encode(x, y, color, _shape(names), tooltip=tooltip)
    rule = (
        alt.Chart(pd.DataFrame(thresholds)).mark_rule(strokeDash=[3, 4], opacity=0.6).encode(alt.Y("p:Q"), color=color)
    )
    return (rule + line + dots).properties(height=320)


KINDS = {
    "within one source": ("#2f7ed8", "circle"),
    "all sources together": ("#d9480f", "square"),
    "knows only the source": ("#7f8a99", "triangle-up"),
}


def within_sources(rows: Rows) -> alt.LayerChart:
    """ROC AUC by source: rows of `line`, `kind` (see `KINDS`), `value`, `low`, `high`."""
    order = list(dict.fromkeys(row["line"] for row in rows))
    data = alt.Chart(pd.DataFrame(rows))
    y = alt.Y("line:N", title=None, sort=order, axis=ABOVE)
    color, shape = _kinds("kind", KINDS)
    x = alt.X("value:Q", title="ROC AUC", scale=alt.Scale(zero=False, padding=18))
    bar = (
        data.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=3, opacity=0.5)
        .encode(alt.X("low:Q", title="ROC AUC", axis=FEW), y, x2=alt.X2("high:Q"), color=color)
    )
    dot = data.mark_point(filled=True, size=140, opacity=1).encode(
        x,
        y,
        color,
        shape,
        tooltip=[
            alt.Tooltip("line"),
            alt.Tooltip("kind"),
            alt.Tooltip("value:Q", format=".3f"),
            alt.Tooltip("images"),
            alt.Tooltip("tumor"),
        ],
    )
    text = data.mark_text(dy=15).encode(x, y, text=alt.Text("value:Q", format=".3f"))
    return (bar + dot + text).properties(height=alt.Step(50))


def crossing(rows: Rows) -> alt.LayerChart:
    """A table of colors: rows of `tumor_from`, `healthy_from`, `value`."""
    order = list(dict.fromkeys(row["tumor_from"] for row in rows))
    data = alt.Chart(pd.DataFrame(rows))
    axis = {"sort": order, "scale": alt.Scale(paddingInner=0.04)}
    x = alt.X("healthy_from:N", title="tumor-free picture from", axis=alt.Axis(labelAngle=0, orient="top"), **axis)
    y = alt.Y("tumor_from:N", title="tumor picture from", **axis)
    scale = alt.Scale(domain=[0.5, 1], range=["#f1c9b3", "#1d5fa8"], clamp=True)
    cell = data.mark_rect(cornerRadius=4).encode(
        x,
        y,
        alt.Color("value:Q", scale=scale, legend=None),
        tooltip=[alt.Tooltip("tumor_from"), alt.Tooltip("healthy_from"), alt.Tooltip("value"), alt.Tooltip("pairs")],
    )
    ink = alt.condition(alt.datum.value > 0.78, alt.value("#ffffff"), alt.value("#0f172a"))
    text = data.mark_text(fontWeight=600).encode(x, y, text=alt.Text("value:Q", format=".3f"), color=ink)
    return (cell + text).properties(height=alt.Step(52))
