"""A value with its interval, as in `metrics.json`."""

Interval = dict[str, float | None]
"""`value` with the `low` and `high` end of its 95 % interval."""
