"""Runs as tables: against figures that can be checked by hand, and against what the shipped runs say of themselves."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from bthub import compare, leakage, papers, per_image
from bthub.compare import Evaluation
from bthub.errors import BthubError
from bthub.metrics import choose_threshold
from bthub.per_image import Scores
from bthub.run_folder import CLASSIFICATION, COST, METRICS, SEGMENTATION, TRAINING, RunFolder, write_json

TEST = Evaluation("lgg", "patient", "test")
VALIDATION = TEST._replace(split="validation")


@pytest.fixture(scope="module")
def detector(shipped_runs: tuple[Path, Path]) -> RunFolder:
    return RunFolder.open(shipped_runs[0])


@pytest.fixture(scope="module")
def localizer(shipped_runs: tuple[Path, Path]) -> RunFolder:
    return RunFolder.open(shipped_runs[1])


@pytest.fixture
def copy(detector: RunFolder, tmp_path: Path) -> Path:
    """A copy of the shipped detector that a test may spoil."""
    ignored = shutil.ignore_patterns("checkpoint", "logs")
    return Path(shutil.copytree(detector.path, tmp_path / "copy", ignore=ignored))


def scores_of(truth: list[int], p: list[float], threshold: float = 0.5) -> Scores:
    rows = [{"patient_id": f"p{i}", "slice_index": "1"} for i in range(len(p))]
    p_tumor = np.array(p)
    return Scores(rows, ["no_tumor", "tumor"], np.array(truth), np.stack([1 - p_tumor, p_tumor], axis=1), threshold)


# -- reading runs


def test_a_row_is_what_the_files_say(detector: RunFolder):
    row = compare.row(detector, TEST)
    entry = json.loads((detector.path / METRICS).read_text())["patient/test"]
    assert (row["roc_auc"], row["roc_auc_low"]) == tuple(entry["metrics"]["roc_auc"][e] for e in ("value", "low"))
    assert row["model"] == "resnet18-lgg" and row["network"] == "resnet18"
    assert row["start"] == "encoder of resunet18-lgg"
    assert row["parameters"] == 11_177_538  # ResNet-18 with two outputs
    assert row["file_bytes"] == (detector.path / "model.safetensors").stat().st_size
    assert row["latency_ms"] == json.loads((detector.path / COST).read_text())["latency_ms"] > 0


def test_every_metric_has_a_definition(detector: RunFolder, localizer: RunFolder):
    for run in (detector, localizer):
        assert set(compare.entry(run, TEST)["metrics"]) <= set(compare.DEFINITIONS)
    assert set(compare.COSTS) | compare.LOWER_IS_BETTER <= set(compare.DEFINITIONS)


def test_the_best_is_the_lowest_of_errors_and_costs():
    rows = [{"f1": 0.5, "ece": 0.1, "parameters": None}, {"f1": 0.75, "ece": 0.2, "parameters": None}]
    assert compare.best(rows, "f1") == 0.75
    assert compare.best(rows, "ece") == 0.1
    assert compare.best(rows, "parameters") is None


def test_a_run_without_weights_still_shows_its_figures(copy: Path):
    (copy / "model.safetensors").unlink()
    content = json.loads((copy / COST).read_text())
    write_json(copy / COST, {**content, "parameters": 123, "latency_ms": 12.5})
    row = compare.row(compare.open_run(copy), TEST)
    assert row["roc_auc"] > 0.9 and (row["parameters"], row["latency_ms"]) == (123, 12.5)
    (copy / COST).unlink()
    row = compare.row(compare.open_run(copy), TEST)
    assert row["roc_auc"] > 0.9 and row["parameters"] is None and row["latency_ms"] is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda entry: entry.pop("metrics"), "metrics.json isn't laid out"),
        (lambda entry: entry.update(metrics=[1]), "metrics.json isn't laid out"),
        (lambda entry: entry["metrics"].update(f1=0.9), "metrics.json isn't laid out"),
        (lambda entry: entry.update(weights="sha256:of another"), "was measured with the weights"),
        (lambda entry: entry["dataset"].update(name="other"), "no figures for patient/test of lgg"),
    ],
)
def test_what_cannot_be_read_is_named(copy: Path, spoil, words: str):
    content = json.loads((copy / METRICS).read_text())
    spoil(content["patient/test"])
    write_json(copy / METRICS, content)
    with pytest.raises(BthubError, match=words) as caught:
        compare.row(compare.open_run(copy), TEST)
    assert str(caught.value).startswith("copy")


def test_predictions_of_another_layout_are_named(copy: Path):
    (copy / "predictions" / "patient-test.csv").write_text("id,label\n1,tumor\n")
    with pytest.raises(BthubError, match=r"copy: predictions/patient-test.csv isn't laid out"):
        per_image.scores(compare.open_run(copy), TEST)


def test_broken_weights_are_named(copy: Path):
    (copy / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(BthubError, match="copy"):
        compare.parameters(compare.open_run(copy))


def test_which_split_an_image_was_in(detector: RunFolder):
    trained = next(row for row in detector.rows("split.csv") if row["split"] == "train")
    assert compare.seen(detector, (trained["patient_id"], trained["slice_index"])) == "train"
    tested = detector.predictions("patient/test")[0]
    assert compare.seen(detector, compare.image_key(tested)) is None


# -- thresholds


def test_at_its_own_threshold_a_run_scores_what_was_measured(detector: RunFolder):
    scores, entry = per_image.detector_scores(detector, TEST), compare.entry(detector, TEST)
    found = per_image.at_threshold(scores, scores.threshold)
    for metric in ("precision", "recall", "specificity", "f1"):
        assert found[metric] == pytest.approx(entry["metrics"][metric]["value"], abs=1e-12)
    (passed, alarms), (missed, hits) = entry["confusion_matrix"]
    assert [found[k] for k in ("passed", "false_alarms", "missed", "found")] == [passed, alarms, missed, hits]
    assert found["false_positive_rate"] == pytest.approx(alarms / (alarms + passed))


def test_nothing_called_has_no_precision():
    found = per_image.at_threshold(scores_of([0, 1], [0.1, 0.2]), 1.0)
    assert found["precision"] is None and found["recall"] == 0 and found["missed"] == 1


def test_curves_pass_through_the_operating_point(detector: RunFolder):
    scores = per_image.detector_scores(detector, TEST)
    roc, pr = per_image.curves(scores)
    point = per_image.at_threshold(scores, 0.5)
    x, y = (np.array([row[key] for row in roc]) for key in ("false_positive_rate", "recall"))
    # Points on straight lines are left out: between its neighbours the curve is a line.
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


# -- calibration


def test_uncalibrated_undoes_the_temperature():
    logits = np.array([[1.0, -0.5], [0.2, 0.3], [-2.0, 3.0]])

    def softmax(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)

    assert per_image.uncalibrated(softmax(logits / 0.77), 0.77) == pytest.approx(softmax(logits))


def test_calibration_errors_are_those_of_the_files(detector: RunFolder):
    scores = per_image.scores(detector, VALIDATION)
    entry = compare.entry(detector, VALIDATION)
    assert per_image.calibration_error(scores, scores.p) == pytest.approx(entry["metrics"]["ece"]["value"])
    plain = per_image.uncalibrated(scores.p, per_image.temperature(detector))
    # Training measured it before rounding the weights to half precision.
    before = detector.calibration["expected_calibration_error"]["before"]
    assert per_image.calibration_error(scores, plain) == pytest.approx(before, abs=2e-3)


def test_reliability_bins():
    scores = scores_of([0, 1, 1, 1], [0.05, 0.05, 0.95, 1.0])
    rows = per_image.reliability(scores, scores.p)
    assert [(row["images"], row["observed"]) for row in rows] == [(2, 0.5), (2, 1.0)]
    assert rows[0]["stated"] == pytest.approx(0.05) and rows[1]["stated"] == pytest.approx(0.975)


def test_reliability_of_several_classes_is_of_the_class_called():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    scores = Scores([{"file": "a"}, {"file": "b"}], ["a", "b", "c"], np.array([0, 1]), p, None)
    rows = per_image.reliability(scores, p)
    assert [row["observed"] for row in rows] == [1.0, 0.0]
    assert scores.called.tolist() == [0, 2]


def test_the_review_band():
    scores = scores_of([0, 0, 1, 1, 1], [0.1, 0.6, 0.2, 0.5, 0.9])
    found = per_image.review(scores, 0.4, 0.6)
    assert found == {"reviewed": 0.2, "missed": 1, "false_alarms": 1, "errors": 0.5}
    assert per_image.review(scores, 0.0, 1.0)["errors"] is None


# -- cases


def test_top_losses_are_sorted_and_named(detector: RunFolder):
    scores = per_image.scores(detector, TEST)
    lines = per_image.top_losses(scores)
    losses = [line["loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)
    (_, alarms), (missed, _) = compare.entry(detector, TEST)["confusion_matrix"]
    kinds = [line["kind"] for line in lines]
    assert kinds.count("missed") == missed and kinds.count("false alarm") == alarms
    assert lines[0]["loss"] == pytest.approx(-math.log(lines[0]["p_label"]))
    assert {"patient_id", "slice_index", "institution"} <= set(lines[0])


def test_masks_and_dice_by_patient_give_the_mean_of_the_evaluation(localizer: RunFolder):
    lines = per_image.masks(localizer, TEST)
    entry = compare.entry(localizer, TEST)
    patients = per_image.dice_by_patient(lines)
    assert np.mean([p["dice"] for p in patients]) == pytest.approx(entry["metrics"]["dice_volume_mean"]["value"])
    assert patients[0]["dice"] == min(p["dice"] for p in patients)
    kinds = [line["kind"] for line in lines]
    assert kinds.count("missed") == entry["counts"]["missed_tumor_slices"]
    assert kinds.count("false mask") == entry["counts"]["marked_healthy_slices"]
    assert {line["size"] for line in lines if line["tumor_px"]} <= set(per_image.SIZES)
    assert all(line["dice"] is None for line in lines if line["kind"] == "healthy")


def test_history_is_read_as_numbers(detector: RunFolder):
    lines = compare.history(detector)
    assert len(lines) == detector.training["best"]["epochs_trained"]
    assert lines[detector.training["best"]["epoch"]]["validation_f1"] == pytest.approx(
        detector.training["best"]["validation_metric"]
    )


def test_a_learning_rate_finder_is_shown_where_there_is_one(copy: Path):
    assert compare.lr_finder(compare.open_run(copy)) == []
    (copy / compare.LR_FINDER).write_text("learning_rate,loss\n1e-5,0.7\n1e-4,0.5\n")
    assert compare.lr_finder(compare.open_run(copy)) == [
        {"learning_rate": 1e-5, "loss": 0.7},
        {"learning_rate": 1e-4, "loss": 0.5},
    ]


# -- pairs


def variant(source: Path, target: Path, **changes) -> RunFolder:
    """A copy of a run with another recipe."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint", "logs"))
    training = json.loads((target / "training.json").read_text())
    training["protocol"] = changes.get("protocol", training["protocol"])
    training["config"] |= changes
    write_json(target / "training.json", training)
    return compare.open_run(target)


def test_leakage_pairs_take_the_closest_recipe(detector: RunFolder, localizer: RunFolder, tmp_path: Path):
    sliced = variant(detector.path, tmp_path / "a-slice", protocol="slice", encoder_from="runs/other-slice")
    distant = variant(detector.path, tmp_path / "distant", epochs=99, learning_rate=1.0, seed=7)
    assert leakage.leakage_pairs([detector, localizer, distant]) == []
    (pair,) = leakage.leakage_pairs([distant, localizer, detector, sliced])
    assert (pair.patient, pair.slice) == (detector, sliced)
    assert pair.differences == []
    (pair,) = leakage.leakage_pairs([distant, sliced])
    assert pair.differences == ["epochs", "learning_rate", "seed"]


def test_networks_from_different_first_weights(detector: RunFolder, localizer: RunFolder, tmp_path: Path):
    scratch = variant(detector.path, tmp_path / "scratch", encoder_from=None)
    assert compare.initialisation(scratch) == "random"
    assert (
        compare.initialisation(variant(detector.path, tmp_path / "p", encoder_from=None, pretrained=True)) == "ImageNet"
    )
    for start, words in (
        ({"weights_from": "data/imagenet-vgg16.safetensors"}, "ImageNet"),
        ({"encoder_from": "imagenet-tf_efficientnet_lite0.safetensors"}, "ImageNet"),
        ({"weights_from": "runs/resnet18-lgg"}, "weights of resnet18-lgg"),
        ({"weights_from": "mine/start.safetensors"}, "weights of start.safetensors"),
        ({"weights_from": "data/imagenet-vgg16.safetensors", "encoder_from": "runs/a"}, "encoder of a"),
    ):
        name = "-".join(start) + words.replace(" ", "-")
        run = variant(detector.path, tmp_path / name, **{"encoder_from": None, **start})
        assert compare.initialisation(run) == words
    assert compare.by_initialisation([detector, localizer]) == {}
    assert compare.by_initialisation([detector, localizer, scratch]) == {"resnet18": [detector, scratch]}
    pictures = [image_folder_run(detector.path, tmp_path / name) for name in ("pictures", "pictures-scratch")]
    assert compare.by_initialisation([detector, *pictures]) == {}
    training = json.loads((pictures[1].path / TRAINING).read_text())
    training["config"]["encoder_from"] = None
    write_json(pictures[1].path / TRAINING, training)
    pictures[1] = compare.open_run(pictures[1].path)
    assert compare.by_initialisation([detector, scratch, *pictures]) == {
        "resnet18, lgg": [detector, scratch],
        "resnet18, pictures": pictures,
    }


def image_folder_run(source: Path, target: Path) -> RunFolder:
    """A copy of a run, as if it had been trained on an image-folder set: no patients, whatever protocol was asked."""
    run = variant(source, target)
    training = json.loads((target / TRAINING).read_text())
    training["dataset"]["name"] = "pictures"
    for facts in training["dataset"]["splits"].values():
        del facts["patients"]
    write_json(target / TRAINING, training)
    return compare.open_run(run.path)


def test_an_image_folder_run_is_in_no_leakage_pair(detector: RunFolder, tmp_path: Path):
    sliced = variant(detector.path, tmp_path / "a-slice", protocol="slice")
    pictures = image_folder_run(detector.path, tmp_path / "pictures")
    assert compare.trained_on(pictures) == ("default", "pictures")
    assert leakage.leakage_pairs([pictures, sliced]) == []
    start = {"encoder_from": None, "weights_from": "data/imagenet-vgg16.safetensors"}
    pretrained = variant(detector.path, tmp_path / "pretrained", **start)
    (pair,) = leakage.leakage_pairs([pretrained, sliced])
    assert pair.differences == ["encoder_from", "weights_from"]
    also = variant(detector.path, tmp_path / "also", protocol="slice", **start)
    (pair,) = leakage.leakage_pairs([pretrained, detector, also])
    assert pair.patient is pretrained and pair.differences == []


def test_only_a_split_by_slice_leaks():
    leaking, slices = leakage.with_neighbour_in_train("slice")
    assert leaking / slices > 0.8
    assert leakage.with_neighbour_in_train("patient")[0] == 0
    rows = leakage.split_map()
    assert {row["patient"] for row in rows} == {"train", "validation", "test"} == {row["slice"] for row in rows}


# -- papers


def test_the_papers_file_is_whole():
    known = papers.reported()
    systems = {"resnet-efficientnet", "resnet-resunet", "fastai-resnets", "localization-service", "vgg-densenet-resnet"}
    assert set(known) == systems | {"references"}
    for paper in known.values():
        assert {"title", "data", "split", "recipe", "figures"} == set(paper)
        for figure in paper["figures"]:
            assert figure["value"] is None or 0 < figure["value"] <= 1
            assert figure["note"] and figure["what"]
            assert figure["like"]["task"] in (CLASSIFICATION, SEGMENTATION)
            assert figure["like"]["metric"] in compare.DEFINITIONS


def test_whose_recipe_a_run_follows():
    assert papers.recipe_of("resnet-resunet-detector") == "resnet-resunet"
    assert papers.recipe_of("localization-service-detector") == "localization-service"
    assert papers.recipe_of("resnet18-lgg") is None and papers.recipe_of("resnet-resunet2") is None


def test_a_reported_figure_is_held_against_what_is_comparable(detector: RunFolder, localizer: RunFolder):
    known = papers.reported()
    runs = [detector, localizer]
    dice = next(f for f in known["resnet-resunet"]["figures"] if f["what"] == "ResUNet, Dice")
    ((run, protocol, value),) = papers.measured_like(dice, runs)
    assert run is localizer and protocol == "patient"
    assert value == compare.entry(localizer, TEST)["metrics"]["dice_tumor_slices_pooled"]
    vgg = next(f for f in known["vgg-densenet-resnet"]["figures"] if f["what"].startswith("VGG16"))
    four_classes = known["resnet-efficientnet"]["figures"][0]
    for figure in (vgg, four_classes):
        assert list(papers.measured_like(figure, runs)) == []


def test_the_shipped_runs_are_listed():
    assert {"resnet18-lgg", "resunet18-lgg"} <= {Path(run).name for run in compare.shipped_runs()}
