"""Saved runs load with the stock clients, and give what bthub gives."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import pipeline

from bthub.errors import BthubError
from bthub.models.classifier import create_classifier, fold_normalization, last_linear, load_classifier, save_classifier
from bthub.models.localizer import load_localizer, save_localizer
from bthub.models.resunet import ResUNetConfig, ResUNetForSemanticSegmentation, clean_mask, letterbox_box
from bthub.runs.folder import CONFIG, PREPROCESSOR, WEIGHTS, RunFolder, create, write_json

LABELS = ["no_tumor", "tumor"]


@pytest.fixture(scope="module")
def pictures(kaggle):
    slices = [Image.open(path) for path in sorted(kaggle.glob("*/*_1[13].tif"))[:2]]
    return [slices[0], slices[1].resize((301, 177))]


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "efficientnet_b0", "simple_cnn"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "vgg16", "densenet121")],
)
def test_any_architecture_by_name(architecture, tmp_path):
    """Saving and loading changes nothing but the precision of the weights."""
    torch.manual_seed(0)
    model = create_classifier(architecture, 2).eval()
    assert last_linear(model).weight.std() < 0.1
    save_classifier(tmp_path, model, architecture, LABELS, 64, temperature=1.0)
    classifier = load_classifier(RunFolder.open(tmp_path))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    with torch.inference_mode():
        expected = model(classifier.transform(noise)[None]).softmax(1).numpy()
    np.testing.assert_allclose(classifier.predict([noise]), expected, atol=5e-3)
    assert not {"checkpoint", "logs"} & {path.name for path in tmp_path.iterdir()}


def test_stock_clients_give_the_same_probabilities(tiny_runs, pictures):
    folder = tiny_runs[0]
    ours = load_classifier(RunFolder.open(folder)).predict(pictures)
    assert ours.shape == (2, 2) and not np.allclose(ours[0], ours[1], atol=1e-4)

    stock = pipeline("image-classification", model=str(folder))
    assert stock.model.dtype == torch.float32
    for row, answers in zip(ours, stock(pictures), strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        np.testing.assert_allclose([scores[label] for label in LABELS], row, atol=1e-5)

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    with torch.inference_mode():
        theirs = model(torch.stack([transform(picture) for picture in pictures])).softmax(1).numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_temperature_is_folded_into_the_weights(tmp_path, pictures):
    torch.manual_seed(0)
    model = create_classifier("simple_cnn", 2).eval()
    with torch.no_grad():
        model.fc.weight *= 20
    plain, warm = tmp_path / "plain", tmp_path / "warm"
    for folder, temperature in ((plain, 1.0), (warm, 2.0)):
        folder.mkdir()
        save_classifier(folder, model, "simple_cnn", LABELS, 64, temperature)
    p, q = (load_classifier(RunFolder.open(folder)).predict(pictures).astype(float) for folder in (plain, warm))
    odds = np.log(p[:, 1] / p[:, 0])
    assert np.abs(odds).max() > 0.1
    np.testing.assert_allclose(np.log(q[:, 1] / q[:, 0]), odds / 2, rtol=0.02, atol=2e-3)


def test_nothing_is_cropped_from_a_classifier_input(tiny_runs):
    """timm's default would cut the edges off: a bright frame at the very edge must reach the model."""
    transform = load_classifier(RunFolder.open(tiny_runs[0])).transform
    frame = np.zeros((128, 200, 3), dtype=np.uint8)
    frame[:, [0, 1, -2, -1]] = 255
    pixels = transform(Image.fromarray(frame))  # (3, 64, 64)
    assert pixels[:, 32, 0].min() > 0.3 and pixels[:, 32, -1].min() > 0.3
    assert pixels[:, :11].max() == 0 and pixels[:, -11:].max() == 0  # the border is black


def test_localizer_masks_have_the_size_of_the_input(tiny_runs, pictures):
    folder = tiny_runs[1]
    localizer = load_localizer(RunFolder.open(folder))
    maps = localizer.predict(pictures)
    assert [m.shape for m in maps] == [(256, 256), (177, 301)]
    one_by_one = [localizer.predict([picture])[0] for picture in pictures]
    for together, alone in zip(maps, one_by_one, strict=True):
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_stock_segmentation_pipeline(tiny_runs, pictures):
    """Score, adjustable threshold, an empty list when nothing is found, and the same mask as ours."""
    folder = tiny_runs[1]
    (probability,) = load_localizer(RunFolder.open(folder)).predict(pictures[1:])
    # bthub is imported, so the model's code is here: none of the folder's needs to be trusted.
    stock = pipeline("image-segmentation", model=str(folder), trust_remote_code=False)
    cut = float(np.median(probability))
    (segment,) = stock(pictures[1], mask_threshold=cut, threshold=0.0)
    assert segment["label"] == "tumor" and segment["mask"].size == pictures[1].size
    assert segment["score"] == pytest.approx(probability.max(), abs=1e-5)
    np.testing.assert_array_equal(np.asarray(segment["mask"]) > 0, probability > cut)
    assert stock(pictures[1], mask_threshold=cut, threshold=1.1) == []
    assert stock(pictures[1], mask_threshold=1.0) == []


def test_mask_threshold_is_folded_into_the_head(tmp_path, pictures):
    torch.manual_seed(0)
    model = ResUNetForSemanticSegmentation(ResUNetConfig("resnet10t", (16, 8, 8, 8, 8))).eval()
    maps = {}
    for threshold in (0.5, 0.2):
        folder = tmp_path / str(threshold)
        folder.mkdir()
        save_localizer(folder, model, 64, threshold, 0.0)
        maps[threshold] = load_localizer(RunFolder.open(folder)).predict(pictures)[0].astype(float)
    # What reached 0.2 before now reaches 0.5: the log-odds are shifted by those of 0.2.
    shift = np.log(maps[0.2] / (1 - maps[0.2])) - np.log(maps[0.5] / (1 - maps[0.5]))
    assert np.median(shift) == pytest.approx(np.log(0.8 / 0.2), abs=0.02)
    assert model.head.bias.dtype == torch.float32


@pytest.mark.parametrize("size", [(256, 256), (177, 301), (301, 177), (40, 500), (31, 33), (1000, 3)])
def test_letterbox_is_inverted(size, tiny_runs):
    """A disc painted into the letterboxed logits comes back where it was in the input."""
    processor = load_localizer(RunFolder.open(tiny_runs[1])).processor
    height, width = size
    side = 64
    top, left, inner_height, inner_width = letterbox_box(height, width, side)
    assert 0 <= top and top + inner_height <= side and 0 <= left and left + inner_width <= side
    assert max(inner_height, inner_width) == side
    y, x = np.mgrid[:height, :width]
    inside = (x / width > 0.25) & (x / width < 0.5) & (y / height > 0.5) & (y / height < 0.75)
    picture = Image.fromarray(np.repeat(inside[..., None] * np.uint8(255), 3, axis=2))
    pixels = processor([picture], return_tensors="pt")["pixel_values"]  # (1, 3, 64, 64)
    outputs = type("Output", (), {"logits": 20 * pixels[:, :1] - 10})
    (probability,) = processor.post_process_probability(outputs, [size])
    found = probability.numpy() > 0.5
    assert found.shape == size
    if min(inner_height, inner_width) >= 8:
        rows, columns = np.nonzero(found)
        step = max(height, width) / side
        for measured, true in (
            (columns.min(), 0.25 * width),
            (columns.max() + 1, 0.5 * width),
            (rows.min(), 0.5 * height),
            (rows.max() + 1, 0.75 * height),
        ):
            assert abs(measured - true) <= step / 2 + 1.01


def test_a_speck_is_nothing():
    probability = np.zeros((100, 100), dtype=np.float32)
    probability[:3, :3] = 0.9
    assert clean_mask(probability, 0.0).sum() == 9
    assert clean_mask(probability, 0.0009).sum() == 9
    assert clean_mask(probability, 0.001).sum() == 0
    assert clean_mask(probability, 0.0, threshold=0.95).sum() == 0


def test_what_cannot_be_loaded_says_so(tiny_runs, tmp_path):
    detector, localizer = (RunFolder.open(run) for run in tiny_runs)
    with pytest.raises(BthubError, match="expected image-classification"):
        load_classifier(localizer)
    with pytest.raises(BthubError, match="expected image-segmentation"):
        load_localizer(detector)
    with pytest.raises(BthubError, match="no architecture 'resnet1800'"):
        create_classifier("resnet1800", 2)
    with pytest.raises(ValueError, match="divisible by 32, received 33 x 64"):
        load_localizer(localizer).model(torch.zeros(1, 3, 33, 64))


def test_damaged_and_foreign_runs_say_so(tiny_runs, tmp_path):
    cut, pointer, bare, stock = (shutil.copytree(tiny_runs[i], tmp_path / str(k)) for k, i in enumerate((0, 0, 1, 0)))
    weights = (cut / WEIGHTS).read_bytes()
    (cut / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    (pointer / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")
    for folder in (cut, pointer):
        with pytest.raises(BthubError, match="are damaged"):
            load_classifier(RunFolder.open(folder))
    (bare / PREPROCESSOR).unlink()
    with pytest.raises(BthubError, match="don't belong together"):
        load_localizer(RunFolder.open(bare))
    config = json.loads((stock / CONFIG).read_text())
    del config["label_names"]  # as in timm's own repos
    (stock / CONFIG).write_text(json.dumps(config))
    with pytest.raises(BthubError, match="has no label_names: it isn't a run of bthub"):
        RunFolder.open(stock)


@pytest.mark.parametrize("stage", ["classifier", "localizer"])
def test_the_weights_come_last(stage, tmp_path, monkeypatch):
    """They say that a run is finished: after a kill in the middle of saving it can be resumed."""
    replace = Path.replace

    def killed_before_the_weights(file, target):
        if file.name == WEIGHTS:
            raise KeyboardInterrupt
        return replace(file, target)

    monkeypatch.setattr(Path, "replace", killed_before_the_weights)
    with pytest.raises(KeyboardInterrupt):
        if stage == "classifier":
            save_classifier(tmp_path, create_classifier("simple_cnn", 2), "simple_cnn", LABELS, 64, 1.0)
        else:
            save_localizer(tmp_path, ResUNetForSemanticSegmentation(ResUNetConfig(backbone="resnet10t")), 64, 0.5, 0.0)
    assert (tmp_path / CONFIG).is_file() and list(tmp_path.glob("*.py"))
    assert not list(tmp_path.rglob(WEIGHTS))
    assert create(tmp_path, resume=True) == tmp_path


@pytest.mark.parametrize("architecture", ["nf_regnet_b0", "resnetv2_50x1_bit", "resnetv2_50"])
def test_a_first_layer_that_cannot_take_the_normalization_is_refused(architecture):
    model = timm.create_model(architecture, num_classes=2)
    with pytest.raises(BthubError, match="random weights"):
        fold_normalization(model, timm.models.get_pretrained_cfg(architecture))


def test_run_folder_refusals(tiny_runs, tmp_path):
    run = RunFolder.open(tiny_runs[0])
    assert run.id == "detector" and run.revision.startswith("sha256:") and len(run.revision) == 19
    with pytest.raises(BthubError, match="no metrics.json .*bthub evaluate"):
        _ = run.metrics
    with pytest.raises(BthubError, match="no model.safetensors|no config.json"):
        RunFolder.open(tmp_path)
    with pytest.raises(BthubError, match="no revision 'main'"):
        RunFolder.open(tiny_runs[0], revision="main")
    with pytest.raises(BthubError, match="nowhere/nothing"):
        RunFolder.open("nowhere/nothing")
    with pytest.raises(BthubError, match="neither a folder here nor a Hub id"):
        RunFolder.open("not a/folder or/id")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / CONFIG).write_text("{")
    (broken / WEIGHTS).write_bytes(b"")
    with pytest.raises(BthubError, match="isn't valid JSON"):
        RunFolder.open(broken)
    with pytest.raises(BthubError, match="holds a finished run"):
        create(tiny_runs[0], resume=True)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(BthubError, match="--resume"):
        create(tmp_path / "used")
    assert create(tmp_path / "used", resume=True) == tmp_path / "used"


def test_json_is_never_half_written(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
