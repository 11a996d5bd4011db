"""The metrics and costs: what each is called, what it means, and which way is better. The one place for that."""

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
    "accuracy": Metric("accuracy", "Share of the slices that got the right class.", hub_id="accuracy"),
    "balanced_accuracy": Metric(
        "balanced accuracy",
        "Mean of the classes' own accuracies: a rare class counts as much as a common one.",
        hub_id="balanced_accuracy",
    ),
    "precision": Metric("precision", "Of the slices called tumor, the share that has one."),
    "recall": Metric(
        "recall", "Of the slices with a tumor, the share that was called tumor (sensitivity).", hub_id="recall"
    ),
    "specificity": Metric(
        "specificity", "Of the slices without a tumor, the share that was passed as healthy.", hub_id="specificity"
    ),
    "f1": Metric("F1", "Harmonic mean of precision and recall.", hub_id="f1"),
    "roc_auc": Metric(
        "ROC AUC",
        "Chance that a random tumor slice gets a higher probability than a random healthy one. No threshold.",
        hub_id="roc_auc",
    ),
    "average_precision": Metric("average precision", "Area under the precision-recall curve. No threshold."),
    "brier": Metric(
        "Brier score", "Mean squared difference between probability and truth. Lower is better.", higher_is_better=False
    ),
    "ece": Metric(
        "expected calibration error",
        "Expected calibration error: how far stated probabilities are from observed shares. Lower is better.",
        higher_is_better=False,
    ),
    "ece_uncalibrated": Metric(
        "expected calibration error without the temperature",
        "The same before temperature scaling. Lower is better.",
        higher_is_better=False,
    ),
    "dice_volume_mean": Metric(
        "Dice per patient, mean",
        "Overlap of drawn and true tumor over all slices of a patient, 0 to 1; mean over patients.",
        hub_id="dice",
    ),
    "dice_volume_median": Metric(
        "Dice per patient, median", "As the mean, but of the patient in the middle: one bad patient doesn't move it."
    ),
    "iou_volume_mean": Metric(
        "IoU per patient, mean",
        "Intersection over union of drawn and true tumor of a patient; mean over patients.",
        hub_id="iou",
    ),
    "dice_tumor_slices": Metric(
        "Dice per tumor slice, mean", "Overlap on each slice with a tumor, a slice without a mask counting 0; mean."
    ),
    "dice_all_slices": Metric(
        "Dice per slice with tumor or mask, mean", "As per tumor slice, a mask on a healthy slice counting 0 as well."
    ),
    "dice_pooled": Metric(
        "Dice of all pixels",
        "Overlap of all pixels of all slices thrown together: large tumors dominate it.",
        hub_id="dice_pooled",
    ),
    "dice_tumor_slices_pooled": Metric(
        "Dice of all pixels of tumor slices", "Overlap of all pixels of the slices with a tumor thrown together."
    ),
    "iou_pooled": Metric("IoU of all pixels", "Intersection over union of all pixels of all slices thrown together."),
    "iou_tumor_slices_pooled": Metric(
        "IoU of all pixels of tumor slices",
        "Intersection over union of all pixels of the slices with tumor thrown together.",
    ),
    "pixel_accuracy": Metric(
        "pixel accuracy",
        "Share of pixels that agree. Near 1 even for an empty mask, because most pixels are background.",
        hub_id="pixel_accuracy",
    ),
    "pixel_accuracy_tumor_slices": Metric(
        "pixel accuracy of tumor slices", "Share of pixels that agree on the slices with tumor: mostly background too."
    ),
    "tumor_slices_missed": Metric(
        "share of tumor slices without a mask",
        "Share of the tumor slices on which nothing was drawn. Lower is better.",
        higher_is_better=False,
    ),
    "healthy_slices_with_mask": Metric(
        "share of healthy slices with a mask",
        "Share of the healthy slices on which something was drawn. Lower is better.",
        higher_is_better=False,
        hub_id="false_positive_rate",
    ),
    "hd95_px": Metric(
        "95th-percentile Hausdorff distance, mean pixels",
        "How far the two outlines lie apart: the 95th percentile of the distance, in pixels. Lower is better.",
        higher_is_better=False,
    ),
    "healthy_mask_px": Metric(
        "mask on healthy slices, mean pixels",
        "Mean pixels drawn on a healthy slice. Lower is better.",
        higher_is_better=False,
    ),
    "parameters": Metric("parameters", "Learned numbers in the model. Fewer is cheaper.", higher_is_better=False),
    "file_bytes": Metric("size of the weights", "Size of the weights file, in half precision.", higher_is_better=False),
    "multiply_adds": Metric(
        "multiply-adds",
        "Multiplications with addition for one slice: the work, whatever the machine.",
        higher_is_better=False,
    ),
    "latency_ms": Metric(
        "latency",
        "Milliseconds for one slice on the CPU, the median, on an idle machine; a tenth is noise.",
        higher_is_better=False,
    ),
}
COSTS = ("parameters", "file_bytes", "multiply_adds", "latency_ms")
"""Those of METRIC_TABLE that are costs of a run: in no evaluation's entry, but in `cost.json`."""


def readable(name: str) -> str:
    """A metric's or a count's name as people read it."""
    return METRIC_TABLE[name].title if name in METRIC_TABLE else name.replace("_", " ")


def definition(name: str) -> str:
    """What a metric or a cost means; nothing for what isn't in the table."""
    return METRIC_TABLE[name].definition if name in METRIC_TABLE else ""


def lower_is_better(name: str) -> bool:
    """Whether less of it is better; of what isn't in the table more is."""
    return name in METRIC_TABLE and not METRIC_TABLE[name].higher_is_better


CENTER_IN_BOX = "center_in_box"
"""Name of the share of boxes that the center of the mask lies in, where a set has boxes and no outlines."""
