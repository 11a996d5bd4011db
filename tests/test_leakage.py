"""The split by slice beside the split by patient: which runs make a pair, and how many slices leak."""

from pathlib import Path

from records import image_folder_run, variant

from bthub import compare, leakage
from bthub.run_folder import RunFolder


def test_leakage_pairs_take_the_closest_recipe(detector: RunFolder, localizer: RunFolder, tmp_path: Path):
    sliced = variant(detector.path, tmp_path / "a-slice", protocol="slice", encoder_from="runs/other-slice")
    distant = variant(detector.path, tmp_path / "distant", epochs=99, learning_rate=1.0, seed=7)
    assert leakage.leakage_pairs([detector, localizer, distant]) == []
    (pair,) = leakage.leakage_pairs([distant, localizer, detector, sliced])
    assert (pair.patient, pair.slice) == (detector, sliced)
    assert pair.differences == []
    (pair,) = leakage.leakage_pairs([distant, sliced])
    assert pair.differences == ["epochs", "learning_rate", "seed"]


def test_an_image_folder_run_is_in_no_leakage_pair(detector: RunFolder, tmp_path: Path):
    sliced = variant(detector.path, tmp_path / "a-slice", protocol="slice")
    pictures = image_folder_run(detector.path, tmp_path / "pictures")
    assert compare.trained_on(pictures) == ("default", "pictures")
    assert leakage.leakage_pairs([pictures, sliced]) == []
    start = {"encoder_from": None, "weights_from": "data/imagenet-vgg16.safetensors"}
    pretrained = variant(detector.path, tmp_path / "pretrained", **start)
    (pair,) = leakage.leakage_pairs([pretrained, sliced])
    assert pair.differences == ["encoder_from", "weights_from"]
    also = variant(detector.path, tmp_path / "also", protocol="slice", **start)
    (pair,) = leakage.leakage_pairs([pretrained, detector, also])
    assert pair.patient is pretrained and pair.differences == []


def test_only_a_split_by_slice_leaks():
    leaking, slices = leakage.with_neighbour_in_train("slice")
    assert leaking / slices > 0.8
    assert leakage.with_neighbour_in_train("patient")[0] == 0
    rows = leakage.split_map()
    assert {row["patient"] for row in rows} == {"train", "validation", "test"} == {row["slice"] for row in rows}
