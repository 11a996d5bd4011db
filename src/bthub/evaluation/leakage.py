"""The same network under two splits: how much a test set that shares patients with training overstates results."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bthub.data.splits import patient_split, slice_table
from bthub.runs.folder import RunFolder
from bthub.runs.records import Row, imagenet_file, initialization, network, trained_on

LENGTH = {"epochs", "patience", "image_sizes"}
"""Settings of how long a run was trained, and at what size."""


class Pair(NamedTuple):
    """The same model under both protocols, and what else differs between the two recipes."""

    network: str
    patient: RunFolder
    slice: RunFolder
    differences: list[str]

    @property
    def comparable(self) -> bool:
        """Whether at most the training's length differs: where more does, a gap says nothing of the protocol."""
        return LENGTH.issuperset(self.differences)


def leakage_pairs(runs: Iterable[RunFolder]) -> list[Pair]:
    """Each run split by slice with the run split by patient that has the most similar recipe.

    Both are of one network, were trained on one data set, and start from random weights, or neither does; a run without
    such a partner is in no pair.
    """
    by_protocol: dict[str, list[RunFolder]] = {"patient": [], "slice": []}
    for run in runs:
        by_protocol.get(trained_on(run)[0], []).append(run)
    pairs = []
    for other in by_protocol["slice"]:
        same = [run for run in by_protocol["patient"] if _kind(run) == _kind(other)]
        if same:
            closest = min(same, key=lambda run: len(_differences(run, other)))
            pairs.append(Pair(network(other), closest, other, _differences(closest, other)))
    return pairs


def _kind(run: RunFolder) -> tuple[str, str, str, bool]:
    return run.task, trained_on(run)[1], network(run), initialization(run) == "random"


def _differences(one: RunFolder, other: RunFolder) -> list[str]:
    # What a slice run starts from is itself trained on the slice protocol: another name, not another recipe.
    a, b = ({**run.training.config} for run in (one, other))
    for config in (a, b):
        for key in ("encoder_from", "weights_from"):
            source = config.get(key)
            config[key] = source and (Path(source).name if imagenet_file(source) else "another run")
        for key in ("protocol", "workers"):  # how many processes read the images is no matter of the recipe
            config.pop(key, None)
    # A key that one lacks came later, with a default that does what was done before.
    return sorted(key for key in a.keys() & b.keys() if a[key] != b[key])


def split_map() -> list[Row]:
    """Every slice of the committed splits: `patient_id`, `slice_index`, and its split under `patient` and `slice`."""
    return [
        {"patient_id": patient, "slice_index": index, "slice": split, "patient": patient_split(patient)}
        for (patient, index), split in slice_table().items()
    ]


def with_neighbor_in_train(protocol: str) -> tuple[int, int]:
    """Of the test slices of a protocol: how many have a neighboring slice (one up or down) in train, and how many
    there are."""
    where = {(line["patient_id"], line["slice_index"]): line[protocol] for line in split_map()}
    test = [key for key, split in where.items() if split == "test"]
    leaking = [
        (patient, index)
        for patient, index in test
        if "train" in (where.get((patient, index - 1)), where.get((patient, index + 1)))
    ]
    return len(leaking), len(test)
