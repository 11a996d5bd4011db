"""What pooling several sources hides: a detector that recognizes the source looks as if it recognized the tumor."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bthub.errors import BthubError
from bthub.runs.folder import PREDICTIONS, RunFolder
from bthub.runs.records import Row, name, reading

PREDICTED = "mix-{split}.csv"


class Pooled(NamedTuple):
    """A detector's ROC AUC over all sources together, and what a guess reaches that knows nothing but the source.

    Attributes:
        auc: of the detector's probabilities over all pictures.
        knows: of the share of tumors in the source that a picture comes from, taken for its probability.
        rows: of each source `source`, `images`, `tumor`, and its `share` of tumors.
    """

    auc: float
    knows: float
    rows: list[Row]


def predicted(run: RunFolder, split: str = "test") -> list[dict[str, str]]:
    """What a run said of each picture of a mixture: `source`, `view`, `file`, `group`, `label`, `p_tumor`.

    The probability is calibrated for the kind of the picture, as for the figures in `sources.json`.

    Raises:
        BthubError: the run wasn't measured on a mixture.
    """
    file = PREDICTED.format(split=split)
    if not (run.path / PREDICTIONS / file).is_file():
        raise BthubError(
            f"{name(run)} has no {PREDICTIONS}/{file}: "
            f"bthub evaluate {run.path} --data data/mix --split {split} writes it"
        )
    rows = run.rows(f"{PREDICTIONS}/{file}")
    with reading(run, f"{PREDICTIONS}/{file}"):
        points = run.detector_calibration.points
        return [
            {**row, "p_tumor": repr(points.get(row["kind"], points[None]).calibrate(float(row["p_tumor"])))}
            for row in rows
        ]


def once(rows: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Each picture once: of those that were shown in several ways the first way."""
    first: dict[str, str] = {}
    return [row for row in rows if first.setdefault(row["source"], row["view"]) == row["view"]]


def pooled(run: RunFolder, rows: Sequence[Mapping[str, str]]) -> Pooled:
    """The figures of all sources together.

    Args:
        run: whose rows they are, for messages.
        rows: of `predicted`, each picture once.

    Raises:
        BthubError: there is one kind of picture only, or a column is missing.
    """
    from sklearn.metrics import roc_auc_score

    with reading(run, f"{PREDICTIONS}/{PREDICTED.format(split='test')}"):
        tumor = np.array([row["label"] == "tumor" for row in rows])
        p = np.array([float(row["p_tumor"]) for row in rows])
        source = np.array([row["source"] for row in rows])
    if tumor.all() or not tumor.any():
        raise BthubError(f"{name(run)}: an AUC needs pictures with and without tumor")
    shares = {each: float(tumor[source == each].mean()) for each in dict.fromkeys(source)}
    lines: list[Row] = [
        {
            "source": each,
            "images": int((source == each).sum()),
            "tumor": int(tumor[source == each].sum()),
            "share": share,
        }
        for each, share in shares.items()
    ]
    guess = np.array([shares[each] for each in source])
    return Pooled(float(roc_auc_score(tumor, p)), float(roc_auc_score(tumor, guess)), lines)


def within(run: RunFolder, split: str = "test") -> list[Row]:
    """The ROC AUC within each source and way to show it, with its interval, as `sources.json` has it.

    Returns:
        `source`, `value`, `low`, `high`, `images`, `tumor`.
    """
    return [
        {"source": source, "images": part.samples, "tumor": part.tumor, **part.metrics["roc_auc"].as_row()}
        for source, part in run.sources[split].by_source.items()
        if part.metrics["roc_auc"].value is not None
    ]


def crossed(rows: Sequence[Mapping[str, str]]) -> list[Row]:
    """How often a tumor picture of one source gets a higher probability than a healthy picture of another: 0 to 1.

    Where the sources are the same that is the AUC within it; a detector that knows the tumor does as well across
    sources, one that knows the source does better or worse, by which of the two has more tumors.

    Args:
        rows: of `predicted`, each picture once.

    Returns:
        `tumor_from`, `healthy_from`, `value`, and the `pairs` that were compared.
    """
    p: dict[tuple[str, bool], list[float]] = {}
    for row in rows:
        p.setdefault((row["source"], row["label"] == "tumor"), []).append(float(row["p_tumor"]))
    sources = list(dict.fromkeys(source for source, _ in p))
    found: list[Row] = []
    for one in sources:
        for other in sources:
            high, low = np.array(p.get((one, True), [])), np.sort(np.array(p.get((other, False), [])))
            if len(high) == 0 or len(low) == 0:
                continue
            below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
            value = float(below.mean() / 2 / len(low))
            found.append({"tumor_from": one, "healthy_from": other, "value": value, "pairs": len(high) * len(low)})
    return found
