"""The dashboard's pages, run in this process: what they show is what the run folders say."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lgg_pair
import numpy as np
import pandas as pd
import pytest
import yaml
from msgspec import convert
from packaging.requirements import Requirement
from PIL import Image
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df
from streamlit.testing.v1 import AppTest

from bthub import project
from bthub.data.splits import FOLD_PROTOCOLS, patient_split
from bthub.evaluation import scoring
from bthub.inference.result import DISCLAIMER
from bthub.metrics.classification import classification_metrics
from bthub.project import DEFAULTS, ORG, hub_id
from bthub.runs.folder import (
    CLASSIFICATION,
    GRADCAM,
    METRICS,
    PREDICTIONS,
    SEGMENTATION,
    TRAINING,
    WEIGHTS,
    RunFolder,
    write_json,
)
from bthub.runs.schema import Settings

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "dashboard"
PAGES = sorted(path.stem for path in (DASHBOARD / "views").glob("*.py"))
NEEDS_TORCH = {"where_it_looks", "localization", "try_your_own"}
# How the shipped pair is called on a page.
DETECTOR, LOCALIZER = "ResNet-18", "ResUNet on ResNet-18"

Open = Callable[..., AppTest]

default_pair, shipped_runs = lgg_pair.default_pair, lgg_pair.shipped_runs


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The dashboard's own modules, importable as where streamlit runs it, and gone afterwards."""
    monkeypatch.syspath_prepend(DASHBOARD)
    monkeypatch.delenv("BTHUB_DATA", raising=False)
    yield
    for name in (path.stem for path in DASHBOARD.glob("*.py")):
        sys.modules.pop(name, None)


@pytest.fixture
def show(shipped_runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a page on some runs, by default the shipped pair."""

    def show(page: str = "compare", runs: list[Path] | None = None, **query: str) -> AppTest:
        monkeypatch.setenv("BTHUB_RUNS", " ".join(map(str, runs or shipped_runs)))
        app = AppTest.from_file(DASHBOARD / "app.py", default_timeout=120)
        for key, value in query.items():
            app.query_params[key] = value
        if page != "start":
            app.switch_page(f"views/{page}.py")
        app.run()
        assert not app.exception, app.exception[0].message
        return app

    return show


@pytest.fixture
def copy(shipped_runs: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the shipped detector that a test may spoil."""
    ignored = shutil.ignore_patterns("checkpoint", "logs")
    return Path(shutil.copytree(shipped_runs[0], tmp_path / "copy", ignore=ignored))


def words(app: AppTest) -> str:
    """Everything that a page says, charts' and tables' content excepted."""
    kinds = ("markdown", "caption", "title", "subheader", "info", "warning", "success", "error")
    said = [element.value for kind in kinds for element in getattr(app, kind)]
    return "\n".join(said + [element.proto.body for element in app.get("html")])


def table(app: AppTest, index: int = 0):
    return app.dataframe[index].value


def grid(app: AppTest, column: str) -> list[dict[str, str]]:
    """The rows of the table that `frame.grid` wrote with a column of this name: each cell's first line."""
    html = next(e.proto.body for e in app.get("html") if f">{column}</th>" in e.proto.body)
    head = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', html)
    rows = re.findall(r"<tr><th scope=row>(.*?)</th>(.*?)</tr>", html)
    return [
        dict(zip(head, [first, *re.findall(r"<td[^>]*>(.*?)(?:<small>.*?</small>)?</td>", cells)], strict=True))
        for first, cells in rows
    ]


# -- every page


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_and_says_what_it_is_not(show: Open, page: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("charts.CHECKED", True)
    app = show(page)
    assert len(app.title) == 1
    assert words(app).count(DISCLAIMER) == 2
    assert not [warning.value for warning in app.warning]
    # Whatever has numbers can be taken away, and says how it is read; every picture has words.
    # What compares two detectors, or sources of pictures, has nothing to show of this pair.
    assert page in ("start", "quiz", "two_models", "sources") or app.get("download_button")
    charts = app.get("vega_lite_chart")
    assert all(chart.proto.alt for chart in charts)
    assert not charts or "How to read it" in words(app)
    # A sentence with the page's point, before anything that shows it.
    assert page in ("two_models", "sources") or words(app).count('class="headline"') == 1
    for element in app.get("html"):
        assert all('alt="' in picture for picture in re.findall(r"<img [^>]*>", element.proto.body))


def test_pages_that_need_no_model_import_no_torch():
    code = (
        "import sys; from streamlit.components.v2 import manifest_scanner; from streamlit.testing.v1 import AppTest\n"
        "manifest_scanner.scan_component_manifests = lambda: []\n"
        f"sys.path.insert(0, {str(DASHBOARD)!r})\n"
        f"app = AppTest.from_file({str(DASHBOARD / 'app.py')!r}, default_timeout=120).run()\n"
        f"for page in {[page for page in PAGES if page not in NEEDS_TORCH]!r}:\n"
        "    app.switch_page(f'views/{page}.py').run()\n"
        "    assert not app.exception, (page, app.exception[0].message)\n"
        "heavy = {'torch', 'datasets', 'timm', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_disclaimer_is_that_of_the_package():
    import frame

    assert frame.DISCLAIMER == DISCLAIMER


# -- figures are read


def test_a_changed_metrics_file_changes_the_page(show: Open, copy: Path):
    app = show(runs=[copy])
    content = json.loads((copy / METRICS).read_text())
    assert table(app)["roc_auc"][0] == content["patient/test"]["metrics"]["roc_auc"]["value"]

    content["patient/test"]["metrics"]["roc_auc"] = {"value": 0.54321, "low": 0.5, "high": 0.6}
    write_json(copy / METRICS, content)
    app.run()

    assert table(app)["roc_auc"][0] == 0.54321


def test_equal_values_keep_their_own_intervals(show: Open, shipped_runs: tuple[Path, Path], copy: Path):
    content = json.loads((copy / METRICS).read_text())
    recall = content["patient/test"]["metrics"]["recall"]
    before = f"{recall['value']:.3f} ({recall['low']:.3f}–{recall['high']:.3f})"
    recall["low"] = 0.5
    write_json(copy / METRICS, content)
    app = show(runs=[shipped_runs[0], copy])
    shown = convert_arrow_bytes_to_pandas_df(app.dataframe[0].proto.arrow_data.styler.display_values)
    texts = dict(zip(table(app)["model"], shown["recall"], strict=True))
    assert texts == {
        DETECTOR: f"★ {before}",
        "ResNet-18 (copy)": f"★ {recall['value']:.3f} (0.500–{recall['high']:.3f})",
    }


def test_the_choice_is_in_the_address(show: Open, shipped_runs: tuple[Path, Path]):
    app = show(models="resnet18-lgg", split="validation")  # a run's name is understood, too
    assert app.multiselect(key="models").value == [DETECTOR]
    content = json.loads((shipped_runs[0] / METRICS).read_text())
    assert len(app.dataframe) == 1
    assert table(app)["roc_auc"][0] == content["patient/validation"]["metrics"]["roc_auc"]["value"]
    app.multiselect(key="models").set_value([LOCALIZER]).run()
    assert "dice_volume_mean" in table(app)


def test_the_choice_stays_from_page_to_page(show: Open):
    app = show()
    app.multiselect(key="models").set_value([LOCALIZER]).run()
    app.switch_page("views/localization.py").run()
    assert app.multiselect(key="models").value == [LOCALIZER]


# -- runs that can't be shown


def test_a_broken_run_is_named_and_the_others_still_show(show: Open, shipped_runs, copy: Path, tmp_path: Path):
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / "config.json").write_text("{}")
    (copy / METRICS).write_text("{ half of")
    app = show(runs=[shipped_runs[0], copy, partial, tmp_path / "nowhere"])
    said = "\n".join(warning.value for warning in app.warning)
    assert len(app.warning) == 3
    assert "copy" in said and "isn't valid JSON" in said
    assert "partial has no model.safetensors" in said
    assert "has runs, but no nowhere" in said
    assert list(table(app)["model"]) == [DETECTOR]


@pytest.mark.parametrize("page", PAGES)
def test_a_run_of_an_older_layout_is_named_on_every_page(show: Open, shipped_runs, copy: Path, page: str):
    content = json.loads((copy / METRICS).read_text())
    for entry in content.values():
        entry["metrics"] = {"accuracy": 0.9}
        del entry["threshold"], entry["labels"]
    write_json(copy / METRICS, content)
    for file in ("history.csv", "predictions/patient-test.csv", "predictions/patient-validation.csv"):
        (copy / file).write_text("step,score\n1,a\n")
    (copy / "calibration.json").write_text("{}")
    (copy / "training.json").write_text("{}")
    app = show(page, [*shipped_runs, copy])
    # Pages about masks alone don't look at a classifier.
    unread = ("localization", "where_it_looks", "start", "sources", "groups")
    assert page in unread or any("copy" in warning.value for warning in app.warning)


def test_a_file_that_vanishes_while_it_is_looked_at_is_passed_over(copy: Path):
    import frame

    before = frame.files_of(copy)
    (copy / f"{METRICS}.tmp").symlink_to("nowhere")  # found by its name, but not there
    assert frame.files_of(copy) == before


def test_damaged_weights_are_named_and_the_others_still_look(show: Open, shipped_runs: tuple[Path, Path], copy: Path):
    (copy / GRADCAM).unlink()  # it says that it is of other weights
    pair = [copy, Path(shutil.copytree(shipped_runs[1], copy.with_name("outlines")))]
    for run in pair:
        (run / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:5000])
    app = show("where_it_looks", [*shipped_runs, *pair])
    assert [warning.value.split(":")[0] for warning in app.warning] == [
        "ResNet-18 (copy)",
        "ResUNet on ResNet-18 (outlines)",
    ]
    assert f"Heat map of {DETECTOR}" in words(app) and f"Outline drawn by {LOCALIZER}" in words(app)
    assert "outlines" in show("localization", [pair[1]]).warning[0].value


def test_no_run_at_all(show: Open, tmp_path: Path):
    app = show(runs=[tmp_path / "nowhere"])
    assert "No run has results yet" in words(app) and "nowhere" in words(app)


def test_two_runs_of_one_name(show: Open, shipped_runs, tmp_path: Path):
    twin = tmp_path / "resnet18-lgg"
    shutil.copytree(shipped_runs[0], twin, ignore=shutil.ignore_patterns("checkpoint", "logs"))
    app = show(runs=[shipped_runs[0], twin])
    assert "rename one of the two folders" in app.warning[0].value


# -- pages


def test_threshold_moves_everything(show: Open):
    app = show("threshold")
    before = grid(app, "Cost")[0]
    app.slider(key="threshold").set_value(0.05).run()
    after = grid(app, "Cost")[0]
    assert after["Threshold"] == "0.050"
    assert after["Recall"] >= before["Recall"] and after["Specificity"] < before["Specificity"]
    app.number_input(key="miss_cost").set_value(50.0).run()
    assert grid(app, "Cost")[0]["Cost"] != after["Cost"]
    app.get("button_group")[0].set_value("Each its own").run()
    assert grid(app, "Cost")[0]["Threshold"] == "0.373"


def test_threshold_without_fresh_figures_on_validation_is_chosen_on_the_split_in_view(show: Open, copy: Path):
    content = json.loads((copy / METRICS).read_text())
    content["patient/validation"]["weights"] = "sha256:000000000000"
    write_json(copy / METRICS, content)
    said = words(show("threshold", [copy]))
    assert "on this very split (too optimistic" in said and "measured with the weights sha256:000000000000" in said


def test_calibration_shows_what_training_found(show: Open, shipped_runs):
    app = show("calibration", split="validation")
    calibration = json.loads((shipped_runs[0] / "calibration.json").read_text())
    before, after, temperature = re.findall(r"<td>(\d\.\d+)</td>", words(app))[:3]
    assert temperature == f"{calibration['temperature']:.3f}"
    assert float(before) == pytest.approx(calibration["expected_calibration_error"]["before"], abs=2e-3)
    assert float(after) == pytest.approx(calibration["expected_calibration_error"]["after"], abs=2e-3)
    low, high = calibration["referral_band"]
    rows = RunFolder.open(shipped_runs[0]).predictions("patient/validation")
    share = np.mean([low <= float(row["p_tumor"]) < high for row in rows])
    assert f"<td>{low:.2f}–{high:.2f}</td><td>{100 * share:.1f}%</td></tr>" in words(app)


def test_calibration_without_a_band_says_so(show: Open, copy: Path):
    calibration = json.loads((copy / "calibration.json").read_text())
    del calibration["referral_band"]
    write_json(copy / "calibration.json", calibration)
    assert "No chosen run has a band of its own" in words(show("calibration", [copy], split="validation"))


def test_learning_shows_a_finder_and_initial_weights_where_they_are(show: Open, shipped_runs, copy: Path):
    said = words(show("learning"))
    assert "lr_finder.csv" in said and "--set encoder_from=null" in said
    (copy / "lr_finder.csv").write_text("learning_rate,loss\n1e-5,0.7\n1e-4,0.5\n1e-3,0.9\n")
    training = json.loads((copy / "training.json").read_text())
    training["config"]["encoder_from"] = None
    write_json(copy / "training.json", training)
    said = words(show("learning", [*shipped_runs, copy]))
    assert "--set" not in said


def test_compare_says_whether_the_best_is_better(show: Open, shipped_runs, copy: Path):
    """A twin with the same predictions is told apart by chance at most; one that guesses is worse."""
    guess = copy.with_name("guess")
    shutil.copytree(copy, guess, ignore=shutil.ignore_patterns("*.safetensors"))
    file = guess / "predictions" / "patient-test.csv"
    lines = pd.read_csv(file)
    lines["p_tumor"] = np.random.default_rng(0).permutation(lines["p_tumor"])
    lines["p_no_tumor"] = 1 - lines["p_tumor"]
    lines.to_csv(file, index=False)
    content = json.loads((guess / METRICS).read_text())
    entry = content["patient/test"]
    entry |= scoring.measure(RunFolder(guess, "guess", "").predictions("patient/test"), convert(entry, Settings))
    write_json(guess / METRICS, content)
    app = show("compare", [*shipped_runs, copy, guess])
    assert not app.exception
    found = {row["Model"]: row["Verdict"] for row in grid(app, "Verdict")}
    assert found.pop("ResNet-18 (guess)").endswith("is better")
    assert set(found.values()) == {"may be chance"}
    assert "its lead over ResNet-18" in words(app) and "may be chance" in words(app)


def test_leakage_shows_a_pair_where_there_is_one(show: Open, shipped_runs, copy: Path):
    assert "--set protocol=slice" in words(show("leakage"))
    training = json.loads((copy / "training.json").read_text())
    training["protocol"] = "slice"
    write_json(copy / "training.json", training)
    content = json.loads((copy / METRICS).read_text())
    write_json(copy / METRICS, {key.replace("patient", "slice"): entry for key, entry in content.items()})
    for split in ("test", "validation"):
        (copy / f"predictions/patient-{split}.csv").rename(copy / f"predictions/slice-{split}.csv")
    app = show("leakage", [*shipped_runs, copy])
    assert "--set" not in words(app)
    assert any("leakage" in button.proto.id for button in app.get("download_button"))


def test_leakage_of_a_run_that_is_not_measured_yet_says_how(show: Open, shipped_runs, copy: Path):
    training = json.loads((copy / "training.json").read_text())
    write_json(copy / "training.json", training | {"protocol": "slice"})
    (copy / METRICS).unlink()
    app = show("leakage", [*shipped_runs, copy])
    assert f"bthub evaluate runs/{copy.name}" in words(app) and not app.exception


def test_leakage_shows_argmax(show: Open, shipped_runs, tmp_path: Path):
    slice_run = many(shipped_runs, tmp_path)[-1]
    content = json.loads((slice_run / METRICS).read_text())
    content["slice/test"]["argmax"]["accuracy"]["value"] = 0.123
    write_json(slice_run / METRICS, content)
    [said] = [
        c.proto.alt
        for c in show("leakage", [*shipped_runs, slice_run]).get("vega_lite_chart")
        if c.proto.alt.startswith("accuracy by protocol")
    ]
    assert "slice: 0.123" in said


def test_leakage_gives_each_slice_run_a_line(show: Open, shipped_runs, tmp_path: Path):
    first = many(shipped_runs, tmp_path)[-1]
    second = Path(shutil.copytree(first, tmp_path / "i-lgg-slice"))
    training = json.loads((second / TRAINING).read_text())
    training["config"]["epochs"] = 99
    write_json(second / TRAINING, training)
    app = show("leakage", [*shipped_runs, first, second])
    [said] = [c.proto.alt for c in app.get("vega_lite_chart") if c.proto.alt.startswith("accuracy by protocol")]
    lines = ("ResNet-18 (split by slice)", "ResNet-18 (i-lgg-slice)")
    for name in lines:
        assert all(said.count(f"{name}, {protocol}: ") == 1 for protocol in ("patient", "slice"))
    assert "trained for different times:\n\n- ResNet-18 (i-lgg-slice) and ResNet-18 differ in epochs" in words(app)
    training["config"]["learning_rate"] = 1.0
    write_json(second / TRAINING, training)
    app = show("leakage", [*shipped_runs, first, second])
    [said] = [c.proto.alt for c in app.get("vega_lite_chart") if c.proto.alt.startswith("accuracy by protocol")]
    assert lines[0] in said and "i-lgg-slice" not in said
    said = words(app)
    assert "more than the protocol:\n\n- ResNet-18 (i-lgg-slice) and ResNet-18 differ in epochs, learning_rate" in said


def test_leakage_tells_copies_from_new_pictures(show: Open, shipped_runs, tmp_path: Path):
    pictures = image_folder_run(shipped_runs[0], tmp_path / "pictures")
    assert "The same picture twice" not in words(show("leakage", [*shipped_runs, pictures]))
    content = json.loads((pictures / METRICS).read_text())
    rows = RunFolder(pictures, "pictures", "").predictions("default/test")
    for row in rows[:25]:
        row["also_in"] = "train"
    entry = content["default/test"]
    measured = scoring.measure(rows, convert(entry, Settings))
    # The page speaks of test: what validation holds isn't shown.
    write_json(pictures / METRICS, {f"default/{split}": {**entry, **measured} for split in ("test", "validation")})
    app = show("leakage", [*shipped_runs, pictures])
    assert "The same picture twice" in words(app)
    [said] = [c.proto.alt for c in app.get("vega_lite_chart") if c.proto.alt.startswith("Accuracy on copies")]
    labels = entry["labels"]
    right = [max(labels, key=lambda label, row=row: float(row[f"p_{label}"])) == row["label"] for row in rows]
    name = "ResNet-18 (on brain_tumor_4class)"
    assert said.count(f"{name}, pictures with a copy in train or validation (25): {sum(right[:25]) / 25:.3f}") == 1
    assert f"{name}, pictures without such a copy (35): {sum(right[25:]) / 35:.3f}" in said


def test_papers_stand_beside_what_was_measured(show: Open, shipped_runs):
    said = words(show("papers"))
    value = json.loads((shipped_runs[1] / METRICS).read_text())["patient/test"]["metrics"]["dice_volume_mean"]["value"]
    assert f"{value:.4f}" in said and "0.8360" in said and "no run yet" in said


def test_papers_put_their_own_recipe_first(show: Open, shipped_runs, copy: Path):
    own = copy.with_name("resnet-resunet-detector")
    copy.rename(own)
    training = json.loads((own / "training.json").read_text())
    training["best"]["epochs_trained"] = 17
    training["config"] |= {"encoder_from": None, "weights_from": None, "image_sizes": {"0": 96, "9": 160, "17": 224}}
    write_json(own / "training.json", training)
    said = words(show("papers", [*shipped_runs, own]))
    own_recipe = "ResNet-18 (recipe of resnet-resunet); the paper's recipe; LGG, split by patient"
    assert f"{own_recipe}; from random weights, 17 epochs, 160 pixels" in said
    assert said.index(own_recipe) < said.index("ResNet-18; this project's recipe")
    assert "resnet18-lgg" not in said and "resnet-resunet-detector" not in said


def test_papers_take_all_folds_of_a_cross_validation_together(show: Open, shipped_runs, tmp_path: Path):
    """The shipped localizer's test patients dealt to five folds: together they have the figures that it has."""
    measured = json.loads((shipped_runs[1] / METRICS).read_text())["patient/test"]
    training = json.loads((shipped_runs[1] / TRAINING).read_text())
    header, *rows = (shipped_runs[1] / PREDICTIONS / "patient-test.csv").read_text().splitlines()
    patients = sorted({row.split(",")[0] for row in rows})
    folds = [tmp_path / f"mine-{protocol}" for protocol in FOLD_PROTOCOLS]
    for k, (fold, protocol) in enumerate(zip(folds, FOLD_PROTOCOLS, strict=True)):
        shutil.copytree(shipped_runs[1], fold, ignore=shutil.ignore_patterns("checkpoint", "logs", "figures"))
        write_json(fold / TRAINING, training | {"protocol": protocol})
        write_json(fold / METRICS, {f"{protocol}/test": measured})
        of_fold = [row for row in rows if row.split(",")[0] in patients[k::5]]
        (fold / PREDICTIONS / f"{protocol}-test.csv").write_text("\n".join([header, *of_fold]))
    together = "all folds; this project's recipe; LGG, 5-fold cross-validation by patient, all patients together"
    said = words(show("papers", folds))
    value = measured["metrics"]["dice_volume_mean"]["value"]
    assert f"<b>{value:.4f}</b>" in said and together in said and "fold-1 of 5" not in said
    said = words(show("papers", folds[:4]))
    assert together not in said and "ResUNet on ResNet-18 (fold 1); this project's recipe; LGG, fold-1 of 5" in said


def test_where_it_looks_compares_with_the_mask(show: Open):
    app = show("where_it_looks")
    found = re.search(
        rf"<th scope=row>{DETECTOR}</th>(?:<td>.+?</td>)+?<td>([\d.]+)%</td><td>([\d.]+)%</td></tr>", words(app)
    )
    assert found
    heat, chance = map(float, found.groups())
    assert 0 <= heat <= 100 and 0 < chance < 20
    assert f"Heat map of {DETECTOR}" in words(app) and f"Outline drawn by {LOCALIZER}" in words(app)


def test_a_model_looks_at_one_slice_at_a_time(shipped_runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    """All sessions share it, and two at once would mix their heat maps."""
    import models
    from bthub.evaluation import gradcam
    from bthub.models.classifier import Classifier

    busy, mixed = threading.Lock(), []

    def alone(work: Callable) -> Callable:
        def checked(*args):
            if not busy.acquire(blocking=False):
                mixed.append(args)
                return work(*args)
            try:
                time.sleep(0.05)
                return work(*args)
            finally:
                busy.release()

        return checked

    monkeypatch.setattr(Classifier, "predict", alone(Classifier.predict))
    monkeypatch.setattr(gradcam, "heatmaps", alone(gradcam.heatmaps))
    run = RunFolder.open(shipped_runs[0])
    slices = [Image.effect_noise((64, 64), 80).convert("RGB") for _ in range(4)]
    with ThreadPoolExecutor(len(slices)) as sessions:
        found = list(sessions.map(lambda i: models.look(run, slices[i], None, (str(time.time_ns()), str(i))), range(4)))
    assert len(found) == 4 and not mixed


def test_a_run_without_weights_shows_figures_but_cannot_look(show: Open, copy: Path):
    (copy / "model.safetensors").unlink()
    assert not show(runs=[copy]).warning
    assert "ResNet-18 has no model.safetensors here" in words(show("where_it_looks", [copy]))


def test_top_losses_are_filtered(show: Open, shipped_runs):
    app = show("top_losses")
    every = len(table(app))
    app.get("button_group")[0].set_value(["missed"]).run()
    (_, missed_row) = json.loads((shipped_runs[0] / METRICS).read_text())["patient/test"]["confusion_matrix"]
    assert len(table(app)) == missed_row[0] < every
    assert set(table(app)["kind"]) == {"missed"}


def test_quiz_is_played_to_the_end(show: Open):
    app = show("quiz", quiz="7")
    asked = []
    for _ in range(20):
        asked.append(app.session_state["shown"])
        next(button for button in app.button if button.label == "Tumor").click().run()
        assert "there is" in words(app)
        next(button for button in app.button if button.label in ("Next slice", "See the result")).click().run()
    assert len(set(asked)) == 20
    assert "10 of 20 right" in words(app) and "0 tumors missed, 10 false alarms" in words(app)
    # The same number asks for the same slices.
    again = show("quiz", quiz="7")
    assert again.session_state["shown"] == asked[0]


# -- many runs


def many(shipped_runs: tuple[Path, Path], folder: Path) -> list[Path]:
    """The shipped pair among copies without weights: other networks, from random weights, a paper's, split by slice."""
    detector, localizer = shipped_runs
    made = []
    for source, name, changes in (
        (detector, "a-lgg-scratch", {"encoder_from": None}),
        (detector, "b-lgg", {}),
        (detector, "c-lgg", {"weights_from": "data/imagenet-vgg16.safetensors", "encoder_from": None}),
        (detector, "d-lgg", {}),
        (detector, "e-lgg", {}),
        (detector, "fastai-resnets-34", {}),
        (localizer, "f-lgg", {"encoder_from": "runs/x"}),
        (localizer, "g-lgg", {"encoder_from": "runs/x"}),
        (detector, "h-lgg-slice", {"protocol": "slice"}),
    ):
        target = Path(shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("checkpoint", "logs")))
        (target / "model.safetensors").unlink()
        training = json.loads((target / "training.json").read_text())
        training["protocol"] = changes.get("protocol", "patient")
        training["config"] |= changes
        write_json(target / "training.json", training)
        if "protocol" in changes:
            content = json.loads((target / METRICS).read_text())
            write_json(target / METRICS, {key.replace("patient", "slice"): entry for key, entry in content.items()})
            for file in (target / "predictions").iterdir():
                file.rename(file.with_name(file.name.replace("patient", "slice")))
        made.append(target)
    return [*made[:5], *shipped_runs, *made[5:]]


def image_folder_run(source: Path, target: Path) -> Path:
    """A copy of a detector without weights, as if it told four kinds apart on an image-folder set."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint", "logs", "predictions", "gradcam.json"))
    (target / "model.safetensors").unlink()
    training = json.loads((target / "training.json").read_text())
    training["dataset"]["name"] = "brain_tumor_4class"
    for facts in training["dataset"]["splits"].values():
        del facts["patients"]
    write_json(target / "training.json", training)
    labels = ["glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"]
    config = json.loads((target / "config.json").read_text())
    write_json(target / "config.json", config | {"label_names": labels, "num_classes": len(labels)})
    rng = np.random.default_rng(0)
    truth, p = rng.integers(0, 4, 60), rng.dirichlet(np.ones(4), 60)
    lines = [
        f"test/{labels[y]}/a ({i}).jpg,{labels[y]},{','.join(map(repr, map(float, p[i])))}" for i, y in enumerate(truth)
    ]
    (target / "predictions").mkdir()
    head = f"file,label,{','.join(f'p_{label}' for label in labels)}"
    (target / "predictions" / "default-test.csv").write_text("\n".join([head, *lines]) + "\n")
    entry = json.loads((target / METRICS).read_text())["patient/test"]
    measured = classification_metrics(truth, p, labels, temperature=1.25)
    entry |= {**measured, "dataset": {"name": "brain_tumor_4class", "rows": 60}, "by_institution": {}}
    write_json(target / METRICS, {"default/test": entry})
    return target


def called(name: str) -> str:
    """How one of `many` that is no different from the shipped pair is called."""
    return f"{LOCALIZER if name in ('f-lgg', 'g-lgg') else DETECTOR} ({name})"


def test_at_first_the_default_pair_and_then_the_family_are_shown(show: Open, shipped_runs, tmp_path: Path):
    app = show(runs=many(shipped_runs, tmp_path))
    chosen = app.multiselect(key="models")
    assert chosen.value == [DETECTOR, LOCALIZER, *map(called, ("b-lgg", "f-lgg", "c-lgg", "g-lgg"))]
    assert chosen.options == [
        *chosen.value[:2],
        *map(called, ("b-lgg", "c-lgg", "d-lgg", "e-lgg", "f-lgg", "g-lgg")),
        "ResNet-18 (from scratch)",
        "ResNet-18 (recipe of fastai-resnets)",
    ]
    assert set(table(app)["model"]) == {DETECTOR, called("b-lgg"), called("c-lgg")}
    chosen.set_value([called("e-lgg"), called("f-lgg")]).run()
    app.selectbox(key="split").set_value("validation").run()
    assert app.multiselect(key="models").value == [called("e-lgg"), called("f-lgg")]
    # Another protocol has other models.
    app.selectbox(key="protocol").set_value("slice").run()
    assert (
        app.multiselect(key="models").value == app.multiselect(key="models").options == ["ResNet-18 (split by slice)"]
    )
    app.selectbox(key="protocol").set_value("patient").run()
    assert app.multiselect(key="models").value == [called("e-lgg"), called("f-lgg")]
    app = show(runs=many(shipped_runs, tmp_path / "again"), models="d-lgg")
    assert app.multiselect(key="models").value == [called("d-lgg")]
    # A page of detectors offers no localizer, and the choice of them is kept meanwhile.
    app.multiselect(key="models").set_value([called("d-lgg"), LOCALIZER]).run()
    app.switch_page("views/threshold.py").run()
    assert app.multiselect(key="models").value == [called("d-lgg")]
    app.switch_page("views/localization.py").run()
    assert app.multiselect(key="models").value == [LOCALIZER]


def test_models_that_the_card_names_come_before_others(show: Open, shipped_runs, tmp_path: Path, monkeypatch):
    import frame

    monkeypatch.setattr(frame, "card_models", lambda: ["resnet18-lgg", "resunet18-lgg", "e-lgg"])
    chosen = show(runs=many(shipped_runs, tmp_path)).multiselect(key="models")
    assert chosen.value == [DETECTOR, LOCALIZER, *map(called, ("e-lgg", "f-lgg", "b-lgg", "g-lgg"))]


def test_a_choice_that_a_split_has_in_part_is_kept_in_part(show: Open, shipped_runs, tmp_path: Path):
    runs = many(shipped_runs, tmp_path)
    content = json.loads((runs[1] / METRICS).read_text())
    write_json(runs[1] / METRICS, {"patient/test": content["patient/test"]})
    app = show(runs=runs)
    app.multiselect(key="models").set_value([called("b-lgg"), called("d-lgg")]).run()
    app.selectbox(key="split").set_value("validation").run()
    assert app.multiselect(key="models").value == [called("d-lgg")]
    assert "Not measured on LGG, validation patients: ResNet-18 (b-lgg) in `runs/b-lgg`." in words(app)
    app.multiselect(key="models").set_value([]).run()
    assert app.multiselect(key="models").value == [] and "Choose at least one model" in words(app)


@pytest.mark.parametrize("data", ["lgg", "brain_tumor_4class"])
@pytest.mark.parametrize("page", PAGES)
def test_image_folder_runs_and_slices_do_not_meet(show: Open, shipped_runs, tmp_path: Path, page: str, data: str):
    pictures = image_folder_run(shipped_runs[0], tmp_path / "a-4class")
    app = show(page, [pictures, *shipped_runs], data=data)
    import lesson

    step = next(step for step in lesson.STEPS if step.file == page)
    pictures_only = data == "brain_tumor_4class" and CLASSIFICATION in step.tasks
    known = {CLASSIFICATION: DETECTOR, SEGMENTATION: LOCALIZER}
    expected = ["ResNet-18 (on brain_tumor_4class)"] if pictures_only else [known[task] for task in step.tasks]
    assert [box.value for box in app.multiselect] == ([expected] if step.split else [])
    assert not [warning.value for warning in app.warning]
    if pictures_only and page == "threshold":
        assert "no threshold to move" in words(app)
    if page == "where_it_looks":
        assert ("Heat map" in words(app)) == (data == "lgg")
        assert ("No pictures of brain_tumor_4class come with" in words(app)) == (data != "lgg")
    if page == "compare":
        assert ("interval over patients" in words(app)) == (data == "lgg")
        assert ("interval over pictures" in words(app)) == (data != "lgg")
        assert "classifies" in words(app) if data != "lgg" else "finds" in words(app)
    if page == "papers":
        assert "(on brain_tumor_4class); this project's recipe; brain_tumor_4class, split by picture" in words(app)


def test_chosen_models_have_different_colors(shipped_runs):
    import charts
    import frame

    names = [f"m{i}" for i in range(30)]
    runs = dict.fromkeys(names)
    size = len(charts.PALETTE)
    assert list(frame.colored(runs, names[:size])) == names
    chosen = ["m0", f"m{size}", f"m{2 * size}", "m5"]
    colors = charts.colors(list(frame.colored(runs, chosen)))
    assert set(colors) == set(names) and len({colors[name] for name in chosen}) == 4
    assert colors["m0"] == charts.PALETTE[0] and colors["m5"] == charts.PALETTE[5]
    assert set(frame.colored(runs, names)) == set(names)  # more than there are colors


def test_heat_on_the_tumor_over_a_split(show: Open, shipped_runs, copy: Path):
    app = show("where_it_looks")
    entry = json.loads((shipped_runs[0] / GRADCAM).read_text())["patient/test"]
    mean = entry["pointing_game"]["mean"]
    grid = next(e.proto.body for e in app.get("html") if "Chance, head" in e.proto.body)
    assert f"<td>{mean['value']:.1%}<small>{mean['low']:.1%}–{mean['high']:.1%}</small></td>" in grid
    assert f"<td>{entry['chance']['head']:.1%}</td>" in grid
    write_json(copy / GRADCAM, {"patient/test": entry | {"weights": "sha256:0"}})
    assert "was measured with the weights sha256:0" in words(show("where_it_looks", [copy]))
    (copy / GRADCAM).unlink()
    assert "bthub explain runs/NAME --data data/lgg --split test" in words(show("where_it_looks", [copy]))


# -- what ships


def test_the_shipped_slices():
    import pictures

    slices = pictures.ShippedSlices()
    assert 20 <= len(slices.keys) <= 30
    assert sum(file.stat().st_size for file in pictures.SHIPPED.iterdir()) < 4e6
    for (patient, index), area in slices.keys.items():
        assert patient_split(patient) == "test"
        assert slices.mask((patient, index)).sum() == area
        assert slices.image((patient, index)).size == (256, 256)
    notice = (pictures.SHIPPED / "README.md").read_text()
    assert "CC BY-NC-SA 4.0" in notice and "Buda" in notice


def test_a_data_set_of_its_own_is_used(show: Open, tiny_lgg: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BTHUB_DATA", str(tiny_lgg))
    app = show("top_losses")
    assert "To see all pictures" not in words(app)


def test_the_pictures_of_an_image_folder_set_are_shown(show: Open, shipped_runs, tmp_path: Path, monkeypatch):
    import pictures
    from bthub.data.build import build

    run = image_folder_run(shipped_runs[0], tmp_path / "a-4class")
    rng = np.random.default_rng(0)
    for row in RunFolder.open(run, weights=False).predictions("default/test"):
        for file in (Path(row["file"]), Path("train", *Path(row["file"]).parts[1:])):
            (tmp_path / "download" / file.parent).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 16), np.uint8)).save(tmp_path / "download" / file)
    data = tmp_path / "brain_tumor_4class"
    build(tmp_path / "download", data)
    built = pictures.BuiltSlices(str(data), "test", "default")
    assert {key[0].split("/")[1] for key, area in built.keys.items() if area == 0} == {"no_tumor"}
    assert sorted(set(built.keys.values())) == [0, 1] and len(built.keys) == 60

    monkeypatch.setenv("BTHUB_DATA", str(data))
    app = show("top_losses", [run])
    assert re.search(r"[1-9]\d* of \d+ misclassified slices, the worst first", words(app))

    # A set of another name isn't the one that was measured, although its files are called the same.
    monkeypatch.setenv("BTHUB_DATA", str(shutil.copytree(data, tmp_path / "other")))
    assert "No pictures of brain_tumor_4class come with" in words(show("where_it_looks", [run]))


@pytest.mark.parametrize("page", ["quiz", "top_losses", "where_it_looks", "localization"])
def test_a_data_set_that_cannot_be_read_is_named_and_what_ships_is_shown(show: Open, page: str, monkeypatch):
    monkeypatch.setenv("BTHUB_DATA", "nowhere")
    app = show(page)
    assert "nowhere: no such folder" in app.warning[0].value
    assert "gallery" in words(app) or page == "quiz"


def test_outlines_are_drawn_around_a_mask():
    import pictures

    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    drawn = np.asarray(pictures.outlined(Image.new("RGB", (16, 16)), {pictures.TRUE: mask}))
    assert drawn.shape == (32, 32, 3)
    colored = (drawn == pictures.TRUE).all(axis=2)
    assert colored[8, 7] and not colored[10, 10] and not colored[2, 2]


def test_colors_are_seen_in_both_themes():
    import charts

    config = tomllib.loads((DASHBOARD / ".streamlit" / "config.toml").read_text())
    backgrounds = [config["theme"][mode]["backgroundColor"] for mode in ("light", "dark")]
    assert len(set(charts.PALETTE)) == len(charts.PALETTE) >= 10
    for color in charts.PALETTE:
        for background in backgrounds:
            assert contrast(color, background) >= 2.9, (color, background)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colors as WCAG 2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_space_card_and_its_requirements():
    card = yaml.safe_load((DASHBOARD / "README.md").read_text().split("---")[1])
    assert card["sdk"] == "docker" and len(card["short_description"]) <= 60
    dockerfile = (DASHBOARD / "Dockerfile").read_text()
    assert f"PORT={card['app_port']}" in dockerfile and "BTHUB_HOST=0.0.0.0" in dockerfile
    assert all(model.startswith(f"{ORG}/") for model in card["models"])
    assert {hub_id(name) for name in DEFAULTS.values()} <= set(card["models"])
    pinned = {
        Requirement(line).name.lower().replace("_", "-"): str(Requirement(line).specifier)
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if "==" in line
    }
    for line in (DASHBOARD / "requirements.txt").read_text().splitlines():
        if "==" in line:
            wanted = Requirement(line)
            assert pinned[wanted.name.lower().replace("_", "-")] == str(wanted.specifier)


def test_without_a_clone_the_runs_are_those_of_the_card(monkeypatch: pytest.MonkeyPatch):
    import frame

    monkeypatch.delenv("BTHUB_RUNS", raising=False)
    monkeypatch.setattr(project, "SHIPPED_RUNS", Path("nowhere"))
    assert frame.sources() == [hub_id(name) for name in frame.card_models()]


def test_on_the_hub_the_runs_beside_the_dashboard_are_shown_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import frame

    shutil.copy(DASHBOARD / "README.md", tmp_path)
    (tmp_path / "runs" / "simple_cnn-lgg").mkdir(parents=True)
    monkeypatch.delenv("BTHUB_RUNS", raising=False)
    monkeypatch.setattr(project, "SHIPPED_RUNS", Path("nowhere"))
    monkeypatch.setattr(frame, "HERE", tmp_path)
    assert frame.sources() == [*map(hub_id, frame.card_models()), str(tmp_path / "runs" / "simple_cnn-lgg")]
