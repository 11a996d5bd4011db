"""Sets with boxes, and mixtures of several sets."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bthub.data.build import build
from bthub.data.dataset import load_split
from bthub.data.image_folder import RUN_GAP, draw_runs
from bthub.data.mix import CONSECUTIVE, PATIENTS, PICTURES, Row, arrange, mix
from bthub.data.views import LGG_VIEWS, show, views
from bthub.errors import BthubError
from bthub.imaging.kinds import FLAIR_LIKE, OTHER_MRI, THREE_SEQUENCES

SPLITS = ("train", "validation", "test")


def picture(path: Path, seed: int) -> Path:
    """A gray picture that resembles no picture of another seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.NEAREST).save(path)
    return path


def boxed_set(root: Path, count: int = 140) -> Path:
    """Two classes numbered from 1 on, tumor pictures with a box each."""
    with_box = []
    for label, first_seed in (("glioma_tumor", 0), ("no_tumor", 1000)):
        for number in range(1, count + 1):
            picture(root / label / f"{number:04d}.png", first_seed + number)
            if label != "no_tumor":
                with_box.append([f"{label}/{number:04d}.png", 5.5, 6, 20, 30.25])
    with (root / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "x0", "y0", "x1", "y1"], *with_box])
    return root


def flat_set(root: Path, first_seed: int, names: tuple[str, str] = ("no", "yes"), count: int = 30) -> Path:
    for k, label in enumerate(names):
        for i in range(count):
            picture(root / label / f"{label}-{i}.png", first_seed + 500 * k + i)
    return root


def numbers(out: Path, split: str, label: str) -> list[int]:
    return sorted(int(Path(f).stem) for f in load_split(out, split)["file"] if f.startswith(label))


def test_a_set_with_boxes_keeps_them_and_is_split_by_runs_with_gaps(tmp_path):
    source = boxed_set(tmp_path / "set")
    # Far from each other in number, one picture: the later one would join two runs.
    picture(source / "no_tumor" / "0130.png", 1000 + 3)
    build(source, tmp_path / "out")
    rows = load_split(tmp_path / "out", "train")
    assert rows[rows["file"].index(next(f for f in rows["file"] if "glioma" in f))]["box"] == [5.5, 6, 20, 30.25]
    assert all(box is None for box, file in zip(rows["box"], rows["file"], strict=True) if "no_tumor" in file)
    for label in ("glioma_tumor", "no_tumor"):
        of = {split: numbers(tmp_path / "out", split, label) for split in SPLITS}
        for split in ("validation", "test"):
            low, high = of[split][0], of[split][-1]
            assert len(of[split]) > 0.15 * 140 / 2, split
            near = {n for other in SPLITS if other != split for n in of[other] if low - RUN_GAP < n < high + RUN_GAP}
            assert not near, (label, split)
        assert len(of["train"]) >= 30
    assert 130 not in {n for split in SPLITS for n in numbers(tmp_path / "out", split, "no_tumor")}
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "| box |" in card and f"within {RUN_GAP} numbers" in card
    assert "split by ranges of file numbers" in " ".join(card.split())
    build(source, tmp_path / "again")
    assert (tmp_path / "again/data/train.parquet").read_bytes() == (tmp_path / "out/data/train.parquet").read_bytes()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("glioma_tumor/0001.png,1,2,3", "four numbers"),
        ("glioma_tumor/0001.png,1,2,x,4", "four numbers"),
        ("glioma_tumor/0001.png,9,2,3,4", "x0 < x1"),
        ("glioma_tumor/0001.png,nan,2,3,4", "x0 < x1"),
        ("glioma_tumor/gone.png,1,2,3,4", "not an image of the set"),
    ],
)
def test_a_wrong_line_of_boxes_is_named(tmp_path, line, told):
    source = boxed_set(tmp_path / "set", count=3)
    (source / "boxes.csv").write_text(f"file,x0,y0,x1,y1\n{line}\n", encoding="utf-8")
    with pytest.raises(BthubError, match="line 2") as error:
        build(source, tmp_path / "out")
    assert told in str(error.value) and not (tmp_path / "out").exists()


def test_a_boxed_picture_that_resembles_another_set_is_left_out_with_its_box(tmp_path):
    source = boxed_set(tmp_path / "set")
    build(flat_set(tmp_path / "other", first_seed=5000), tmp_path / "other-built")
    shutil.copyfile(tmp_path / "other" / "yes" / "yes-0.png", source / "glioma_tumor" / "0070.png")
    build(source, tmp_path / "out", unlike=tmp_path / "other-built")
    built = [file for split in ("train", "validation", "test") for file in load_split(tmp_path / "out", split)["file"]]
    assert built and "glioma_tumor/0070.png" not in built


def test_a_class_too_small_for_runs_is_refused():
    with pytest.raises(BthubError, match="'tumor'"):
        draw_runs(["tumor"] * 3, [1, 2, 3], [0, 1, 2], {"validation": 0.15, "test": 0.15})


@pytest.fixture(scope="module")
def sets(tmp_path_factory, tiny_lgg) -> tuple[Path, Path, Path]:
    """LGG, a flat set, and one with boxes; some pictures of the flat one are in the one with boxes too."""
    root = tmp_path_factory.mktemp("sets")
    flat = flat_set(root / "flat-source", first_seed=5000)
    for i in range(6):
        picture(flat / "yes" / f"copy-{i}.png", 20 * i + 1)  # as glioma_tumor's numbers 1, 21, ...
    build(flat, root / "flat")
    build(boxed_set(root / "boxed-source"), root / "boxed")
    return tiny_lgg, root / "flat", root / "boxed"


def test_a_mixture_has_sources_and_carries_splits_over(sets, tmp_path):
    mix(sets, tmp_path / "mix")
    names = {path.name for path in sets}
    for split in SPLITS:
        rows = load_split(tmp_path / "mix", split)
        assert set(rows["source"]) == names and rows.features["label"].names == ["no_tumor", "tumor"]
        for path in sets:
            own = {
                (r["patient_id"], r["slice_index"]) if "patient_id" in r else r["file"] for r in load_split(path, split)
            }
            mixed = [row for row in rows if row["source"] == path.name]
            assert {(r["patient_id"], r["slice_index"]) if r["patient_id"] else r["file"] for r in mixed} <= own
            for row in mixed:
                assert row["label"] == (row["class"] not in ("no", "no_tumor"))
                assert (row["mask"] is not None) == (row["patient_id"] is not None)
    # LGG's files are the same bytes, and nobody of the benchmark is there.
    patients = {p for split in SPLITS for p in load_split(tmp_path / "mix", split)["patient_id"] if p}
    assert patients == {p for split in SPLITS for p in load_split(sets[0], split)["patient_id"]}


def test_copies_across_sets_are_on_one_side(sets, tmp_path):
    mixture = mix(sets, tmp_path / "mix")
    assert sum(mixture.left_out.values()) > 0
    sides: dict[int, set[str]] = {}
    for split in SPLITS:
        for group in load_split(tmp_path / "mix", split)["group"]:
            sides.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in sides.values())


def test_test_only_keeps_a_set_out_of_training(sets, tmp_path):
    mix((sets[0], sets[2]), tmp_path / "mix", test_only=(sets[1],))
    of_flat = {split: sum(s == "flat" for s in load_split(tmp_path / "mix", split)["source"]) for split in SPLITS}
    assert of_flat == {"train": 0, "validation": 0, "test": 66}
    assert "flat are in test" in (tmp_path / "mix/README.md").read_text(encoding="utf-8")


def test_what_cannot_be_mixed_is_refused_before_anything_is_written(sets, tmp_path):
    with pytest.raises(BthubError, match="two or more"):
        mix(sets[:1], tmp_path / "mix")
    with pytest.raises(BthubError, match="different names"):
        mix((sets[1], sets[1]), tmp_path / "mix")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(BthubError, match="not empty"):
        mix(sets, tmp_path / "full")
    build(flat_set(tmp_path / "types", 9000, ("glioma", "meningioma")), tmp_path / "no-healthy")
    with pytest.raises(BthubError, match="one without tumor"):
        mix((sets[1], tmp_path / "no-healthy"), tmp_path / "mix")
    assert not (tmp_path / "mix").exists()


def vector(*values: float) -> np.ndarray:
    """A thumbnail (2, 3) of one direction, for the whole picture and the head."""
    v = np.array(values) / np.linalg.norm(values)
    return np.stack([v, v])


def test_the_larger_set_loses_and_within_a_set_the_earlier_split():
    a, near_a = vector(1, 0, 0), vector(1, 0.5, 0)  # correlate by 0.894
    rows = [
        Row("small", "train", "x", a, PICTURES),
        Row("large", "test", "x", near_a, PICTURES),
        Row("large", "test", "x", vector(0, 0, 1), PICTURES),
        Row("large", "train", "x", vector(0, 0, 1), PICTURES),
    ]
    # What is cut elsewhere may be a copy; in its own set only copies count, and train loses.
    assert arrange(rows).splits == ["train", None, "test", None]
    # Of consecutive slices other patients correlate by as much.
    consecutive = [Row(r.source, r.split, r.label, r.thumbnail, CONSECUTIVE) for r in rows]
    assert arrange(consecutive).splits == ["train", "test", "test", None]
    lgg = [Row(r.source, r.split, r.label, r.thumbnail, PATIENTS if r.source == "small" else PICTURES) for r in rows]
    assert arrange(lgg).splits == ["train", "test", "test", None]


def test_views_of_a_row(sets, tmp_path):
    mix(sets, tmp_path / "mix")
    rows = load_split(tmp_path / "mix", "validation")
    shown = views(rows)
    slices = sum(patient is not None for patient in rows["patient_id"])
    assert len(shown) == len(rows) + (len(LGG_VIEWS) - 1) * slices
    kinds = {view.kind for view in shown if view.name in LGG_VIEWS}
    assert kinds == {THREE_SEQUENCES, FLAIR_LIKE, OTHER_MRI}
    assert {view.kind for view in shown if view.source == "flat"} == {OTHER_MRI}
    image = Image.merge("RGB", [Image.new("L", (2, 2), value) for value in (10, 20, 30)])
    assert [show(image, name).getpixel((0, 0)) for name in LGG_VIEWS] == [(10, 20, 30), (10,) * 3, (20,) * 3, (30,) * 3]
