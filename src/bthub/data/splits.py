"""Which patient or slice is in which split: committed tables, also valid for a part of the set.

Protocol `patient` (the default) keeps all slices of a patient in one split. Protocol `slice` is the papers'
stratified random 70 / 15 / 15 over slices; neighboring slices of one patient are then in both training and test, which
is the lesson it is kept for. In both, ten patients form the split `benchmark`: never trained, tuned or selected on.
Protocols `fold-1` to `fold-5` are a cross-validation over the other patients: each is in the test split of one fold.

The tables are data, `split_tables/lgg_patient.csv`, `lgg_slice.csv` and `lgg_folds.csv`. `draw_patient_split`,
`draw_slice_split` and `draw_folds` are how they were drawn; a test draws them again from the full data and compares.
"""

import csv
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bthub.errors import BthubError

PROTOCOLS = ("patient", "slice")
FOLDS = 5
FOLD_PROTOCOLS = tuple(f"fold-{fold}" for fold in range(1, FOLDS + 1))
SPLITS = ("train", "validation", "test", "benchmark")
SEED = 42
TABLES = Path(__file__).parent / "split_tables"

# The validation patients of the U-Net that the data's authors published (papers: Buda, Saha, Mazurowski 2019).
BENCHMARK_PATIENTS = (
    "TCGA_HT_7616_19940813",
    "TCGA_CS_6668_20011025",
    "TCGA_CS_4944_20010208",
    "TCGA_HT_7879_19981009",
    "TCGA_DU_7014_19860618",
    "TCGA_DU_6408_19860521",
    "TCGA_DU_6404_19850629",
    "TCGA_DU_5851_19950428",
    "TCGA_CS_6667_20011105",
    "TCGA_HT_7692_19960724",
)


class SliceFact(NamedTuple):
    """What drawing a split needs to know about one slice."""

    patient_id: str
    slice_index: int
    tumor_pixels: int


def patient_split(patient_id: str) -> str:
    """The split of a patient under protocol `patient`."""
    try:
        return _patient_table()[patient_id]
    except KeyError:
        raise BthubError(
            f"patient {patient_id} is in no split of {TABLES / 'lgg_patient.csv'}: the committed splits cover "
            f"the {len(_patient_table())} patients of LGG MRI Segmentation; remove the folder or add a row"
        ) from None


def slice_split(patient_id: str, slice_index: int) -> str:
    """The split of one slice under protocol `slice`; all slices of the benchmark patients are `benchmark`."""
    if patient_id in BENCHMARK_PATIENTS:
        return "benchmark"
    try:
        return slice_table()[patient_id, slice_index]
    except KeyError:
        raise BthubError(
            f"slice {slice_index} of patient {patient_id} is in no split of {TABLES / 'lgg_slice.csv'}: "
            "it isn't part of LGG MRI Segmentation as published; remove the file or add a row"
        ) from None


def fold_split(patient_id: str, protocol: str) -> str:
    """The split of a patient under one of FOLD_PROTOCOLS."""
    split = patient_split(patient_id)
    if split == "benchmark":
        return split
    places = _fold_table()[patient_id]
    return next((name for name in ("validation", "test") if places[name] == protocol), "train")


def draw_patient_split(slices: Iterable[SliceFact]) -> dict[str, str]:
    """Draw protocol `patient`: about 70 / 15 / 15 over patients, stratified by institution and tumor load.

    Systematic sampling: the patients are put in order of institution, then of tumor load (tumor pixels per slice),
    and cut into 15 consecutive groups of six or seven; each group gives one patient to validation and one to test,
    at random, and the others to train. So every institution and every range of tumor load is met in each split.
    """
    ordered = _by_institution_and_load(slices)
    rng = np.random.default_rng(SEED)
    table = {patient: "benchmark" for patient in BENCHMARK_PATIENTS}
    for group in np.array_split(ordered, 15):
        validation, test = rng.choice(len(group), size=2, replace=False)
        for position, patient in enumerate(group.tolist()):
            table[patient] = {validation: "validation", test: "test"}.get(position, "train")
    return dict(sorted(table.items()))


def draw_slice_split(slices: Iterable[SliceFact]) -> dict[tuple[str, int], str]:
    """Draw protocol `slice`: 70 / 15 / 15 over all slices but the benchmark's, stratified by tumor / no tumor."""
    from sklearn.model_selection import train_test_split

    facts = sorted(fact for fact in slices if fact.patient_id not in BENCHMARK_PATIENTS)
    label = [fact.tumor_pixels > 0 for fact in facts]
    train, rest, _, rest_label = train_test_split(facts, label, train_size=0.7, stratify=label, random_state=SEED)
    validation, test = train_test_split(rest, train_size=0.5, stratify=rest_label, random_state=SEED)
    named = {"train": train, "validation": validation, "test": test}
    return dict(sorted(((f.patient_id, f.slice_index), name) for name, part in named.items() for f in part))


def draw_folds(slices: Iterable[SliceFact]) -> dict[str, dict[str, str]]:
    """Draw the cross-validation: for each patient the fold whose `test`, and perhaps one whose `validation`, it is in.

    The patients, ordered as for protocol `patient`, are cut into groups of five, each patient of a group is given to
    the test split of another fold. Every second group's are in the validation split of the fold before theirs. So of
    100 patients a fold has 20 in test, 10 in validation and 70 in train.
    """
    ordered = _by_institution_and_load(slices)
    rng = np.random.default_rng(SEED)
    table = {}
    for number, start in enumerate(range(0, len(ordered), FOLDS)):
        for patient, fold in zip(ordered[start : start + FOLDS].tolist(), rng.permutation(FOLDS), strict=False):
            validation = FOLD_PROTOCOLS[fold - 1] if number % 2 == 0 else ""
            table[patient] = {"test": FOLD_PROTOCOLS[fold], "validation": validation}
    return dict(sorted(table.items()))


def _by_institution_and_load(slices: Iterable[SliceFact]) -> np.ndarray:
    """The patients, without the benchmark's, in the order of institution, then of tumor pixels per slice."""
    pixels: dict[str, list[int]] = {}
    for fact in slices:
        if fact.patient_id not in BENCHMARK_PATIENTS:
            pixels.setdefault(fact.patient_id, []).append(fact.tumor_pixels)
    return np.array(sorted(pixels, key=lambda patient: (patient.split("_")[1], np.mean(pixels[patient]), patient)))


@cache
def _patient_table() -> dict[str, str]:
    with (TABLES / "lgg_patient.csv").open(newline="", encoding="utf-8") as file:
        return {row["patient_id"]: row["split"] for row in csv.DictReader(file)}


@cache
def slice_table() -> dict[tuple[str, int], str]:
    """The split of each slice but the benchmark's under protocol `slice`, by patient and slice index."""
    with (TABLES / "lgg_slice.csv").open(newline="", encoding="utf-8") as file:
        return {(row["patient_id"], int(row["slice_index"])): row["split"] for row in csv.DictReader(file)}


@cache
def _fold_table() -> dict[str, dict[str, str]]:
    with (TABLES / "lgg_folds.csv").open(newline="", encoding="utf-8") as file:
        return {row.pop("patient_id"): row for row in csv.DictReader(file)}
