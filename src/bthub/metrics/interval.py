"""A value with its interval, as in `metrics.json`."""

import msgspec


class Interval(msgspec.Struct, frozen=True):
    """A value with the ends of its 95% interval; None where the value isn't defined, or has no interval.

    `f"{found:.3f}"` is `0.912 (0.880 to 0.940)`, without an interval `0.912`, and empty where there is no value.
    Without a format, numbers from 10 on, which are pixels, have one decimal, and shares and scores three.
    """

    value: float | None
    low: float | None
    high: float | None

    def __format__(self, spec: str) -> str:
        bounds = self.bounds(spec)
        return f"{_number(self.value, spec)} ({bounds})" if bounds else _number(self.value, spec)

    def bounds(self, spec: str = "", between: str = " to ") -> str:
        """The interval alone; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{_number(self.low, spec)}{between}{_number(self.high, spec)}"

    def as_row(self, name: str | None = None) -> dict[str, float | None]:
        """Columns of a table: `value`, `low` and `high`, or for a metric `<name>`, `<name>_low` and `<name>_high`."""
        names = ("value", "low", "high") if name is None else (name, f"{name}_low", f"{name}_high")
        return dict(zip(names, (self.value, self.low, self.high), strict=True))


def _number(number: float | None, spec: str) -> str:
    return "" if number is None else format(number, spec or (".3f" if number < 10 else ".1f"))
