"""Compare the results with the targets in targets.yaml, and say what was tried where a target was missed.

`python train/targets.py` writes results/targets.md.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from bthub.data.views import View
from bthub.errors import BthubError, report_errors
from bthub.evaluation.source_metrics import MIX
from bthub.metrics.classification import calibration_error_by_chance
from bthub.metrics.interval import Interval
from bthub.project import SHIPPED_RUNS
from bthub.runs import records
from bthub.runs.folder import CONFIG, METRICS, RunFolder
from bthub.runs.records import Evaluation

TARGETS = Path(__file__).with_name("targets.yaml")
RESULTS = SHIPPED_RUNS.parent / "results"


class Measured(NamedTuple):
    """A result on a test split and its source; `candidates` are the runs it was chosen from, best on validation
    first."""

    source: str
    test: Interval
    candidates: list[tuple[str, Interval, Interval]]


def main() -> None:
    (RESULTS / "targets.md").write_text(render(SHIPPED_RUNS, RESULTS), encoding="utf-8")


def render(runs: Path, results: Path) -> str:
    """The table of targets; for each one missed, by how much and what was tried."""
    bars = yaml.safe_load(TARGETS.read_text(encoding="utf-8"))
    opened = [
        records.open_run(path)
        for path in sorted(runs.rglob(METRICS))
        if (path.parent / CONFIG).is_file()
        for path in [path.parent]
    ]
    found = [measure(bar, opened, results) for bar in bars]
    lines = [
        "# Targets and results\n",
        "The targets were set beforehand. Below the table is what was tried for each that was missed.\n",
        "Written by `train/targets.py` from `train/targets.yaml` and the files of the runs. All results are on "
        "test splits, with 95% intervals that resample patients, or pictures where "
        "a set doesn't name patients. Where several runs could meet a target, the one that is best on "
        "validation counts, not the one that is best on test. The margin is the distance to the target; negative "
        "means missed. Research software, not a medical device.\n",
        "| | published | ambition | target | result | run or file | margin |",
        "| --- | ---: | ---: | ---: | --- | --- | ---: |",
    ]
    missed = []
    for bar, one in zip(bars, found, strict=True):
        value, least = one.test.value, bar["least"]
        margin = least - value if bar.get("below") else value - least
        if margin < 0:
            missed.append((bar, one, margin))
        sign = "under " if bar.get("below") else ""
        lines.append(
            f"| {bar['what']} | {published(bar)} | {sign}{plain(bar['goal'])} | {sign}{plain(bar['least'])} "
            f"| {one.test:.3f} | {one.source} | {f'{margin:+.3f}' if margin >= 0 else f'**-{missed_by(margin)}**'} |"
        )
    lines[1] = f"{len(bars) - len(missed)} of {len(bars)} targets are met. {lines[1]}"
    lines.append("")
    lines += [f"- {bar['what']}: {bar['note'].strip()}" for bar in bars if "note" in bar]
    for bar in bars:
        if "also" in bar:
            one = measure(bar | bar["also"], opened, results)
            lines.append(f"- {bar['what']}: {bar['also']['said'].strip()} {one.test:.3f} ({one.source}).")
    for bar, one, margin in missed:
        lines += [f"\n## {bar['what']} (missed by {missed_by(margin)})\n", tried(bar) + by_chance(bar, opened)]
        if one.candidates:
            lines += ["\n| run, best on validation first | validation | test |", "| --- | --- | --- |"]
            lines += [f"| {name} | {known:.3f} | {test:.3f} |" for name, known, test in one.candidates]
    return "\n".join(lines) + "\n"


def tried(bar: dict) -> str:
    """What was tried for a missed target."""
    if "tried" not in bar:
        raise BthubError(f"{TARGETS}: {bar['what']!r} misses its target: say under `tried` what was tried")
    return bar["tried"].strip()


def by_chance(bar: dict, runs: list[RunFolder]) -> str:
    """For the calibration error on a source: what part of it the small number of pictures explains."""
    if bar["metric"] != "ece" or "source" not in bar:
        return ""
    (run,) = (run for run in runs if records.name(run) == bar["run"])
    points = run.detector_calibration.points
    probabilities = [
        points.get(line["kind"], points[None]).calibrate(float(line["p_tumor"]))
        for line in run.predictions(f"{MIX}/test")
        if View(0, line["source"], line["view"]).key == bar["source"]
    ]
    chance = calibration_error_by_chance(np.array(probabilities))
    return (
        f" Even a perfectly calibrated detector would have {chance:.3f} on average here, because there are only "
        f"{len(probabilities)} pictures."
    )


def measure(bar: dict, runs: list[RunFolder], results: Path) -> Measured:
    """The result to compare with a target."""
    metric, argmax = bar["metric"], bar.get("argmax", False)
    if "file" in bar:
        found = json.loads((results / bar["file"]).read_text(encoding="utf-8"))[bar.get("part", "metrics")]
        return Measured(bar["file"], Interval(**found[metric]), [])
    if "source" in bar:
        (run,) = (run for run in runs if records.name(run) == bar["run"])
        return Measured(f"{bar['run']}", run.sources["test"].by_source[bar["source"]].metrics[metric], [])
    data, protocol = bar["evaluation"]
    test, validation = (Evaluation(data, protocol, split) for split in ("test", "validation"))
    if "run" in bar:
        (run,) = (run for run in runs if records.name(run) == bar["run"])
        return Measured(bar["run"], records.figures(run, test, argmax)[metric], [])
    candidates = [
        (
            records.name(run),
            records.figures(run, validation, argmax)[metric],
            records.figures(run, test, argmax)[metric],
        )
        for run in runs
        if run.task == bar["among"] and {test, validation} <= set(records.evaluations(run))
    ]
    if not candidates:
        raise BthubError(f"{bar['what']!r} needs a run that was evaluated on {test.key} of {data}; there is none")
    # Ties go to the first by name.
    candidates.sort(key=lambda one: (one[1].value if bar.get("below") else -one[1].value, one[0]))
    return Measured(candidates[0][0], candidates[0][2], candidates)


def published(bar: dict) -> str:
    """A published value and whose it is."""
    return f"{plain(bar['anchor'])} ({bar['by']})" if "anchor" in bar else ""


def missed_by(margin: float) -> str:
    """A negative margin without its sign; with a fourth digit where three would be zeros."""
    return f"{-margin:.3f}" if round(-margin, 3) else f"{-margin:.4f}"


def plain(value: float) -> str:
    return f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(report_errors(main))
