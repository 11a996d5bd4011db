"""Grad-CAM on small untrained models, whose geometry can be checked, and on the shipped detector."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from records import complete_run
from safetensors.torch import load_file, save_file

from bthub.cli import main
from bthub.data.dataset import load_split
from bthub.errors import BthubError
from bthub.evaluation import gradcam
from bthub.metrics.interval import Interval
from bthub.models.classifier import (
    Classifier,
    create_classifier,
    eval_transform,
    last_linear,
    load_classifier,
    preprocessing,
)
from bthub.reports import publish
from bthub.runs.folder import CONFIG, GRADCAM, PREDICTIONS, SPLIT, WEIGHTS, RunFolder, write_json, write_rows

SIDE = 64


def classifier_of(architecture: str) -> Classifier:
    torch.manual_seed(0)
    model = create_classifier(architecture, 2).eval()
    return Classifier(model, eval_transform(preprocessing(SIDE)), ["no_tumor", "tumor"], "cpu")


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet_b0", "vgg16", "densenet121", "resnet50")]


@pytest.mark.parametrize("architecture", ["resnet10t", "simple_cnn", *LARGE])
def test_every_convolutional_network_has_a_heat_map(architecture: str):
    classifier = classifier_of(architecture)
    # The untrained maps of one class may be empty; those of both can't be where what speaks against one speaks for the
    # other.
    head = last_linear(classifier.model)
    head.weight.data[1] = -head.weight.data[0]
    image = Image.effect_noise((SIDE, SIDE), 80).convert("RGB")
    maps = [gradcam.heatmaps(classifier, [image], label)[0] for label in classifier.labels]
    for heatmap in maps:
        assert heatmap.shape == (SIDE, SIDE) and heatmap.dtype == np.float32
        assert heatmap.min() >= 0 and heatmap.max() in (0.0, 1.0)
    assert any(heatmap.max() == 1 for heatmap in maps)


def test_a_model_without_convolutions_is_refused():
    with pytest.raises(BthubError, match="no convolutional stage"):
        gradcam.last_convolutional_stage(create_classifier("vit_tiny_patch16_224", 2))


def test_an_unknown_class_is_refused():
    with pytest.raises(BthubError, match="no_tumor, tumor, but no 'glioma'"):
        gradcam.heatmaps(classifier_of("resnet10t"), [Image.new("RGB", (8, 8))], "glioma")


class OneStage(torch.nn.Module):
    """Its feature map is the first channel, and only that counts for a tumor: the right answer is known."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 1, 1, bias=False)
        self.fc = torch.nn.Linear(1, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
            self.fc.weight.copy_(torch.tensor([[-1.0], [1.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (40, 80)])
def test_the_map_lies_where_the_evidence_is(size: tuple[int, int]):
    classifier = Classifier(OneStage().eval(), eval_transform(preprocessing(SIDE)), ["no_tumor", "tumor"], "cpu")
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    mask = np.zeros(pixels.shape[:2], bool)
    mask[size[1] // 4 : size[1] // 2, size[0] // 2 : 3 * size[0] // 4] = True
    pixels[mask, 0] = 255

    (heatmap,) = gradcam.heatmaps(classifier, [Image.fromarray(pixels)])

    assert heatmap.shape == mask.shape
    assert gradcam.pointing_game(heatmap, mask) > 0.8
    assert gradcam.heatmaps(classifier, [Image.fromarray(pixels)], "no_tumor")[0].max() == 0


def test_the_classifier_is_left_as_it_was():
    classifier = classifier_of("resnet10t")
    image = Image.effect_noise((SIDE, SIDE), 80).convert("RGB")
    before = classifier.predict([image])
    gradcam.heatmaps(classifier, [image, image])
    assert np.array_equal(classifier.predict([image]), before)
    assert not classifier.model.training and all(p.grad is None for p in classifier.model.parameters())


def test_agreement_is_the_share_of_the_energy_inside():
    heatmap = np.array([[1.0, 0.5], [0.5, 0.0]])
    assert gradcam.pointing_game(heatmap, np.array([[True, False], [False, False]])) == 0.5
    assert gradcam.pointing_game(heatmap, np.array([[False, False], [False, True]])) == 0
    assert gradcam.pointing_game(heatmap, np.zeros((2, 2), bool)) is None
    assert gradcam.pointing_game(np.zeros((2, 2)), np.ones((2, 2), bool)) is None


def test_the_shipped_detector_looks_at_tumors(shipped_runs: tuple[Path, Path], kaggle: Path):
    classifier = load_classifier(RunFolder.open(shipped_runs[0]))
    folder = kaggle / "TCGA_HT_8018_19970411"
    with Image.open(folder / "TCGA_HT_8018_19970411_9.tif") as scan:
        image = scan.convert("RGB")
    with Image.open(folder / "TCGA_HT_8018_19970411_9_mask.tif") as drawn:
        mask = np.asarray(drawn) > 0
    (heatmap,) = gradcam.heatmaps(classifier, [image])
    # Twice what a map would score that looked everywhere alike.
    assert gradcam.pointing_game(heatmap, mask) > 2 * mask.mean()


# -- over a split


@pytest.fixture
def detector(tiny_runs: tuple[Path, Path], tiny_lgg: Path, tmp_path: Path) -> Path:
    return complete_run(tiny_runs[0], tmp_path / "tiny-detector", tiny_lgg)


def boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps with a known answer: the left half of every picture, but nothing on the first of a batch of several."""

    def heatmaps(classifier: Classifier, images: list[Image.Image]) -> list[np.ndarray]:
        maps = []
        for image in images:
            heatmap = np.zeros((image.height, image.width), np.float32)
            heatmap[:, : image.width // 2] = 1
            maps.append(heatmap)
        if len(maps) > 1:
            maps[0][:] = 0
        return maps

    monkeypatch.setattr(gradcam, "heatmaps", heatmaps)


def test_a_split_is_measured_slice_by_slice(detector: Path, tiny_lgg: Path, monkeypatch: pytest.MonkeyPatch):
    boxes(monkeypatch)
    rows = load_split(tiny_lgg, "test")
    masks = [np.asarray(row["mask"]) > 0 for row in rows if row["tumor_pixels"]]
    assert len(masks) >= 3
    entry = gradcam.explain(detector, tiny_lgg, "test", batch_size=len(masks) - 1)

    assert entry == RunFolder.open(detector).gradcam["patient/test"] and GRADCAM in publish.RUN_FILES
    shares = [mask[:, : mask.shape[1] // 2].sum() / (mask.size / 2) for mask in masks]
    lines = RunFolder.open(detector).rows(f"{PREDICTIONS}/patient-test-gradcam.csv")
    assert [line["pointing_game"] for line in lines][0] == ""
    assert [float(line["pointing_game"]) for line in lines[1:]] == pytest.approx(shares[1:])
    assert [float(line["picture_share"]) for line in lines] == pytest.approx([mask.mean() for mask in masks])
    assert all(float(line["picture_share"]) < float(line["head_share"]) < 1 for line in lines)
    assert (entry.samples, entry.groups, entry.empty_maps) == (len(masks), 1, 1)
    shares[0] = 0  # where there is no heat
    assert entry.pointing_game.mean.as_row() == {"value": pytest.approx(np.mean(shares)), "low": None, "high": None}
    assert entry.pointing_game.median.value == pytest.approx(np.median(shares))
    assert entry.chance.picture == pytest.approx(np.mean([mask.mean() for mask in masks]))
    assert entry.layer == "layer4" and entry.weights == RunFolder.open(detector).revision
    assert entry.command == "bthub explain runs/tiny-detector --data data/lgg --split test"
    assert f"{np.mean(shares):.3f} of the heat" in gradcam.summary(entry)


def test_a_detector_without_any_heat_has_figures_too():
    line = {"patient_id": "a", "tumor_px": "4", "pointing_game": "", "picture_share": "0.25", "head_share": "0.5"}
    entry = gradcam.measure([line, line | {"patient_id": "b"}])
    assert (entry["samples"], entry["groups"], entry["empty_maps"]) == (2, 2, 2)
    assert entry["pointing_game"]["mean"] == entry["pointing_game"]["median"] == Interval(0, None, None)
    assert entry["chance"] == {"picture": 0.25, "head": 0.5}


def test_a_batch_has_a_picture(detector: Path, tiny_lgg: Path):
    for size in (0, -1):
        with pytest.raises(BthubError, match=f"batch size of 1 or more, received {size}"):
            gradcam.explain(detector, tiny_lgg, "test", batch_size=size)


def test_chance_is_what_even_heat_would_score():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 16:48] = 200  # the head
    mask = np.zeros((64, 64), bool)
    mask[24:32, 24:32] = True
    found = gradcam.chance(Image.fromarray(pixels), mask)
    assert found["picture"] == mask.mean() == gradcam.pointing_game(np.ones(mask.shape), mask)
    assert found["head"] == pytest.approx(64 / 32**2, rel=0.2)
    assert gradcam.chance(Image.fromarray(np.zeros_like(pixels)), mask)["head"] == found["picture"]


def test_real_maps_over_a_split_by_the_command(
    detector: Path, tiny_lgg: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    # The heat of an untrained model may speak for one class alone: what speaks for a tumor is made sure of.
    weights = load_file(detector / WEIGHTS)
    weights["fc.weight"] = torch.stack([-weights["fc.weight"][0].abs(), weights["fc.weight"][0].abs()])
    save_file(weights, detector / WEIGHTS, metadata={"format": "pt"})
    assert main(["explain", str(detector), "--data", str(tiny_lgg), "--split", "validation"]) == 0
    assert main(["explain", str(detector), "--data", str(tiny_lgg), "--split", "test", "--batch-size", "1"]) == 0
    assert "of the heat lies on the tumor" in capsys.readouterr().out
    assert set(RunFolder.open(detector).gradcam) == {"patient/validation", "patient/test"}
    classifier = load_classifier(RunFolder.open(detector))
    slices = [row for row in load_split(tiny_lgg, "test") if row["tumor_pixels"]]
    maps = gradcam.heatmaps(classifier, [row["image"].convert("RGB") for row in slices])
    expected = [gradcam.pointing_game(m, np.asarray(row["mask"]) > 0) for m, row in zip(maps, slices, strict=True)]
    lines = RunFolder.open(detector).rows(f"{PREDICTIONS}/patient-test-gradcam.csv")
    assert [float(line["pointing_game"]) for line in lines] == pytest.approx(expected, rel=1e-3)


def test_what_is_no_detector_of_slices_is_refused(tiny_runs, detector: Path, tiny_lgg: Path, tmp_path: Path):
    localizer = complete_run(tiny_runs[1], tmp_path / "tiny-localizer", tiny_lgg)
    with pytest.raises(BthubError, match="tiny-localizer predicts outlines: bthub explain measures detectors"):
        gradcam.explain(localizer, tiny_lgg, "test")
    with pytest.raises(BthubError, match="was trained on .* images of split test"):
        rows = RunFolder.open(detector).rows(SPLIT)
        tested = [{**row, "split": "train"} for row in load_split(tiny_lgg, "test").select_columns(list(rows[0])[:2])]
        write_rows(detector / SPLIT, rows + tested)
        gradcam.explain(detector, tiny_lgg, "test")
    config = json.loads((detector / CONFIG).read_text())
    write_json(detector / CONFIG, {**config, "label_names": ["no", "yes"]})
    with pytest.raises(BthubError, match="tiny-detector predicts no, yes"):
        gradcam.explain(detector, tiny_lgg, "test")
    assert not (detector / GRADCAM).exists()
