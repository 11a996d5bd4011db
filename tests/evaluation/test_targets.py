"""Targets: the run that counts is chosen on validation, and a miss says what was tried."""

import json
import re
from pathlib import Path

import pytest
import yaml
from msgspec import to_builtins
from scripts import script

from bthub.errors import BthubError
from bthub.project import SHIPPED_RUNS
from bthub.runs.folder import METRICS, RunFolder, write_json

targets = script("train/targets.py")
BAR = {
    "what": "Detection",
    "among": "image-classification",
    "evaluation": ["lgg", "patient"],
    "metric": "accuracy",
    "goal": 0.9,
    "least": 0.8,
    "tried": "Everything.",
}


def measured(source: RunFolder, folder: Path, validation: float, test: float) -> RunFolder:
    """A run with these accuracies."""
    folder.mkdir(parents=True)
    for name in ("config.json", "cost.json"):
        (folder / name).write_bytes((source.path / name).read_bytes())
    entry = to_builtins(source.metrics["patient/test"])
    write_json(
        folder / METRICS,
        {
            f"patient/{split}": entry
            | {"metrics": entry["metrics"] | {"accuracy": {"value": value, "low": value - 0.1, "high": value + 0.1}}}
            for split, value in (("validation", validation), ("test", test))
        },
    )
    return RunFolder.open(folder, weights=False)


@pytest.fixture
def found(detector: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Renders one bar for runs that are given as name: (validation, test)."""

    def render(bar: dict, **accuracies: tuple[float, float]) -> str:
        (tmp_path / "runs").mkdir(exist_ok=True)
        for name, pair in accuracies.items():
            measured(detector, tmp_path / "runs" / name, *pair)
        (tmp_path / "targets.yaml").write_text(yaml.safe_dump([bar]))
        monkeypatch.setattr(targets, "TARGETS", tmp_path / "targets.yaml")
        return targets.render(tmp_path / "runs", tmp_path)

    return render


def test_the_best_on_validation_counts_not_the_best_on_test(found):
    text = found(BAR, one=(0.7, 0.95), two=(0.75, 0.79))
    assert "| 0.790 (0.690 to 0.890) | two | **-0.010** |" in text
    assert "0 of 1 targets are met" in text
    assert "## Detection (missed by 0.010)\n\nEverything.\n" in text
    # All that competed are shown, in the order of validation.
    assert re.findall(r"^\| (one|two) \| (0.\d+)", text, re.MULTILINE) == [("two", "0.750"), ("one", "0.700")]


def test_a_target_that_is_met_needs_no_words(found):
    text = found({key: value for key, value in BAR.items() if key != "tried"}, one=(0.7, 0.85))
    assert "| 0.850 (0.750 to 0.950) | one | +0.050 |" in text and "1 of 1 targets are met" in text
    assert "(missed by" not in text


def test_lower_can_be_better(found):
    text = found(BAR | {"below": True, "least": 0.5}, one=(0.3, 0.6), two=(0.2, 0.4))
    assert "| under 0.500 | 0.400 (0.300 to 0.500) | two | +0.100 |" in text


def test_another_result_is_told_beside_the_target(found, detector: RunFolder):
    bar = BAR | {"least": 0.5, "also": {"argmax": True, "said": "by the likelier class it is"}}
    value = detector.metrics["patient/test"].argmax["accuracy"].value
    text = found(bar, one=(0.7, 0.85))
    assert f"- Detection: by the likelier class it is {value:.3f} (" in text and "(one)." in text
    assert "| 0.850 (0.750 to 0.950) | one |" in text


def test_a_miss_that_says_nothing_is_an_error(found):
    with pytest.raises(BthubError, match="'Detection' misses its target: say under `tried`"):
        found({key: value for key, value in BAR.items() if key != "tried"}, one=(0.7, 0.7))


def test_a_target_for_a_file_and_one_for_a_run(found, tmp_path):
    interval = {"value": 0.9, "low": 0.85, "high": 0.95}
    (tmp_path / "joined.json").write_text(json.dumps({"metrics": {"accuracy": interval}}))
    plain = {key: value for key, value in BAR.items() if key not in ("among", "evaluation")}
    assert "| 0.900 (0.850 to 0.950) | joined.json | +0.100 |" in found(plain | {"file": "joined.json"})
    text = found(plain | {"run": "one", "evaluation": BAR["evaluation"]}, one=(0.7, 0.8), two=(0.9, 0.9))
    assert "| one | +0.000 |" in text


@pytest.mark.artifacts
def test_the_committed_table_is_current():
    results = SHIPPED_RUNS.parent / "results"
    assert (results / "targets.md").read_text() == targets.render(SHIPPED_RUNS, results), "make results"
