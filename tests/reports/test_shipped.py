"""The runs that come with the clone: whole, within the size limit, as good as they say, and their cards current."""

import csv
import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from msgspec import to_builtins
from safetensors import safe_open

from bthub import cli, project
from bthub.data.splits import patient_split
from bthub.evaluation import cross_validation, per_image, two_stage
from bthub.evaluation.scoring import measure, rounded
from bthub.metrics.info import readable
from bthub.reports import model_card, tables
from bthub.runs import folder, records
from bthub.runs.folder import CLASSIFICATION, METRICS, RunFolder

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
RESULTS = REPOSITORY / "results"


@pytest.fixture(scope="module")
def runs(shipped_runs) -> list[RunFolder]:
    return [RunFolder.open(run) for run in shipped_runs]


def test_weights_are_small_and_in_half_precision(runs):
    files = [run.path / folder.WEIGHTS for run in runs]
    assert sum(file.stat().st_size for file in files) < 60e6
    for file in files:
        with safe_open(file, "pt") as weights:
            types = {weights.get_slice(key).get_dtype() for key in weights.keys()}
        assert types <= {"F16", "I64"}, file


def test_a_new_clone_serves_them_without_torch(runs):
    """The eight-bit networks are measured, and of these weights: without them the apps would need torch."""
    for run in runs:
        assert run.onnx.weights == run.revision and run.quantized_ships(), f"make onnx: {run.id}"


def test_nothing_of_the_benchmark_or_the_test_split_was_given_to_a_run(runs):
    for run in runs:
        assert run.training.protocol == "patient"
        for row in run.rows(folder.SPLIT):
            assert row["split"] in ("train", "validation")
            # A picture of another set than LGG names no patient.
            assert not row["patient_id"] or patient_split(row["patient_id"]) == row["split"]
        if run.sources:
            given = {row["file"] for row in run.rows(folder.SPLIT)}
            assert not given & {row["file"] for row in run.predictions("mix/test")}


def test_each_run_has_the_samples_that_it_was_given():
    """Also where runs share the file that lists them, which is there once."""
    own = {}
    for run in map(records.open_run, project.shipped_runs()):
        rows = run.rows(folder.SPLIT)
        for name, split in run.training.dataset.splits.items():
            given = [row for row in rows if row["split"] == name]
            assert len(given) == split.rows, f"{run.id}, {name}"
            if split.patients is not None:
                assert len({row["patient_id"] for row in given} - {""}) == split.patients, f"{run.id}, {name}"
        if run.path.parent.name == project.COMPARISON and run.split_file.parent == run.path:
            content = run.split_file.read_bytes()
            assert content not in own, f"{run.id} and {own[content]} hold the same file: move it to {folder.SPLITS}/"
            own[content] = run.id


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "runs").rglob("*.py")), ids=lambda file: f"{file.parent.name}/{file.name}"
)
def test_remote_code_is_that_of_the_package(file: Path):
    """A clone's folder must answer as the package does: mends of a network's code reach the runs too."""
    (source,) = (REPOSITORY / "src" / "bthub" / "models").glob(f"*/{file.name}")
    assert file.read_text() == source.read_text(), f"copy {source.relative_to(REPOSITORY)} to {file.parent.name}"


def test_metrics_follow_from_the_predictions(runs):
    for run in runs:
        assert "patient/test" in run.metrics and "patient/validation" in run.metrics
        for key, entry in run.metrics.items():
            assert entry.weights == run.revision, f"{key} was measured with other weights"
            again = measure(run.predictions(key), entry)
            written = json.loads((run.path / METRICS).read_text())[key]
            assert rounded({name: written[name] for name in again}) == rounded(to_builtins(again))


def test_the_pair_is_useful(runs):
    """The least that is shipped; what the runs reach is in their cards."""
    detector, localizer = (run.metrics["patient/test"].metrics for run in runs)
    assert detector["roc_auc"].value >= 0.95
    assert localizer["dice_volume_mean"].value >= 0.75


def test_the_page_on_stacks_has_the_figures_of_cleaning():
    page = (REPOSITORY / "docs" / "inputs.md").read_text(encoding="utf-8")
    found = json.loads((RESULTS / "stack-cleaning-patient.json").read_text(encoding="utf-8"))
    assert found["command"] in page
    for split in ("validation", "test"):
        part = found[split]
        dice = [f"{part[how]['dice_volume_mean']['value']:.3f}" for how in ("without", "with")]
        cells = [split, *dice, str(part["removed_tumor_free"]), str(part["removed_tumor"])]
        assert f"| {' | '.join(cells)} |" in page


def test_outside_of_the_referral_band_few_are_wrong():
    """What the card promises holds for the predictions of the weights as saved."""
    for run in map(records.open_run, project.shipped_runs()):
        band = run.task == CLASSIFICATION and run.detector_calibration.referral_band
        if not band:
            continue
        scores = per_image.detector_scores(run, next(e for e in records.evaluations(run) if e.split == "validation"))
        left = per_image.review(scores, *band)
        tumor = int(scores.is_tumor.sum())
        # One slice more: the temperature is rounded with the last layer's weights, and the band ends at slices.
        error = run.detector_calibration.referral_error
        assert left["fn"] <= error * tumor + 1, run.id
        assert left["fp"] <= error * (len(scores.is_tumor) - tumor) + 1, run.id


def test_times_were_taken_together():
    """One network at one size takes one time: runs that were timed on machines in other states don't compare."""
    times: dict[tuple, list[float]] = {}
    for run in map(records.open_run, project.shipped_runs()):
        same = records.network(run), run.cost.image_size, run.cost.multiply_adds
        times.setdefault(same, []).append(run.cost.latency_ms)
    for network, found in times.items():
        assert max(found) <= 1.3 * min(found), f"bthub cost runs/*: {network} took {min(found)} to {max(found)} ms"


def current(file: Path, text: str) -> None:
    """Fail in a sentence where a committed file isn't what is rendered now."""
    if not file.is_file() or file.read_text() != text:
        pytest.fail(
            f"{file.relative_to(REPOSITORY)} isn't what the runs' files give: run make artifacts", pytrace=False
        )


@pytest.mark.artifacts
def test_only_the_default_pair_says_that_it_is():
    for run in project.shipped_runs():
        text = (REPOSITORY / "model_cards" / f"{run.name}.md").read_text()
        assert ("of its two stages" in text) == (run.name in project.DEFAULTS.values())


@pytest.mark.artifacts
def test_cards_are_current():
    """Of all runs, and of no others: a card needs no weights."""
    cards = REPOSITORY / "model_cards"
    for run in map(records.open_run, project.shipped_runs()):
        if run.id in project.DEFAULTS.values():
            current(run.path / folder.CARD, model_card.render(run.path))
        current(cards / f"{run.id}.md", model_card.copy_of(run.path, cards))
    left = {card.stem for card in cards.glob("*.md")} - {run.name for run in project.shipped_runs()}
    assert not left, f"model_cards/ has cards of runs that aren't there: {', '.join(sorted(left))}"


@pytest.mark.artifacts
def test_results_are_current(tmp_path):
    """What `make results` has written is what the runs give."""
    shipped = [records.open_run(path) for path in project.shipped_runs()]
    tables.write(shipped, tmp_path)
    for file in tmp_path.iterdir():
        current(RESULTS / file.name, file.read_text())
    by_name = {run.id: run for run in shipped}
    for file in RESULTS.glob("two-stage-*.json"):
        entry = json.loads(file.read_text())
        pair = (by_name[entry[stage]["name"]] for stage in ("detector", "localizer"))
        assert entry == to_builtins(two_stage.two_stage(*pair, split=entry["split"])), f"make results: {file.name}"
    entry = json.loads((RESULTS / "cross-validation.json").read_text())
    again = cross_validation.cross_validation([by_name[fold["name"]] for fold in entry["runs"]])
    assert entry == to_builtins(again), "make results: cross-validation.json"


def test_metrics_of_the_pages_are_measured(runs):
    """Each number of the tables is that of `metrics.json` or of `results/`, rounded to the digits shown."""
    measured = {}
    for run in runs:
        measured |= to_builtins(run.metrics["patient/test"].metrics)
    joined = json.loads((RESULTS / "two-stage-patient-test.json").read_text())["metrics"]
    measured |= {f"two-stage {name}": value for name, value in joined.items()}
    folds = json.loads((RESULTS / "cross-validation.json").read_text())
    measured |= {f"cross-validation {name}": value for name, value in folds["metrics"].items()}
    for page, least in ((README, 6), (REPOSITORY / "docs" / "evaluation.md", 10)):
        rows = re.findall(
            r"^\| .*? \| `([\w -]+)` \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", page.read_text(), re.MULTILINE
        )
        assert len(rows) >= least
        for name, *shown in rows:
            for text, end in zip(shown, ("value", "low", "high"), strict=True):
                assert text == f"{measured[name][end]:.3f}", f"{page.name}, {name}: {end}"
    assert f"The five folds test each of {folds['groups']} patients once" in page.read_text()


def test_the_comparison_of_the_readme_is_measured():
    """Its table is that of `results/`, and what is said below it follows from the intervals."""
    text = README.read_text()
    table = re.search(r"<!-- comparison -->\n(.*?)<!-- /comparison -->", text, re.DOTALL)[1]
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()[2:]]
    assert [row[0].partition("]")[0] for row in rows] == [
        "[EfficientNet-Lite0",
        "[ResNet-18",
        "[EfficientNet-B0",
        "[VGG16",
    ]
    names = [re.search(r"model_cards/([\w-]+)\.md", row[0])[1] for row in rows]
    with (RESULTS / "compare-lgg-patient-test-classification.csv").open() as file:
        measured = {row["model"]: row for row in csv.DictReader(file)}
    with (RESULTS / "differences-lgg-patient-test-classification.csv").open() as file:
        behind = {
            row["model"]: row
            for row in csv.DictReader(file)
            if row["metric"] == "roc_auc" and row["best"] == names[0] and row["model"] in names
        }
    assert set(behind) == set(names[1:])
    for name, (_, auc, difference, found, alarms, parameters, milliseconds) in zip(names, rows, strict=True):
        row = {key: float(value) for key, value in measured[name].items() if key.startswith(("roc_auc", "re", "spec"))}
        assert auc == f"{row['roc_auc']:.3f} ({row['roc_auc_low']:.3f} to {row['roc_auc_high']:.3f})"
        if name in behind:
            value, low, high = (float(behind[name][key]) for key in ("difference", "low", "high"))
            assert difference == f"{value:.3f} ({low:.3f} to {high:.3f})"
        assert found == f"{row['recall']:.1%}"
        assert alarms == f"{1 - row['specificity']:.1%}"
        assert parameters == f"{int(measured[name]['parameters']) / 1e6:.1f} M"
        assert milliseconds == f"{float(measured[name]['latency_ms']):.0f}"
    assert measured[names[0]]["samples"] in text and f"{measured[names[0]]['groups']} patients" in text
    noise = [float(behind[name]["low"]) <= 0 for name in names[1:]]
    assert noise == [True, True, False], "the sentence below the README's table no longer holds"


@pytest.mark.parametrize("page", ["README.md", "docs/usage.md"])
def test_the_snippets_print_what_is_shown(page, monkeypatch, capsys):
    """The Python lines that run in the clone, as a new user would type them, print what stands below them.

    Numbers may differ by a fiftieth: backends round differently.
    """
    monkeypatch.chdir(REPOSITORY)
    blocks = re.findall(
        r"```python\n((?:(?!```).)*)```\n\n```text\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL
    )
    assert len(blocks) == 2
    names: dict = {}
    for code, shown in blocks:
        exec(code, names)
        printed = re.sub(r" at 0x\w+", "", capsys.readouterr().out)
        number = r"\d+(?:\.\d+)?(?:e-\d+)?"
        assert re.sub(number, "N", printed) == re.sub(number, "N", shown)
        for one, other in zip(re.findall(number, printed), re.findall(number, shown), strict=True):
            assert float(one) == pytest.approx(float(other), rel=0.02, abs=0.001)
    result = names["result"]
    assert result.label == "tumor" and result.area_px > 0 and result.mask.shape == (result.height, result.width)
    json.dumps(result.to_dict())


def test_the_command_of_the_readme_prints_what_is_shown(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    command, shown = re.search(
        r"```sh\nbthub (predict .*?)\n```\n\n```text\n(.*?)```", README.read_text(), re.DOTALL
    ).groups()
    assert cli.main(command.split()) == 0
    printed = capsys.readouterr().out
    for one, other in zip(printed.split(), shown.split(), strict=True):
        pair = [re.sub(r"[^\d.]", "", word) for word in (one, other)]
        assert one == other or float(pair[0]) == pytest.approx(float(pair[1]), rel=0.02)


def test_every_published_model_tells_its_metrics_and_license():
    """The metadata of all runs with weights, and of the two-stage repo, whose numbers are those of `results/`."""
    for run in map(records.open_run, project.shipped_runs()):
        if not (run.path / folder.WEIGHTS).is_file():
            continue
        data = ModelCard(model_card.render(run.path, figures=False)).data
        assert data.license == "cc-by-nc-sa-4.0" and data.metrics and data.eval_results, run.id
        assert {result.dataset_split for result in data.eval_results} == {"test"}
    pair = {stage: RunFolder.open(project.SHIPPED_RUNS / name) for stage, name in project.DEFAULTS.items()}
    data = ModelCard(model_card.render_two_stage(**pair, commits=dict.fromkeys(pair, "0" * 40))).data
    assert data.license == "cc-by-nc-sa-4.0" and data.model_name == project.TWO_STAGE
    found = {(result.task_type, result.metric_name): result.metric_value for result in data.eval_results}
    together = json.loads((RESULTS / "two-stage-patient-test.json").read_text())["metrics"]
    alone = to_builtins(pair["detector"].metrics["patient/test"].metrics)
    expected = {("image-classification", name): alone[name] for name in model_card.HEADLINE["image-classification"]}
    expected |= {("image-segmentation", name): together[name] for name in model_card.TWO_STAGE_HEADLINE}
    assert found == {(task, readable(name)): round(entry["value"], 4) for (task, name), entry in expected.items()}


def test_links_of_the_pages_lead_somewhere():
    """Each relative link of the README and of docs/ names a file of the repository."""
    pages = [README, *sorted((REPOSITORY / "docs").rglob("*.md")), REPOSITORY / "CONTRIBUTING.md"]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
