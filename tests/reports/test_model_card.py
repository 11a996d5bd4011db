"""The model card says what the run folder's files say, and fails where they don't."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from msgspec import convert
from PIL import Image
from records import complete_run
from safetensors.torch import load_file

from bthub.data.build import build
from bthub.errors import BthubError
from bthub.evaluation import plots
from bthub.evaluation.evaluate import evaluate
from bthub.evaluation.scoring import measure
from bthub.metrics.info import METRIC_TABLE
from bthub.models.classifier import create_classifier, save_classifier
from bthub.reports import model_card, publish
from bthub.runs.folder import (
    CALIBRATION,
    CARD,
    CONFIG,
    COST,
    GRADCAM,
    HISTORY,
    INPUT_CHECK,
    METRICS,
    PREPROCESSOR,
    SPLIT,
    TRAINING,
    WEIGHTS,
    RunFolder,
    write_json,
)
from bthub.runs.schema import Settings


@pytest.fixture(scope="module")
def evaluated(tiny_runs, tiny_lgg, tmp_path_factory):
    """Both runs, measured on two splits."""
    folder = tmp_path_factory.mktemp("evaluated")
    runs = []
    for source, name in zip(tiny_runs, ("tiny-detector", "tiny-localizer"), strict=True):
        run = complete_run(source, folder / name, tiny_lgg)
        evaluate(run, tiny_lgg, "validation")
        evaluate(run, tiny_lgg, "test")
        plots.draw(RunFolder.open(run))
        runs.append(run)
    return runs


@pytest.fixture(params=["detector", "localizer"])
def run(request, evaluated, tmp_path):
    source = evaluated[request.param == "localizer"]
    return shutil.copytree(source, tmp_path / source.name)


@pytest.fixture
def detector(evaluated, tmp_path):
    return shutil.copytree(evaluated[0], tmp_path / "a" / evaluated[0].name)


@pytest.fixture
def localizer(evaluated, tmp_path):
    return shutil.copytree(evaluated[1], tmp_path / "b" / evaluated[1].name)


def read(path):
    return json.loads(path.read_text())


def change(path: Path, edit):
    content = read(path)
    edit(content)
    write_json(path, content)


def row(text, *cells):
    """The cells of the first table row that starts with these cells."""
    start = "| " + " | ".join(cells) + " |"
    line = next(line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")][len(cells) :]


def test_card_is_written_and_is_a_pure_function_of_the_folder(run):
    path = model_card.write(run)
    assert path == run / CARD and path.read_text() == model_card.render(run)
    assert model_card.render(run) == model_card.render(run)
    assert not list(run.glob("*.tmp"))


def test_copies_go_into_a_folder(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BthubError, match="file: the output folder cannot be made"):
        model_card.write(run, copies=tmp_path / "file")


def test_nothing_of_the_template_is_left(run):
    text = model_card.render(run)
    assert not re.search(r"\{[{%#]|[%#]\}|\bNone\b|\bnan\b|Undefined|<bound method|object at 0x", text)
    assert "\n\n\n" not in text
    # every table has as many cells in each row as in its header
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_figures_are_those_of_the_files(detector):
    text = model_card.render(detector)
    entry = read(detector / METRICS)["patient/test"]
    test = text[text.index("### Test split") : text.index("### Validation split")]
    assert row(test, "accuracy")[0] == f"{entry['metrics']['accuracy']['value']:.3f}"
    assert row(test, "ROC AUC")[0] == f"{entry['metrics']['roc_auc']['value']:.3f}"
    assert row(test, "accuracy on tumor")[0] == f"{entry['class_accuracy']['tumor']['value']:.3f}"
    for label, counts in zip(entry["labels"], entry["confusion_matrix"], strict=True):
        assert row(test, label) == [str(n) for n in counts]
    (institution, part), *_ = entry["by_institution"].items()
    assert row(test, institution)[:2] == [str(part["groups"]), str(part["samples"])]

    splits = RunFolder.open(detector).rows(SPLIT)
    for name in ("train", "validation"):
        there = [r for r in splits if r["split"] == name]
        assert row(text, name)[:2] == [str(len({r["patient_id"] for r in there})), str(len(there))]
    assert row(text, "test")[:2] == [str(entry["groups"]), str(entry["samples"])]

    training, calibration = read(detector / TRAINING), read(detector / CALIBRATION)
    assert row(text, "learning_rate") == [str(training["config"]["learning_rate"])]
    assert row(text, "torch") == [training["environment"]["torch"]]
    assert f"**{calibration['threshold']}**" in text
    assert f"{calibration['expected_calibration_error']['before']} before" in text
    history = RunFolder.open(detector).rows(HISTORY)[training["best"]["epoch"]]
    assert row(text, history["epoch"], history["train_loss"])
    assert f"resized to {read(detector / CONFIG)['pretrained_cfg']['input_size'][-1]} pixels" in text


def test_the_referral_band_is_told(detector):
    assert "From 0.1875 to below 0.8125 the prediction is uncertain and\na person should look" in model_card.render(
        detector
    )

    def older(content):
        del content["referral_band"], content["referral_error"]

    change(detector / CALIBRATION, older)
    assert "uncertain" not in model_card.render(detector)


def test_the_input_check_is_told_where_there_is_one(detector, localizer):
    for run in (detector, localizer):
        assert "Input check" not in model_card.render(run)
    count = {"samples": 20, "refused": 19}
    record = {
        "architecture": "tiny_network",
        "image_size": 64,
        "threshold": 0.5,
        "references": 123,
        "criterion": "99% of the slices pass",
        "data": [{"dataset": name, "split": split} for name in ("lgg", "other") for split in ("train", "test")],
        "slices": [{"dataset": "lgg", "split": "test", "colors": "as it is", "samples": 300, "refused": 2}],
        "outside": {half: {"photograph": count, "noise": count} for half in ("choose", "report")},
        "outside_accepted": ["moon.png", "noise 1"],
    }
    write_json(detector / INPUT_CHECK, record)
    text = model_card.render(detector)
    assert "those of 123 slices" in text and "train splits of lgg, other." in text and "99% of the slices pass" in text
    assert row(text, "lgg, test") == ["as it is", "2", "300"]
    assert row(text, "photograph") == ["19 of 20", "19 of 20"]
    assert "Wrongly accepted: moon.png, noise 1." in text
    test_nothing_of_the_template_is_left(detector)
    write_json(detector / INPUT_CHECK, record | {"outside_accepted": []})
    assert "Wrongly" not in model_card.render(detector)
    test_nothing_of_the_template_is_left(detector)
    write_json(detector / INPUT_CHECK, {key: value for key, value in record.items() if key != "slices"})
    with pytest.raises(BthubError, match="there is no slices"):
        model_card.render(detector)


def test_localizer_figures(localizer):
    text = model_card.render(localizer)
    entry = read(localizer / METRICS)["patient/test"]
    assert row(text, "Dice per patient, mean")[0] == f"{entry['metrics']['dice_volume_mean']['value']:.3f}"
    assert row(text, "tumor-free slices") == [str(entry["counts"]["tumor_free_slices"])]
    assert f"**{read(localizer / CALIBRATION)['mask_threshold']}**" in text
    assert f"resized to {read(localizer / PREPROCESSOR)['size']['height']} pixels" in text


def test_intervals_are_shown_where_there_are_any(detector):
    def edit(content):
        content["patient/test"]["metrics"]["accuracy"] = {"value": 0.75, "low": 0.5, "high": 0.875}
        content["patient/test"]["metrics"]["recall"] = {"value": None, "low": None, "high": None}

    change(detector / METRICS, edit)
    text = model_card.render(detector)
    assert row(text, "accuracy") == ["0.750", "0.500 to 0.875"]
    assert row(text, "recall") == ["not defined", "not defined"]
    # what isn't defined is no figure for the metadata either
    metadata = ModelCard(text).data
    assert "recall" not in {result.metric_type for result in metadata.eval_results}


def test_parameters_are_counted_without_statistics(detector):
    learned = sum(p.numel() for p in create_classifier("resnet10t", 2).parameters())
    stored = sum(tensor.numel() for tensor in load_file(detector / WEIGHTS).values())
    assert learned < stored
    assert row(model_card.render(detector), "parameters") == [f"{learned:,}, stored as F16"]


def test_a_run_without_weights_has_the_same_card(run):
    before = model_card.render(run)
    (run / WEIGHTS).unlink()
    assert model_card.render(run) == before


def test_cost_of_other_weights_is_refused(run):
    change(run / COST, lambda content: content.update(weights="sha256:of another"))
    with pytest.raises(BthubError, match="cost.json was measured with the weights .* run bthub cost .*again"):
        model_card.render(run)


def test_card_follows_the_metrics(run):
    before = model_card.render(run)
    name = "roc_auc" if "detector" in run.name else "dice_volume_mean"

    def edit(content):
        content["patient/test"]["metrics"][name]["value"] = 0.98765

    change(run / METRICS, edit)
    after = model_card.render(run)
    assert after != before and "| 0.988 |" in after and "value: 0.9877" in after
    assert "0.9877" not in before


def test_every_evaluated_split_is_shown(detector):
    assert "### Validation split, protocol patient" in model_card.render(detector)
    change(detector / METRICS, lambda content: content.pop("patient/validation"))
    assert "### Validation split" not in model_card.render(detector)


def test_slice_protocol_is_named_for_what_it_is(detector):
    assert "remembers a patient" not in model_card.render(detector)
    change(detector / TRAINING, lambda content: content.update(protocol="slice"))
    assert "neighboring slices of one patient are in both training and test" in model_card.render(detector)


def test_initial_weights(detector):
    assert row(model_card.render(detector), "initial weights") == ["random"]
    change(detector / TRAINING, lambda content: content["config"].update(encoder_from="somewhere/resunet-x"))
    assert row(model_card.render(detector), "initial weights") == ["the encoder of `resunet-x`"]
    assert ModelCard(model_card.render(detector)).data.base_model == "bthub/resunet-x"
    start = {"encoder_from": None, "weights_from": "runs/resnet-x"}
    change(detector / TRAINING, lambda content: content["config"].update(start))
    assert row(model_card.render(detector), "initial weights") == ["`resnet-x`"]
    assert ModelCard(model_card.render(detector)).data.base_model == "bthub/resnet-x"
    # A file is nothing that a Hub id can be made of.
    for file, words in (
        ("data/imagenet-vgg16.safetensors", "ImageNet, `imagenet-vgg16.safetensors`, made by `bthub imagenet-weights`"),
        ("data/mine.safetensors", "`mine.safetensors`"),
    ):
        for key, part in (("weights_from", ""), ("encoder_from", "the encoder of ")):
            start = {"encoder_from": None, "weights_from": None, key: file}
            change(detector / TRAINING, lambda content, start=start: content["config"].update(start))
            text = model_card.render(detector)
            assert row(text, "initial weights") == [words if words.startswith("ImageNet") else part + words]
            assert ModelCard(text).data.base_model is None
    change(detector / TRAINING, lambda content: content["config"].update(weights_from=None))
    change(detector / TRAINING, lambda content: content["config"].update(pretrained=True, encoder_from=None))
    assert row(model_card.render(detector), "initial weights") == ["ImageNet, from timm"]


# Metadata


def test_metadata_round_trips(run):
    text = model_card.render(run)
    content = ModelCard(text)
    assert ModelCard(str(content)).data.to_dict() == content.data.to_dict()
    data = content.data
    task = RunFolder.open(run).task
    assert data.license == "cc-by-nc-sa-4.0"
    assert data.pipeline_tag == task and task in data.tags
    assert data.library_name == {"tiny-detector": "timm", "tiny-localizer": "transformers"}[run.name]
    assert data.datasets == ["bthub/lgg-mri-segmentation"]

    entry = read(run / METRICS)["patient/test"]
    expected = {
        METRIC_TABLE[name].hub_id: round(entry["metrics"][name]["value"], 4) for name in model_card.HEADLINE[task]
    }
    assert {r.metric_type: r.metric_value for r in data.eval_results} == expected
    assert {(r.dataset_type, r.dataset_config, r.dataset_split, r.task_type) for r in data.eval_results} == {
        ("bthub/lgg-mri-segmentation", "patient", "test", task)
    }
    assert data.model_name == run.name


def test_validation_figures_are_no_metadata(detector):
    change(detector / METRICS, lambda content: content.pop("patient/test"))
    assert "model-index" not in model_card.render(detector)


def test_snippets_load_the_repo_that_was_asked_for(run):
    assert f'="bthub/{run.name}"' in model_card.render(run)
    text = model_card.render(run, "someone")
    assert f"someone/{run.name}" in text and f'="bthub/{run.name}"' not in text
    assert ("trust_remote_code=True" in text) == ("localizer" in run.name)
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(snippet, "snippet", "exec")


# What is missing


@pytest.mark.parametrize(
    "file, key",
    [
        (TRAINING, "best.epoch"),
        (TRAINING, "recipe"),
        (TRAINING, "protocol"),
        (TRAINING, "config"),
        (TRAINING, "config.pretrained"),
        (CALIBRATION, "threshold"),
        (CALIBRATION, "expected_calibration_error.before"),
        (CONFIG, "pretrained_cfg.input_size"),
        (METRICS, "patient/test.confusion_matrix"),
        (METRICS, "patient/test.metrics.roc_auc"),
        (METRICS, "patient/test.metrics.accuracy.low"),
        (METRICS, "patient/test.metrics.brier"),
        (METRICS, "patient/test.class_accuracy.tumor"),
        (METRICS, "patient/test.by_institution"),
        (METRICS, "patient/test.date"),
    ],
)
def test_missing_value_is_named(detector, file, key):
    *parents, last = key.split(".")

    def edit(content, action):
        for parent in parents:
            content = content[parent]
        action(content)

    model_card.render(detector)
    change(detector / file, lambda content: edit(content, lambda inner: inner.pop(last)))
    if last != "brier":  # the table shows the metrics there are; those of the headline must be
        with pytest.raises(
            BthubError, match=rf"{re.escape(file)}.*: there is no .*{last}|{re.escape(file)}.*missing .*`{last}`"
        ):
            model_card.render(detector)
    if last != "low":  # the end of an interval may be null, the others not
        change(detector / file, lambda content: edit(content, lambda inner: inner.update({last: None})))
        with pytest.raises(BthubError, match=rf"{re.escape(file)}.*{last}"):
            model_card.render(detector)


@pytest.mark.parametrize("file", [TRAINING, CALIBRATION, METRICS, SPLIT, HISTORY, PREPROCESSOR])
def test_missing_file_is_named(localizer, file):
    (localizer / file).unlink()
    with pytest.raises(BthubError, match=re.escape(file)):
        model_card.render(localizer)


def test_failed_card_leaves_the_old_one(detector):
    model_card.write(detector)
    old = (detector / CARD).read_text()
    (detector / METRICS).unlink()
    with pytest.raises(BthubError):
        model_card.write(detector)
    assert (detector / CARD).read_text() == old


def test_metrics_of_other_weights_are_refused(detector):
    with (detector / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    with pytest.raises(BthubError, match="measured with the weights .* bthub evaluate runs/tiny-detector"):
        model_card.render(detector)


def test_best_epoch_must_be_in_the_history(detector):
    change(detector / TRAINING, lambda content: content["best"].update(epoch=17))
    with pytest.raises(BthubError, match="no epoch 17"):
        model_card.render(detector)


# Image-folder sets


LAYOUTS = {
    "4class": ["glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"],
    "253": ["no", "yes"],
    "mine": ["left", "right", "both"],
}


@pytest.fixture(scope="module")
def image_runs(tmp_path_factory) -> dict[str, Path]:
    """An untrained classifier a set, on folders of noise; the second set has no test split, as the paper's hasn't."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    found = {}
    for name, classes in LAYOUTS.items():
        for label, i in itertools.product(classes, range(8)):
            (folder / name / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (24, 32), dtype=np.uint8)).save(folder / name / label / f"{i}.png")
        data = folder / f"{name}-built"
        build(folder / name, data, **({"validation": 0.2, "test": 0} if name == "253" else {}))
        (folder / f"{name}-source").mkdir()
        model = create_classifier("resnet10t", len(classes))
        save_classifier(folder / f"{name}-source", model, "resnet10t", sorted(classes), 64, 1.25)
        found[name] = complete_run(folder / f"{name}-source", folder / f"resnet10t-{name}", data)
        for split in ("validation", "test")[: 1 if name == "253" else 2]:
            evaluate(found[name], data, split)
        plots.draw(RunFolder.open(found[name]))
    return found


@pytest.fixture(params=LAYOUTS)
def image_run(request, image_runs, tmp_path) -> Path:
    return shutil.copytree(image_runs[request.param], tmp_path / image_runs[request.param].name)


def test_the_card_of_an_image_set_speaks_of_images(image_run):
    text = model_card.render(image_run)
    content = ModelCard(text)
    assert ModelCard(str(content)).data.to_dict() == content.data.to_dict()
    test_nothing_of_the_template_is_left(image_run)
    classes = read(image_run / CONFIG)["label_names"]
    prose = text.split("---", 2)[2]
    assert f"{len(classes)} classes" in text and ", ".join(classes) in text
    # Nothing that is true of LGG alone.
    for word in ("slice", "LGG", "glioma,", "FLAIR", "TCGA", "institution", "threshold of", "load_pipeline"):
        assert word not in prose.replace("two-stage", ""), word
    assert "predictions are argmax" in text
    entry = read(image_run / METRICS)["default/validation"]
    validation = text[text.index("### Validation split, protocol default") :]
    assert f"\n{entry['samples']} images, measured on" in validation
    assert row(validation, "F1, macro average")[0] == f"{entry['metrics']['f1']['value']:.3f}"
    assert row(validation, "accuracy")[0] == f"{entry['metrics']['accuracy']['value']:.3f}"
    for label, counts in zip(classes, entry["confusion_matrix"], strict=True):
        assert row(validation, label) == [str(n) for n in counts]
    for name in ("train", "validation"):
        images = sum(line["split"] == name for line in RunFolder.open(image_run).rows(SPLIT))
        assert row(text, name)[0] == str(images)
    assert "Nothing is known about the patients" in text and "so they are too" in text
    assert not list((image_run / "figures").glob("*gallery*")) and "gallery" not in text


def test_copies_of_known_images_are_measured_apart(image_run):
    key = "default/validation"
    folder = RunFolder.open(image_run)
    assert folder.metrics[key].by_seen == {} and "are near-duplicates" not in model_card.render(image_run)
    entry, rows = folder.metrics[key], folder.predictions(key)
    for row in rows[:2]:
        row["also_in"] = "train"
    change(image_run / METRICS, lambda content: content[key].update(measure(rows, entry)))
    parts = read(image_run / METRICS)[key]["by_seen"]
    assert {name: part["samples"] for name, part in parts.items()} == {"seen": 2, "unseen": len(rows) - 2}
    text = model_card.render(image_run)
    assert f"**2 of these {len(rows)} images are near-duplicates**" in text
    for name, shown in (("seen", "with a near-duplicate"), ("unseen", "without a near-duplicate")):
        [line] = [line for line in text.splitlines() if line.startswith(f"| {shown} |")]
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        labels, hits = entry.labels, 0
        members = rows[:2] if name == "seen" else rows[2:]
        for row in members:
            hits += max(labels, key=lambda label, row=row: float(row[f"p_{label}"])) == row["label"]
        assert cells[0] == str(len(members)) and f"{hits / len(members):.3f}" in [
            cell.split(" (")[0] for cell in cells[1:]
        ]


def test_the_metadata_of_an_image_set(image_run):
    data = ModelCard(model_card.render(image_run)).data
    assert data.license == "unknown" and data.datasets is None and data.base_model is None
    assert "lower-grade-glioma" not in data.tags
    figures_on_test = read(image_run / METRICS).get("default/test")
    if figures_on_test is None:
        assert data.eval_results is None and "no result on a test split" in model_card.render(image_run)
        return
    assert "no result on a test split" not in model_card.render(image_run)
    title = {"resnet10t-4class": "Brain Tumor Classification (MRI)"}.get(image_run.name, "mine-built")
    assert {(r.dataset_type, r.dataset_name, r.dataset_config, r.dataset_split) for r in data.eval_results} == {
        ("imagefolder", title, "default", "test")
    }
    shown = {r.metric_type: (r.metric_name, r.metric_value) for r in data.eval_results}
    assert shown["f1"] == ("F1, macro average", round(figures_on_test["metrics"]["f1"]["value"], 4))
    assert shown["accuracy"][0] == "accuracy"
    # A test picture that was seen in training, as a copy, is no test: no figure of the split is metadata then.
    entry, rows = figures_on_test, RunFolder.open(image_run).predictions("default/test")
    rows[0]["also_in"] = "train"
    write_json(image_run / METRICS, {"default/test": {**entry, **measure(rows, convert(entry, Settings))}})
    assert ModelCard(model_card.render(image_run)).data.eval_results is None


def test_only_a_known_set_is_described_beyond_its_classes(image_runs):
    four, two, mine = (model_card.render(image_runs[name]) for name in LAYOUTS)
    assert "without a near-duplicate elsewhere test a model" in four and "without a copy elsewhere" not in two + mine
    assert "253 brain MRI images" in two
    assert "mine-built (built as `mine-built`" in mine and "both, left, right" in mine
    for text in (four, two, mine):
        assert "its files state none" in text and "No image of it is shown here" in text


def test_terms_of_the_initial_weights_go_on(image_run):
    change(image_run / TRAINING, lambda content: content["config"].update(encoder_from="runs/resunet50-lgg"))
    origin = {"source": "resunet50-lgg", "weights": "sha256:0123456789ab", "lgg": False}
    change(image_run / TRAINING, lambda content: content.update(initial_weights=[origin]))
    text = model_card.render(image_run)
    assert ModelCard(text).data.license == "unknown" and "derived from data under" not in text
    change(image_run / TRAINING, lambda content: content.update(initial_weights=[origin | {"lgg": True}]))
    text = model_card.render(image_run)
    assert row(text, "initial weights") == ["the encoder of `resunet50-lgg`, weights `sha256:0123456789ab`"]
    data = ModelCard(text).data
    assert data.license == "cc-by-nc-sa-4.0" and data.base_model == "bthub/resunet50-lgg"
    assert "The initial weights are those of `resunet50-lgg`, derived from data under" in text


def test_images_of_unknown_terms_are_not_published(image_run):
    (image_run / "figures" / "default-validation-gallery.webp").write_bytes(b"a picture of the set")
    files = publish.run_publication(image_run, "bthub").files
    assert "figures/default-validation.webp" in files and not any("gallery" in name for name in files)


# Cross-validation, Grad-CAM


def test_a_fold_is_named_for_what_it_is(detector):
    change(detector / TRAINING, lambda content: content.update(protocol="fold-2"))
    content = read(detector / METRICS)
    write_json(detector / METRICS, {key.replace("patient/", "fold-2/"): entry for key, entry in content.items()})
    for file in (*detector.glob("predictions/patient-*"), *detector.glob("figures/patient-*")):
        file.rename(file.with_name(file.name.replace("patient-", "fold-2-")))
    text = model_card.render(detector)
    assert "Protocol `fold-2`: all slices of a patient are in the same split." in text
    assert "one of the 5 folds" in text and "at random" not in text
    assert row(text, "test")[0] == str(content["patient/test"]["groups"])
    assert {r.dataset_config for r in ModelCard(text).data.eval_results} == {"fold-2"}


def test_where_it_looks_is_told_where_it_was_measured(detector, tiny_lgg):
    assert "Grad-CAM" not in model_card.render(detector)
    entry = {
        "samples": 7,
        "groups": 3,
        "empty_maps": 2,
        "pointing_game": {
            "mean": {"value": 0.25, "low": 0.125, "high": 0.375},
            "median": {"value": 0.1875, "low": None, "high": None},
        },
        "chance": {"picture": 0.03125, "head": 0.0625},
        "layer": "layer4",
        "dataset": {"name": "lgg"},
        "weights": RunFolder.open(detector).revision,
        "command": "bthub explain it",
    }
    write_json(detector / GRADCAM, {"patient/test": entry})
    text = model_card.render(detector)
    (line,) = (line for line in text.split("\n\n") if "Grad-CAM heat" in line)
    for figure in (
        "0.250 of the Grad-CAM heat",
        "0.125 to 0.375",
        "median 0.188",
        "7 tumor slices of 3 patients. On 2 slices the map is empty",
        "0.062",
    ):
        assert figure in line.replace("\n", " ")
    write_json(detector / GRADCAM, {"patient/test": entry | {"weights": "sha256:0"}})
    with pytest.raises(BthubError, match="measured with the weights sha256:0.*run bthub explain it again"):
        model_card.render(detector)
