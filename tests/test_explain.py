"""Grad-CAM on small untrained models, whose geometry can be checked, and on the shipped detector."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bthub import explain
from bthub.errors import BthubError
from bthub.models.classifier import Classifier, create_classifier, eval_transform, load_classifier, preprocessing
from bthub.run_folder import RunFolder

SIDE = 64


def classifier_of(architecture: str) -> Classifier:
    torch.manual_seed(0)
    model = create_classifier(architecture, 2).eval()
    return Classifier(model, eval_transform(preprocessing(SIDE)), ["no_tumor", "tumor"], "cpu")


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet_b0", "vgg16", "densenet121", "resnet50")]


@pytest.mark.parametrize("architecture", ["resnet10t", "simple_cnn", *LARGE])
def test_every_convolutional_network_has_a_heat_map(architecture: str):
    classifier = classifier_of(architecture)
    # The untrained maps of one class may be empty; those of both can't be, for what speaks against one speaks for
    # the other.
    image = Image.effect_noise((SIDE, SIDE), 80).convert("RGB")
    maps = [explain.heatmaps(classifier, [image], label)[0] for label in classifier.labels]
    for heatmap in maps:
        assert heatmap.shape == (SIDE, SIDE) and heatmap.dtype == np.float32
        assert heatmap.min() >= 0 and heatmap.max() in (0.0, 1.0)
    assert any(heatmap.max() == 1 for heatmap in maps)


def test_a_model_without_convolutions_is_refused():
    with pytest.raises(BthubError, match="no convolutional stage"):
        explain.last_convolutional_stage(create_classifier("vit_tiny_patch16_224", 2))


def test_an_unknown_class_is_refused():
    with pytest.raises(BthubError, match="no_tumor, tumor, but no 'glioma'"):
        explain.heatmaps(classifier_of("resnet10t"), [Image.new("RGB", (8, 8))], "glioma")


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

    (heatmap,) = explain.heatmaps(classifier, [Image.fromarray(pixels)])

    assert heatmap.shape == mask.shape
    assert explain.agreement(heatmap, mask) > 0.8
    assert explain.heatmaps(classifier, [Image.fromarray(pixels)], "no_tumor")[0].max() == 0


def test_the_classifier_is_left_as_it_was():
    classifier = classifier_of("resnet10t")
    image = Image.effect_noise((SIDE, SIDE), 80).convert("RGB")
    before = classifier.predict([image])
    explain.heatmaps(classifier, [image, image])
    assert np.array_equal(classifier.predict([image]), before)
    assert not classifier.model.training and all(p.grad is None for p in classifier.model.parameters())


def test_agreement_is_the_share_of_the_energy_inside():
    heatmap = np.array([[1.0, 0.5], [0.5, 0.0]])
    assert explain.agreement(heatmap, np.array([[True, False], [False, False]])) == 0.5
    assert explain.agreement(heatmap, np.array([[False, False], [False, True]])) == 0
    assert explain.agreement(heatmap, np.zeros((2, 2), bool)) is None
    assert explain.agreement(np.zeros((2, 2)), np.ones((2, 2), bool)) is None


def test_the_overlay_is_a_picture_of_the_same_size():
    image = Image.new("RGB", (20, 10), (40, 40, 40))
    heatmap = np.zeros((10, 20), np.float32)
    heatmap[5, 5] = 1
    assert explain.overlay(image, heatmap).size == (20, 10)


def test_the_shipped_detector_looks_at_tumors(shipped_runs: tuple[Path, Path], kaggle: Path):
    classifier = load_classifier(RunFolder.open(shipped_runs[0]))
    folder = kaggle / "TCGA_HT_8018_19970411"
    with Image.open(folder / "TCGA_HT_8018_19970411_9.tif") as scan:
        image = scan.convert("RGB")
    with Image.open(folder / "TCGA_HT_8018_19970411_9_mask.tif") as drawn:
        mask = np.asarray(drawn) > 0
    (heatmap,) = explain.heatmaps(classifier, [image])
    # Twice what a map would score that looked everywhere alike.
    assert explain.agreement(heatmap, mask) > 2 * mask.mean()
