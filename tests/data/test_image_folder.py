"""`bthub data build` on image-folder classification sets."""

import re
import shutil
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from bthub.data.build import build
from bthub.data.dataset import load_split
from bthub.data.image_folder import same_pictures, thumbnail
from bthub.errors import BthubError

SEEDS = iter(range(10**9))


def picture(path: Path, seed: int | None = None) -> Path:
    """A small image, different from all others unless a seed is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([next(SEEDS), 1] if seed is None else [seed, 2])
    Image.fromarray(rng.integers(0, 256, (12, 16), np.uint8)).save(path)
    return path


def flat_set(root: Path, yes: int = 60, no: int = 40) -> Path:
    for label, count in (("yes", yes), ("no", no)):
        for i in range(count):
            picture(root / label / f"{label[0].upper()}{i}.{'jpg' if i % 3 else 'png'}")
    return root


def shipped_set(root: Path, train: str = "Training", test: str = "Testing") -> Path:
    for split, count in ((train, 40), (test, 7)):
        for label in ("glioma", "no_tumor", "pituitary"):
            for i in range(count):
                picture(root / split / label / f"{i}.jpg")
    return root


def zip_folder(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, str(file.relative_to(folder)))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def files(out: Path) -> dict[str, set[str]]:
    return {name: set(rows["file"]) for name, rows in datasets.load_dataset(str(out)).items()}


def refusal(source: Path, out: Path) -> str:
    with pytest.raises(BthubError) as caught:
        build(source, out)
    assert not out.exists() and not list(out.parent.glob(".*partial*"))
    return str(caught.value)


def test_a_flat_set_is_split_70_15_15_by_class_and_keeps_the_files_as_they_are(tmp_path):
    source = flat_set(tmp_path / "brains")
    build(source, tmp_path / "out")
    seen = set()
    for streaming in (False, True):
        splits = datasets.load_dataset(str(tmp_path / "out"), streaming=streaming)
        for split, share in {"train": 0.7, "validation": 0.15, "test": 0.15}.items():
            rows = splits[split]
            assert list(rows.features) == ["image", "label", "file", "group", "also_in"]
            assert rows.features["image"] == datasets.Image()
            assert rows.features["label"] == datasets.ClassLabel(names=["no", "yes"])
            rows = list(rows.cast_column("image", datasets.Image(decode=False)))
            assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
            assert Counter(row["label"] for row in rows) == {0: round(40 * share), 1: round(60 * share)}
            for row in rows:
                assert row["image"]["bytes"] == (source / row["file"]).read_bytes()
                assert row["label"] == ["no", "yes"].index(row["file"].split("/")[0])
                seen.add((streaming, row["file"]))
    assert len(seen) == 200


def test_the_split_depends_on_the_files_only(tmp_path):
    source = flat_set(tmp_path / "brains")
    build(source, tmp_path / "a")
    build(source, tmp_path / "b")
    build(zip_folder(source, tmp_path / "brains.zip"), tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "Testing"), ("TRAIN", "TEST")])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_set_with_its_own_test_keeps_it_and_gives_15_percent_of_train_to_validation(tmp_path, train, test, zipped):
    source = shipped_set(tmp_path / "set", train, test)
    build(zip_folder(source, tmp_path / "set.zip") if zipped else source, tmp_path / "out")
    splits = datasets.load_dataset(str(tmp_path / "out"))
    assert set(splits) == {"train", "validation", "test"}
    assert all(file.startswith(f"{test}/") for file in splits["test"]["file"]) and len(splits["test"]) == 21
    assert Counter(splits["validation"]["label"]) == {0: 6, 1: 6, 2: 6}
    assert Counter(splits["train"]["label"]) == {0: 34, 1: 34, 2: 34}
    assert all(file.startswith(f"{train}/") for name in ("train", "validation") for file in splits[name]["file"])
    assert splits["train"].features["label"].names == ["glioma", "no_tumor", "pituitary"]


def test_a_set_with_its_own_validation_keeps_that_too(tmp_path):
    source = shipped_set(tmp_path / "set", "train", "test")
    for label in ("glioma", "no_tumor", "pituitary"):
        picture(source / "val" / label / "0.jpg")
    build(source, tmp_path / "out")
    assert files(tmp_path / "out")["validation"] == {
        "val/glioma/0.jpg",
        "val/no_tumor/0.jpg",
        "val/pituitary/0.jpg",
    }


def test_half_a_split_is_treated_as_none(tmp_path):
    flat_set(tmp_path / "set" / "Training")
    build(tmp_path / "set", tmp_path / "out")
    assert {name: len(names) for name, names in files(tmp_path / "out").items()} == {
        "train": 70,
        "validation": 15,
        "test": 15,
    }


def test_copies_of_a_picture_stay_on_one_side_of_what_is_drawn(tmp_path):
    source = tmp_path / "set"
    for label in ("no", "yes"):
        for seed in range(15):
            path = picture(source / label / f"{seed}-0.png", seed=seed + 100 * (label == "yes"))
            image = Image.open(path).resize((160, 120), Image.Resampling.BICUBIC)
            image.save(path)
            image.convert("RGB").save(path.with_name(f"{seed}-1.png"))
            image.resize((96, 96)).save(path.with_name(f"{seed}-2.jpg"), quality=60)
            image.point(lambda value: 0.7 * value + 20).save(path.with_name(f"{seed}-3.png"))
    build(source, tmp_path / "out")
    sides = defaultdict(set)
    for split, names in files(tmp_path / "out").items():
        for name in names:
            sides[name.split("-")[0]].add(split)
    assert len(sides) == 30 and all(len(splits) == 1 for splits in sides.values())
    assert {split for splits in sides.values() for split in splits} == {"train", "validation", "test"}


def test_duplicates_in_the_publishers_test_are_counted_not_moved(tmp_path):
    source = shipped_set(tmp_path / "set", "train", "test")
    for i in (1, 2):
        image = Image.open(source / "test" / "glioma" / f"{i}.jpg")
        image.point(lambda value: 0.7 * value + 20).save(source / "train" / "glioma" / f"again{i}.png")
    shutil.copy(source / "test" / "glioma" / "3.jpg", source / "train" / "pituitary" / "again3.jpg")
    build(source, tmp_path / "out")
    assert sum(name.startswith("test/") for name in files(tmp_path / "out")["test"]) == 21
    card = (tmp_path / "out" / "README.md").read_text()
    assert "3 of 144 images repeat another one." in card
    shared = [int(n) for n in re.findall(r"(\d+) of 21 images of test are also in (?:train|validation)\.", card)]
    assert len(shared) == 2 and sum(shared) == 3
    # Each row of the publisher's test says where its copy is.
    rows = {split: load_split(tmp_path / "out", split) for split in ("train", "validation", "test")}
    home = {g: split for split in ("validation", "train") for g in rows[split]["group"]}
    assert [home.get(group, "") for group in rows["test"]["group"]] == rows["test"]["also_in"][:]
    assert sum(map(bool, rows["test"]["also_in"])) == 3 and not any(rows["train"]["also_in"])
    assert "1 pictures lie in more than one class." in card


def test_the_nested_copy_that_kaggle_ships_is_read_once(tmp_path):
    source = flat_set(tmp_path / "archive")
    build(source, tmp_path / "alone")
    for label in ("yes", "no"):
        shutil.copytree(source / label, source / "brain_tumor_dataset" / label)
    build(source, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    (source / "brain_tumor_dataset" / "yes" / "Y1.jpg").unlink()
    message = refusal(source, tmp_path / "refused")
    assert str(source / "brain_tumor_dataset") in message and "remove the other" in message


def test_the_card_names_counts_and_that_the_license_is_unknown(tmp_path):
    build(shipped_set(tmp_path / "my set"), tmp_path / "out")
    _, metadata, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(metadata)
    assert metadata["pretty_name"] == "my set" and metadata["license"] == "unknown"
    [config] = metadata["configs"]
    assert config["config_name"] == "default"
    assert [entry["split"] for entry in config["data_files"]] == ["train", "validation", "test"]
    for words in (
        "141 images of 3 classes (glioma, no_tumor, pituitary)",
        "| train | 34 | 34 | 34 | 102 |",
        "| test | 7 | 7 | 7 | 21 |",
        "bthub does not redistribute",
        "0 of 21 images of test are also in train.",
        "not a medical device",
    ):
        assert words in text
    assert "{{" not in text and "{%" not in text and str(tmp_path) not in text


def test_load_split_takes_no_notice_of_the_protocol(tmp_path):
    build(flat_set(tmp_path / "set"), tmp_path / "out")
    by_patient, by_slice = (load_split(tmp_path / "out", "test", protocol=name) for name in ("patient", "slice"))
    assert by_patient["file"][:] == by_slice["file"][:] and len(by_patient) == 15
    with pytest.raises(BthubError, match="no split 'benchmark'; choose one of train, validation, test"):
        load_split(tmp_path / "out", "benchmark")


def test_thumbnails_know_a_copy_and_tell_pictures_apart():
    rng = np.random.default_rng(0)
    one, other = (
        Image.fromarray(rng.integers(0, 256, (16, 12), np.uint8)).resize((240, 320), Image.Resampling.BICUBIC)
        for _ in range(2)
    )
    gray = np.asarray(one)
    copies = [one, one.convert("RGB"), one.convert("P"), one.resize((100, 130)), Image.fromarray(gray // 2 + 30)]
    # More than 8 bits: Pillow alone would clip these to white.
    copies += [Image.fromarray(gray.astype(np.uint16) * 200), Image.fromarray(gray.astype(np.int32) * 200)]
    # With a dark margin, and with another one.
    copies += [ImageOps.expand(one, margin) for margin in ((20, 5, 40, 15), (0, 60, 10, 0))]
    others = [other, one.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    blank = [Image.new("L", (50, 50), value) for value in (0, 7)]
    groups = same_pictures([thumbnail(image) for image in [*copies, *others, *blank]])
    assert groups == [0] * len(copies) + [1, 2, 3, 3]
    assert all(np.linalg.norm(thumbnail(image), axis=1) == pytest.approx([1, 1], abs=1e-5) for image in copies)


# -- unlike another set


def test_what_resembles_another_set_is_left_out(tmp_path):
    flat_set(tmp_path / "other")
    build(tmp_path / "other", tmp_path / "other-built")
    root = shipped_set(tmp_path / "set")
    # One of each split of the other is here too: brighter, with its edge cut, and in another folder.
    for split, place in (
        ("train", "Training/glioma"),
        ("validation", "Testing/no_tumor"),
        ("test", "Training/pituitary"),
    ):
        image = load_split(tmp_path / "other-built", split)[0]["image"]
        gray = Image.fromarray((np.asarray(image.convert("L")) * 0.7 + 60).astype(np.uint8)).resize((160, 120))
        ImageOps.expand(gray.crop((2, 2, 158, 118)), 1 if split == "test" else 0).save(root / place / "alike.png")
    plain = tmp_path / "plain"
    build(root, plain)
    out = tmp_path / "out"
    build(root, out, unlike=tmp_path / "other-built")
    kept, every = (set().union(*files(folder).values()) for folder in (out, plain))
    left_out = every - kept
    assert {Path(name).name for name in left_out} == {"alike.png"}
    assert len(left_out) == 3
    card = (out / "README.md").read_text()
    assert re.search(r'3 more were left out because they have a near-duplicate in the set "other-built"', card)
    assert "left out" not in (plain / "README.md").read_text()


def test_a_set_all_of_whose_pictures_resemble_another_is_refused(tmp_path):
    build(flat_set(tmp_path / "set"), tmp_path / "built")
    with pytest.raises(BthubError, match="all pictures have a near-duplicate in"):
        build(tmp_path / "set", tmp_path / "out", unlike=tmp_path / "built")
    assert not (tmp_path / "out").exists()
    with pytest.raises(BthubError, match="no such folder"):
        build(tmp_path / "set", tmp_path / "out", unlike=tmp_path / "missing")


def test_what_is_left_out_is_counted_and_named_and_links_are_followed_once(tmp_path, capsys):
    source = flat_set(tmp_path / "brains")
    elsewhere = tmp_path / "elsewhere"
    for i in range(3):
        picture(elsewhere / f"extra{i}.png")
    (source / "yes" / "linked").symlink_to(elsewhere, target_is_directory=True)
    message = refusal(source, tmp_path / "out")
    assert "two folders of classes that differ" in message
    (source / "yes" / "linked").unlink()
    (source / "third").symlink_to(elsewhere, target_is_directory=True)
    (source / "fourth").symlink_to(elsewhere, target_is_directory=True)
    Image.open(source / "no" / "N0.png").save(source / "no" / "N0_mask.png")
    picture(source / "no" / ".hidden.png")
    (source / "no" / "notes.txt").write_text("no picture", encoding="utf-8")
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (20, 20), np.uint8)).save(
        source / "no" / "p.jfif", "JPEG"
    )
    capsys.readouterr()
    build(source, tmp_path / "out")
    said = capsys.readouterr().err.splitlines()[0]
    assert said == (
        f"bthub: {source}: left out hidden: 1 (.hidden.png), links to files already included: 1 (third), "
        "files named as masks: 1 (N0_mask.png), files not named as pictures: 1 (notes.txt)"
    )
    built = set().union(*files(tmp_path / "out").values())
    assert "no/p.jfif" in built and {f"fourth/extra{i}.png" for i in range(3)} <= built and len(built) == 104


@pytest.mark.parametrize(("first", "second"), [("images", "masks"), ("Scans", "GT"), ("mask", "original")])
def test_pictures_and_masks_are_no_classes(first, second, tmp_path):
    for name in (first, second):
        for i in range(10):
            picture(tmp_path / "set" / name / f"{i}.png")
    message = refusal(tmp_path / "set", tmp_path / "out")
    assert "look like pictures and their masks" in message and first in message and second in message


def test_patients_inside_the_classes_are_spoken_of(tmp_path):
    for label, patients in {"tumor": ("p1", "p2"), "healthy": ("p3", "p4")}.items():
        for patient in patients:
            picture(tmp_path / "set" / label / patient / "1.png")
    message = refusal(tmp_path / "set", tmp_path / "out")
    assert "the folders in them are patients, move all pictures of a class into its folder" in message


def test_a_stack_is_not_built_as_its_first_slice(tmp_path):
    source = flat_set(tmp_path / "brains", 6, 6)
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 20), np.uint8)) for i in range(3)]
    frames[0].save(source / "yes" / "film.gif", save_all=True, append_images=frames[1:])
    assert "film.gif: the file holds more than one frame" in refusal(source, tmp_path / "out")
