"""The last step of training: everything that is fitted on the validation split."""

from collections.abc import Sequence

import msgspec
import numpy as np
from datasets import Dataset as Rows
from scipy.special import softmax

from bthub.data.dataset import batches
from bthub.data.views import AS_IT_IS, FLAIR_ALONE, THREE_SEQUENCES, view_batches, views
from bthub.imaging import kinds as input_kinds
from bthub.imaging.kinds import KINDS
from bthub.metrics.classification import expected_calibration_error, positive_class
from bthub.metrics.segmentation import center_in_box, segmentation_metrics
from bthub.models.classifier import Classifier
from bthub.models.localizer import Localizer
from bthub.models.resunet import clean_mask
from bthub.runs.schema import BeforeAfter, DetectorCalibration, KindCalibration, KindMasks, LocalizerCalibration
from bthub.training.thresholds import choose_threshold, fit_temperature, referral_band

BATCH = 16
DOING = "calibrating on validation"
THRESHOLDS = np.array([0.01, 0.02, *np.round(np.arange(0.05, 0.96, 0.05), 2), 0.98, 0.99])
# A mask below this share of its image is taken as nothing found: 0 to 65 pixels of 256 x 256. Larger ones may
# raise the mean over volumes, but lose the slices with a small tumor.
MIN_AREA_SHARES = [0.0, 0.0001, 0.0002, 0.0005, 0.001]
TOLERANCE = 0.001
# Half of it, 0.01, would send 41% of the validation slices of the shipped detector to a person, this 14%.
REFERRAL_ERROR = 0.02
"""Share of the tumor and of the tumor-free images that may lie on the wrong side outside the referral band."""


def calibrate_classifier(classifier: Classifier, rows: Rows) -> DetectorCalibration:
    """Fit a temperature, and for a detector the threshold and the referral band of the calibrated tumor probability.

    Args:
        classifier: with temperature 1, so that its probabilities are those of the plain logits.
        rows: the validation split.

    Returns:
        The threshold is best in balanced accuracy; it and the band, see `referral_band`, are None unless there are
        exactly two classes, one of them tumor.
    """
    if "source" in rows.column_names:
        return _calibrate_by_kind(classifier, rows)
    labels = np.array(rows["label"][:])
    pictures = batches(rows, BATCH, DOING)
    plain = np.concatenate([classifier.predict(images) for images in pictures])  # (N, classes)
    return _fit(classifier, plain, labels)


def _fit(classifier: Classifier, plain: np.ndarray, labels: np.ndarray) -> DetectorCalibration:
    """Temperature, threshold and referral band from probabilities (N, classes) and labels (N,)."""
    # softmax(log p / T) equals softmax(logits / T): the constant that log p lacks cancels out.
    logits = np.log(np.clip(plain, 1e-12, 1))
    temperature = fit_temperature(logits, labels)
    scaled = softmax(logits / temperature, axis=1)
    positive = positive_class(classifier.labels)
    threshold = band = None
    if len(classifier.labels) == 2 and "tumor" in classifier.labels:
        tumor, p_tumor = labels == classifier.tumor_index, scaled[:, classifier.tumor_index]
        threshold = choose_threshold(tumor, p_tumor)
        band = referral_band(tumor, p_tumor, threshold, REFERRAL_ERROR)
    return DetectorCalibration(
        samples=len(labels),
        temperature=temperature,
        expected_calibration_error=BeforeAfter(
            expected_calibration_error(labels, plain, positive), expected_calibration_error(labels, scaled, positive)
        ),
        threshold=threshold,
        criterion=None if threshold is None else "balanced accuracy",
        referral_band=band,
        referral_error=None if band is None else REFERRAL_ERROR,
    )


def _calibrate_by_kind(classifier: Classifier, rows: Rows) -> DetectorCalibration:
    """`calibrate_classifier` on a mixture: what holds for three sequences, and `kinds` with the same for each kind.

    The temperature of three sequences goes into the weights; those of `kinds` come on top of it.
    """
    shown = views(rows)
    plain = np.concatenate(
        [classifier.predict([picture for _, picture in batch]) for batch in view_batches(rows, shown, BATCH, DOING)]
    )
    labels = np.array(rows["label"][:])[[view.row for view in shown]]
    kinds = np.array([view.kind for view in shown])
    found = {
        kind: _fit(classifier, plain[kinds == kind], labels[kinds == kind]) for kind in KINDS if (kinds == kind).any()
    }
    main = found.get(input_kinds.THREE_SEQUENCES) or next(iter(found.values()))
    of_kinds = {
        kind: KindCalibration(
            samples=fitted.samples,
            temperature=fitted.temperature / main.temperature,
            threshold=fitted.threshold,
            referral_band=fitted.referral_band,
        )
        for kind, fitted in found.items()
    }
    return msgspec.structs.replace(main, kinds=of_kinds)


def choose_operating_point(localizer: Localizer, rows: Rows) -> LocalizerCalibration:
    """Choose the pixel threshold with the best mean Dice over patients, and the smallest mask worth reporting.

    The latter is the largest candidate that costs less than 0.001 of that Dice: it keeps specks off tumor-free slices.

    Args:
        localizer: with the plain head, so that its probabilities are not yet shifted.
        rows: the validation split; of a mixture its slices of LGG count, in color and as FLAIR alone.

    Returns:
        With the sweep that they were chosen from; of a mixture with boxes also with `kinds`, see `_choose_for_boxes`.
    """
    candidates = [(float(t), a) for t in THRESHOLDS for a in MIN_AREA_SHARES]
    everything = rows
    tumor, pixels = [], []
    predicted: dict[tuple[float, float], list[int]] = {c: [] for c in candidates}
    both: dict[tuple[float, float], list[int]] = {c: [] for c in candidates}
    of_lgg: Sequence[str] = (AS_IT_IS,)
    if "source" in rows.column_names:
        rows = rows.select([i for i, patient in enumerate(rows["patient_id"][:]) if patient])
        of_lgg = (THREE_SEQUENCES, FLAIR_ALONE)
    shown, patients = views(rows, of_lgg), rows["patient_id"][:]
    volumes = [f"{patients[view.row]}, {view.name}" for view in shown]
    for batch in view_batches(rows, shown, BATCH, DOING):
        probabilities = localizer.predict([picture for _, picture in batch])
        for (view, _), probability in zip(batch, probabilities, strict=True):
            mask = np.asarray(rows[view.row]["mask"]) > 0  # (H, W)
            tumor.append(int(mask.sum()))
            pixels.append(mask.size)
            for threshold, share in candidates:
                found = clean_mask(probability, share, threshold)
                predicted[threshold, share].append(int(found.sum()))
                both[threshold, share].append(int((found & mask).sum()))
    sweep = {}
    for candidate in candidates:
        measured = segmentation_metrics(
            tumor, predicted[candidate], both[candidate], pixels, groups=volumes, resamples=0
        )["metrics"]
        sweep[candidate] = {
            "mask_threshold": candidate[0],
            "min_area_share": candidate[1],
            "dice_volume_mean": measured["dice_volume_mean"].value,
            "tumor_free_slices_with_mask": measured["tumor_free_slices_with_mask"].value,
        }
    threshold = max(candidates, key=lambda c: sweep[c]["dice_volume_mean"])[0]
    shares = {share: sweep[threshold, share]["dice_volume_mean"] for share in MIN_AREA_SHARES}
    share = max(share for share, dice in shares.items() if dice >= max(shares.values()) - TOLERANCE)
    return LocalizerCalibration(
        samples=len(tumor),
        mask_threshold=threshold,
        min_area_share=share,
        criterion="mean Dice over patient volumes",
        validation_dice=shares[share],
        sweep=list(sweep.values()),
        kinds=_choose_for_boxes(localizer, everything, threshold, share),
    )


def _choose_for_boxes(localizer: Localizer, rows: Rows, folded: float, share: float) -> dict[str, KindMasks]:
    """What is a mask in a gray picture that isn't FLAIR: chosen on the pictures that have a box.

    The best in the sum of two shares of the boxes: whether the center of the mask lies in it, and the IoU of the mask's
    bounding box with it. The first alone doesn't mind masks that are too large. Tumor-free pictures don't count: the
    localizer gets only what the detector calls a tumor.

    Args:
        localizer: with the plain head.
        rows: the validation split.
        folded: the threshold that the saved head carries; what is returned comes on top of it.
        share: the smallest share of a picture that is a mask. Where all pictures have a tumor, none could be better.

    Returns:
        What was chosen for gray pictures that aren't FLAIR; nothing where no row has a box.
    """
    boxes = rows["box"][:] if "box" in rows.column_names else []
    chosen = [i for i, box in enumerate(boxes) if box]
    if not chosen:
        return {}
    hits = np.zeros((len(THRESHOLDS), 2))
    for batch in view_batches(rows.select(chosen), views(rows.select(chosen)), BATCH, DOING):
        for (view, _), probability in zip(batch, localizer.predict([picture for _, picture in batch]), strict=True):
            for k, threshold in enumerate(THRESHOLDS):
                mask = clean_mask(probability, share, threshold)
                hits[k] += _against_box(mask, boxes[chosen[view.row]])
    hits /= len(chosen)
    best = int(hits.sum(axis=1).argmax())
    threshold = float(THRESHOLDS[best])
    odds = threshold / (1 - threshold) * (1 - folded) / folded
    return {
        input_kinds.OTHER_MRI: KindMasks(
            threshold=odds / (1 + odds),
            min_area_share=share,
            center_in_box=float(hits[best, 0]),
            box_iou=float(hits[best, 1]),
            samples=len(chosen),
        )
    }


def _against_box(mask: np.ndarray, box: Sequence[float]) -> tuple[float, float]:
    """Whether the center of a mask (H, W) lies in a box x0, y0, x1, y1, and the IoU of its bounding box with it."""
    if not mask.any():
        return 0.0, 0.0
    rows, columns = np.nonzero(mask)
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    both = max(0.0, min(x1, box[2]) - max(x0, box[0])) * max(0.0, min(y1, box[3]) - max(y0, box[1]))
    either = (x1 - x0) * (y1 - y0) + (box[2] - box[0]) * (box[3] - box[1]) - both
    return float(center_in_box(mask, box)), float(both / either)
