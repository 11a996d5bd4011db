"""Bootstrap intervals that resample whole patients.

Intervals are percentile intervals of a bootstrap over groups: as many patients as there are, drawn with
replacement, each with all its slices, because slices of one patient resemble each other. Without groups every
image is its own. A resample in which a metric isn't defined (one without a tumor slice, say) doesn't count for that
metric's interval; where that is more than `MAX_UNDEFINED` of them there is no interval. Nor is there one for fewer
than `FEWEST_GROUPS`: of two patients the percentiles are just the better and the worse one. With fifteen the
intervals are still somewhat too narrow.
"""

from collections.abc import Sequence

import numpy as np

from bthub.metrics.interval import Interval

RESAMPLES = 1000


COVERAGE = 0.95


MAX_UNDEFINED = 0.1


FEWEST_GROUPS = 5


def paired_difference(one: dict, other: dict, metric: str) -> Interval:
    """How much more `one` has of a metric than `other`, measured on the same images: a paired bootstrap.

    Both are resampled by the same draws of patients, so what makes a patient hard for everyone cancels out. An interval
    that holds 0 says that the two can't be told apart on these patients.

    Args:
        one, other: of `classification` or `segmentation` with `keep_resamples`, with the same groups and seed.
        metric: a name of `metrics`.
    """
    values = [measured["metrics"][metric].value for measured in (one, other)]
    resampled = [np.asarray(measured["resampled"][metric], dtype=float) for measured in (one, other)]
    if one["groups"] != other["groups"] or len(resampled[0]) != len(resampled[1]):
        raise ValueError(f"expected the same groups, received {one['groups']} and {other['groups']}")
    if None in values:
        return percentile_interval(float("nan"), resampled[0])
    return percentile_interval(values[0] - values[1], resampled[0] - resampled[1])


def percentile_interval(value: float, samples: np.ndarray) -> Interval:
    """A value with the percentile interval of its resamples; NaN means not defined and becomes None."""
    if np.isnan(value):
        return Interval(None, None, None)
    defined = samples[~np.isnan(samples)]
    if len(samples) == 0 or len(defined) < (1 - MAX_UNDEFINED) * len(samples):
        return Interval(float(value), None, None)
    low, high = np.quantile(defined, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(value), float(low), float(high))


def mean_and_median(values: np.ndarray, groups: Sequence[str] | None = None) -> dict[str, Interval]:
    """`mean` and `median` of one value an image, each with its `Interval`.

    Args:
        values: (N,).
        groups: (N,) patient of each image, or the picture that it is a copy of; None where images are independent.

    Raises:
        ValueError: no values.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise ValueError("there are no values to summarize")
    drawn, member = resample_groups(groups, len(values), RESAMPLES, 0)
    weights = drawn[:, member]
    return {
        "mean": percentile_interval(float(values.mean()), ratio(weights @ values, weights.sum(axis=1))),
        "median": percentile_interval(float(np.median(values)), medians(values, weights)),
    }


def resample_groups(groups: Sequence[str] | None, n: int, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw groups with replacement.

    Returns:
        (resamples, groups) how often each group was drawn, empty when there are fewer than FEWEST_GROUPS; and (n,)
        the group of each sample.
    """
    if groups is None:
        member = np.arange(n)
    elif len(groups) == n:
        member = np.unique(np.asarray(groups), return_inverse=True)[1]
    else:
        raise ValueError(f"expected a group for each of {n} samples, received {len(groups)}")
    count = member.max() + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples if count >= FEWEST_GROUPS else 0)
    return drawn.astype(np.float64), member


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Numerator / denominator, NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)


def medians(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Medians of `values` (G,), each repeated as often as drawn, for each row of `drawn` (R, G)."""
    repeated = (np.repeat(values, row.astype(int)) for row in drawn)
    return np.array([np.median(row) if len(row) else np.nan for row in repeated])
