"""Figures of several runs together, against counts that can be checked by hand; tables and paired differences."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from msgspec import convert
from records import TEST

from bthub.cli import main
from bthub.errors import BthubError
from bthub.evaluation import cross_validation, two_stage
from bthub.evaluation.scoring import measure
from bthub.metrics.bootstrap import paired_difference
from bthub.metrics.interval import Interval
from bthub.metrics.segmentation import segmentation_metrics
from bthub.reports import tables
from bthub.runs.folder import CALIBRATION, CONFIG, METRICS, PREDICTIONS, TRAINING, RunFolder, write_json
from bthub.runs.records import open_run
from bthub.runs.schema import Settings

# patient, slice, pixels of tumor, of mask, of both, and the detector's probability of tumor
SLICES = [
    ("p1", "1", 100, 80, 60, 0.9),
    ("p1", "2", 50, 50, 50, 0.2),  # a good mask that the detector doesn't let through
    ("p1", "3", 0, 0, 0, 0.1),
    ("p2", "1", 40, 40, 20, 0.5),  # on the threshold: called
    ("p2", "2", 0, 30, 0, 0.3),  # a false mask that the detector stops
    ("p2", "3", 0, 10, 0, 0.7),
]


def run_folder(path: Path, kind: str, protocol: str, rows: list[dict[str, str]], **config: object) -> RunFolder:
    """A run without weights: what a clone has of most runs."""
    settings = {"labels": ["no_tumor", "tumor"], "threshold": 0.5, "temperature": 1.0} if kind == "detector" else {}
    (path / PREDICTIONS).mkdir(parents=True)
    write_json(path / CONFIG, {"architecture": "resnet18"} if kind == "detector" else RESUNET)
    best = {"epoch": 5, "validation_metric": 0.5, "epochs_trained": 7}
    training = {"protocol": protocol, "config": TRAINED | config, "dataset": {"name": "lgg"}, "best": best}
    write_json(path / TRAINING, training)
    write_json(path / CALIBRATION, settings)
    task = "image-classification" if kind == "detector" else "image-segmentation"
    entry = {
        "task": task,
        **settings,
        **measure(rows, convert(settings, Settings)),
        "dataset": {"name": "lgg"},
        "weights": path.name,
        "command": "bthub evaluate",
        "date": "2026-01-01T00:00:00+00:00",
    }
    write_json(path / METRICS, {f"{protocol}/test": entry})
    with (path / PREDICTIONS / f"{protocol}-test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return open_run(path)


RESUNET = {"model_type": "resunet", "backbone": "resnet18"}
TRAINED = {"pretrained": False, "learning_rate": 0.001, "image_sizes": {"0": 128, "4": 192, "9": 256}}


def mask_rows(slices: list[tuple]) -> list[dict[str, str]]:
    counts = ("tumor_px", "predicted_px", "intersection_px")
    return [
        {
            "patient_id": patient,
            "slice_index": index,
            **{name: str(n) for name, n in zip(counts, pixels, strict=True)},
            "pixels": "1000",
            "hd95_px": "3.0" if pixels[0] and pixels[1] else "",
        }
        for patient, index, *pixels, _ in slices
    ]


def verdict_rows(slices: list[tuple]) -> list[dict[str, str]]:
    return [
        {
            "patient_id": patient,
            "slice_index": index,
            "label": "tumor" if tumor else "no_tumor",
            "p_no_tumor": repr(1 - p),
            "p_tumor": repr(p),
        }
        for patient, index, tumor, _, _, p in slices
    ]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    return (
        run_folder(tmp_path / "gate", "detector", "patient", verdict_rows(SLICES)),
        run_folder(tmp_path / "masks", "localizer", "patient", mask_rows(SLICES)),
    )


def test_masks_count_only_where_the_detector_says_tumor(pair):
    found = two_stage.two_stage(*pair)
    value = {name: interval.value for name, interval in found["metrics"].items()}
    assert value["dice_tumor_slices"] == pytest.approx((120 / 180 + 0 + 40 / 80) / 3)
    assert value["dice_volume_mean"] == pytest.approx((120 / 230 + 40 / 90) / 2)
    assert value["tumor_slices_missed"] == pytest.approx(1 / 3)
    assert value["tumor_free_slices_with_mask"] == pytest.approx(1 / 3)
    assert value["tumor_free_mask_px"] == pytest.approx(10 / 3)
    assert found["threshold"] == 0.5 and found["localizer"] == {"name": "masks", "weights": "masks"}


def test_two_stage_refuses_what_does_not_belong_together(pair, tmp_path):
    with pytest.raises(BthubError, match="give the detector first"):
        two_stage.two_stage(*reversed(pair))
    with pytest.raises(BthubError, match="has no patient/validation"):
        two_stage.two_stage(*pair, split="validation")
    other = run_folder(tmp_path / "other", "localizer", "patient", mask_rows(SLICES[:-1]))
    with pytest.raises(BthubError, match="different images"):
        two_stage.two_stage(pair[0], other)


def test_figures_of_other_weights_are_refused(pair):
    detector = RunFolder(pair[0].path, "gate", "sha256:0123456789ab")
    with pytest.raises(BthubError, match="measured with the weights gate"):
        two_stage.two_stage(detector, pair[1])


def folds(folder: Path, **config: object) -> list[RunFolder]:
    slices = [[(f"p{k}", "1", 100, 100, 10 * k, 0), (f"q{k}", "1", 10, 10, 10, 0)] for k in range(1, 6)]
    return [
        run_folder(folder / f"fold-{k}", "localizer", f"fold-{k}", mask_rows(s), **config)
        for k, s in enumerate(slices, 1)
    ]


def named_folds(folder: Path) -> list[RunFolder]:
    """As `experiments.yaml` calls them."""
    for run in folds(folder):
        run.path.rename(folder / f"net-{run.id}")
    return [open_run(folder / f"net-fold-{k}") for k in range(1, 6)]


def test_folds_are_found_by_the_name_they_share(tmp_path):
    runs = named_folds(tmp_path)
    assert cross_validation.folds([*runs[:4], runs[4]]) == {"net": runs}
    assert cross_validation.folds(runs[:4]) == {}
    assert cross_validation.folds(folds(tmp_path / "unnamed")) == {}


def test_compared_folds_share_a_table(tmp_path):
    text = tables.write(named_folds(tmp_path), tmp_path / "out")
    assert [file.name for file in sorted((tmp_path / "out").iterdir())] == ["compare.md", "folds-net.csv"]
    with (tmp_path / "out" / "folds-net.csv").open(newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    whole = cross_validation.cross_validation(named_folds(tmp_path / "again"))
    assert list(rows) == [*(f"net-fold-{k}" for k in range(1, 6)), "net, all folds"]
    assert rows["net, all folds"]["groups"] == "10" and rows["net-fold-3"]["groups"] == "2"
    assert float(rows["net, all folds"]["dice_volume_mean"]) == pytest.approx(
        whole["metrics"]["dice_volume_mean"].value, abs=1e-5
    )
    assert "## Cross-validation, net" in text
    # A fold that was trained in another way spoils its own table alone.
    changed = named_folds(tmp_path / "changed")
    training = json.loads((changed[2].path / "training.json").read_text())
    training["config"]["learning_rate"] = 0.1
    (changed[2].path / "training.json").write_text(json.dumps(training))
    changed = [open_run(run.path) for run in changed]
    text = tables.write(
        [*changed, run_folder(tmp_path / "x", "detector", "patient", verdict_rows(SLICES))], tmp_path / "o"
    )
    assert "Cross-validation, net\n\nLeft out: " in text and "## image-classification" in text
    # One fold too few leaves four runs of their own.
    assert "Cross-validation" not in tables.write(named_folds(tmp_path / "more")[:4], tmp_path / "four")


def test_folds_together_have_every_patient_once(tmp_path):
    runs = folds(tmp_path)
    found = cross_validation.cross_validation(runs[::-1])
    assert found["groups"] == found["samples"] == 10
    assert found["metrics"]["dice_volume_mean"].value == pytest.approx((0.1 + 0.2 + 0.3 + 0.4 + 0.5 + 5) / 10)
    assert found["metrics"]["dice_volume_median"].value == pytest.approx((0.5 + 1) / 2)
    assert [fold["protocol"] for fold in found["runs"]] == [f"fold-{k}" for k in range(1, 6)]


def test_folds_are_measured_without_the_tumor_free_slices_too(tmp_path):
    runs = folds(tmp_path)
    path = next((runs[0].path / "predictions").glob("*test.csv"))
    header, first, *rest = path.read_text().splitlines()
    line = dict(zip(header.split(","), first.split(","), strict=True))
    healthy = line | {
        "slice_index": "999",
        "tumor_px": "0",
        "intersection_px": "0",
        "predicted_px": "50",
        "hd95_px": "",
    }
    path.write_text("\n".join([header, first, ",".join(healthy[name] for name in header.split(",")), *rest, ""]))
    plain = cross_validation.cross_validation(folds(tmp_path / "plain"))
    found = cross_validation.cross_validation([open_run(run.path) for run in runs])
    assert found["metrics"]["dice_volume_mean"].value < plain["metrics"]["dice_volume_mean"].value
    assert found["tumor_slices"]["dice_volume_mean"] == plain["metrics"]["dice_volume_mean"]


def test_folds_must_be_complete_and_of_one_recipe(tmp_path):
    runs = folds(tmp_path / "a")
    with pytest.raises(BthubError, match="expected a run for each of fold-1"):
        cross_validation.cross_validation(runs[:4])
    with pytest.raises(BthubError, match="expected a run for each of fold-1"):
        cross_validation.cross_validation([*runs, runs[0]])
    with pytest.raises(BthubError, match="expected localizers"):
        cross_validation.cross_validation(
            [run_folder(tmp_path / "d", "detector", "fold-1", verdict_rows(SLICES)), *runs[1:]]
        )
    with pytest.raises(BthubError, match="differ in learning_rate"):
        cross_validation.cross_validation([*runs[:4], folds(tmp_path / "b", learning_rate=0.1)[4]])


def test_a_paired_difference_is_narrower_than_the_models_own_intervals():
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{i}" for i in range(40)], 10)
    hardness = np.repeat(rng.uniform(0.2, 0.9, 40), 10)
    tumor = np.full(400, 100)

    def measured(gain: float) -> dict:
        both = np.round(100 * np.clip(hardness + gain, 0, 1)).astype(int)
        return segmentation_metrics(tumor, tumor, both, np.full(400, 1000), groups=patients, keep_resamples=True)

    better, worse = measured(0.05), measured(0.0)
    away = paired_difference(better, worse, "dice_volume_mean")
    assert away.value == pytest.approx(0.05, abs=0.001)
    assert 0 < away.low <= away.value <= away.high
    own = better["metrics"]["dice_volume_mean"]
    assert away.high - away.low < (own.high - own.low) / 10
    same = paired_difference(worse, worse, "dice_volume_mean")
    assert same == Interval(0, 0, 0)
    undefined = paired_difference(better, measured(0.0), "tumor_free_slices_with_mask")
    assert undefined == Interval(None, None, None)


def test_compare_says_which_differences_are_noise(tmp_path):
    rng = np.random.default_rng(1)
    truth = [(f"p{i}", str(k), 100 if k < 4 else 0) for i in range(30) for k in range(8)]

    def detector(name: str, noise: float) -> RunFolder:
        p = [float(np.clip((0.7 if t else 0.3) + noise * rng.normal(), 0.01, 0.99)) for *_, t in truth]
        rows = verdict_rows([(*ids, t, 0, 0, q) for (*ids, t), q in zip(truth, p, strict=True)])
        return run_folder(tmp_path / name, "detector", "patient", rows)

    runs = [detector("sharp", 0.1), detector("blunt", 0.6), detector("also-sharp", 0.1)]
    rows = [row for row in tables.differences(runs, TEST, ("roc_auc",))]
    verdict = {row["model"]: row["apart"] for row in rows}
    assert verdict["blunt"] is True
    assert False in verdict.values() and rows[0]["best"] != "blunt"

    text = tables.write(runs, tmp_path / "results")
    assert text == (tmp_path / "results" / "compare.md").read_text()
    assert "may be chance" in text and "worse" in text
    with (tmp_path / "results" / "compare-lgg-patient-test-classification.csv").open() as file:
        table = list(csv.DictReader(file))
    assert table[-1]["model"] == "blunt"
    expected = json.loads((tmp_path / "blunt" / METRICS).read_text())["patient/test"]["metrics"]["roc_auc"]
    assert float(table[-1]["roc_auc_low"]) == round(expected["low"], 6)
    assert (tmp_path / "results" / "differences-lgg-patient-test-classification.csv").exists()
    assert {(row["epochs"], row["side"]) for row in table} == {("7", "192")}  # not the 256 that epoch 9 would have had
    assert "| epochs | pixels |" in text and "do not include seed variance" in text


def test_split_by_slice_nothing_is_called_a_volume(tmp_path):
    """The few slices that are drawn of a patient are no volume: neither shown so, nor what ranks the runs."""
    small, large = ("p1", "1", 10, 10, 10, 0), ("p2", "1", 90, 90, 45, 0)
    runs = [
        run_folder(tmp_path / "even", "localizer", "slice", mask_rows([small, large])),
        run_folder(
            tmp_path / "large-first", "localizer", "slice", mask_rows([(*small[:4], 0, 0), (*large[:4], 90, 0)])
        ),
    ]
    text = tables.write(runs, tmp_path / "out")
    assert "Dice per patient" not in text
    lines = [line for line in text.splitlines() if line.startswith(("| even", "| large-first"))]
    assert lines[0].startswith("| large-first")
    assert "| large-first | even |" in text


def test_copies_of_known_pictures_are_told_apart(tmp_path):
    rows = verdict_rows([(f"p{i}", "1", 100 * (i % 2), 0, 0, 0.9 if i % 2 else 0.1) for i in range(10)])
    copied = [row | {"also_in": "train" if i < 4 else ""} for i, row in enumerate(rows)]
    copied[9] |= {name: 1 - float(copied[9][name]) for name in ("p_tumor", "p_no_tumor")}
    text = tables.write([run_folder(tmp_path / "gate", "detector", "patient", copied)], tmp_path / "out")
    assert "| gate | pictures with a copy in train or validation | 4 | 1.000" in text
    assert "| gate | pictures without such a copy | 6 | 0.833" in text
    plain = tables.write([run_folder(tmp_path / "other", "detector", "patient", rows)], tmp_path / "plain")
    assert "with a copy in" not in plain


def test_commands_write_what_they_print(pair, tmp_path, capsys):
    out = tmp_path / "results"
    gate, masks = (str(run.path) for run in pair)
    assert main(["two-stage", gate, masks, "--out", str(out)]) == 0
    written = json.loads((out / "two-stage-patient-test.json").read_text())
    assert f"{written['metrics']['dice_tumor_slices']['value']:.4f}" in capsys.readouterr().out
    assert main(["compare", gate, masks, "--out", str(out)]) == 0
    assert (out / "compare.md").read_text() in capsys.readouterr().out
    assert main(["cross-validate", *(str(run.path) for run in folds(tmp_path)), "--out", str(out)]) == 0
    assert json.loads((out / "cross-validation.json").read_text())["groups"] == 10
    assert main(["compare", gate, "--split", "benchmark", "--out", str(out)]) == 2
    assert "none of gate was evaluated on split benchmark" in capsys.readouterr().err
