"""What the published systems report, and which runs here can be held against it."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml

from bthub.compare import confusion, entry, evaluations, figures, initialisation, network
from bthub.run_folder import CLASSIFICATION, RunFolder

PAPERS = Path(__file__).with_name("papers.yaml")


@cache
def reported() -> dict[str, dict]:
    """The five systems and the references: what each reports, from the committed file."""
    return yaml.safe_load(PAPERS.read_text(encoding="utf-8"))


def recipe_of(run: str) -> str | None:
    """The paper whose recipe a run follows: the name of its row begins with the paper's key. None for any other."""
    return next((paper for paper in reported() if run.startswith(f"{paper}-")), None)


def measured_like(figure: dict, runs: Iterable[RunFolder]) -> Iterator[tuple[RunFolder, str, dict]]:
    """What was measured here that a reported figure can be held against.

    Args:
        figure: of a paper, with `like`: the task, networks, classes and metric of comparable runs.

    Yields:
        Run, protocol, and the interval of the metric, on test splits, or on the split that `like` names.
    """
    like = figure["like"]
    for run in runs:
        if run.task != like["task"] or not any(known in network(run) for known in like["networks"]):
            continue
        if "start" in like and (initialisation(run) == "random") != (like["start"] == "random"):
            continue
        for evaluation in evaluations(run):
            found = figures(run, evaluation)
            if evaluation.split != like.get("split", "test") or like["metric"] not in found:
                continue
            # The classes tell the data sets apart: their names are up to who built them.
            if run.task == CLASSIFICATION and len(confusion(run, evaluation)[0]) != like.get("classes", 2):
                continue
            if ("patients" in entry(run, evaluation)["dataset"]) == like["by_patient"]:
                yield run, evaluation.protocol, found[like["metric"]]
