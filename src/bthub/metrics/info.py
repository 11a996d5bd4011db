"""The one table of metrics and costs: name, definition, and whether higher is better."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric, or what a run costs.

    Attributes:
        title: its name as people read it, with the unit where there is one.
        definition: what it means, in a sentence.
        higher_is_better: False for errors and costs.
        hub_id: the Hub's name of it, for the card's metadata; None where it has no part in that.
    """

    title: str
    definition: str
    higher_is_better: bool = True
    hub_id: str | None = None


METRIC_TABLE = {
    "accuracy": Metric("accuracy", "Fraction of slices with the right class.", hub_id="accuracy"),
    "balanced_accuracy": Metric(
        "balanced accuracy",
        "Mean of the classes' own accuracies: a rare class counts as much as a common one.",
        hub_id="balanced_accuracy",
    ),
    "precision": Metric("precision", "Of the slices predicted as tumor, the fraction that has one."),
    "recall": Metric(
        "recall", "Of the slices with a tumor, the fraction that was found (sensitivity).", hub_id="recall"
    ),
    "specificity": Metric(
        "specificity", "Of the tumor-free slices, the fraction without a false alarm.", hub_id="specificity"
    ),
    "f1": Metric("F1", "Harmonic mean of precision and recall.", hub_id="f1"),
    "roc_auc": Metric(
        "ROC AUC",
        "Chance that a random tumor slice gets a higher probability than a random tumor-free one. No threshold.",
        hub_id="roc_auc",
    ),
    "average_precision": Metric("average precision", "Area under the precision-recall curve. No threshold."),
    "brier": Metric(
        "Brier score", "Mean squared difference between probability and truth. Lower is better.", higher_is_better=False
    ),
    "ece": Metric(
        "expected calibration error",
        "How far stated probabilities are from observed frequencies. Lower is better.",
        higher_is_better=False,
    ),
    "ece_uncalibrated": Metric(
        "expected calibration error without the temperature",
        "Expected calibration error before temperature scaling. Lower is better.",
        higher_is_better=False,
    ),
    "dice_volume_mean": Metric(
        "Dice per patient, mean",
        "Overlap of outlined and true tumor over all slices of a patient, 0 to 1; mean over patients.",
        hub_id="dice",
    ),
    "dice_volume_median": Metric(
        "Dice per patient, median",
        "As the mean, but of the patient in the middle: a single bad result doesn't move it.",
    ),
    "iou_volume_mean": Metric(
        "IoU per patient, mean",
        "Intersection over union of outlined and true tumor of a patient; mean over patients.",
        hub_id="iou",
    ),
    "dice_tumor_slices": Metric(
        "Dice per tumor slice, mean", "Mean overlap on the slices with a tumor; a slice without a mask counts 0."
    ),
    "dice_all_slices": Metric(
        "Dice per slice with tumor or mask, mean", "As per tumor slice; a mask on a tumor-free slice counts 0 too."
    ),
    "dice_pooled": Metric(
        "pooled Dice",
        "Overlap of the pixels of all slices pooled: large tumors dominate it.",
        hub_id="dice_pooled",
    ),
    "dice_tumor_slices_pooled": Metric(
        "pooled Dice of tumor slices", "Overlap of the pixels of all slices with a tumor pooled."
    ),
    "iou_pooled": Metric("pooled IoU", "Intersection over union of the pixels of all slices pooled."),
    "iou_tumor_slices_pooled": Metric(
        "pooled IoU of tumor slices",
        "Intersection over union of the pixels of all slices with a tumor pooled.",
    ),
    "pixel_accuracy": Metric(
        "pixel accuracy",
        "Fraction of pixels that agree. Near 1 even for an empty mask, because most pixels are background.",
        hub_id="pixel_accuracy",
    ),
    "pixel_accuracy_tumor_slices": Metric(
        "pixel accuracy of tumor slices",
        "Fraction of pixels that agree on the slices with tumor: mostly background too.",
    ),
    "tumor_slices_missed": Metric(
        "tumor slices without a mask",
        "Fraction of tumor slices on which nothing was outlined. Lower is better.",
        higher_is_better=False,
    ),
    "tumor_free_slices_with_mask": Metric(
        "tumor-free slices with a mask",
        "Fraction of tumor-free slices on which something was outlined. Lower is better.",
        higher_is_better=False,
        hub_id="false_positive_rate",
    ),
    "hd95_px": Metric(
        "95th-percentile Hausdorff distance, pixels",
        "95th percentile of the distance between the two outlines, in pixels, mean over slices. Lower is better.",
        higher_is_better=False,
    ),
    "tumor_free_mask_px": Metric(
        "mask on tumor-free slices, pixels",
        "Mean number of pixels outlined on a tumor-free slice. Lower is better.",
        higher_is_better=False,
    ),
    "parameters": Metric("parameters", "Parameters of the network. Fewer is cheaper.", higher_is_better=False),
    "file_bytes": Metric("size of the weights", "Size of the weights file, in half precision.", higher_is_better=False),
    "multiply_adds": Metric(
        "multiply-adds",
        "Multiply-add operations for one slice: the work, whatever the machine.",
        higher_is_better=False,
    ),
    "latency_ms": Metric(
        "latency",
        "Median milliseconds for one slice with PyTorch on an idle CPU; differences under about 10% are noise.",
        higher_is_better=False,
    ),
}
COSTS = ("parameters", "file_bytes", "multiply_adds", "latency_ms")
"""Those of METRIC_TABLE that are costs of a run: in no evaluation's entry, but in `cost.json`."""


def readable(name: str) -> str:
    """A metric's or a count's name as people read it."""
    return (
        METRIC_TABLE[name].title if name in METRIC_TABLE else name.replace("_", " ").replace("tumor free", "tumor-free")
    )


def definition(name: str) -> str:
    """What a metric or a cost means; nothing for what isn't in the table."""
    return METRIC_TABLE[name].definition if name in METRIC_TABLE else ""


def lower_is_better(name: str) -> bool:
    """Whether less of it is better; of what isn't in the table more is."""
    return name in METRIC_TABLE and not METRIC_TABLE[name].higher_is_better


CENTER_IN_BOX = "center_in_box"
"""Name of the share of boxes that the center of the mask lies in, where a set has boxes and no outlines."""
