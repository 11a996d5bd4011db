"""The committed splits: disjoint, complete, stratified, and what drawing them from the full data gives."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bthub.data import splits
from bthub.data.dataset import load_split
from bthub.errors import BthubError


def test_patient_table():
    table = splits._patient_table()
    assert Counter(table.values()) == {"train": 70, "validation": 15, "test": 15, "benchmark": 10}
    assert {p for p, split in table.items() if split == "benchmark"} == set(splits.BENCHMARK_PATIENTS)
    # Each institution with at least five patients is met in train, validation and test.
    institutions = Counter(p.split("_")[1] for p, split in table.items() if split != "benchmark")
    for institution in (name for name, count in institutions.items() if count >= 10):
        assert {split for p, split in table.items() if p.split("_")[1] == institution} >= set(splits.SPLITS[:3])


def test_slice_table():
    table = splits.slice_table()
    shares = {name: count / len(table) for name, count in Counter(table.values()).items()}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.001)
    assert not {patient for patient, _ in table} & set(splits.BENCHMARK_PATIENTS)
    assert {patient for patient, _ in table} | set(splits.BENCHMARK_PATIENTS) == set(splits._patient_table())
    # This is the lesson of the protocol: patients stand on both sides.
    sides = {}
    for (patient, _), split in table.items():
        sides.setdefault(patient, set()).add(split)
    assert sum("train" in s and "test" in s for s in sides.values()) > 60


def test_folds_test_each_patient_once():
    table = splits._fold_table()
    assert table.keys() == {p for p, split in splits._patient_table().items() if split != "benchmark"}
    tested = Counter()
    for protocol in splits.FOLD_PROTOCOLS:
        of = {patient: splits.fold_split(patient, protocol) for patient in table}
        assert Counter(of.values()) == {"train": 70, "validation": 10, "test": 20}
        tested.update(patient for patient, split in of.items() if split == "test")
        for institution in ("CS", "DU", "FG", "HT"):
            assert {split for p, split in of.items() if p.split("_")[1] == institution} == {*splits.SPLITS[:3]}
        assert splits.fold_split(splits.BENCHMARK_PATIENTS[0], protocol) == "benchmark"
    assert tested == dict.fromkeys(table, 1)


def test_a_fold_is_made_of_what_is_there(tiny_lgg):
    patients = {row["patient_id"] for split in ("train", "validation", "test") for row in load_split(tiny_lgg, split)}
    for protocol in splits.FOLD_PROTOCOLS:
        parts = {split: load_split(tiny_lgg, split, protocol) for split in ("train", "validation", "test")}
        for split, rows in parts.items():
            assert {splits.fold_split(p, protocol) for p in rows["patient_id"]} <= {split}
            keys = list(zip(rows["patient_id"], rows["slice_index"], strict=True))
            assert keys == sorted(keys)
        assert {p for rows in parts.values() for p in rows["patient_id"]} == patients
    with pytest.raises(BthubError, match="unknown protocol 'fold-6'"):
        load_split(tiny_lgg, "test", "fold-6")


def test_lookups():
    assert splits.patient_split("TCGA_CS_4944_20010208") == "benchmark"
    assert splits.slice_split("TCGA_CS_4944_20010208", 999) == "benchmark"
    with pytest.raises(BthubError, match="TCGA_XX_0000_20000101 is in no split"):
        splits.patient_split("TCGA_XX_0000_20000101")
    with pytest.raises(BthubError, match="slice 999 of patient TCGA_CS_4941_19960909"):
        splits.slice_split("TCGA_CS_4941_19960909", 999)


def test_drawing_is_stratified():
    """On made-up patients: validation and test have the range of tumor loads, and no benchmark patient is drawn."""
    rng = np.random.default_rng(0)
    facts = [
        splits.SliceFact(f"TCGA_{place}_{number:04}_2000", index, int(rng.integers(0, 2) * number * 10))
        for place in ("AA", "BB", "CC")
        for number in range(50)
        for index in range(1, 9)
    ]
    facts += [splits.SliceFact(splits.BENCHMARK_PATIENTS[0], index, 5) for index in range(1, 9)]
    table = splits.draw_patient_split(facts)
    drawn = {p: s for p, s in table.items() if p not in splits.BENCHMARK_PATIENTS}
    assert Counter(drawn.values()) == {"train": 120, "validation": 15, "test": 15}
    for split in ("validation", "test"):
        numbers = sorted(int(p.split("_")[2]) for p, s in drawn.items() if s == split)
        assert numbers[0] < 15 and numbers[-1] > 35
    slices = splits.draw_slice_split(facts)
    assert len(slices) == 1200
    tumor = {(f.patient_id, f.slice_index): f.tumor_pixels > 0 for f in facts}
    shares = [np.mean([tumor[key] for key, s in slices.items() if s == split]) for split in splits.SPLITS[:3]]
    assert max(shares) - min(shares) < 0.01
    assert splits.draw_slice_split(reversed(facts)) == slices


@pytest.mark.slow
def test_committed_tables_are_what_the_data_gives():
    source = os.environ.get("BTHUB_LGG")
    if source is None:
        pytest.skip("BTHUB_LGG doesn't name the Kaggle folder")
    facts = [
        splits.SliceFact(
            mask.parent.name,
            int(mask.name.removesuffix("_mask.tif").rsplit("_", 1)[1]),
            int(np.count_nonzero(np.asarray(Image.open(mask)))),
        )
        for mask in Path(source).glob("*/*_mask.tif")
    ]
    assert splits.draw_patient_split(facts) == splits._patient_table()
    assert splits.draw_slice_split(facts) == splits.slice_table()
    assert splits.draw_folds(facts) == splits._fold_table()
