"""Positions of the marks in plots. Templates draw them as SVG: no script, and light and dark as the page."""

import math
from dataclasses import dataclass
from datetime import date

from bthub.practice.texts import number

BARS_WIDTH, BARS_HEIGHT = 640, 96
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 210, 66, 16, 18, 36
INSET = 42
"""From the plot's edges to its first and last day, whose names need the room."""


@dataclass(frozen=True)
class Bar:
    """A slice's bar: where it lies, in units of the drawing."""

    index: int
    x: float
    y: float
    width: float
    height: float
    value: int


@dataclass(frozen=True)
class Point:
    """A measurement: its day, value and name, and between what it may lie; None where that isn't known."""

    day: date
    value: float
    name: str
    ends: tuple[float, float] | None


def bars(values: list[int], start: int) -> dict[str, object]:
    """Area per slice as bars.

    Args:
        values: pixels, slice by slice.
        start: which slice is shown first.
    """
    top = max([*values, 1])
    step = BARS_WIDTH / len(values)
    return {
        "width": BARS_WIDTH,
        "height": BARS_HEIGHT,
        "start": start,
        "bars": [
            Bar(i, i * step, BARS_HEIGHT * (1 - value / top), max(1.0, step * 0.86), BARS_HEIGHT * value / top, value)
            for i, value in enumerate(values)
        ],
        "step": step,
    }


def timeline(points: list[Point], language: str) -> dict[str, object]:
    """Measurements over time, each with its error.

    Args:
        points: in the order of their days.
        language: of the axis' numbers.
    """
    first, last = points[0].day, points[-1].day
    days = max(1, (last - first).days)
    highest = max([point.ends[1] if point.ends else point.value for point in points] + [1e-9])
    step = nice(highest / 4)
    top = step * math.ceil(highest / step)

    def x(day: date, index: int) -> float:
        # All on one day: side by side.
        share = (day - first).days / days if last > first else index / max(1, len(points) - 1)
        return LEFT + INSET + share * (WIDTH - LEFT - RIGHT - 2 * INSET)

    def y(value: float) -> float:
        return TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM)

    digits = max(0, -math.floor(math.log10(step)))
    marks = [
        {
            "x": x(point.day, i),
            "y": y(point.value),
            "name": point.name,
            "value": number(point.value, language, max(digits, 1 if point.value < 100 else 0)),
            "low": y(point.ends[0]) if point.ends else None,
            "high": y(point.ends[1]) if point.ends else None,
        }
        for i, point in enumerate(points)
    ]
    # Names that would overlap are left out, the last is kept.
    free = -1e9
    for mark in marks:
        mark["named"] = float(str(mark["x"])) - free > 100
        if mark["named"]:
            free = float(str(mark["x"]))
    ticks = [{"y": y(i * step), "text": number(i * step, language, digits)} for i in range(round(top / step) + 1)]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "bottom": HEIGHT - BOTTOM,
        "marks": marks,
        "ticks": ticks,
        "path": " ".join(f"{mark['x']:.1f},{mark['y']:.1f}" for mark in marks),
    }


def nice(value: float) -> float:
    """The next larger 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999999)
