"""Published results, and which runs here are comparable."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml

from bthub.metrics.info import readable
from bthub.metrics.interval import Interval
from bthub.runs.folder import CLASSIFICATION, RunFolder
from bthub.runs.records import confusion, entry, evaluations, figures, initialization, network

PAPERS = Path(__file__).with_name("published.yaml")


@cache
def reported() -> dict[str, dict]:
    """The five systems and the references: what each reports, from the committed file.

    Returns:
        Each with `title`, `data`, `split`, `recipe` and `figures`: one a metric, with `what` it is, its `value` (None
        where the paper has none), `like` (see `measured_like`) and a `note`.
    """
    # In C where PyYAML has it: ten times as fast.
    known = yaml.load(PAPERS.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for paper in known.values():
        paper["figures"] = [figure for quoted in paper["figures"] for figure in _figures(quoted)]
    return known


def _figures(quoted: dict) -> Iterator[dict]:
    """One figure for each metric of an entry of the file."""
    for metric, value in quoted["values"].items():
        what = f"{quoted['what']}, {readable(metric)}" if len(quoted["values"]) > 1 else quoted["what"]
        yield {"what": what, "value": value, "like": quoted["like"] | {"metric": metric}, "note": quoted["note"]}


def recipe_of(run: str) -> str | None:
    """The paper whose recipe a run follows: the name of its row begins with the paper's key. None for any other."""
    return next((paper for paper in reported() if run.startswith(f"{paper}-")), None)


def measured_like(figure: dict, runs: Iterable[RunFolder]) -> Iterator[tuple[RunFolder, str, Interval]]:
    """What was measured here that a reported figure can be held against.

    Published classifiers call the likelier class: so do these figures, whatever threshold the run has.

    Args:
        figure: of a paper, with `like`: the task, networks, classes and metric of comparable runs.

    Yields:
        Run, protocol, and the interval of the metric, on test splits, or on the split that `like` names.
    """
    like = figure["like"]
    for run in runs:
        if run.task != like["task"] or not any(known in network(run) for known in like["networks"]):
            continue
        if "start" in like and (initialization(run) == "random") != (like["start"] == "random"):
            continue
        for evaluation in evaluations(run):
            found = figures(run, evaluation, argmax=True)
            if evaluation.split != like.get("split", "test") or like["metric"] not in found:
                continue
            # The classes tell the data sets apart: their names are up to who built them.
            if run.task == CLASSIFICATION and len(confusion(run, evaluation)[0]) != like.get("classes", 2):
                continue
            if (entry(run, evaluation).dataset.patients is not None) == like["by_patient"]:
                yield run, evaluation.protocol, found[like["metric"]]
