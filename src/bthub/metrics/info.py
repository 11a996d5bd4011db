"""The metrics' names as people read them."""

# How people read the names of metrics and counts that aren't just words.
_NAMES = {
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "ece_uncalibrated": "expected calibration error without the temperature",
    "dice_volume_mean": "Dice per patient, mean",
    "dice_volume_median": "Dice per patient, median",
    "iou_volume_mean": "IoU per patient, mean",
    "dice_tumor_slices": "Dice per tumor slice, mean",
    "dice_all_slices": "Dice per slice with tumor or mask, mean",
    "dice_pooled": "Dice of all pixels",
    "dice_tumor_slices_pooled": "Dice of all pixels of tumor slices",
    "iou_pooled": "IoU of all pixels",
    "iou_tumor_slices_pooled": "IoU of all pixels of tumor slices",
    "pixel_accuracy_tumor_slices": "pixel accuracy of tumor slices",
    "tumor_slices_missed": "share of tumor slices without a mask",
    "healthy_slices_with_mask": "share of healthy slices with a mask",
    "healthy_mask_px": "mask on healthy slices, mean pixels",
    "hd95_px": "95th-percentile Hausdorff distance, mean pixels",
}


def readable(name: str) -> str:
    """A metric's or a count's name as people read it."""
    return _NAMES.get(name, name.replace("_", " "))
