"""Metrics against hand-computed cases, against scikit-learn, and at the edges where they aren't defined."""

import json

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import to_builtins

from bthub.metrics.bootstrap import mean_and_median
from bthub.metrics.classification import (
    _classification_resamples,
    _classification_values,
    calibration_error_by_chance,
    classification_metrics,
    expected_calibration_error,
    positive_class,
    referred,
)
from bthub.metrics.interval import Interval
from bthub.metrics.segmentation import segmentation_metrics
from bthub.training.thresholds import TEMPERATURE_BOUNDS, choose_threshold, fit_temperature, referral_band

LABELS = ["no_tumor", "tumor"]


def detect(y, p_tumor, threshold=0.5, **options):
    p = np.asarray(p_tumor, dtype=float)
    return classification_metrics(
        np.array(y), np.stack([1 - p, p], axis=1), LABELS, positive=1, threshold=threshold, **options
    )


def values(result):
    return {name: found.value for name, found in result["metrics"].items()}


def random_binary(seed, n=200):
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.4
    # a coarse grid, so that there are ties
    return y.astype(int), np.round(np.clip(0.35 * y + 0.65 * rng.random(n), 0, 1), 2)


# Classification


def test_binary_by_hand():
    # Called at 0.5: tumor, tumor, no, no, tumor -> 2 hits, 1 missed, 1 false alarm, 1 spared.
    result = detect([1, 1, 1, 0, 0], [0.9, 0.6, 0.2, 0.1, 0.5])
    assert result["confusion_matrix"] == [[1, 1], [1, 2]]
    assert result["samples"] == 5
    found = values(result)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["specificity"] == pytest.approx(1 / 2)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Pairs of a tumor and a healthy slice in the right order: 2 + 2 + 1 of 6.
    assert found["roc_auc"] == pytest.approx(5 / 6)
    # Precision where each tumor is found, in falling order: 1/1, 2/2, 3/4.
    assert found["average_precision"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert found["brier"] == pytest.approx((0.01 + 0.16 + 0.64 + 0.01 + 0.25) / 5)
    assert {k: v.value for k, v in result["class_accuracy"].items()} == pytest.approx(
        {"no_tumor": 1 / 2, "tumor": 2 / 3}
    )


def test_threshold_is_reached_not_exceeded():
    assert detect([1, 0], [0.7, 0.2], threshold=0.7)["confusion_matrix"] == [[1, 0], [0, 1]]
    assert detect([1, 0], [0.7, 0.2], threshold=0.71)["confusion_matrix"] == [[1, 0], [1, 0]]
    assert detect([1, 0], [0.7, 0.2], threshold=0.2)["confusion_matrix"] == [[0, 1], [0, 1]]


def test_positive_class_may_come_first():
    y, p = random_binary(0)
    swapped = classification_metrics(
        1 - y, np.stack([p, 1 - p], axis=1), ["tumor", "no_tumor"], positive=0, threshold=0.4
    )
    straight = detect(y, p, threshold=0.4)
    assert values(swapped) == pytest.approx(values(straight))
    assert swapped["confusion_matrix"] == np.array(straight["confusion_matrix"])[::-1, ::-1].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_binary_agrees_with_scikit_learn(seed):
    y, p = random_binary(seed)
    called = p >= 0.45
    found = values(detect(y, p, threshold=0.45))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, called))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, called))
    assert found["precision"] == pytest.approx(sk.precision_score(y, called))
    assert found["recall"] == pytest.approx(sk.recall_score(y, called))
    assert found["specificity"] == pytest.approx(sk.recall_score(y, called, pos_label=0))
    assert found["f1"] == pytest.approx(sk.f1_score(y, called))
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(y, p))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(y, p))


def test_many_classes_agree_with_scikit_learn():
    rng = np.random.default_rng(3)
    y = rng.integers(4, size=150)
    p = rng.dirichlet(np.ones(4), size=150) + 0.5 * np.eye(4)[y]
    p /= p.sum(axis=1, keepdims=True)
    called = p.argmax(axis=1)
    result = classification_metrics(y, p, list("abcd"))
    found = values(result)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, called))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, called))
    assert found["precision"] == pytest.approx(sk.precision_score(y, called, average="macro"))
    assert found["recall"] == pytest.approx(sk.recall_score(y, called, average="macro"))
    assert found["f1"] == pytest.approx(sk.f1_score(y, called, average="macro"))
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
    one_hot = np.eye(4)[y]
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(one_hot, p))
    assert found["brier"] == pytest.approx(((p - one_hot) ** 2).sum(axis=1).mean())
    spared = [((y != k) & (called != k)).sum() / (y != k).sum() for k in range(4)]
    assert found["specificity"] == pytest.approx(np.mean(spared))
    assert result["confusion_matrix"] == sk.confusion_matrix(y, called).tolist()
    assert result["threshold"] is None


@pytest.mark.parametrize("classes", [2, 4])
def test_each_resample_is_what_scikit_learn_gives_for_it(classes):
    """The bulk computation of the bootstrap, resample by resample."""
    rng = np.random.default_rng(5)
    y = rng.integers(classes, size=60)
    p = np.round(rng.dirichlet(np.ones(classes), size=60) + 0.3 * np.eye(classes)[y], 1) + 0.1
    p /= p.sum(axis=1, keepdims=True)
    scored = [1] if classes == 2 else list(range(classes))
    called = (p[:, 1] >= 0.5).astype(int) if classes == 2 else p.argmax(axis=1)
    weights = rng.integers(0, 3, size=(20, 60)).astype(float)
    bulk, bulk_recall = _classification_resamples(y, p, called, scored, weights)
    for r, row in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(60), row)
        single, recall = _classification_values(y[again], p[again], called[again], scored)
        assert {name: bulk[name][r] for name in single} == pytest.approx(single, nan_ok=True)
        assert bulk_recall[r] == pytest.approx(recall, nan_ok=True)


def test_one_class_only():
    healthy = values(detect([0, 0, 0], [0.1, 0.2, 0.7]))
    assert healthy["roc_auc"] is None and healthy["average_precision"] is None
    assert healthy["recall"] is None and healthy["balanced_accuracy"] is None
    assert healthy["specificity"] == pytest.approx(2 / 3)
    assert healthy["precision"] == 0 and healthy["f1"] == 0
    ill = values(detect([1, 1, 1], [0.9, 0.2, 0.7]))
    assert ill["roc_auc"] is None and ill["average_precision"] is None and ill["specificity"] is None
    assert ill["recall"] == pytest.approx(2 / 3)


def test_nothing_called_tumor_has_no_precision():
    found = values(detect([1, 0, 0], [0.1, 0.2, 0.3]))
    assert found["precision"] is None
    assert found["recall"] == 0 and found["f1"] == 0 and found["specificity"] == 1


def test_class_that_is_missing_leaves_its_means_undefined():
    p = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
    result = classification_metrics(np.array([0, 1, 1]), p, list("abc"))
    found = values(result)
    assert found["accuracy"] == 1
    assert found["recall"] is None and found["roc_auc"] is None and found["precision"] is None
    assert result["class_accuracy"]["c"] == Interval(None, None, None)


def test_no_nan_reaches_json():
    for result in (
        detect([0, 0], [0.1, 0.2], groups=["a", "b"]),
        segmentation_metrics([0], [0], [0], [9]),
    ):
        json.dumps(result, allow_nan=False, default=to_builtins)


def test_perfect_detector():
    y = np.array([0, 1] * 20)
    result = detect(y, y.astype(float))
    for name, found in result["metrics"].items():
        best = 0 if name in ("brier", "ece") else 1
        assert found == Interval(best, best, best), name


def calibration_error(outcome, p):
    p = np.asarray(p, dtype=float)
    return expected_calibration_error(np.asarray(outcome), np.stack([1 - p, p], axis=1))


def test_figures_of_two_classes_are_about_tumor_wherever_it_stands():
    for labels, expected in (
        (["tumor", "without"], 0),
        (["no_tumor", "tumor"], 1),
        (["no", "yes"], 1),
        (["glioma", "notumor"], 0),
        (["Brain Tumor", "Healthy"], 0),
        (["a", "b"], 1),
    ):
        assert positive_class(labels) == expected


def test_calibration_error_by_hand():
    # Bins of 1/15: 0.1 and 0.12 share the second, 0.9 and 0.91 the last but one.
    expected = (2 * abs(0.5 - 0.11) + 2 * abs(1 - 0.905)) / 4
    assert calibration_error([0, 1, 1, 1], [0.1, 0.12, 0.9, 0.91]) == pytest.approx(expected)


def test_calibration_error_bins():
    # A boundary belongs to the bin above it, and 1 to the last bin.
    assert calibration_error([1, 0], [3 / 15, 3.5 / 15]) == pytest.approx(abs(1 - 6.5 / 15) / 2)
    assert calibration_error([1, 0], [3 / 15, 2.5 / 15]) == pytest.approx((12 / 15 + 2.5 / 15) / 2)
    assert calibration_error([1, 0], [1.0, 0.95]) == pytest.approx(0.95 / 2)


def test_calibration_error_of_many_classes_is_that_of_the_most_probable():
    p = np.array([[0.6, 0.3, 0.1], [0.1, 0.62, 0.28], [0.2, 0.2, 0.6]])
    assert expected_calibration_error(np.array([0, 1, 0]), p) == pytest.approx(abs(2 / 3 - (0.6 + 0.62 + 0.6) / 3))


def test_distances_must_be_where_both_masks_are():
    counts = [np.array(n) for n in ([5, 0, 7], [5, 0, 0], [5, 0, 0], [64, 64, 64])]
    found = segmentation_metrics(*counts, hd95_px=np.array([2.5, np.nan, np.nan]), groups=["a", "a", "b"])
    assert found["metrics"]["hd95_px"].value == 2.5
    with pytest.raises(ValueError, match="distance for each slice"):
        segmentation_metrics(*counts, hd95_px=np.array([2.5, np.nan, 1.0]))


def test_calibration_error_by_chance():
    # Of four outcomes with probability 1/2, k are positive in 1, 4, 6, 4, 1 of 16 cases: |k/4 - 1/2| has mean 3/16.
    assert calibration_error_by_chance(np.full(4, 0.5), draws=20_000) == pytest.approx(3 / 16, abs=0.003)
    assert calibration_error_by_chance(np.full(10_000, 0.5), draws=100) < 0.01
    assert calibration_error_by_chance(np.array([0.0, 1.0])) == 0


def test_calibration_error_is_small_for_honest_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    assert calibration_error(y, p) < 0.02
    assert calibration_error(y, np.sqrt(p)) > 0.1


@pytest.mark.parametrize(
    "y, p, message",
    [
        ([], np.zeros((0, 2)), "no samples"),
        ([0, 1], [[0.5, 0.5]], "expected 2 probabilities"),
        ([0, 2], [[0.5, 0.5]] * 2, "label below 2"),
        ([0], [[0.5, 0.9]], "sum to 1"),
        ([0], [[np.nan, 0.9]], "sum to 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(y, p, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(np.array(y, dtype=int), np.array(p), LABELS, positive=1, threshold=0.5)


def test_positive_class_needs_a_threshold():
    with pytest.raises(ValueError, match="threshold"):
        classification_metrics(np.array([0]), np.array([[1.0, 0.0]]), LABELS, positive=1)


# Intervals


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_interval_holds_the_value(seed):
    y, p = random_binary(seed, n=80)
    result = detect(y, p, groups=[str(i // 4) for i in range(80)], resamples=300)
    for name, found in result["metrics"].items():
        assert 0 <= found.low <= found.high <= 1
        if name != "ece":  # biased upwards in resamples, as the module says
            assert found.low <= found.value <= found.high, name


def test_resampling_patients_is_wider_than_resampling_slices_of_clustered_data():
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(12), 25)
    # Patients differ in how well the detector does on them; slices of one patient resemble each other.
    skill = np.repeat(rng.random(12), 25)
    y = np.tile([0, 1, 0, 1, 1], 60)
    p = np.where(rng.random(300) < skill, y, 1 - y) * 0.8 + 0.1
    by_patient = detect(y, p, groups=patients)["metrics"]["accuracy"]
    by_slice = detect(y, p)["metrics"]["accuracy"]
    assert by_patient.value == by_slice.value
    assert by_patient.high - by_patient.low > 2 * (by_slice.high - by_slice.low)

    tumor = np.full(300, 100)
    both = (100 * skill).astype(int)
    mine = segmentation_metrics(tumor, tumor, both, tumor * 2, groups=patients)["metrics"]["dice_pooled"]
    naive = segmentation_metrics(tumor, tumor, both, tumor * 2)["metrics"]["dice_pooled"]
    assert mine.high - mine.low > 2 * (naive.high - naive.low)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        hits = np.random.default_rng(seed).random(60) < 0.8
        found = detect(np.ones(60, int), np.where(hits, 0.9, 0.1), resamples=400)["metrics"]["accuracy"]
        covered += found.low <= 0.8 <= found.high
    assert 85 <= covered <= 100


def test_intervals_are_seeded():
    y, p = random_binary(2)
    assert detect(y, p, seed=1) == detect(y, p, seed=1)
    assert detect(y, p, seed=1)["metrics"]["roc_auc"] != detect(y, p, seed=2)["metrics"]["roc_auc"]


def test_mean_and_median_resample_patients():
    values = np.repeat([0.0, 0.0, 0.0, 0.0, 1.0], 2)
    found = mean_and_median(values, np.repeat(list("abcde"), 2))
    # The last of five patients is drawn three times or more in 6% of the resamples, four times or more in 1%.
    assert found["mean"] == Interval(0.2, 0, 0.6)
    assert found["median"] == Interval(0, 0, 1)
    assert mean_and_median(values)["mean"].high < 0.6
    with pytest.raises(ValueError, match="no values"):
        mean_and_median([])


@pytest.mark.parametrize("patients", [1, 2, 4])
def test_a_few_patients_have_values_but_no_intervals(patients):
    y, p = random_binary(4, n=30)
    result = detect(y, p, groups=[str(i % patients) for i in range(30)])
    assert result["groups"] == patients
    assert all(m.value is not None and m.low is None and m.high is None for m in result["metrics"].values())
    five = detect(y, p, groups=[str(i % 5) for i in range(30)])["metrics"]
    assert five["accuracy"].low < five["accuracy"].high


def test_resamples_of_one_class_are_left_out_and_too_many_leave_no_interval():
    # Five patients, one of them ill: a third of all resamples lack that one.
    result = detect([1, 1, 0, 0, 0, 0], [0.9, 0.6, 0.2, 0.7, 0.1, 0.1], groups=list("aabcde"))["metrics"]
    assert result["roc_auc"].value == pytest.approx(7 / 8) and result["roc_auc"].low is None
    assert result["accuracy"].low is not None
    # Of ten patients with one healthy among five such, hardly any resample lacks a class.
    y = np.repeat([0, 1], 5)
    result = detect(y, [0.1, 0.2, 0.6, 0.3, 0.1, 0.9, 0.8, 0.4, 0.7, 0.9])["metrics"]
    assert 0 < result["roc_auc"].low < result["roc_auc"].high <= 1


def test_without_resamples_there_are_values_only():
    found = segmentation_metrics([5, 0], [4, 1], [3, 0], [50, 50], groups=["a", "b"], resamples=0)["metrics"]
    assert found["dice_volume_mean"] == Interval(pytest.approx(6 / 9), None, None)
    assert detect([0, 1], [0.2, 0.9], resamples=0)["metrics"]["roc_auc"] == Interval(1, None, None)


def test_groups_must_match():
    with pytest.raises(ValueError, match="a group for each"):
        detect([0, 1], [0.1, 0.9], groups=["a"])


# Segmentation


def test_segmentation_by_hand():
    # Patient a: 10 + 20 tumor pixels; patient b: one tumor slice missed, one healthy slice with a false mask.
    tumor = [10, 20, 40, 0, 0]
    predicted = [10, 10, 0, 6, 0]
    both = [8, 10, 0, 0, 0]
    result = segmentation_metrics(tumor, predicted, both, [100] * 5, groups=list("aabbb"))
    found = values(result)
    dice_a, dice_b = 2 * 18 / 50, 0
    assert found["dice_volume_mean"] == pytest.approx((dice_a + dice_b) / 2)
    assert found["dice_volume_median"] == pytest.approx((dice_a + dice_b) / 2)
    assert found["iou_volume_mean"] == pytest.approx((18 / 32 + 0) / 2)
    assert found["dice_tumor_slices"] == pytest.approx((16 / 20 + 20 / 30 + 0) / 3)
    assert found["dice_all_slices"] == pytest.approx((16 / 20 + 20 / 30 + 0 + 0) / 4)
    assert found["dice_pooled"] == pytest.approx(2 * 18 / (70 + 26))
    assert found["dice_tumor_slices_pooled"] == pytest.approx(2 * 18 / (70 + 20))
    assert found["iou_pooled"] == pytest.approx(18 / (70 + 26 - 18))
    assert found["iou_tumor_slices_pooled"] == pytest.approx(18 / (70 + 20 - 18))
    # Pixels that differ: 4, 10, 40, 6, the last of them on a healthy slice.
    assert found["pixel_accuracy"] == pytest.approx(1 - 60 / 500)
    assert found["pixel_accuracy_tumor_slices"] == pytest.approx(1 - 54 / 300)
    assert found["tumor_slices_missed"] == pytest.approx(1 / 3)
    assert found["tumor_free_slices_with_mask"] == pytest.approx(1 / 2)
    assert found["tumor_free_mask_px"] == pytest.approx(3)
    assert result["counts"] == {
        "tumor_slices": 3,
        "missed_tumor_slices": 1,
        "tumor_free_slices": 2,
        "marked_tumor_free_slices": 1,
        "volumes_with_tumor": 2,
        "volumes_without_tumor": 0,
        "marked_volumes_without_tumor": 0,
    }


def test_median_over_patients():
    result = segmentation_metrics([10] * 5, [10] * 5, [1, 2, 9, 5, 10], [50] * 5, groups=list("abcde"))
    assert result["metrics"]["dice_volume_median"].value == pytest.approx(0.5)
    assert result["metrics"]["dice_volume_mean"].value == pytest.approx(0.54)


def test_counts_agree_with_scikit_learn_on_pixels():
    rng = np.random.default_rng(0)
    reference, mask = rng.random((2, 6, 20, 20)) < 0.3
    found = values(
        segmentation_metrics(
            reference.sum((1, 2)),
            mask.sum((1, 2)),
            (reference & mask).sum((1, 2)),
            np.full(6, 400),
            groups=list("aabbcc"),
        )
    )
    a, b = reference.ravel(), mask.ravel()
    assert found["dice_pooled"] == pytest.approx(sk.f1_score(a, b))
    assert found["iou_pooled"] == pytest.approx(sk.jaccard_score(a, b))
    assert found["pixel_accuracy"] == pytest.approx(sk.accuracy_score(a, b))
    by_patient = [sk.f1_score(reference[i : i + 2].ravel(), mask[i : i + 2].ravel()) for i in (0, 2, 4)]
    assert found["dice_volume_mean"] == pytest.approx(np.mean(by_patient))


def test_volume_without_tumor_has_no_dice():
    # Patient a is perfect; b is empty and stays empty; c is empty and gets a mask.
    result = segmentation_metrics([10, 0, 0], [10, 0, 7], [10, 0, 0], [50] * 3, groups=list("abc"))
    found = values(result)
    assert found["dice_volume_mean"] == 1 and found["dice_volume_median"] == 1 and found["dice_tumor_slices"] == 1
    assert found["dice_pooled"] == pytest.approx(20 / 27)
    assert found["tumor_free_slices_with_mask"] == pytest.approx(1 / 2)
    assert found["tumor_free_mask_px"] == pytest.approx(3.5)
    assert result["counts"]["volumes_without_tumor"] == 2
    assert result["counts"]["marked_volumes_without_tumor"] == 1


def test_no_tumor_anywhere():
    quiet = values(segmentation_metrics([0, 0], [0, 0], [0, 0], [50, 50], groups=list("ab")))
    for name in ("dice_volume_mean", "dice_volume_median", "dice_tumor_slices", "dice_pooled", "iou_pooled"):
        assert quiet[name] is None
    assert quiet["iou_tumor_slices_pooled"] is None and quiet["pixel_accuracy_tumor_slices"] is None
    assert quiet["pixel_accuracy"] == 1 and quiet["tumor_free_slices_with_mask"] == 0
    loud = values(segmentation_metrics([0, 0], [3, 0], [0, 0], [50, 50], groups=list("ab")))
    assert loud["dice_volume_mean"] is None and loud["dice_pooled"] == 0 and loud["dice_all_slices"] == 0


def test_no_healthy_slice():
    found = values(segmentation_metrics([5], [5], [4], [50]))
    assert found["tumor_free_slices_with_mask"] is None and found["tumor_free_mask_px"] is None


def test_perfect_masks():
    tumor = np.array([0, 5, 10, 0, 7, 9, 0, 3, 2, 0])
    result = segmentation_metrics(tumor, tumor, tumor, np.full(10, 64), groups=list("aabbccddee"))
    for name, found in result["metrics"].items():
        best = 0 if name in ("tumor_slices_missed", "tumor_free_slices_with_mask", "tumor_free_mask_px") else 1
        assert found == Interval(best, best, best), name


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_segmentation_intervals_hold_their_values(seed):
    rng = np.random.default_rng(seed)
    tumor = rng.integers(0, 50, size=60) * (rng.random(60) < 0.7)
    both = (tumor * rng.random(60)).astype(int)
    predicted = both + rng.integers(0, 10, size=60) * (rng.random(60) < 0.5)
    result = segmentation_metrics(
        tumor, predicted, both, np.full(60, 200), groups=[str(i // 5) for i in range(60)], resamples=300
    )
    for name, found in result["metrics"].items():
        assert found.low <= found.value <= found.high, name


@pytest.mark.parametrize(
    "counts, message",
    [
        (([], [], [], []), "no samples"),
        (([5], [5], [6], [50]), "exceeds"),
        (([5], [5], [0], [9]), "exceeds"),
        (([5, 5], [5], [0], [9]), "same number"),
    ],
)
def test_impossible_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        segmentation_metrics(*counts)


# Choices on validation


def test_threshold_is_the_middle_of_the_best_range():
    assert choose_threshold([0, 0, 1, 1], [0.1, 0.3, 0.7, 0.9]) == pytest.approx(0.5)


def test_threshold_takes_the_widest_of_equally_good_ranges():
    # Calling at 0.2-0.3 (one false alarm) and at 0.4-0.8 (one missed) are equally good; the second is wider.
    assert choose_threshold([0, 1, 0, 1], [0.2, 0.3, 0.4, 0.8]) == pytest.approx(0.6)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=2, max_size=30))
@settings(deadline=None)
def test_no_threshold_does_better(pairs):
    y, p = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs], dtype=np.float32)
    if y.all() or not y.any():
        with pytest.raises(ValueError, match="with and without"):
            choose_threshold(y, p)
        return
    chosen = choose_threshold(y, p)
    reached = sk.balanced_accuracy_score(y, p >= np.float64(chosen))
    for other in np.append(np.unique(p).astype(np.float64), [0.0, 1.5]):
        assert sk.balanced_accuracy_score(y, p >= other) <= reached + 1e-9


def test_referral_band_by_hand():
    y = [0, 0, 0, 0, 1, 1, 1, 1]
    p = [0.1, 0.2, 0.6, 0.8, 0.3, 0.4, 0.7, 0.9]
    # No error: every tumor is from 0.3 on (the next below is 0.2), every healthy one up to 0.8 (the next above is 0.9).
    assert referral_band(y, p, 0.5, error=0) == pytest.approx((0.25, 0.85))
    # One of four of each kind: the tumor at 0.3 and the healthy one at 0.8 are given up.
    assert referral_band(y, p, 0.5, error=0.25) == pytest.approx((0.35, 0.65))
    # Two of four: the threshold alone does better than that, so there is no band.
    assert referral_band(y, p, 0.5, error=0.5) == (0.5, 0.5)


def test_what_a_referral_band_does_by_hand():
    y = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    p = np.array([0.1, 0.3, 0.8, 0.9, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7])
    found = referred(y, p, (0.2, 0.7), groups=list("aabbccddee"))
    # In the band, whose lower end is in it and whose upper end isn't: 0.3, 0.2, 0.3 and 0.5.
    assert {name: share.value for name, share in found.items()} == {
        "referred": pytest.approx(4 / 10),
        "false_negative_rate": pytest.approx(1 / 4),
        "false_positive_rate": pytest.approx(1 / 6),
    }
    assert all(share.low <= share.value <= share.high for share in found.values())
    # A patient's images are drawn together: with one patient there is nothing to draw.
    assert referred(y, p, (0.2, 0.7), groups=["a"] * 10)["false_negative_rate"] == Interval(0.25, None, None)
    assert referred(y[:4], p[:4], (0.2, 0.7))["false_positive_rate"].value is None


def test_referral_band_does_not_cut_through_ties():
    y = [0, 0, 0, 1, 1, 1]
    p = [0.1, 0.8, 0.8, 0.2, 0.2, 0.9]
    # One of three may err, but the two at 0.2 lie on the same side of any value, and so do those at 0.8.
    assert referral_band(y, p, 0.5, error=0.34) == pytest.approx((0.15, 0.85))


def test_referral_band_at_the_ends():
    # The surest tumor image has 0, the surest healthy one 1: nothing but all images is wide enough.
    low, high = referral_band([1, 1, 0, 0], [0.0, 0.9, 0.1, 1.0], 0.5, error=0)
    assert low == 0.0 and 1.0 < high < 1.0 + 1e-9
    # Perfectly told apart: nobody has to look.
    assert referral_band([0, 1], [0.0, 1.0], 0.5, error=0) == (0.5, 0.5)
    # A probability that is the threshold itself is called tumor, so a healthy one there has to be looked at.
    low, high = referral_band([0, 1], [0.5, 0.9], 0.5, error=0)
    assert (low, high) == pytest.approx((0.5, 0.7))


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([1, 1], 0.01, "with and without"),
        ([0, 0], 0.01, "with and without"),
        ([0, 1], 1, "share"),
        ([0, 1], -1, "share"),
    ],
)
def test_referral_band_refuses(y, error, message):
    with pytest.raises(ValueError, match=message):
        referral_band(y, [0.2, 0.8], 0.5, error)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=2, max_size=30),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.01, 0.1, 0.29, 0.5, 0.99]),
)
@settings(deadline=None)
def test_referral_band_keeps_its_word_and_no_narrower_one_does(pairs, threshold, error):
    y, p = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    assume(y.any() and not y.all())
    low, high = referral_band(y, p, threshold, error)
    assert low <= threshold <= high

    def missed(end):
        return (p[y] < end).mean()

    def alarms(end):
        return (p[~y] >= end).mean()

    assert missed(low) <= error + 1e-9 and alarms(high) <= error + 1e-9
    for sure in p[(p >= low) & (p < threshold)]:  # with one image fewer below the threshold
        assert missed(np.nextafter(sure, 2)) > error
    for sure in p[(p >= threshold) & (p < high)]:  # and above it
        assert alarms(sure) > error


def test_temperature_is_recovered():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, size=(20_000, 3))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (honest.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert fit_temperature(logits, y) == pytest.approx(1, rel=0.05)
    assert fit_temperature(3 * logits, y) == pytest.approx(3, rel=0.05)


def test_temperature_stays_in_its_bounds():
    low, high = TEMPERATURE_BOUNDS
    logits = np.array([[2.0, -2.0], [-2.0, 2.0]])
    assert low <= fit_temperature(logits, np.array([0, 1])) < 0.1
    assert 0.99 * high < fit_temperature(logits, np.array([1, 0])) <= high


def test_temperature_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="expected logits"):
        fit_temperature(np.zeros((2, 2)), np.array([0]))
