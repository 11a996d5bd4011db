"""What the papers report, and which of our runs is held against it."""

import lgg_pair
import pytest
from records import TEST

from bthub.evaluation import published
from bthub.metrics.info import METRIC_TABLE
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, SEGMENTATION, RunFolder

shipped_runs = lgg_pair.shipped_runs


def test_the_papers_file_is_whole():
    known = published.reported()
    systems = {"resnet-efficientnet", "resnet-resunet", "fastai-resnets", "localization-service", "vgg-densenet-resnet"}
    assert set(known) == systems | {"references"}
    for paper in known.values():
        assert {"title", "data", "split", "recipe", "figures"} == set(paper)
        for figure in paper["figures"]:
            assert figure["value"] is None or 0 < figure["value"] <= 1
            assert figure["note"] and figure["what"]
            assert figure["like"]["task"] in (CLASSIFICATION, SEGMENTATION)
            assert figure["like"]["metric"] in METRIC_TABLE


def test_an_entry_with_several_metrics_is_as_many_figures():
    figures = {f["what"]: f for f in published.reported()["vgg-densenet-resnet"]["figures"]}
    assert figures["VGG16 from ImageNet, F1"]["value"] == 0.9759
    assert figures["VGG16 from ImageNet, F1"]["like"]["metric"] == "f1"
    assert figures["VGG16 from ImageNet, ROC AUC"]["value"] == 1
    # Six networks from random weights with two metrics, five from ImageNet with four, and an AUC.
    assert len(figures) == 6 * 2 + 5 * 4 + 1


def test_whose_recipe_a_run_follows():
    assert published.recipe_of("resnet-resunet-detector") == "resnet-resunet"
    assert published.recipe_of("localization-service-detector") == "localization-service"
    assert published.recipe_of("resnet18-lgg") is None and published.recipe_of("resnet-resunet2") is None


def test_a_reported_figure_is_held_against_what_is_comparable(detector: RunFolder, localizer: RunFolder):
    known = published.reported()
    runs = [detector, localizer]
    dice = next(f for f in known["resnet-resunet"]["figures"] if f["what"] == "ResUNet, Dice")
    ((run, protocol, value),) = published.measured_like(dice, runs)
    assert run is localizer and protocol == "patient"
    assert value == records.entry(localizer, TEST).metrics["dice_tumor_slices_pooled"]
    # A published detector calls the likelier class; by its threshold this one is another.
    accuracy = next(f for f in known["resnet-resunet"]["figures"] if f["what"] == "Detector, accuracy")
    ((run, _, value),) = published.measured_like(accuracy, runs)
    rows = detector.predictions("patient/test")
    right = [(float(row["p_tumor"]) >= 0.5) == (row["label"] == "tumor") for row in rows]
    assert run is detector and value.value == pytest.approx(sum(right) / len(right))
    assert value != records.entry(detector, TEST).metrics["accuracy"]
    vgg = next(f for f in known["vgg-densenet-resnet"]["figures"] if f["what"].startswith("VGG16"))
    four_classes = known["resnet-efficientnet"]["figures"][0]
    for figure in (vgg, four_classes):
        assert list(published.measured_like(figure, runs)) == []
