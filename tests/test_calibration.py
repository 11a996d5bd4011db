"""What is fitted on validation beside the model: the review band, in training and for runs that lack it."""

import json
import shutil

import pytest
from records import complete_run
from stages import Brightness

from bthub import cli, metrics
from bthub.data import load_split
from bthub.evaluate import evaluate
from bthub.models.classifier import Classifier, eval_transform, preprocessing
from bthub.run_folder import CALIBRATION, METRICS
from bthub.training.calibration import REVIEW_ERROR, calibrate_classifier


@pytest.fixture(scope="module")
def measured(tiny_runs, tiny_lgg, tmp_path_factory):
    """A detector from before there was a review band, measured on validation and test."""
    run = complete_run(tiny_runs[0], tmp_path_factory.mktemp("measured") / "detector", tiny_lgg)
    calibration = json.loads((run / CALIBRATION).read_text())
    older = {key: value for key, value in calibration.items() if not key.startswith("review")}
    (run / CALIBRATION).write_text(json.dumps(older))
    for split in ("validation", "test"):
        evaluate(run, tiny_lgg, split)
    return run


@pytest.mark.parametrize("labels", [["no_tumor", "tumor"], ["no", "yes"]])
def test_training_fits_a_band_for_a_detector_alone(tiny_lgg, labels):
    classifier = Classifier(Brightness(), eval_transform(preprocessing(64)), labels, "cpu")
    fitted = calibrate_classifier(classifier, load_split(tiny_lgg, "validation"))
    if labels == ["no", "yes"]:
        assert (fitted["threshold"], fitted["review_band"], fitted["review_error"]) == (None, None, None)
    else:
        low, high = fitted["review_band"]
        assert 0 <= low <= fitted["threshold"] <= high and fitted["review_error"] == REVIEW_ERROR
    assert json.loads(json.dumps(fitted, allow_nan=False)) == fitted


def test_the_band_is_added_from_the_runs_own_files_and_nothing_else_changes(measured, tmp_path, capsys):
    run = shutil.copytree(measured, tmp_path / "run")
    (run / "model.safetensors").unlink()  # as in a clone that ships figures only
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    older = json.loads((run / CALIBRATION).read_text())

    assert cli.main(["calibrate", str(run)]) == 0

    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} == {run / CALIBRATION}
    newer = json.loads((run / CALIBRATION).read_text())
    assert newer == older | {"review_band": newer["review_band"], "review_error": REVIEW_ERROR}
    rows = [line.split(",") for line in (run / "predictions" / "patient-validation.csv").read_text().splitlines()]
    label, p_tumor = rows[0].index("label"), rows[0].index("p_tumor")
    y, p = [row[label] == "tumor" for row in rows[1:]], [float(row[p_tumor]) for row in rows[1:]]
    assert newer["review_band"] == list(metrics.review_band(y, p, older["threshold"], REVIEW_ERROR))
    low, high = newer["review_band"]
    assert f"from {low:.4f} to below {high:.4f}" in capsys.readouterr().out


def test_what_has_no_band_is_refused(measured, tiny_runs, tiny_lgg, tmp_path, capsys):
    localizer = complete_run(tiny_runs[1], tmp_path / "localizer", tiny_lgg)
    unmeasured = shutil.copytree(measured, tmp_path / "unmeasured")
    entries = json.loads((unmeasured / METRICS).read_text())
    del entries["patient/validation"]
    (unmeasured / METRICS).write_text(json.dumps(entries))
    for run, words in (
        (localizer, "isn't a detector"),
        (unmeasured, "not measured on validation"),
        (tmp_path / "nothing", "isn't a local folder"),
    ):
        assert cli.main(["calibrate", str(run)]) == 2
        assert words in capsys.readouterr().err


def test_predictions_of_other_weights_are_refused(measured, tmp_path, capsys):
    run = shutil.copytree(measured, tmp_path / "run")
    entries = json.loads((run / METRICS).read_text())
    entries["patient/validation"]["weights"] = "sha256:000000000000"
    (run / METRICS).write_text(json.dumps(entries))
    assert cli.main(["calibrate", str(run)]) == 2
    assert "measured with the weights sha256:000000000000" in capsys.readouterr().err
