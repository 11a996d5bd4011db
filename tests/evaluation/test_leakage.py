"""The split by slice beside the split by patient: which runs make a pair, and how many slices leak."""

import json
from pathlib import Path

import lgg_pair
from records import image_folder_run, variant

from bthub.evaluation import leakage
from bthub.runs import records
from bthub.runs.folder import TRAINING, RunFolder, write_json

shipped_runs = lgg_pair.shipped_runs


def test_leakage_pairs_take_the_closest_recipe(detector: RunFolder, localizer: RunFolder, tmp_path: Path):
    sliced = variant(detector.path, tmp_path / "a-slice", protocol="slice", encoder_from="runs/other-slice")
    distant = variant(detector.path, tmp_path / "distant", epochs=99, learning_rate=1.0, seed=7)
    assert leakage.leakage_pairs([detector, localizer, distant]) == []
    (pair,) = leakage.leakage_pairs([distant, localizer, detector, sliced])
    assert (pair.patient, pair.slice) == (detector, sliced)
    assert pair.differences == []
    (pair,) = leakage.leakage_pairs([distant, sliced])
    assert pair.differences == ["epochs", "learning_rate", "seed"] and not pair.comparable


def test_keys_that_an_older_run_lacks_are_no_difference(detector: RunFolder, tmp_path: Path):
    random = variant(detector.path, tmp_path / "random", encoder_from=None, optimizer="adamw", schedule="cosine")
    sliced = variant(random.path, tmp_path / "a-slice", protocol="slice", encoder_from="runs/other-slice")
    older = variant(detector.path, tmp_path / "older", epochs=99)
    training = json.loads((older.path / TRAINING).read_text())
    for key in ("optimizer", "schedule", "weights_from", "seed"):
        training["config"].pop(key, None)
    write_json(older.path / TRAINING, training)
    (pair,) = leakage.leakage_pairs([random, records.open_run(older.path), sliced])
    assert (records.name(pair.patient), pair.differences) == ("older", ["epochs"])


def test_a_run_from_random_weights_is_paired_with_such_a_one_or_none(detector: RunFolder, tmp_path: Path):
    random = variant(detector.path, tmp_path / "random", encoder_from=None, epochs=99)
    sliced = variant(detector.path, tmp_path / "a-slice", protocol="slice")
    assert leakage.leakage_pairs([random, sliced]) == []
    sliced_random = variant(detector.path, tmp_path / "b-slice", protocol="slice", encoder_from=None)
    assert leakage.leakage_pairs([detector, sliced_random]) == []
    (pair,) = leakage.leakage_pairs([detector, random, sliced_random])
    assert pair.patient is random and pair.differences == ["epochs"] and pair.comparable


def test_runs_of_different_data_sets_are_no_pair(detector: RunFolder, tmp_path: Path):
    sliced = variant(detector.path, tmp_path / "a-slice", protocol="slice")
    training = json.loads((sliced.path / TRAINING).read_text())
    training["dataset"]["name"] = "mix"
    write_json(sliced.path / TRAINING, training)
    assert leakage.leakage_pairs([detector, records.open_run(sliced.path)]) == []


def test_an_image_folder_run_is_in_no_leakage_pair(detector: RunFolder, tmp_path: Path):
    sliced = variant(detector.path, tmp_path / "a-slice", protocol="slice")
    pictures = image_folder_run(detector.path, tmp_path / "pictures")
    assert records.trained_on(pictures) == ("default", "pictures")
    assert leakage.leakage_pairs([pictures, sliced]) == []
    start = {"encoder_from": None, "weights_from": "data/imagenet-vgg16.safetensors"}
    pretrained = variant(detector.path, tmp_path / "pretrained", **start)
    (pair,) = leakage.leakage_pairs([pretrained, sliced])
    assert pair.differences == ["encoder_from", "weights_from"]
    also = variant(detector.path, tmp_path / "also", protocol="slice", **start)
    (pair,) = leakage.leakage_pairs([pretrained, detector, also])
    assert pair.patient is pretrained and pair.differences == []


def test_only_a_split_by_slice_leaks():
    leaking, slices = leakage.with_neighbor_in_train("slice")
    assert leaking / slices > 0.8
    assert leakage.with_neighbor_in_train("patient")[0] == 0
    rows = leakage.split_map()
    assert {row["patient"] for row in rows} == {"train", "validation", "test"} == {row["slice"] for row in rows}
