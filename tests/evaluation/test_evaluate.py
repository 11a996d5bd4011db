"""`bthub evaluate` end to end, on untrained models and a handful of real slices."""

import csv
import json
import math
import re
import shutil
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs, to_builtins
from PIL import Image
from records import complete_run

from bthub.data.build import build
from bthub.data.dataset import load_split
from bthub.data.fingerprint import describe_rows, identified
from bthub.errors import BthubError
from bthub.evaluation import cost, plots, scoring
from bthub.evaluation import evaluate as module
from bthub.evaluation.evaluate import evaluate, summary
from bthub.evaluation.scoring import measure
from bthub.metrics.classification import expected_calibration_error
from bthub.metrics.interval import Interval
from bthub.models.classifier import load_classifier
from bthub.models.localizer import Localizer, load_localizer
from bthub.runs.folder import (
    CALIBRATION,
    COST,
    HISTORY,
    METRICS,
    PREPROCESSOR,
    SPLIT,
    TRAINING,
    WEIGHTS,
    RunFolder,
    write_json,
    write_rows,
)


@pytest.fixture(autouse=True)
def no_gallery(monkeypatch):
    """Drawing takes longer than all else here; test_publish.py wants what is drawn."""
    monkeypatch.setattr(plots, "draw_gallery", lambda *_, **__: None)


@pytest.fixture(scope="module")
def complete_runs(tiny_runs, tiny_lgg, tmp_path_factory):
    """A complete detector and localizer, to be copied."""
    folder = tmp_path_factory.mktemp("complete")
    names = ("tiny-detector", "tiny-localizer")
    return [complete_run(run, folder / name, tiny_lgg) for run, name in zip(tiny_runs, names, strict=True)]


@pytest.fixture
def detector(complete_runs, tmp_path):
    return Path(shutil.copytree(complete_runs[0], tmp_path / "tiny-detector"))


@pytest.fixture
def localizer(complete_runs, tmp_path):
    return Path(shutil.copytree(complete_runs[1], tmp_path / "tiny-localizer"))


def change_json(path: Path, **changes):
    write_json(path, {**json.loads(path.read_text()), **changes})


def test_detector(detector, tiny_lgg):
    entry = evaluate(detector, tiny_lgg, "test", batch_size=2)
    rows = load_split(tiny_lgg, "test")
    predictions = RunFolder.open(detector).predictions("patient/test")
    assert [(p["patient_id"], int(p["slice_index"])) for p in predictions] == list(
        zip(rows["patient_id"], rows["slice_index"], strict=True)
    )
    assert [p["label"] for p in predictions] == [["no_tumor", "tumor"][label] for label in rows["label"]]
    assert {p["institution"] for p in predictions} == set(rows["institution"])
    # The probabilities are the classifier's own, one image at a time, and read back to the last digit.
    classifier = load_classifier(RunFolder.open(detector))
    for image, prediction in zip(rows["image"], predictions, strict=True):
        expected = classifier.predict([image.convert("RGB")])[0]
        assert [float(prediction["p_no_tumor"]), float(prediction["p_tumor"])] == pytest.approx(expected, abs=1e-6)
        assert np.float32(prediction["p_tumor"]) == float(prediction["p_tumor"])

    assert entry == RunFolder.open(detector).metrics["patient/test"]
    assert entry.samples == len(rows) == np.sum(entry.confusion_matrix)
    assert entry.groups == len(set(rows["patient_id"]))
    assert entry.threshold == json.loads((detector / CALIBRATION).read_text())["threshold"]
    assert structs.asdict(entry.dataset) == {"name": tiny_lgg.name, **describe_rows(rows)}
    assert entry.weights == RunFolder.open(detector).revision
    assert entry.command == f"bthub evaluate runs/tiny-detector --data data/{tiny_lgg.name} --split test"
    assert str(tiny_lgg.parent) not in (detector / METRICS).read_text()


def test_metrics_follow_from_the_predictions(detector, localizer, tiny_lgg):
    for run in (detector, localizer):
        entry = evaluate(run, tiny_lgg, "test")
        again = measure(RunFolder.open(run).predictions("patient/test"), entry)
        written = json.loads((run / METRICS).read_text())["patient/test"]
        assert to_builtins(again) == {name: written[name] for name in again}
        assert set(again) >= {"metrics", "samples", "groups", "by_institution"}


def test_tumor_sizes_and_top_losses(detector, localizer, tiny_lgg):
    rows = load_split(tiny_lgg, "test")
    pixels = np.array(rows["tumor_pixels"])
    for run in (detector, localizer):
        entry = evaluate(run, tiny_lgg, "test")
        for name, (least, below) in scoring.TUMOR_SIZES.items():
            count = int(((pixels >= least) & (pixels < (below or np.inf))).sum())
            assert (entry.by_tumor_size[name].samples if count else name in entry.by_tumor_size) == count
        assert sum(part.samples for part in entry.by_tumor_size.values()) == (pixels > 0).sum() > 0
        losses = [row["loss"] for row in entry.top_losses]
        assert losses == sorted(losses, reverse=True) and 0 < len(losses) <= scoring.TOP_LOSSES
        every = [scoring.loss_of(row) for row in RunFolder.open(run).predictions("patient/test")]
        assert losses[0] == max(loss for loss in every if loss is not None)
        assert {"patient_id", "slice_index"} <= set(entry.top_losses[0])


def test_calibration_error_without_the_temperature(detector, tiny_lgg):
    """Dividing logits by 1 changes nothing; the temperature that was folded in can be taken out again."""
    change_json(detector / CALIBRATION, temperature=1.0)
    entry = evaluate(detector, tiny_lgg, "test").metrics
    assert entry["ece_uncalibrated"].value == pytest.approx(entry["ece"].value)
    change_json(detector / CALIBRATION, temperature=3.0)
    entry = evaluate(detector, tiny_lgg, "test").metrics
    rows = RunFolder.open(detector).predictions("patient/test")
    odds = np.array([[float(row["p_no_tumor"]), float(row["p_tumor"])] for row in rows]) ** 3
    truth = np.array([row["label"] == "tumor" for row in rows])
    plain = expected_calibration_error(truth, odds / odds.sum(axis=1, keepdims=True))
    assert entry["ece_uncalibrated"].value == pytest.approx(plain) != entry["ece"].value


def test_hausdorff_distance(localizer, tiny_lgg, monkeypatch):
    """A mask that is the reference moved by five pixels is five pixels away; no mask has no distance."""
    assert module._hd95(np.eye(9, dtype=bool), np.eye(9, dtype=bool)) == 0
    square = np.zeros((64, 64), dtype=bool)
    square[20:40, 20:40] = True
    assert module._hd95(square, np.roll(square, 5, axis=1)) == pytest.approx(5)
    rows = load_split(tiny_lgg, "test")
    references = [np.asarray(mask) > 0 for mask in rows["mask"]]
    moved = chain([np.roll(r, 5, axis=1) for r in references], repeat(np.zeros_like(references[0])))
    monkeypatch.setattr(Localizer, "masks", lambda self, images: [next(moved) for _ in images])
    entry = evaluate(localizer, tiny_lgg, "test")
    for row, reference in zip(RunFolder.open(localizer).predictions("patient/test"), references, strict=True):
        assert (row[module.HD95] != "") == reference.any()
        assert row[module.HD95] == "" or 0 < float(row[module.HD95]) <= 5
    assert 0 < entry.metrics["hd95_px"].value <= 5


def test_of_several_rounds_the_fastest_is_kept(detector, localizer, monkeypatch):
    slow, fast = (torch.full((20,), ms) for ms in (50.0, 10.0))
    taken = iter([slow, fast, fast, slow, slow, slow])  # the detector's, the localizer's, and so on
    monkeypatch.setattr(cost, "_time", lambda *_: next(taken))
    found = cost.write_fastest([detector, localizer])
    assert [found[str(run)]["latency_ms"] for run in (detector, localizer)] == [10.0, 10.0]
    assert [structs.asdict(RunFolder.open(run).cost) for run in (detector, localizer)] == [*found.values()]


def test_cost(detector, localizer):
    """Counted by hand for a network of one convolution; for the runs, what must hold of any network."""
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        nn.Conv2d(3, 8, 3, padding=1)(torch.zeros(1, 3, 16, 16))
    assert counter.get_total_flops() // 2 == 3 * 8 * 9 * 16 * 16
    for run in (detector, localizer):
        found = cost.write(run)
        assert structs.asdict(RunFolder.open(run).cost) == found
        assert found["file_bytes"] == (run / WEIGHTS).stat().st_size
        assert found["weights"] == RunFolder.open(run).revision and found["dtypes"] == ["F16"]
        assert found["file_bytes"] >= 2 * found["parameters"] > 1e6
        assert found["multiply_adds"] > found["parameters"]
        assert 0 < found["latency_ms"] <= found["latency_p95_ms"]
        # Where the weights aren't, as in a clone, all is measured again but what they were.
        (run / WEIGHTS).unlink()
        again = cost.write(run)
        assert {key: again[key] for key in again if "latency" not in key} == {
            key: found[key] for key in found if "latency" not in key
        }
        (run / COST).unlink()
        with pytest.raises(BthubError, match="that records them: train it again"):
            cost.write(run)


def test_calibrated_threshold_is_used_not_fitted(detector, tiny_lgg):
    for threshold, column in ((0.0, 1), (1.1, 0)):
        change_json(detector / CALIBRATION, threshold=threshold)
        entry = evaluate(detector, tiny_lgg, "test")
        called = np.array(entry.confusion_matrix).sum(axis=0)
        assert called[column] == entry.samples and entry.threshold == threshold


def test_localizer(localizer, tiny_lgg, monkeypatch):
    rows = load_split(tiny_lgg, "test")
    references = [np.asarray(mask) > 0 for mask in rows["mask"]]
    exact = [r.copy() if i % 2 else np.zeros_like(r) for i, r in enumerate(references)]
    found = chain(exact, repeat(np.zeros_like(references[0])))  # the gallery asks once more

    # A localizer that finds every second tumor to the pixel: what is tested is what is made of its maps.
    monkeypatch.setattr(Localizer, "predict", lambda self, images: [next(found).astype(np.float32) for _ in images])
    change_json(localizer / PREPROCESSOR, min_area_share=0.0)
    entry = evaluate(localizer, tiny_lgg, "test", batch_size=3)
    predictions = RunFolder.open(localizer).predictions("patient/test")
    for i, (row, reference) in enumerate(zip(predictions, references, strict=True)):
        area = int(reference.sum())
        kept = area if i % 2 else 0
        assert [int(row[name]) for name in module.COUNTS] == [area, kept, kept, reference.size]
    areas = np.array([r.sum() for r in references])
    kept = areas[1::2].sum()
    assert entry.metrics["dice_pooled"].value == pytest.approx(2 * kept / (areas.sum() + kept))
    assert entry.metrics["tumor_free_slices_with_mask"].value in (0, None)
    assert entry.counts["missed_tumor_slices"] == (areas[::2] > 0).sum()
    assert entry.mask_threshold == json.loads((localizer / CALIBRATION).read_text())["mask_threshold"]


def test_localizer_cleans_masks_as_the_pipeline_does(localizer, tiny_lgg, monkeypatch):
    def speck(self, images):
        maps = [np.zeros((image.height, image.width), np.float32) for image in images]
        for probability in maps:
            probability[:3, :3] = 0.9
        return maps

    monkeypatch.setattr(Localizer, "predict", speck)
    predicted = {}
    for share in (0.0, 0.01):
        change_json(localizer / PREPROCESSOR, min_area_share=share)
        evaluate(localizer, tiny_lgg, "test")
        rows = RunFolder.open(localizer).predictions("patient/test")
        predicted[share] = {row["predicted_px"] for row in rows}
    assert predicted == {0.0: {"9"}, 0.01: {"0"}}


def test_localizer_counts_its_own_maps(localizer, tiny_lgg):
    evaluate(localizer, tiny_lgg, "test", batch_size=2)
    model = load_localizer(RunFolder.open(localizer))
    rows = load_split(tiny_lgg, "test")
    for row, image in zip(RunFolder.open(localizer).predictions("patient/test"), rows["image"], strict=True):
        found = int((model.predict([image.convert("RGB")])[0] > 0.5).sum())
        # a pixel on the edge may fall to either side in another batch
        assert abs(int(row["predicted_px"]) - found) <= 5


def test_entries_of_other_splits_stay(detector, tiny_lgg):
    evaluate(detector, tiny_lgg, "validation")
    first = json.loads((detector / METRICS).read_text())
    evaluate(detector, tiny_lgg, "test")
    both = json.loads((detector / METRICS).read_text())
    assert set(both) == {"patient/validation", "patient/test"}
    assert both["patient/validation"] == first["patient/validation"]

    change_json(detector / CALIBRATION, threshold=1.1)
    evaluate(detector, tiny_lgg, "test")
    again = json.loads((detector / METRICS).read_text())
    assert again["patient/validation"] == first["patient/validation"]
    assert again["patient/test"]["threshold"] == 1.1
    assert {p.name for p in (detector / "predictions").iterdir()} == {"patient-test.csv", "patient-validation.csv"}
    assert not list(detector.rglob("*.tmp"))


def test_figures_of_another_set_are_not_replaced(detector, tiny_lgg, tmp_path):
    evaluate(detector, tiny_lgg, "test")
    metrics = json.loads((detector / METRICS).read_text())
    # The same images under another name of their folder are the same set.
    metrics["patient/test"]["dataset"]["name"] = "elsewhere"
    (detector / METRICS).write_text(json.dumps(metrics))
    evaluate(detector, tiny_lgg, "test")
    metrics["patient/test"]["dataset"]["sha256"] = "0"
    (detector / METRICS).write_text(json.dumps(metrics))
    before = (detector / "predictions" / "patient-test.csv").read_bytes()
    with pytest.raises(BthubError, match="has patient/test of elsewhere, which the results of .* would replace"):
        evaluate(detector, tiny_lgg, "test")
    assert json.loads((detector / METRICS).read_text()) == metrics
    assert (detector / "predictions" / "patient-test.csv").read_bytes() == before


def test_by_institution(detector, tiny_lgg):
    entry = evaluate(detector, tiny_lgg, "train")
    rows = load_split(tiny_lgg, "train")
    assert set(entry.by_institution) == set(rows["institution"]) and len(entry.by_institution) > 1
    assert sum(part.samples for part in entry.by_institution.values()) == entry.samples
    total = sum(np.array(part.confusion_matrix) for part in entry.by_institution.values())
    assert total.tolist() == entry.confusion_matrix


def test_nothing_undefined_becomes_nan(detector, tiny_lgg):
    def numbers(value):
        if isinstance(value, dict):
            return [n for v in value.values() for n in numbers(v)]
        return [value] if isinstance(value, float) else []

    assert all(math.isfinite(n) for n in numbers(evaluate(detector, tiny_lgg, "test")))


# What is refused


def test_training_images_are_refused(detector, tiny_lgg):
    with (detector / SPLIT).open(newline="") as file:
        rows = list(csv.DictReader(file))
    test = load_split(tiny_lgg, "test")
    leaked = {"patient_id": test["patient_id"][0], "slice_index": str(test["slice_index"][0]), "split": "train"}
    write_split(detector, [*rows, leaked])
    with pytest.raises(
        BthubError, match=rf"trained on 1 of the {len(test)} images of split test.*{leaked['patient_id']}"
    ):
        evaluate(detector, tiny_lgg, "test")
    assert not (detector / METRICS).exists() and not (detector / "predictions").exists()
    evaluate(detector, tiny_lgg, "train")  # how well it remembers may be asked


def test_test_images_that_the_run_was_chosen_on_are_refused(detector, tiny_lgg):
    with (detector / SPLIT).open(newline="") as file:
        rows = list(csv.DictReader(file))
    test = load_split(tiny_lgg, "test")
    leaked = [
        {"patient_id": patient, "slice_index": index, "split": "validation"}
        for patient, index in zip(test["patient_id"], test["slice_index"], strict=True)
    ]
    write_split(detector, rows + leaked)
    with pytest.raises(BthubError, match="chosen and calibrated on"):
        evaluate(detector, tiny_lgg, "test")
    evaluate(detector, tiny_lgg, "validation")  # these it was chosen on by design


def test_the_kept_epoch_is_marked_where_it_is(detector, monkeypatch):
    """Epochs are counted from zero in the files, and from one for readers."""
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, run, name: drawn.append(figure))
    run = RunFolder.open(detector)
    plots.draw_history(run)
    (marked,) = [line for line in drawn[0].axes[0].lines if line.get_label() == "kept epoch"]
    losses = next(line for line in drawn[0].axes[0].lines if line.get_label() == "validation")
    rows = [int(row["epoch"]) for row in run.rows(HISTORY)]
    assert marked.get_xdata()[0] == losses.get_xdata()[rows.index(run.training.best.epoch)]


def test_test_images_that_the_initial_weights_were_trained_on_are_refused(detector, tiny_lgg):
    """The run itself has seen none of them, but what it started from has."""
    start = shutil.copytree(detector, detector.parent / "start")
    (start / WEIGHTS).unlink()  # as the comparison's runs come
    training = json.loads((detector / TRAINING).read_text())
    training["initial_weights"] = [{"source": "start", "weights": None, "lgg": True}]
    write_json(detector / TRAINING, training)
    evaluate(detector, tiny_lgg, "test")
    test = load_split(tiny_lgg, "test")
    ids = zip(test["patient_id"], test["slice_index"], strict=True)
    write_split(start, [{"patient_id": patient, "slice_index": index, "split": "train"} for patient, index in ids])
    with pytest.raises(BthubError, match="start, whose weights .* started from, was trained on .* of split test"):
        evaluate(detector, tiny_lgg, "test")


def test_another_protocol_leaks(detector, tiny_lgg):
    # Slices of the training patients are in protocol slice's test split.
    with pytest.raises(BthubError, match="was trained on .* of split test"):
        evaluate(detector, tiny_lgg, "test", protocol="slice")


def test_another_protocol_without_leak_is_named(detector, tiny_lgg):
    write_split(detector, [{"patient_id": "TCGA_CS_0000_19990101", "slice_index": "1", "split": "train"}])
    entry = evaluate(detector, tiny_lgg, "train", protocol="slice")
    assert list(json.loads((detector / METRICS).read_text())) == ["slice/train"]
    assert entry.command.endswith("--split train --protocol slice")
    assert (detector / "predictions" / "slice-train.csv").exists()


def write_split(run, rows):
    with (run / SPLIT).open("w", newline="") as file:
        writer = csv.DictWriter(file, ["patient_id", "slice_index", "split"])
        writer.writeheader()
        writer.writerows(rows)


def test_run_of_unknown_training_images_is_refused(detector, tiny_lgg):
    write_split(detector, [])
    with pytest.raises(BthubError, match="split.csv lists no images"):
        evaluate(detector, tiny_lgg, "test")


def test_hub_run_is_refused(tiny_lgg):
    with pytest.raises(BthubError, match="org/name isn't a local folder"):
        evaluate("org/name", tiny_lgg, "test")


def test_missing_split_is_refused(detector, tiny_lgg):
    with pytest.raises(BthubError, match="benchmark"):
        evaluate(detector, tiny_lgg, "benchmark")


def test_empty_split_is_refused(detector, tiny_lgg, monkeypatch):
    nothing = load_split(tiny_lgg, "test").select([])
    monkeypatch.setattr(module, "load_split", lambda *_: nothing)
    with pytest.raises(BthubError, match="no images in split test"):
        evaluate(detector, tiny_lgg, "test")


@pytest.mark.parametrize(
    "file, key", [(CALIBRATION, "threshold"), (CALIBRATION, "mask_threshold"), (TRAINING, "protocol")]
)
def test_missing_value_is_named(detector, localizer, tiny_lgg, file, key):
    run = localizer if key == "mask_threshold" else detector
    content = json.loads((run / file).read_text())
    del content[key]
    write_json(run / file, content)
    with pytest.raises(BthubError, match=rf"{file} isn't in the format .*`{key}`"):
        evaluate(run, tiny_lgg, "test")


def test_batch_must_hold_an_image(detector, tiny_lgg):
    with pytest.raises(BthubError, match="batch size of 1 or more, received 0"):
        evaluate(detector, tiny_lgg, "test", batch_size=0)


# Image-folder sets


@pytest.fixture
def folders(tmp_path):
    """A built two-class set of 24 pictures, with the classes of the smaller Kaggle set."""
    rng = np.random.default_rng(0)
    for label in ("no", "yes"):
        for i in range(12):
            path = tmp_path / "pictures" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(path)
    build(tmp_path / "pictures", tmp_path / "folders")
    return tmp_path / "folders"


def test_image_folder_set(detector, folders):
    change_json(detector / "config.json", label_names=["no", "yes"])
    change_json(detector / CALIBRATION, threshold=None)
    train, test = load_split(folders, "train"), load_split(folders, "test")
    write_rows(detector / SPLIT, [line | {"split": "train"} for line in identified(train)])
    entry = evaluate(detector, folders, "test")
    assert list(json.loads((detector / METRICS).read_text())) == ["default/test"]
    predictions = RunFolder.open(detector).predictions("default/test")
    assert list(predictions[0]) == ["file", "group", "also_in", "label", "p_no", "p_yes"]
    assert [p["file"] for p in predictions] == test["file"][:]
    assert entry.samples == entry.groups == len(test)  # no patients, no copies: every image is its own
    assert entry.by_institution == {} and entry.dataset.patients is None
    assert summary(entry).startswith(f"{len(test)} images (")

    # What another set calls by the same name is another picture; the same picture may have another name.
    known = {"file": test["file"][0], "sha256": "0" * 16, "split": "train"}
    write_rows(detector / SPLIT, [known])
    evaluate(detector, folders, "test")
    write_rows(detector / SPLIT, [known | {"file": "elsewhere.png", "sha256": identified(test)[0]["sha256"]}])
    with pytest.raises(BthubError, match=f"trained on 1 of .*the first is {test['file'][0]}"):
        evaluate(detector, folders, "test")


def test_two_evaluations_at_once_both_stay(detector, tiny_lgg, monkeypatch):
    def other_comes_first(*arguments):
        monkeypatch.undo()
        evaluate(detector, tiny_lgg, "validation")
        return module._classify(*arguments)

    evaluate(detector, tiny_lgg, "train")  # so that there is a file, which the second one reads before the third writes
    monkeypatch.setattr(module, "_classify", other_comes_first)
    evaluate(detector, tiny_lgg, "test")
    assert json.loads((detector / METRICS).read_text()).keys() == {
        f"patient/{s}" for s in ("train", "validation", "test")
    }


def test_other_classes_are_refused(detector, folders):
    with pytest.raises(BthubError, match="no_tumor, tumor, but the data set has no, yes"):
        evaluate(detector, folders, "test")


def test_set_without_masks_is_refused(localizer, folders):
    with pytest.raises(BthubError, match="no masks"):
        evaluate(localizer, folders, "test")


# Summary


def test_summary_of_a_detector(detector, tiny_lgg):
    entry = evaluate(detector, tiny_lgg, "train")
    text = summary(entry)
    assert f"{entry.samples} images of {entry.groups} patients" in text
    for name in ("accuracy", "ROC AUC", "expected calibration error"):
        assert f"\n{name}" in text
    assert f"{entry.metrics['accuracy'].value:.4f}" in text
    matrix = [[int(n) for n in line.split()[1:]] for line in text.splitlines()[-2:]]
    assert matrix == entry.confusion_matrix
    assert max(len(line) for line in text.splitlines()) < 100


def test_summary_of_a_localizer_says_what_is_not_defined(localizer, tiny_lgg):
    entry = evaluate(localizer, tiny_lgg, "test")
    entry.metrics["dice_pooled"] = Interval(None, None, None)
    text = summary(entry)
    assert re.search(r"^pooled Dice +- +- to -$", text, re.MULTILINE)
    assert re.search(rf"^tumor-free slices +{entry.counts['tumor_free_slices']}$", text, re.MULTILINE)
