"""Runs as tables: against what can be checked by hand, and against what the shipped runs say of themselves."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import lgg_pair
import pytest
from httpx2 import ProxyError
from records import TEST, image_folder_run, variant

from bthub import project
from bthub.cli import main
from bthub.errors import BthubError
from bthub.metrics.info import COSTS, METRIC_TABLE, lower_is_better
from bthub.reports import tables
from bthub.runs import records
from bthub.runs.folder import COST, METRICS, SPLIT, SPLITS, TRAINING, WEIGHTS, RunFolder, create, write_json

default_pair, shipped_runs = lgg_pair.default_pair, lgg_pair.shipped_runs


def test_a_row_is_what_the_files_say(detector: RunFolder):
    row = records.row(detector, TEST)
    entry = json.loads((detector.path / METRICS).read_text())["patient/test"]
    assert (row["roc_auc"], row["roc_auc_low"]) == tuple(entry["metrics"]["roc_auc"][e] for e in ("value", "low"))
    assert row["model"] == "resnet18-lgg" and row["network"] == "resnet18"
    assert row["start"] == "encoder of resunet18-lgg"
    assert row["parameters"] == 11_177_538  # ResNet-18 with two outputs
    assert row["file_bytes"] == (detector.path / "model.safetensors").stat().st_size
    assert row["latency_ms"] == json.loads((detector.path / COST).read_text())["latency_ms"] > 0


def test_the_learning_rate_is_the_one_that_was_trained_with(detector_copy: Path):
    training = json.loads((detector_copy / TRAINING).read_text())
    assert records.learning_rate(RunFolder.open(detector_copy)) == training["config"]["learning_rate"]
    write_json(detector_copy / TRAINING, training | {"learning_rate": 0.00075})  # the finder's
    assert records.learning_rate(RunFolder.open(detector_copy)) == 0.00075


def test_a_missing_run_of_a_local_folder_is_not_looked_up_on_the_hub(detector_copy: Path, monkeypatch):
    monkeypatch.chdir(detector_copy.parent.parent)
    typo = f"{detector_copy.parent.name}/typo"
    with pytest.raises(BthubError, match=f"{detector_copy.parent.name} has runs, but no typo"):
        RunFolder.open(typo)


@pytest.fixture
def comparison(detector_copy: Path, tmp_path: Path) -> Path:
    """`runs/` with one run of the comparison, which lacks its weights, and `mine` beside it."""
    runs = tmp_path / "runs"
    shutil.copytree(detector_copy, runs / "mine")
    shutil.move(detector_copy, runs / "comparison" / "other")
    (runs / "comparison" / "other" / WEIGHTS).unlink()
    return runs


def test_a_run_without_weights_says_which_have_some(comparison: Path, monkeypatch):
    monkeypatch.chdir(comparison.parent)
    monkeypatch.setattr(project, "SHIPPED_RUNS", comparison)
    with pytest.raises(BthubError) as error:
        RunFolder.open("runs/other")
    assert "other has no model.safetensors" in str(error.value) and "Runs with weights here: mine." in str(error.value)
    assert "make reproduce RUN=other" in str(error.value)


def test_a_run_of_the_comparison_is_found_by_its_old_place(comparison: Path, capsys):
    assert records.open_run(comparison / "other").path == comparison / "comparison" / "other"
    assert main(["compare", str(comparison / "other"), "--out", str(comparison / "out")]) == 0
    assert main(["card", str(comparison / "other")]) == 0
    assert capsys.readouterr().out.endswith("comparison/other/README.md\n")
    assert not (comparison / "other").exists()


def test_the_folder_of_the_comparison_is_no_run(comparison: Path, capsys):
    own, folder, other = map(str, (comparison / "mine", comparison / "comparison", comparison / "comparison" / "other"))
    for command in (["card", folder], ["compare", folder], ["two-stage", folder, own]):
        assert main(command) == 2
        assert (
            f"{folder} is a folder of runs, not a run: name one of them, or all with {folder}/*/"
            in capsys.readouterr().err
        )
    # as `runs/*/ runs/comparison/*/` expands
    assert main(["compare", folder, own, other, "--out", str(comparison / "out")]) == 0
    said = capsys.readouterr()
    assert "| mine |" in said.out and "| other |" in said.out
    assert said.err == f"bthub: skipped {folder}: it is a folder of runs, not a run\n"


def test_a_reduced_budget_is_said(detector_copy: Path):
    training = json.loads((detector_copy / TRAINING).read_text())
    assert not records.reduced(RunFolder.open(detector_copy))
    more = training["config"]["epochs"] + 1
    write_json(detector_copy / TRAINING, training | {"recipe": {"file": "a.yaml", "changed": {"epochs": more}}})
    run = RunFolder.open(detector_copy)
    assert records.row(run, TEST)["budget"] == "reduced" and records.budget(run).endswith(", reduced budget")
    write_json(detector_copy / TRAINING, training | {"recipe": {"file": "a.yaml", "changed": {"epochs": 1}}})
    assert records.row(RunFolder.open(detector_copy), TEST)["budget"] == "full"
    # Stopped by somebody, or by its patience.
    for patience, budget in ((more, "reduced"), (0, "full")):
        cut = training["best"] | {"epochs_trained": more - 2}
        config = training["config"] | {"patience": patience}
        write_json(detector_copy / TRAINING, training | {"config": config, "best": cut})
        assert records.row(RunFolder.open(detector_copy), TEST)["budget"] == budget


def test_a_broken_connection_is_told_in_a_sentence(monkeypatch):
    def broken(*_, **__):
        raise ProxyError("407 Proxy Authentication Required")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(BthubError, match="the proxy refuses .407 Proxy Authentication Required.: check http_proxy"):
        RunFolder.open("bthub/resnet18-lgg")


def test_runs_of_one_name_are_not_mixed_up(detector_copy: Path, tmp_path: Path):
    other = shutil.copytree(detector_copy, tmp_path / "seed2" / detector_copy.name)
    with pytest.raises(BthubError, match=f"several runs are called {detector_copy.name}: rename"):
        tables.write([RunFolder.open(detector_copy), RunFolder.open(other)], tmp_path / "out")


def test_every_metric_has_a_definition(detector: RunFolder, localizer: RunFolder):
    for run in (detector, localizer):
        assert set(records.entry(run, TEST).metrics) <= set(METRIC_TABLE)
    assert set(COSTS) <= set(METRIC_TABLE) and all(map(lower_is_better, COSTS))


def test_the_best_is_the_lowest_of_errors_and_costs():
    rows = [{"f1": 0.5, "ece": 0.1, "parameters": None}, {"f1": 0.75, "ece": 0.2, "parameters": None}]
    assert records.best(rows, "f1") == 0.75
    assert records.best(rows, "ece") == 0.1
    assert records.best(rows, "parameters") is None


def test_a_run_without_weights_still_shows_its_figures(detector_copy: Path):
    (detector_copy / "model.safetensors").unlink()
    content = json.loads((detector_copy / COST).read_text())
    write_json(detector_copy / COST, {**content, "parameters": 123, "latency_ms": 12.5})
    row = records.row(records.open_run(detector_copy), TEST)
    assert row["roc_auc"] > 0.9 and (row["parameters"], row["latency_ms"]) == (123, 12.5)
    (detector_copy / COST).unlink()
    row = records.row(records.open_run(detector_copy), TEST)
    assert row["roc_auc"] > 0.9 and row["parameters"] is None and row["latency_ms"] is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda entry: entry.pop("metrics"), "metrics.json isn't in the format .*`metrics` at `patient/test`"),
        (lambda entry: entry.update(metrics=[1]), "isn't in the format .*`array` at `patient/test.metrics`"),
        (lambda entry: entry["metrics"].update(f1=0.9), "isn't in the format .*at `patient/test.metrics.f1`"),
        (lambda entry: entry.update(weights="sha256:of another"), "was measured with the weights"),
        (lambda entry: entry["dataset"].update(name="other"), "no metrics for patient/test of lgg"),
    ],
)
def test_what_cannot_be_read_is_named(detector_copy: Path, spoil, words: str):
    content = json.loads((detector_copy / METRICS).read_text())
    spoil(content["patient/test"])
    write_json(detector_copy / METRICS, content)
    with pytest.raises(BthubError, match=words) as caught:
        records.row(records.open_run(detector_copy), TEST)
    assert str(caught.value).startswith("copy")


def test_a_config_that_is_none_is_named(detector_copy: Path):
    for content, words in (
        (b"\xff\xfe", "config.json isn't valid JSON"),
        (b"[1]", r"config.json holds \[1\], expected an object"),
        (b"null", "config.json holds null, expected an object"),
    ):
        (detector_copy / "config.json").write_bytes(content)
        for opened in (records.open_run, RunFolder.local):
            with pytest.raises(BthubError, match=words):
                opened(detector_copy)


def test_a_table_in_another_encoding_is_named(detector_copy: Path):
    (detector_copy / "history.csv").write_bytes(b"epoch,caf\xe9\n0,1\n")
    with pytest.raises(BthubError, match="history.csv isn't a table in CSV and UTF-8"):
        RunFolder.open(detector_copy).rows("history.csv")


def test_an_empty_name_is_not_the_current_folder(detector_copy: Path, monkeypatch, capsys):
    monkeypatch.chdir(detector_copy)
    for opened in (records.open_run, RunFolder.open, RunFolder.local):
        with pytest.raises(BthubError, match="the run is '', expected"):
            opened("")
    assert main(["compare", ""]) == main(["publish", ""]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "the run is '', expected a run folder" in told[0] and "an empty name is neither a run folder nor" in told[1]
    for arguments in (["card", ""], ["compare", ".", "--out", ""], ["screen", ".", "--out", ""]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "received an empty name" in capsys.readouterr().err


def test_results_go_into_a_folder(detector_copy: Path, tmp_path: Path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    run = str(detector_copy)
    for arguments in (["compare", run, "--out", str(file)], ["compare", run, "--out", str(file / "below")]):
        assert main(arguments) == 2
        assert f"bthub: {arguments[-1]}: the output folder cannot be made" in capsys.readouterr().err
    with pytest.raises(BthubError, match="the output folder cannot be made"):
        create(file)
    (tmp_path / "out" / "compare.md").mkdir(parents=True)
    assert main(["compare", run, "--out", str(tmp_path / "out")]) == 2
    assert "the results cannot be written (Is a directory)" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_broken_weights_are_named(detector_copy: Path):
    (detector_copy / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(BthubError, match="copy"):
        records.parameters(records.open_run(detector_copy))


def test_which_split_an_image_was_in(detector: RunFolder):
    trained = next(row for row in detector.rows("split.csv") if row["split"] == "train")
    assert records.seen(detector, (trained["patient_id"], trained["slice_index"])) == "train"
    tested = detector.predictions("patient/test")[0]
    assert records.seen(detector, records.image_key(tested)) is None


def test_runs_side_by_side_share_the_list_of_their_samples(detector_copy: Path, detector: RunFolder):
    shared = detector_copy.parent / SPLITS / "lgg-patient.csv"
    shared.parent.mkdir()
    (detector_copy / SPLIT).replace(shared)
    run = records.open_run(detector_copy)
    assert run.split_file == shared and run.rows(SPLIT) == detector.rows(SPLIT)
    # A run that was split otherwise isn't given them.
    training = json.loads((detector_copy / TRAINING).read_text())
    write_json(detector_copy / TRAINING, training | {"protocol": "slice"})
    with pytest.raises(BthubError, match=f"copy has no {SPLIT}"):
        records.open_run(detector_copy).rows(SPLIT)
    # Its own comes first.
    write_json(detector_copy / TRAINING, training)
    (detector_copy / SPLIT).write_text("patient_id,slice_index,split\nP1,4,train\n")
    assert [row["patient_id"] for row in records.open_run(detector_copy).rows(SPLIT)] == ["P1"]


def test_history_is_read_as_numbers(detector: RunFolder):
    lines = records.history(detector)
    assert len(lines) == detector.training.best.epochs_trained
    assert lines[detector.training.best.epoch]["validation_f1"] == pytest.approx(
        detector.training.best.validation_metric
    )


def test_a_learning_rate_finder_is_shown_where_there_is_one(detector_copy: Path):
    assert records.lr_finder(records.open_run(detector_copy)) == []
    (detector_copy / records.LR_FINDER).write_text("learning_rate,loss\n1e-5,0.7\n1e-4,0.5\n")
    assert records.lr_finder(records.open_run(detector_copy)) == [
        {"learning_rate": 1e-5, "loss": 0.7},
        {"learning_rate": 1e-4, "loss": 0.5},
    ]


def test_networks_from_different_initial_weights(detector: RunFolder, localizer: RunFolder, tmp_path: Path):
    scratch = variant(detector.path, tmp_path / "scratch", encoder_from=None)
    assert records.initialization(scratch) == "random"
    assert (
        records.initialization(variant(detector.path, tmp_path / "p", encoder_from=None, pretrained=True)) == "ImageNet"
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
        assert records.initialization(run) == words
    assert records.by_initialization([detector, localizer]) == {}
    assert records.by_initialization([detector, localizer, scratch]) == {"resnet18": [detector, scratch]}
    pictures = [image_folder_run(detector.path, tmp_path / name) for name in ("pictures", "pictures-scratch")]
    assert records.by_initialization([detector, *pictures]) == {}
    training = json.loads((pictures[1].path / TRAINING).read_text())
    training["config"]["encoder_from"] = None
    write_json(pictures[1].path / TRAINING, training)
    pictures[1] = records.open_run(pictures[1].path)
    assert records.by_initialization([detector, scratch, *pictures]) == {
        "resnet18, lgg": [detector, scratch],
        "resnet18, pictures": pictures,
    }


def test_the_shipped_runs_are_listed():
    assert {"resnet18-lgg", "resunet18-lgg"} <= {run.name for run in project.shipped_runs()}


def test_an_interval_beside_its_verdict_does_not_read_as_the_other_one():
    row = {"metric": "roc_auc", "best": "a", "model": "b", "difference": 0.0127, "high": 0.03}
    lines = tables.difference_table([row | {"low": 0.0002, "apart": True}, row | {"low": -0.0002, "apart": False}])
    assert "| 0.0127 (0.0002 to 0.0300) | worse |" in lines and "| 0.013 (-0.000 to 0.030) | may be chance |" in lines
