"""Segmentation metrics: pure functions on pixel counts, per slice and per patient volume."""

from collections.abc import Sequence

import numpy as np

from bthub.metrics.bootstrap import RESAMPLES, medians, percentile_interval, ratio, resample_groups


def center_in_box(mask: np.ndarray, box: Sequence[float]) -> bool:
    """Whether the center of mass of a mask (H, W), bool, lies in a box x0, y0, x1, y1; that of an empty one doesn't."""
    if not mask.any():
        return False
    y, x = (places.mean() + 0.5 for places in np.nonzero(mask))
    return bool(box[0] <= x <= box[2] and box[1] <= y <= box[3])


def segmentation_metrics(
    tumor_px: np.ndarray,
    predicted_px: np.ndarray,
    intersection_px: np.ndarray,
    pixels: np.ndarray,
    *,
    hd95_px: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    keep_resamples: bool = False,
) -> dict:
    """Measure masks from the pixel counts of each slice: reference, prediction, both, and the whole slice.

    Metrics, each with its `Interval`:
        dice_volume_mean, dice_volume_median, iou_volume_mean: over patients, the slices of each together.
            A patient without tumor has none: excluded and counted; a mask on it is a false positive.
        dice_tumor_slices: mean over slices with tumor; a slice without a mask counts 0.
        dice_all_slices: mean over slices with tumor or a mask; a mask on a tumor-free slice counts 0.
        dice_pooled, iou_pooled: of all pixels of all slices.
        dice_tumor_slices_pooled, iou_tumor_slices_pooled: of all pixels of the slices with tumor.
        pixel_accuracy, pixel_accuracy_tumor_slices: share of the pixels that agree, of all slices and of those with
            tumor. Nearly 1 for an empty mask too, because most pixels are healthy.
        tumor_slices_missed: share of the slices with tumor that got no mask.
        tumor_free_slices_with_mask: share of the slices without tumor that got any mask.
        tumor_free_mask_px: mean predicted area of the slices without tumor, in pixels.
        hd95_px: mean over slices with tumor and a mask of the 95th-percentile Hausdorff distance between the two
            outlines, in pixels; of the others there is none, and the Dice of missed slices tells of them.

    Args:
        tumor_px, predicted_px, intersection_px, pixels: (N,) counts in pixels.
        hd95_px: (N,) distances in pixels, NaN where there isn't a reference and a prediction.
        groups: (N,) patient of each slice; None makes each slice its own volume.
        keep_resamples: for `paired_difference`.

    Returns:
        `samples`, `groups`, `metrics`, and `counts` of slices and volumes of each kind (marked: with a mask). With
        `keep_resamples` also `resampled`, each metric's values (R,).

    Raises:
        ValueError: no samples, or counts that can't be.
    """
    tumor, predicted, both, size = (np.asarray(a) for a in (tumor_px, predicted_px, intersection_px, pixels))
    if len(tumor) == 0:
        raise ValueError("there are no samples to measure")
    if not tumor.shape == predicted.shape == both.shape == size.shape:
        raise ValueError("expected the same number of counts for reference, prediction, intersection and pixels")
    if np.any(both < 0) or np.any(both > np.minimum(tumor, predicted)) or np.any(tumor + predicted - both > size):
        raise ValueError("an intersection exceeds its mask, or a union its slice")
    drawn, member = resample_groups(groups, len(tumor), resamples, seed)
    slices = np.stack([tumor, predicted, both, size], axis=1)
    volumes = np.zeros((drawn.shape[1], 4), dtype=np.int64)
    np.add.at(volumes, member, slices)

    everyone = np.ones((1, len(volumes)), dtype=drawn.dtype)
    values = _segmentation_values(slices, volumes, member, everyone)
    samples = _segmentation_values(slices, volumes, member, drawn)
    if hd95_px is not None:
        distance = np.asarray(hd95_px, dtype=float)
        measured = ~np.isnan(distance)
        if np.any(measured != (tumor > 0) & (predicted > 0)):
            raise ValueError("expected a distance for each slice with a reference and a prediction, and for no other")
        for found, weights in ((values, everyone[:, member]), (samples, drawn[:, member])):
            found["hd95_px"] = ratio(weights @ np.where(measured, distance, 0), weights @ measured)
    healthy = tumor == 0
    healthy_volumes = volumes[:, 0] == 0
    return {
        "samples": len(tumor),
        "groups": len(volumes),
        "metrics": {name: percentile_interval(float(value[0]), samples[name]) for name, value in values.items()},
        "counts": {
            "tumor_slices": int((~healthy).sum()),
            "missed_tumor_slices": int((~healthy & (predicted == 0)).sum()),
            "tumor_free_slices": int(healthy.sum()),
            "marked_tumor_free_slices": int((healthy & (predicted > 0)).sum()),
            "volumes_with_tumor": int((~healthy_volumes).sum()),
            "volumes_without_tumor": int(healthy_volumes.sum()),
            "marked_volumes_without_tumor": int((healthy_volumes & (volumes[:, 1] > 0)).sum()),
        },
        **({"resampled": samples} if keep_resamples else {}),
    }


def _segmentation_values(
    slices: np.ndarray, volumes: np.ndarray, member: np.ndarray, drawn: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics for each row of `drawn` (R, volumes); the columns of `slices` and `volumes` are the counts."""
    tumor, predicted, both, size = slices.T
    weights = drawn[:, member]

    def mean(values: np.ndarray, of: np.ndarray, weights: np.ndarray = weights) -> np.ndarray:
        return ratio(weights @ np.where(of, values, 0), weights @ of)

    def pooled(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        return ratio(weights @ numerator, weights @ denominator)

    dice = ratio(2 * both, tumor + predicted)
    volume_tumor, volume_predicted, volume_both, _ = volumes.T
    volume_dice = ratio(2 * volume_both, volume_tumor + volume_predicted)
    volume_iou = ratio(volume_both, volume_tumor + volume_predicted - volume_both)
    has_tumor, healthy, ill = tumor > 0, tumor == 0, volume_tumor > 0
    return {
        "dice_volume_mean": mean(volume_dice, ill, drawn),
        "dice_volume_median": medians(volume_dice[ill], drawn[:, ill]),
        "iou_volume_mean": mean(volume_iou, ill, drawn),
        "dice_tumor_slices": mean(dice, has_tumor),
        "dice_all_slices": mean(dice, tumor + predicted > 0),
        "dice_pooled": pooled(2 * both, tumor + predicted),
        "dice_tumor_slices_pooled": pooled(2 * both, (tumor + predicted) * has_tumor),
        "iou_pooled": pooled(both, tumor + predicted - both),
        "iou_tumor_slices_pooled": pooled(both * has_tumor, (tumor + predicted - both) * has_tumor),
        "pixel_accuracy": pooled(size - tumor - predicted + 2 * both, size),
        "pixel_accuracy_tumor_slices": pooled((size - tumor - predicted + 2 * both) * has_tumor, size * has_tumor),
        "tumor_slices_missed": mean(predicted == 0, has_tumor),
        "tumor_free_slices_with_mask": mean(predicted > 0, healthy),
        "tumor_free_mask_px": mean(predicted, healthy),
    }
