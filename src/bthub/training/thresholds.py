"""Threshold, referral band and temperature, chosen on the validation split."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

TEMPERATURE_BOUNDS = (0.05, 20.0)


def choose_threshold(y_true: np.ndarray, p_tumor: np.ndarray) -> float:
    """The threshold on the tumor probability (called tumor when reached) with the best balanced accuracy.

    Every threshold between two neighboring probabilities calls the same images tumor. Of the ranges that
    reach the best balanced accuracy the widest is taken, and its middle returned.

    Args:
        y_true: (N,) 1 or True where there is a tumor.
        p_tumor: (N,) probabilities.

    Raises:
        ValueError: there aren't both images with and without tumor.
    """
    y, p = np.asarray(y_true).astype(bool), np.asarray(p_tumor, dtype=np.float64)
    if y.all() or not y.any():
        raise ValueError("choosing a threshold needs images with and without tumor")
    upper = np.unique(p)  # the threshold range of the k-th choice is (upper[k - 1], upper[k]]
    lower = np.append(0.0, upper[:-1])
    recall = 1 - np.searchsorted(np.sort(p[y]), upper) / y.sum()
    specificity = np.searchsorted(np.sort(p[~y]), upper) / (~y).sum()
    best = np.isclose(recall + specificity, (recall + specificity).max(), rtol=0, atol=1e-12)
    widest = np.argmax(np.where(best, upper - lower, -1))
    return middle(lower[widest], upper[widest])


def referral_band(y_true: np.ndarray, p_tumor: np.ndarray, threshold: float, error: float) -> tuple[float, float]:
    """The band around a threshold in which a person should look: outside it, a call is wrong as rarely as asked.

    Below `low` lie at most `error` of the tumor images, and at most `error` of the tumor-free images reach `high`. Of
    all such bands that hold the threshold it is the narrowest, give or take the gap between two neighboring
    probabilities: an end other than the threshold is the middle of its gap, as in `choose_threshold`.

    Args:
        y_true: (N,) 1 or True where there is a tumor.
        p_tumor: (N,) probabilities.
        threshold: from which an image is called tumor.
        error: share of the images of either kind, at least 0 and below 1.

    Returns:
        `low` and `high`, `low <= threshold <= high`; an image is uncertain where `low <= p < high`. Equal where no
        image needs to be. `high` is just above 1 where too many tumor-free images have a probability of 1.

    Raises:
        ValueError: there aren't both images with and without tumor, or `error` is out of range.
    """
    y, p = np.asarray(y_true).astype(bool), np.asarray(p_tumor, dtype=np.float64)
    if y.all() or not y.any():
        raise ValueError("choosing a referral band needs images with and without tumor")
    if not 0 <= error < 1:
        raise ValueError(f"expected a share of errors from 0 to below 1, received {error}")
    tumor, healthy = np.sort(p[y]), np.sort(p[~y])[::-1]
    # A product such as 0.29 * 100 comes out just below the whole number that it stands for.
    first_kept, first_spared = tumor[int(error * len(tumor) + 1e-9)], healthy[int(error * len(healthy) + 1e-9)]
    low = high = float(threshold)
    if first_kept < threshold:
        low = middle(p[p < first_kept].max(initial=0.0), first_kept)
    if first_spared >= threshold:
        high = middle(first_spared, p[p > first_spared].min(initial=max(1.0, np.nextafter(first_spared, 2))))
    return low, high


def middle(lower: float, upper: float) -> float:
    """A number above `lower`, up to `upper`: their middle, but between neighboring floats that may round down."""
    half = (lower + upper) / 2
    return float(half if half > lower else upper)


def fit_temperature(logits: np.ndarray, y_true: np.ndarray) -> float:
    """The temperature that minimizes the negative log-likelihood of softmax(logits / temperature).

    Args:
        logits: (N, classes).
        y_true: (N,) class indices.

    Returns:
        A temperature within `TEMPERATURE_BOUNDS`; 1 leaves the probabilities as they are.

    Raises:
        ValueError: no samples, or arrays that don't fit each other.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(y_true)
    if z.ndim != 2 or y.shape != (len(z),) or len(y) == 0:
        raise ValueError(f"expected logits (N, classes) and N labels, received {z.shape} and {y.shape}")
    rows = np.arange(len(y))
    fit = minimize_scalar(
        lambda log_t: -log_softmax(z / np.exp(log_t), axis=1)[rows, y].mean(),
        bounds=np.log(TEMPERATURE_BOUNDS),
        method="bounded",
    )
    return float(np.exp(fit.x))
