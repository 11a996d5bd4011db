"""What the predictions of a run say image by image: against figures checked by hand, and against its own metrics."""

import math
from pathlib import Path

import numpy as np
import pytest
from records import TEST

from bthub.errors import BthubError
from bthub.evaluation import per_image
from bthub.evaluation.per_image import Scores
from bthub.metrics.classification import uncalibrated
from bthub.runs import records
from bthub.runs.folder import RunFolder
from bthub.training.thresholds import choose_threshold

VALIDATION = TEST._replace(split="validation")


def scores_of(truth: list[int], p: list[float], threshold: float = 0.5) -> Scores:
    rows = [{"patient_id": f"p{i}", "slice_index": "1"} for i in range(len(p))]
    p_tumor = np.array(p)
    return Scores(rows, ["no_tumor", "tumor"], np.array(truth), np.stack([1 - p_tumor, p_tumor], axis=1), threshold)


def test_predictions_of_another_layout_are_named(detector_copy: Path):
    (detector_copy / "predictions" / "patient-test.csv").write_text("id,label\n1,tumor\n")
    with pytest.raises(BthubError, match=r"copy: predictions/patient-test.csv isn't in the format"):
        per_image.scores(records.open_run(detector_copy), TEST)


def test_at_its_own_threshold_a_run_scores_what_was_measured(detector: RunFolder):
    scores, entry = per_image.detector_scores(detector, TEST), records.entry(detector, TEST)
    found = per_image.at_threshold(scores, scores.threshold)
    for metric in ("precision", "recall", "specificity", "f1"):
        assert found[metric] == pytest.approx(entry.metrics[metric].value, abs=1e-12)
    (passed, alarms), (missed, hits) = entry.confusion_matrix
    assert [found[k] for k in ("tn", "fp", "fn", "tp")] == [passed, alarms, missed, hits]
    assert found["false_positive_rate"] == pytest.approx(alarms / (alarms + passed))


def test_nothing_called_has_no_precision():
    found = per_image.at_threshold(scores_of([0, 1], [0.1, 0.2]), 1.0)
    assert found["precision"] is None and found["recall"] == 0 and found["fn"] == 1


def test_curves_pass_through_the_operating_point(detector: RunFolder):
    scores = per_image.detector_scores(detector, TEST)
    roc, pr = per_image.curves(scores)
    point = per_image.at_threshold(scores, 0.5)
    x, y = (np.array([row[key] for row in roc]) for key in ("false_positive_rate", "recall"))
    # Points on straight lines are left out: between its neighbors the curve is a line.
    assert np.interp(point["false_positive_rate"], x, y) >= point["recall"] - 1e-9
    assert x[0] == y[0] == 0 and x[-1] == y[-1] == 1
    assert len(roc) < 100 and len(pr) < len(scores.y)
    with pytest.raises(BthubError, match="only one kind"):
        per_image.curves(scores_of([1, 1], [0.5, 0.6]))


def test_the_cheapest_threshold_is_the_cheapest():
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.4
    p = np.clip(0.25 + 0.5 * truth + rng.normal(0, 0.25, 200), 0, 1)
    scores = scores_of(truth.astype(int).tolist(), p.tolist())
    grid = np.append(np.unique(p), 1.0)
    for miss_cost in (1, 3, 20, 1000):
        found = per_image.cheapest_threshold(scores, miss_cost)
        least = min(per_image.expected_cost(scores, t, miss_cost) for t in grid)
        assert per_image.expected_cost(scores, found, miss_cost) == pytest.approx(least)


def test_dear_misses_lower_the_threshold_and_equal_rates_agree_with_training(detector: RunFolder):
    scores = per_image.detector_scores(detector, VALIDATION)
    cheapest = [per_image.cheapest_threshold(scores, cost) for cost in (0.1, 1, 10, 100)]
    assert cheapest == sorted(cheapest, reverse=True)
    # Where a miss costs as many false alarms as there are healthy slices to a tumor, cost is balanced accuracy.
    balanced = (~scores.is_tumor).sum() / scores.is_tumor.sum()
    assert per_image.cheapest_threshold(scores, balanced) == pytest.approx(
        choose_threshold(scores.is_tumor, scores.p_tumor)
    )


def test_a_threshold_that_calls_nothing_can_be_the_cheapest():
    scores = scores_of([0, 0, 0, 1], [0.9, 0.8, 0.7, 0.1])
    assert per_image.cheapest_threshold(scores, 1.0) > 0.9
    sure = scores_of([0, 0, 0, 1], [1.0, 1.0, 0.7, 0.1])
    assert per_image.at_threshold(sure, per_image.cheapest_threshold(sure, 1.0))["fp"] == 0


def test_uncalibrated_undoes_the_temperature():
    logits = np.array([[1.0, -0.5], [0.2, 0.3], [-2.0, 3.0]])

    def softmax(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)

    assert uncalibrated(softmax(logits / 0.77), 0.77) == pytest.approx(softmax(logits))


def test_calibration_errors_are_those_of_the_files(detector: RunFolder):
    scores = per_image.scores(detector, VALIDATION)
    entry = records.entry(detector, VALIDATION)
    assert per_image.calibration_error(scores, scores.p) == pytest.approx(entry.metrics["ece"].value)
    plain = uncalibrated(scores.p, per_image.temperature(detector))
    # Training measured it before rounding the weights to half precision.
    before = detector.detector_calibration.expected_calibration_error.before
    assert per_image.calibration_error(scores, plain) == pytest.approx(before, abs=2e-3)


def test_reliability_bins():
    scores = scores_of([0, 1, 1, 1], [0.05, 0.05, 0.95, 1.0])
    rows = per_image.reliability(scores, scores.p, fewest=1)
    assert [(row["images"], row["observed"]) for row in rows] == [(2, 0.5), (2, 1.0)]
    assert rows[0]["stated"] == pytest.approx(0.05) and rows[1]["stated"] == pytest.approx(0.975)


def test_reliability_takes_bins_of_few_images_together():
    p = np.concatenate([np.full(40, 0.05), np.full(3, 0.35), np.full(30, 0.75), np.full(2, 0.95)])
    scores = scores_of([0] * 40 + [1, 0, 0] + [1] * 30 + [1, 1], p.tolist())
    rows = per_image.reliability(scores, scores.p, fewest=25)
    assert [(row["images"], row["bin"]) for row in rows] == [(40, "0% to 10%"), (35, "10% to 100%")]
    assert rows[1]["observed"] == pytest.approx(33 / 35)
    assert all(row["low"] <= row["observed"] <= row["high"] for row in rows)


def test_two_classes_of_any_name_are_a_detector():
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    scores = Scores([{"file": "a"}, {"file": "b"}], ["no", "yes"], np.array([0, 1]), p, 0.5)
    assert scores.p_tumor.tolist() == [0.1, 0.8] and scores.is_tumor.tolist() == [False, True]
    assert scores.predicted.tolist() == [0, 1]


def test_reliability_of_several_classes_is_of_the_class_called():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    scores = Scores([{"file": "a"}, {"file": "b"}], ["a", "b", "c"], np.array([0, 1]), p, None)
    rows = per_image.reliability(scores, p, fewest=1)
    assert [row["observed"] for row in rows] == [1.0, 0.0]
    assert scores.predicted.tolist() == [0, 2]


def test_the_referral_band():
    scores = scores_of([0, 0, 1, 1, 1], [0.1, 0.6, 0.2, 0.5, 0.9])
    found = per_image.review(scores, 0.4, 0.6)
    assert found == {"reviewed": 0.2, "fn": 1, "fp": 1, "errors": 0.5}
    assert per_image.review(scores, 0.0, 1.0)["errors"] is None


def test_top_losses_are_sorted_and_named(detector: RunFolder):
    scores = per_image.scores(detector, TEST)
    lines = per_image.top_losses(scores)
    losses = [line["loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)
    (_, alarms), (missed, _) = records.entry(detector, TEST).confusion_matrix
    kinds = [line["kind"] for line in lines]
    assert kinds.count("missed") == missed and kinds.count("false alarm") == alarms
    assert lines[0]["loss"] == pytest.approx(-math.log(lines[0]["p_label"]))
    assert {"patient_id", "slice_index", "institution"} <= set(lines[0])


def test_masks_and_dice_by_patient_give_the_mean_of_the_evaluation(localizer: RunFolder):
    lines = per_image.masks(localizer, TEST)
    entry = records.entry(localizer, TEST)
    patients = per_image.dice_by_patient(lines)
    assert np.mean([p["dice"] for p in patients]) == pytest.approx(entry.metrics["dice_volume_mean"].value)
    assert patients[0]["dice"] == min(p["dice"] for p in patients)
    kinds = [line["kind"] for line in lines]
    assert kinds.count("missed") == entry.counts["missed_tumor_slices"]
    assert kinds.count("mask on a tumor-free slice") == entry.counts["marked_tumor_free_slices"]
    assert {line["size"] for line in lines if line["tumor_px"]} <= set(per_image.SIZES)
    assert all(line["dice"] is None for line in lines if line["kind"] == "tumor-free")
