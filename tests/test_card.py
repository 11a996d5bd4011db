"""The model card says what the run folder's files say, and fails where they don't."""

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from records import complete_run
from safetensors.torch import load_file

from bthub import card, figures
from bthub.errors import BthubError
from bthub.evaluate import evaluate
from bthub.models.classifier import create_classifier
from bthub.run_folder import (
    CALIBRATION,
    CARD,
    CONFIG,
    HISTORY,
    METRICS,
    PREPROCESSOR,
    SPLIT,
    TRAINING,
    WEIGHTS,
    RunFolder,
    write_json,
)


@pytest.fixture(scope="module")
def evaluated(tiny_runs, tiny_lgg, tmp_path_factory):
    """Both runs, measured on two splits."""
    folder = tmp_path_factory.mktemp("evaluated")
    runs = []
    for source, name in zip(tiny_runs, ("tiny-detector", "tiny-localizer"), strict=True):
        run = complete_run(source, folder / name, tiny_lgg)
        evaluate(run, tiny_lgg, "validation")
        evaluate(run, tiny_lgg, "test")
        figures.draw(RunFolder.open(run))
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
    path = card.write(run)
    assert path == run / CARD and path.read_text() == card.render(run)
    assert card.render(run) == card.render(run)
    assert not list(run.glob("*.tmp"))


def test_nothing_of_the_template_is_left(run):
    text = card.render(run)
    assert not re.search(r"\{[{%#]|[%#]\}|\bNone\b|\bnan\b|Undefined|<bound method|object at 0x", text)
    assert "\n\n\n" not in text
    # every table has as many cells in each row as in its header
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_figures_are_those_of_the_files(detector):
    text = card.render(detector)
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


def test_localizer_figures(localizer):
    text = card.render(localizer)
    entry = read(localizer / METRICS)["patient/test"]
    assert row(text, "Dice per patient, mean")[0] == f"{entry['metrics']['dice_volume_mean']['value']:.3f}"
    assert row(text, "healthy slices") == [str(entry["counts"]["healthy_slices"])]
    assert f"**{read(localizer / CALIBRATION)['mask_threshold']}**" in text
    assert f"resized to {read(localizer / PREPROCESSOR)['size']['height']} pixels" in text


def test_intervals_are_shown_where_there_are_any(detector):
    def edit(content):
        content["patient/test"]["metrics"]["accuracy"] = {"value": 0.75, "low": 0.5, "high": 0.875}
        content["patient/test"]["metrics"]["recall"] = {"value": None, "low": None, "high": None}

    change(detector / METRICS, edit)
    text = card.render(detector)
    assert row(text, "accuracy") == ["0.750", "0.500 to 0.875"]
    assert row(text, "recall") == ["not defined", "not defined"]
    # what isn't defined is no figure for the metadata either
    metadata = ModelCard(text).data
    assert "recall" not in {result.metric_type for result in metadata.eval_results}


def test_parameters_are_counted_without_statistics(detector):
    learned = sum(p.numel() for p in create_classifier("resnet10t", 2).parameters())
    stored = sum(tensor.numel() for tensor in load_file(detector / WEIGHTS).values())
    assert learned < stored
    assert row(card.render(detector), "parameters") == [f"{learned:,}, stored as F16"]


def test_card_follows_the_metrics(run):
    before = card.render(run)
    name = "roc_auc" if "detector" in run.name else "dice_volume_mean"

    def edit(content):
        content["patient/test"]["metrics"][name]["value"] = 0.98765

    change(run / METRICS, edit)
    after = card.render(run)
    assert after != before and "| 0.988 |" in after and "value: 0.9877" in after
    assert "0.9877" not in before


def test_every_evaluated_split_is_shown(detector):
    assert "### Validation split, protocol patient" in card.render(detector)
    change(detector / METRICS, lambda content: content.pop("patient/validation"))
    assert "### Validation split" not in card.render(detector)


def test_slice_protocol_is_named_for_what_it_is(detector):
    assert "remembers a patient" not in card.render(detector)
    change(detector / TRAINING, lambda content: content.update(protocol="slice"))
    assert "neighbouring slices of one patient stand on both sides" in card.render(detector)


def test_initial_weights(detector):
    assert row(card.render(detector), "initial weights") == ["random"]
    change(detector / TRAINING, lambda content: content["config"].update(encoder_from="somewhere/resunet-x"))
    assert row(card.render(detector), "initial weights") == ["the encoder of `resunet-x`"]
    change(detector / TRAINING, lambda content: content["config"].update(pretrained=True, encoder_from=None))
    assert row(card.render(detector), "initial weights") == ["ImageNet, from timm"]


# Metadata


def test_metadata_round_trips(run):
    text = card.render(run)
    content = ModelCard(text)
    assert ModelCard(str(content)).data.to_dict() == content.data.to_dict()
    data = content.data
    task = RunFolder.open(run).task
    assert data.license == "cc-by-nc-sa-4.0"
    assert data.pipeline_tag == task and task in data.tags
    assert data.library_name == {"tiny-detector": "timm", "tiny-localizer": "transformers"}[run.name]
    assert data.datasets == ["bthub/lgg-mri-segmentation"]

    entry = read(run / METRICS)["patient/test"]
    kinds = card.HEADLINE[task]
    expected = {kind: round(entry["metrics"][name]["value"], 4) for name, kind in kinds.items()}
    assert {r.metric_type: r.metric_value for r in data.eval_results} == expected
    assert {(r.dataset_type, r.dataset_config, r.dataset_split, r.task_type) for r in data.eval_results} == {
        ("bthub/lgg-mri-segmentation", "patient", "test", task)
    }
    assert data.model_name == run.name


def test_validation_figures_are_no_metadata(detector):
    change(detector / METRICS, lambda content: content.pop("patient/test"))
    assert "model-index" not in card.render(detector)


def test_snippets_load_the_repo_that_was_asked_for(run):
    assert f'="bthub/{run.name}"' in card.render(run)
    text = card.render(run, "someone")
    assert f"someone/{run.name}" in text and f'="bthub/{run.name}"' not in text
    assert ("trust_remote_code=True" in text) == ("localizer" in run.name)
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(snippet, "snippet", "exec")


# What is missing


@pytest.mark.parametrize(
    "file, key",
    [
        (TRAINING, "best.epoch"),
        (TRAINING, "environment"),
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

    card.render(detector)
    change(detector / file, lambda content: edit(content, lambda inner: inner.pop(last)))
    if last != "brier":  # the table shows the metrics there are; those of the headline must be
        with pytest.raises(BthubError, match=rf"{re.escape(file)}: there is no .*{last}"):
            card.render(detector)
    if last != "low":  # the end of an interval may be null, the others not
        change(detector / file, lambda content: edit(content, lambda inner: inner.update({last: None})))
        with pytest.raises(BthubError, match=rf"{re.escape(file)}: .*{last} is empty"):
            card.render(detector)


@pytest.mark.parametrize("file", [TRAINING, CALIBRATION, METRICS, SPLIT, HISTORY, PREPROCESSOR])
def test_missing_file_is_named(localizer, file):
    (localizer / file).unlink()
    with pytest.raises(BthubError, match=re.escape(file)):
        card.render(localizer)


def test_failed_card_leaves_the_old_one(detector):
    card.write(detector)
    old = (detector / CARD).read_text()
    (detector / METRICS).unlink()
    with pytest.raises(BthubError):
        card.write(detector)
    assert (detector / CARD).read_text() == old


def test_metrics_of_other_weights_are_refused(detector):
    with (detector / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    with pytest.raises(BthubError, match="measured with the weights .* bthub evaluate tiny-detector"):
        card.render(detector)


def test_best_epoch_must_be_in_the_history(detector):
    change(detector / TRAINING, lambda content: content["best"].update(epoch=17))
    with pytest.raises(BthubError, match="no epoch 17"):
        card.render(detector)


def test_data_of_unknown_terms_are_refused(detector):
    (detector / SPLIT).write_text("file,split\nyes/1.png,train\n")
    with pytest.raises(BthubError, match="has no patient_id"):
        card.render(detector)
